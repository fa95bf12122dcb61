//! Going on with the lines of an app, from whichever servers have machines of it: a server that first
//! gets one meanwhile is taken up, one whose stream broke is taken up again where it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use atoll_model::NodeName;
use atoll_model::wire::LogRecord;

use super::{MAX_TAIL, Wanted, pass_on};
use crate::Api;

/// How often is looked which servers have machines of the app.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until nobody takes the lines any more.
pub async fn follow(api: Api, wanted: Wanted, tail: u32, to: mpsc::Sender<LogRecord>) {
    let mut sources = Sources::default();
    // They end with this function.
    let mut streams = JoinSet::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = to.closed() => return,
            Some(ended) = streams.join_next() => match ended {
                Ok((node, last_ms)) => sources.ended(node, last_ms),
                Err(error) => tracing::error!(%error, "a task that follows a server's lines failed"),
            },
            _ = looks.tick() => {
                let records = match api.control.machine_records(&wanted.app, false).await {
                    Ok(records) => records,
                    // Those that are followed go on.
                    Err(error) => {
                        tracing::debug!(%error, "cannot look where the app's machines are");
                        continue;
                    }
                };
                for (node, after_ms, tail) in sources.due(wanted.nodes(&records), tail) {
                    let request = wanted.request(after_ms, tail, true);
                    let (worker, to) = (api.control.directory.worker(&node), to.clone());
                    streams.spawn(async move {
                        let mut last_ms = after_ms;
                        let passed = match worker {
                            Ok(worker) => pass_on(worker, request, &to, |at_ms| last_ms = last_ms.max(at_ms)).await,
                            Err(error) => Err(error.into()),
                        };
                        if let Err(status) = passed {
                            tracing::debug!(%node, %status, "a node gives no logs now");
                        }
                        (node, last_ms)
                    });
                }
            }
        }
    }
}

/// The servers that are or were followed.
#[derive(Default)]
struct Sources {
    /// Where the first look found machines; none before it.
    first: Option<BTreeSet<NodeName>>,
    open: BTreeSet<NodeName>,
    /// The time of the last line from each whose stream ended, Unix milliseconds.
    last_ms: BTreeMap<NodeName, u64>,
}

impl Sources {
    /// The streams to open: server, lines after which time, at most how many of the past. `tail` is for
    /// servers that had machines at the beginning; what others print is new as a whole.
    fn due(&mut self, nodes: BTreeSet<NodeName>, tail: u32) -> Vec<(NodeName, u64, u32)> {
        let first = self.first.get_or_insert_with(|| nodes.clone());
        let mut due = Vec::new();
        for node in nodes {
            if !self.open.insert(node.clone()) {
                continue;
            }
            let last_ms = self.last_ms.get(&node).copied().unwrap_or(0);
            let tail = if last_ms == 0 && first.contains(&node) { tail } else { MAX_TAIL };
            due.push((node, last_ms, tail));
        }
        due
    }

    fn ended(&mut self, node: NodeName, last_ms: u64) {
        self.open.remove(&node);
        self.last_ms.insert(node, last_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn nodes(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|text| name(text)).collect()
    }

    #[test]
    fn servers_are_taken_up_as_they_get_machines() {
        let mut sources = Sources::default();
        assert_eq!(sources.due(nodes(&["ams"]), 10), [(name("ams"), 0, 10)]);
        assert_eq!(sources.due(nodes(&["ams"]), 10), [], "it is followed already");
        // All that the new one has was printed since.
        assert_eq!(sources.due(nodes(&["ams", "nrt"]), 10), [(name("nrt"), 0, MAX_TAIL)]);
    }

    #[test]
    fn a_broken_stream_goes_on_where_it_stopped() {
        let mut sources = Sources::default();
        sources.due(nodes(&["ams", "nrt"]), 10);
        sources.ended(name("ams"), 700);
        sources.ended(name("nrt"), 0);
        let due = sources.due(nodes(&["ams", "nrt"]), 10);
        assert_eq!(due, [(name("ams"), 700, MAX_TAIL), (name("nrt"), 0, 10)], "nrt has said nothing yet");
        sources.ended(name("ams"), 700);
        assert_eq!(sources.due(nodes(&["nrt"]), 10), [], "no machine is left on ams");
    }
}
