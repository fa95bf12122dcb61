//! Two nodes over a third, which knows none of their secrets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_mesh::Kind;
use atoll_mesh::relay::{Pair, Relay};

use crate::place::{Node, Underlay, eventually, inside, kinds, nodes};
use crate::traffic::{Echo, Flow, answers, socket, tcp_echo};

/// The relay's port for the two, at the node it runs on.
fn relay_between(on: &Node, near: &Node, far: &Node) -> (Relay, SocketAddr) {
    let mesh = on.port;
    let relay = on.namespace.run(move || Relay::start(mesh).unwrap());
    let pair = Pair::new(near.key.public(), far.key.public());
    let at = pair.keys().map(|key| [near, far].into_iter().find(|node| node.key.public() == key).unwrap().endpoint());
    let pairs = BTreeMap::from([(pair, at)]);
    // Ports are taken in the namespace of whoever asks for them.
    let (relay, ports) = on.namespace.run(move || {
        let ports = relay.set_pairs(&pairs);
        (relay, ports)
    });
    (relay, (on.endpoint().ip(), ports[&pair]).into())
}

#[test]
fn datagrams_pass_over_a_relay_there_and_back_under_load_and_strangers_do_not() {
    let [near, far] = kinds(Kind::Kernel);
    for underlay in [Underlay::V4, Underlay::V6] {
        let (_switch, nodes) = nodes(&[near, far, far], underlay);
        let [near, far, third] = &nodes[..] else { unreachable!("three were made") };
        near.backend().set_peer(&far.as_peer()).unwrap();
        far.backend().set_peer(&near.as_peer()).unwrap();
        let echo = Echo::start(&far.namespace, inside(2));
        let asking = socket(&near.namespace, inside(1), Duration::from_secs(1));
        eventually("the first answer", || answers(&asking, echo.at));
        let (relay, port) = relay_between(third, near, far);
        let (near_key, far_key) = (near.key.public(), far.key.public());
        let over = |way: &str, endpoint: SocketAddr, back: SocketAddr| {
            eventually(way, || {
                near.backend().hold_endpoint(far_key, Some(endpoint)).unwrap();
                answers(&asking, echo.at)
                    && near.endpoint_of(far_key) == Some(endpoint)
                    && far.endpoint_of(near_key) == Some(back)
            });
        };

        let flow = Flow::start(&near.namespace, inside(1), echo.at);
        over("both take the relay", port, port);
        let carried = relay.relayed().bytes;
        tcp_echo(&near.namespace, &far.namespace, inside(2), 256 << 10);
        assert!(relay.relayed().bytes >= carried + (512 << 10), "{:?}", relay.relayed());
        over("both are back", far.endpoint(), near.endpoint());
        near.backend().hold_endpoint(far_key, None).unwrap();
        let counted = flow.stop();
        assert_eq!(counted.lost, 0, "{underlay:?}: {counted:?}");

        // Nothing that is no datagram of the protocol, and nobody else.
        let refused = relay.relayed().refused;
        let loud = near.namespace.run(move || std::net::UdpSocket::bind(("::", 0)).unwrap());
        loud.send_to(b"hello", if port.is_ipv4() { mapped(port) } else { port }).unwrap();
        eventually("a stranger is refused", || relay.relayed().refused > refused);
    }
}

/// As a socket of both families names it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => address,
    }
}

#[test]
fn a_pair_without_a_direct_way_meets_over_a_relay_which_closes_in_the_end() {
    let [near, far] = kinds(Kind::Userspace);
    let (_switch, nodes) = nodes(&[near, far, near], Underlay::V4);
    let [near, far, third] = &nodes[..] else { unreachable!("three were made") };
    near.namespace.sh(&format!("ip route add unreachable {}/32", far.endpoint().ip()));
    far.namespace.sh(&format!("ip route add unreachable {}/32", near.endpoint().ip()));
    near.backend().set_peer(&far.as_peer()).unwrap();
    far.backend().set_peer(&near.as_peer()).unwrap();
    let (relay, port) = relay_between(third, near, far);
    near.backend().hold_endpoint(far.key.public(), Some(port)).unwrap();
    let echo = Echo::start(&far.namespace, inside(2));
    let asking = socket(&near.namespace, inside(1), Duration::from_secs(1));
    eventually("an answer over the relay", || answers(&asking, echo.at));
    assert_eq!(relay.pairs(), 1);
    relay.set_pairs(&BTreeMap::new());
    assert_eq!(relay.pairs(), 0);
    let address = port;
    eventually("the port is free again", || {
        third.namespace.run(move || std::net::UdpSocket::bind(("0.0.0.0", address.port())).is_ok())
    });
}

#[test]
fn one_behind_a_translator_of_ports_is_relayed_from_where_it_speaks() {
    let (_switch, nodes) = nodes(&[Kind::Userspace; 3], Underlay::V4);
    let [near, far, third] = &nodes[..] else { unreachable!("three were made") };
    // Another port for each destination, and nothing comes in that was not asked for.
    near.namespace.sh(&format!(
        "nft -f - <<'END'
         table ip translator {{
             chain out {{
                 type nat hook postrouting priority srcnat;
                 ip daddr {} udp sport {} masquerade to :40001
                 ip daddr {} udp sport {} masquerade to :40002
             }}
             chain in {{
                 type filter hook input priority filter;
                 iifname eth0 ct state new drop
             }}
         }}
END",
        third.endpoint().ip(),
        near.port,
        far.endpoint().ip(),
        near.port
    ));
    far.namespace.sh(&format!("ip route add unreachable {}/32", near.endpoint().ip()));
    near.backend().set_peer(&far.as_peer()).unwrap();
    far.backend().set_peer(&near.as_peer()).unwrap();
    let (_relay, port) = relay_between(third, near, far);
    near.backend().hold_endpoint(far.key.public(), Some(port)).unwrap();
    let echo = Echo::start(&far.namespace, inside(2));
    let asking = socket(&near.namespace, inside(1), Duration::from_secs(1));
    eventually("an answer over the relay", || answers(&asking, echo.at));
    assert_eq!(far.endpoint_of(near.key.public()), Some(port));
}
