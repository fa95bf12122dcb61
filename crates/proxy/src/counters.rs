//! What an edge counts. Plain atomics: whoever exports metrics reads them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use atoll_model::row::MachineRow;
use atoll_signals::metrics::Histogram;

use crate::config::EdgeConfig;

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far bytes travelled between the client's edge and the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrafficClass {
    SameNode,
    SameRegion,
    CrossRegion,
}

impl TrafficClass {
    /// The way between an edge and a machine.
    pub fn of(machine: &MachineRow, edge: &EdgeConfig) -> Self {
        match (machine.node == edge.node, machine.region == edge.region) {
            (true, _) => Self::SameNode,
            (false, true) => Self::SameRegion,
            (false, false) => Self::CrossRegion,
        }
    }
}

/// Counters of one edge, over all cores.
#[derive(Default, Debug)]
pub struct Counters {
    /// Finished requests by the first digit of their status, index 0 for 1xx to 4 for 5xx.
    pub responses: [Counter; 5],
    /// From a request's headers to its answer's.
    pub first_byte: Histogram,
    pub connections: Counter,
    pub tls_failures: Counter,
    /// Attempts beyond a request's first.
    pub retries: Counter,
    /// Machines this edge asked its worker to start.
    pub wakes: Counter,
    pub wake_failures: Counter,
    /// How long the others took.
    pub wake_time: Histogram,
    /// Requests that had to wait for a machine.
    pub held: Counter,
    failures: Mutex<BTreeMap<&'static str, u64>>,
    /// Requests of other edges that were sent back untouched.
    pub bounced: Counter,
    /// Connections between edges that were refused for the peer's identity.
    pub foreign_peers: Counter,
    pub idle_stops: Counter,
    /// Bodies and upgraded connections, both ways.
    pub bytes_same_node: Counter,
    pub bytes_same_region: Counter,
    pub bytes_cross_region: Counter,
    /// Requests whose body outgrew what may be kept for a retry.
    pub replay_overflows: Counter,
}

impl Counters {
    pub fn response(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.responses[class].one();
    }

    /// Notes a request or connection that the edge had to answer or close itself.
    pub(crate) fn failure(&self, code: &'static str) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// Requests and connections that the edge had to answer or close itself, by code (`PR03`).
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn bytes(&self, class: TrafficClass) -> &Counter {
        match class {
            TrafficClass::SameNode => &self.bytes_same_node,
            TrafficClass::SameRegion => &self.bytes_same_region,
            TrafficClass::CrossRegion => &self.bytes_cross_region,
        }
    }
}
