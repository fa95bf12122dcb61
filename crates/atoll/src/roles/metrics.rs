//! What the parts of each process count, under the names that operators know.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_model::row::NodeState;
use atoll_proxy::Counters;
use atoll_signals::metrics::{Samples, Source, names};
use atoll_store::Timings;
use atoll_worker::Agent;
use atoll_worker::network::HostNetworks;

use super::edge::JsonAccessLog;

/// A process's copy of the catalogue.
pub struct CatalogueMetrics(pub ReplicaHandle);

impl Source for CatalogueMetrics {
    fn collect(&self, samples: &mut Samples) {
        let Self(replica) = self;
        for (reason, count) in replica.refusal_counts() {
            samples.counter(&names::CATALOGUE_REFUSED, &[reason], count);
        }
        samples.gauge(&names::CATALOGUE_LEASED, &[], if replica.is_leased() { 1.0 } else { 0.0 });
        samples.gauge(&names::CATALOGUE_AGE, &[], replica.hub_silence().as_secs_f64());
        let snapshot = replica.snapshot();
        for (state, count) in tally(snapshot.machines().map(|row| row.state.as_str())) {
            samples.gauge(&names::CATALOGUE_MACHINES, &[state], count);
        }
        for (state, count) in tally(snapshot.nodes().map(|row| word_of(row.state))) {
            samples.gauge(&names::CATALOGUE_NODES, &[state], count);
        }
    }
}

fn word_of(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Revoked => "revoked",
    }
}

fn tally<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, f64> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1.0;
    }
    counts
}

/// The edge's data plane and its log.
pub struct EdgeMetrics<F> {
    pub counters: Arc<Counters>,
    /// Connections that are open now.
    pub open: F,
    pub log: Option<Arc<JsonAccessLog>>,
}

impl<F: Fn() -> usize + Send + Sync> Source for EdgeMetrics<F> {
    fn collect(&self, samples: &mut Samples) {
        let counters = &self.counters;
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(&counters.responses) {
            samples.counter(&names::EDGE_RESPONSES, &[class], count.get());
        }
        samples.histogram(&names::EDGE_FIRST_BYTE, &[], counters.first_byte.measured());
        samples.gauge(&names::EDGE_OPEN, &[], (self.open)() as f64);
        for (code, count) in counters.failures() {
            samples.counter(&names::EDGE_FAILURES, &[code], count);
        }
        samples.histogram(&names::EDGE_WAKE_SECONDS, &[], counters.wake_time.measured());
        for (way, bytes) in [
            ("same_node", &counters.bytes_same_node),
            ("same_region", &counters.bytes_same_region),
            ("cross_region", &counters.bytes_cross_region),
        ] {
            samples.counter(&names::EDGE_BYTES, &[way], bytes.get());
        }
        for (metric, count) in [
            (&names::EDGE_CONNECTIONS, &counters.connections),
            (&names::EDGE_TLS_FAILURES, &counters.tls_failures),
            (&names::EDGE_RETRIES, &counters.retries),
            (&names::EDGE_BOUNCES, &counters.bounced),
            (&names::EDGE_HELD, &counters.held),
            (&names::EDGE_WAKES, &counters.wakes),
            (&names::EDGE_WAKE_FAILURES, &counters.wake_failures),
            (&names::EDGE_IDLE_STOPS, &counters.idle_stops),
            (&names::EDGE_REPLAY_OVERFLOWS, &counters.replay_overflows),
            (&names::EDGE_FOREIGN_PEERS, &counters.foreign_peers),
        ] {
            samples.counter(metric, &[], count.get());
        }
        samples.counter(&names::EDGE_LOG_DROPPED, &[], self.log.as_ref().map_or(0, |log| log.dropped()));
    }
}

/// The machines of this node.
pub struct WorkerMetrics(pub Agent);

impl Source for WorkerMetrics {
    fn collect(&self, samples: &mut Samples) {
        let machines = self.0.list(None);
        for (state, count) in tally(machines.iter().map(|view| view.state.as_str())) {
            samples.gauge(&names::WORKER_MACHINES, &[state], count);
        }
        samples.gauge(&names::WORKER_PROMISED, &[], self.0.node().memory_promised_mb as f64 * 1024.0 * 1024.0);
    }
}

/// What the networks of this node's machines carried.
pub struct NetworkMetrics(pub Arc<HostNetworks>);

impl Source for NetworkMetrics {
    fn collect(&self, samples: &mut Samples) {
        for (counter, bytes) in self.0.total_traffic().figures() {
            samples.counter(&names::WORKER_TRAFFIC, &[counter.class.as_str(), counter.direction.as_str()], bytes);
        }
    }
}

/// Control's records.
pub struct StoreMetrics(pub Arc<Timings>);

impl Source for StoreMetrics {
    fn collect(&self, samples: &mut Samples) {
        samples.histogram(&names::STORE_READ, &[], self.0.reads.measured());
        samples.histogram(&names::STORE_WRITE, &[], self.0.writes.measured());
        samples.counter(&names::STORE_RETRIES, &[], self.0.retries());
    }
}
