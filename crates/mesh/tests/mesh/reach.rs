//! What nodes know of each other's reachability.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_mesh::Kind;
use atoll_mesh::probe::{PORT, Prober};
use atoll_model::NodeName;
use atoll_model::reach::Reachability;

use crate::place::{Node, Underlay, eventually, inside, kinds, nodes};

/// A node that nobody reaches leaves routing, and returns, within this.
const NOTICED: Duration = Duration::from_secs(3);
/// A busy machine's share.
const SLACK: Duration = Duration::from_secs(1);

fn name(number: u16) -> NodeName {
    format!("node-{number}").parse().unwrap()
}

fn prober(node: &Node) -> (Prober, Arc<ArcSwap<Reachability>>) {
    let reachability = Arc::new(ArcSwap::from_pointee(Reachability::default()));
    let (own, published) = ((inside(node.number), PORT).into(), reachability.clone());
    (node.namespace.run(move || Prober::start(own, published).unwrap()), reachability)
}

#[test]
fn a_node_that_is_cut_off_is_out_of_reach_and_returns_within_three_seconds() {
    let [near, far] = kinds(Kind::Userspace);
    let (_switch, nodes) = nodes(&[near, far, near], Underlay::V4);
    for (node, other) in nodes.iter().flat_map(|node| nodes.iter().map(move |other| (node, other))) {
        if node.number != other.number {
            node.backend().set_peer(&other.as_peer()).unwrap();
        }
    }
    let probers: Vec<_> = nodes.iter().map(prober).collect();
    for (node, (prober, _)) in nodes.iter().zip(&probers) {
        let others = nodes.iter().filter(|other| other.number != node.number);
        prober.set_targets(others.map(|other| (name(other.number), inside(other.number))).collect());
    }
    let sees = |from: usize, to: u16| probers[from].1.load().round_trip(&name(to)).is_some();
    eventually("all reach each other", || {
        (0..3).all(|from| (1..=3).filter(|to| *to != from as u16 + 1).all(|to| sees(from, to)))
    });
    let path = probers[0].1.load().paths[&name(2)];
    assert!(path.round_trip > Duration::ZERO && path.round_trip < Duration::from_secs(1), "{path:?}");

    nodes[1].namespace.sh("ip link set eth0 down");
    let cut = Instant::now();
    eventually("the second node is out of reach", || !sees(0, 2) && !sees(2, 2) && !sees(1, 1));
    assert!(cut.elapsed() < NOTICED + SLACK, "{:?}", cut.elapsed());
    assert!(sees(0, 3) && sees(2, 1), "the others still reach each other");

    nodes[1].namespace.sh("ip link set eth0 up");
    let healed = Instant::now();
    eventually("the second node is back", || sees(0, 2) && sees(2, 2) && sees(1, 1));
    assert!(healed.elapsed() < NOTICED + SLACK, "{:?}", healed.elapsed());
}
