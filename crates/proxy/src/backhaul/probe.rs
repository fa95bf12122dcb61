//! Measures the way to every other node, all the time, over connections of its own: a busy backhaul
//! connection must not look like a long way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::NodeName;
use atoll_model::reach::{Path, Reachability};
use atoll_model::row::NodeState;
use atoll_signals::with_causes;
use http::uri::PathAndQuery;
use http::{Request, Version};
use hyper::client::conn::http2::SendRequest;
use tokio::task::JoinSet;

use super::connect::connect;
use super::peers::peer_uri;
use super::wire::PING_PATH;
use crate::body::RequestBody;
use crate::core::Edge;
use crate::surroundings::BackhaulTls;

/// Runs until the edge ends: one task a node, begun and ended as nodes come and go.
pub(crate) async fn run(edge: Arc<Edge>, tls: Arc<dyn BackhaulTls>) {
    let mut tasks = JoinSet::new();
    let mut running: HashMap<(NodeName, SocketAddr), tokio::task::AbortHandle> = HashMap::new();
    let board = Arc::new(Board { edge: edge.clone(), paths: Mutex::default() });
    let mut changes = edge.surroundings.routes.changes();
    loop {
        let wanted = nodes_to_probe(&edge);
        running.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
                board.remove(&key.0);
            }
            keep
        });
        for key in wanted {
            running.entry(key).or_insert_with_key(|(node, address)| {
                tasks.spawn(probe(board.clone(), tls.clone(), node.clone(), *address))
            });
        }
        // Finished tasks are only those aborted above.
        while tasks.try_join_next().is_some() {}
        if changes.changed().await.is_err() {
            // The catalogue's owner has gone: the nodes stay the same.
            std::future::pending::<()>().await;
        }
    }
}

fn nodes_to_probe(edge: &Edge) -> Vec<(NodeName, SocketAddr)> {
    let snapshot = edge.surroundings.routes.snapshot();
    snapshot
        .nodes()
        .filter(|row| row.name != edge.config.node && row.state != NodeState::Revoked)
        .filter_map(|row| Some((row.name.clone(), row.backhaul?)))
        .collect()
}

/// Where results are put up for everybody.
struct Board {
    edge: Arc<Edge>,
    paths: Mutex<HashMap<NodeName, Path>>,
}

impl Board {
    fn change(&self, change: impl FnOnce(&mut HashMap<NodeName, Path>)) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut paths);
        self.edge.reachability.store(Arc::new(Reachability { paths: paths.clone() }));
    }

    fn put(&self, node: &NodeName, path: Path) {
        self.change(|paths| {
            let before = paths.insert(node.clone(), path);
            if before.is_none_or(|before| before.reachable != path.reachable) {
                tracing::info!(%node, reachable = path.reachable, "the way to another node changed");
            }
        });
    }

    fn remove(&self, node: &NodeName) {
        self.change(|paths| {
            paths.remove(node);
        });
    }
}

async fn probe(board: Arc<Board>, tls: Arc<dyn BackhaulTls>, node: NodeName, address: SocketAddr) {
    let timeouts = board.edge.config.timeouts.clone();
    let mut ticks = tokio::time::interval(timeouts.probe_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut estimate = Estimate::new(Instant::now(), timeouts.unreachable_after);
    let mut connection: Option<SendRequest<RequestBody>> = None;
    loop {
        ticks.tick().await;
        let probing = async {
            let sender = match &mut connection {
                Some(sender) if !sender.is_closed() => sender,
                slot => slot.insert(
                    connect(&tls, &node, address, timeouts.backhaul_connect)
                        .await
                        .map_err(|error| with_causes(&error))?,
                ),
            };
            ping(sender).await
        };
        match tokio::time::timeout(timeouts.unreachable_after, probing).await {
            Ok(Ok(round_trip)) => estimate.answered(round_trip, Instant::now()),
            Ok(Err(error)) => {
                tracing::debug!(%node, %error, "a probe failed");
                connection = None;
                estimate.missed();
            }
            Err(_) => {
                connection = None;
                estimate.missed();
            }
        }
        board.put(&node, estimate.path(Instant::now()));
    }
}

async fn ping(sender: &mut SendRequest<RequestBody>) -> Result<Duration, String> {
    let uri = peer_uri(PathAndQuery::from_static(PING_PATH)).ok_or("the ping's address cannot be written")?;
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let sent = Instant::now();
    sender.send_request(request).await.map_err(|error| with_causes(&error))?;
    Ok(sent.elapsed())
}

/// What a series of probes says: pure, so that it can be tested with made-up times.
struct Estimate {
    smoothed: Option<Duration>,
    last_answer: Instant,
    unreachable_after: Duration,
    /// The last 32 probes, one bit each; set: lost.
    losses: u32,
    probes: u32,
}

impl Estimate {
    fn new(now: Instant, unreachable_after: Duration) -> Self {
        Self { smoothed: None, last_answer: now, unreachable_after, losses: 0, probes: 0 }
    }

    fn answered(&mut self, round_trip: Duration, now: Instant) {
        self.last_answer = now;
        self.count(false);
        // A quarter of the news each time: ten probes after a change little of the past is left.
        self.smoothed = Some(self.smoothed.map_or(round_trip, |old| (old * 3 + round_trip) / 4));
    }

    fn missed(&mut self) {
        self.count(true);
    }

    fn count(&mut self, lost: bool) {
        self.losses = self.losses << 1 | u32::from(lost);
        self.probes = (self.probes + 1).min(u32::BITS);
    }

    fn path(&self, now: Instant) -> Path {
        let silent = now.saturating_duration_since(self.last_answer);
        // The probe that found out has itself waited, which is why the silence may be equal.
        let reachable = self.smoothed.is_some() && silent < self.unreachable_after;
        #[expect(clippy::cast_precision_loss, reason = "both are at most 32")]
        let loss = if self.probes == 0 { 0.0 } else { self.losses.count_ones() as f32 / self.probes as f32 };
        Path { round_trip: self.smoothed.unwrap_or(Duration::MAX), loss, reachable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_longer_way_is_believed_within_five_seconds_and_forgotten_as_fast() {
        let start = Instant::now();
        let mut estimate = Estimate::new(start, MS * 2000);
        for (round_trip, expected) in [(10, 10), (160, 150), (10, 20)] {
            for _ in 0..10 {
                estimate.answered(MS * round_trip, start);
            }
            let smoothed = estimate.path(start).round_trip;
            assert!(smoothed.abs_diff(MS * expected) < MS * 11, "{smoothed:?} is far from {expected} ms");
        }
    }

    #[test]
    fn silence_makes_a_node_unreachable_and_one_answer_brings_it_back() {
        let start = Instant::now();
        let mut estimate = Estimate::new(start, MS * 2000);
        assert!(!estimate.path(start).reachable, "a node that never answered is not reachable");
        estimate.answered(MS, start);
        assert!(estimate.path(start + MS * 1999).reachable);
        estimate.missed();
        assert!(!estimate.path(start + MS * 2000).reachable);
        assert_eq!(estimate.path(start).loss, 0.5);
        estimate.answered(MS, start + MS * 9000);
        assert!(estimate.path(start + MS * 9001).reachable);
    }
}
