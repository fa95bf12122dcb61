//! What must not pass.

use std::net::UdpSocket;
use std::time::Duration;

use atoll_mesh::{Backend, Kind};

use crate::place::{LINK, Underlay, eventually, inside, kinds, nodes, pair};
use crate::traffic::{Echo, Flow, answers, socket};

#[test]
fn a_packet_from_another_nodes_address_is_dropped() {
    let [near, far] = kinds(Kind::Kernel);
    let (_switch, nodes) = nodes(&[near, far, near], Underlay::V4);
    for (node, other) in nodes.iter().flat_map(|node| nodes.iter().map(move |other| (node, other))) {
        if node.number != other.number {
            node.backend().set_peer(&other.as_peer()).unwrap();
        }
    }
    let echo = Echo::start(&nodes[1].namespace, inside(2));
    let honest = socket(&nodes[0].namespace, inside(1), Duration::from_secs(1));
    eventually("the first answer", || answers(&honest, echo.at));
    let target = nodes[1].namespace.run(|| UdpSocket::bind((inside(2), 0)).unwrap());
    target.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // The third node's address, which the first one has no right to.
    nodes[0].namespace.sh(&format!("ip addr add {}/128 dev {LINK} nodad", inside(3)));
    let liar = socket(&nodes[0].namespace, inside(3), Duration::from_millis(100));
    for _ in 0..5 {
        liar.send_to(b"a lie", target.local_addr().unwrap()).unwrap();
    }
    assert!(target.recv_from(&mut [0; 64]).is_err(), "{near} to {far}");
    honest.send_to(b"truth", target.local_addr().unwrap()).unwrap();
    assert_eq!(target.recv_from(&mut [0; 64]).unwrap().0, 5);
    if let Some(userspace) = &nodes[1].userspace {
        assert_eq!(userspace.dropped().unwrap().spoofed, 5);
    }
}

#[test]
fn noise_on_the_port_is_counted_and_harms_nobody() {
    let (_switch, near, far) = pair([Kind::Userspace; 2], Underlay::V4);
    let echo = Echo::start(&far.namespace, inside(2));
    let honest = socket(&near.namespace, inside(1), Duration::from_secs(1));
    eventually("the first answer", || answers(&honest, echo.at));
    let flow = Flow::start(&near.namespace, inside(1), echo.at);
    let stranger = socket(&near.namespace, "0.0.0.0".parse().unwrap(), Duration::from_secs(1));
    for length in 0..1_000_usize {
        let mut noise: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        if let Some(kind) = noise.first_mut() {
            *kind %= 6;
        }
        noise.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
        stranger.send_to(&noise, far.endpoint()).unwrap();
    }
    let userspace = far.userspace.as_ref().unwrap();
    let counted = || userspace.dropped().unwrap().named().iter().map(|(_, count)| count).sum::<u64>();
    // Some may be lost on a busy machine, where the socket's queue is full; most are not.
    eventually("the noise is counted", || counted() > 900);
    assert_eq!(flow.stop().lost, 0);
    assert_eq!(far.endpoint_of(near.key.public()), Some(near.endpoint()));
}
