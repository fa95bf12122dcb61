//! When an address that an app gave back may be another's: when every server has said that it goes by a catalogue
//! without it. Until then some place may announce it, lead it to the app before, or give it as an answer. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_model::row::Reader;
use atoll_model::{NodeName, RowKey, RowVersion};
use atoll_store::{Node, RestingAddress};

/// How long an address rests at least: a secondary that was not told of the change looks after five minutes and
/// tries again after one, and resolvers keep its answer for one. Far longer than edges need to tell their guards.
pub(super) const FLOOR: Duration = Duration::from_secs(7 * 60);

/// Processes that go by apps' addresses: edges announce and serve them, net processes answer with them and route
/// private ones.
const READERS: [Reader; 2] = [Reader::Edge, Reader::Net];

/// What a resting address waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// Nothing: it may be given out.
    Over,
    /// Time alone, or control itself, which has not published yet that it is gone.
    Time,
    /// These servers have not said that they go without it. They may be away: a server that serves on without
    /// hearing control, with certificates that lapsed even, still leads users to the app before. It is waited for
    /// until it is back, or given up.
    Servers(BTreeSet<NodeName>),
}

/// `goes_by`: whether a process of a server goes by a write of control's row, or by a later one.
pub(super) fn rest<'n>(
    resting: &RestingAddress,
    nodes: impl IntoIterator<Item = &'n Node>,
    now_ms: u64,
    goes_by: impl Fn(&NodeName, Reader, &RowKey, RowVersion) -> bool,
) -> Rest {
    if now_ms < resting.rests_until_ms {
        return Rest::Time;
    }
    // Given back under an earlier version, which knew only of time.
    let Some(app) = &resting.app else { return Rest::Over };
    let Some(gone) = resting.gone else { return Rest::Time };
    let key = RowKey::App(app.clone());
    let is_behind = |node: &&Node| READERS.iter().any(|reader| !goes_by(&node.name, *reader, &key, gone));
    let there = nodes.into_iter().filter(|node| !node.state.is_over());
    let behind: BTreeSet<NodeName> = there.filter(is_behind).map(|node| node.name.clone()).collect();
    if behind.is_empty() { Rest::Over } else { Rest::Servers(behind) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_store::{NodeNetwork, NodeStatus};
    use proptest::prelude::*;

    use super::*;

    const UNTIL: u64 = 1_000;

    fn node(name: &str, state: NodeStatus) -> Node {
        Node {
            name: name.parse().unwrap(),
            region: "ams".parse().unwrap(),
            state,
            epoch: 1,
            key_fingerprint: String::new(),
            certificate_serial: None,
            certificate_expires_at_ms: None,
            backhaul: None,
            worker_rpc: None,
            network: NodeNetwork::default(),
            cpus: 1,
            memory_mb: 1,
            last_seen_ms: 0,
            created_at_ms: 0,
        }
    }

    fn version(sequence: u64) -> RowVersion {
        RowVersion { epoch: 1, sequence }
    }

    fn resting(gone: Option<u64>) -> RestingAddress {
        RestingAddress {
            address: "192.0.2.1".parse().unwrap(),
            rests_until_ms: UNTIL,
            app: Some("web".parse().unwrap()),
            gone: gone.map(version),
        }
    }

    /// Which write each process goes by; a process that said nothing goes by none.
    type Said = BTreeMap<(NodeName, Reader), u64>;

    fn rest_of(resting: &RestingAddress, nodes: &[Node], now: u64, said: &Said) -> Rest {
        let web = RowKey::App("web".parse().unwrap());
        rest(resting, nodes, now, |node, reader, key, wanted| {
            *key == web && said.get(&(node.clone(), reader)).is_some_and(|said| version(*said) >= wanted)
        })
    }

    #[test]
    fn an_address_rests_until_all_servers_go_without_it() {
        let nodes = ["ams1", "nrt1"].map(|name| node(name, NodeStatus::Active));
        let name = |node: usize| nodes[node].name.clone();
        let mut said = Said::new();
        for node in 0..2 {
            said.insert((name(node), Reader::Edge), 7);
            said.insert((name(node), Reader::Net), 9);
        }
        let gone = resting(Some(7));
        assert_eq!(rest_of(&gone, &nodes, UNTIL - 1, &said), Rest::Time, "resolvers know it still");
        assert_eq!(rest_of(&gone, &nodes, UNTIL, &said), Rest::Over);
        assert_eq!(rest_of(&resting(None), &nodes, UNTIL, &said), Rest::Time, "nobody was told yet");
        assert_eq!(rest_of(&resting(Some(8)), &nodes, UNTIL, &said), Rest::Servers([name(0), name(1)].into()));
        said.insert((name(1), Reader::Edge), 8);
        assert_eq!(rest_of(&resting(Some(8)), &nodes, UNTIL, &said), Rest::Servers([name(0)].into()));
        // One that is drained serves still; one that was given up does not count.
        let mut nodes = nodes;
        nodes[0].state = NodeStatus::Draining;
        assert_ne!(rest_of(&resting(Some(8)), &nodes, UNTIL, &said), Rest::Over);
        for state in [NodeStatus::Revoked, NodeStatus::Removed] {
            nodes[0].state = state;
            assert_eq!(rest_of(&resting(Some(8)), &nodes, UNTIL, &said), Rest::Over);
        }
        let old = RestingAddress { app: None, ..resting(None) };
        assert_eq!(rest_of(&old, &nodes, UNTIL, &Said::new()), Rest::Over, "of an earlier version");
    }

    #[derive(Clone, Debug)]
    enum Event {
        Says(usize, Reader, u64),
        Silent(usize),
        Leaves(usize),
        Passes(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let reader = prop_oneof![Just(Reader::Edge), Just(Reader::Net)];
        prop_oneof![
            8 => (0usize..3, reader, 0u64..12).prop_map(|(node, reader, at)| Event::Says(node, reader, at)),
            // Control was started again and has heard nothing of it.
            1 => (0usize..3).prop_map(Event::Silent),
            1 => (0usize..3).prop_map(Event::Leaves),
            2 => (0u64..UNTIL).prop_map(Event::Passes),
        ]
    }

    proptest! {
        /// Nobody gets an address that a server of the platform may still lead to the app before, and everybody
        /// who is waited for is named.
        #[test]
        fn nobody_gets_what_somebody_may_still_serve(events in prop::collection::vec(event(), 0..40)) {
            let mut nodes = ["ams1", "ams2", "nrt1"].map(|name| node(name, NodeStatus::Active));
            let (mut now, mut said) = (0, Said::new());
            let address = resting(Some(6));
            for event in events {
                match event {
                    Event::Says(node, reader, at) => { said.insert((nodes[node].name.clone(), reader), at); }
                    Event::Silent(node) => said.retain(|(name, _), _| *name != nodes[node].name),
                    Event::Leaves(node) => nodes[node].state = NodeStatus::Removed,
                    Event::Passes(time) => now += time,
                }
                let may_serve = |node: &&Node| node.state == NodeStatus::Active && READERS.iter().any(|reader| {
                    said.get(&(node.name.clone(), *reader)).is_none_or(|said| *said < 6)
                });
                let serving: BTreeSet<NodeName> = nodes.iter().filter(may_serve).map(|node| node.name.clone()).collect();
                let expected = match (now < UNTIL, serving.is_empty()) {
                    (true, _) => Rest::Time,
                    (false, true) => Rest::Over,
                    (false, false) => Rest::Servers(serving),
                };
                prop_assert_eq!(rest_of(&address, &nodes, now, &said), expected);
            }
        }
    }
}
