//! What passes.

use atoll_mesh::kernel::{Probe, probe};
use atoll_mesh::{Kind, MeshError, PrivateKey, Settings, open};

use crate::place::{LINK, Underlay, eventually, inside, inside_v4, kinds, pair};
use crate::traffic::{Echo, answers, socket, tcp_echo};

/// Bytes of a TCP connection: many times what is on its way at once.
const LENGTH: usize = 256 << 10;

#[test]
fn tcp_and_udp_pass_over_ipv4_and_ipv6_and_the_link_is_gone_in_the_end() {
    let kinds = kinds(Kind::Userspace);
    for underlay in [Underlay::V4, Underlay::V6] {
        let (_switch, mut near, mut far) = pair(kinds, underlay);
        for (from, to) in [(inside(1), inside(2)), (inside_v4(1), inside_v4(2))] {
            let echo = Echo::start(&far.namespace, to);
            let socket = socket(&near.namespace, from, std::time::Duration::from_secs(1));
            eventually("the first answer", || answers(&socket, echo.at));
            tcp_echo(&near.namespace, &far.namespace, to, LENGTH);
        }
        tcp_echo(&far.namespace, &near.namespace, inside(1), LENGTH);
        let status = &near.backend().peers().unwrap()[0];
        assert!(status.last_handshake.is_some() && status.rx_bytes > LENGTH as u64, "{kinds:?}: {status:?}");
        assert_eq!(status.endpoint, Some(far.endpoint()));
        for node in [&mut near, &mut far] {
            node.close();
            let links = node.namespace.sh("ip -o link");
            assert!(!links.contains(LINK), "{kinds:?}: {links}");
        }
    }
}

#[test]
fn the_better_backend_is_opened_and_told_why() {
    let namespace = crate::namespace::Namespace::new();
    let (kind, reason, second) = namespace.run(|| {
        let settings =
            Settings { link: "mesh7".to_owned(), listen_port: 0, mtu: 1420, private_key: PrivateKey::generate() };
        let opened = open(&settings).unwrap();
        let second = open(&settings).map(|_| ()).map_err(|error| matches!(error, MeshError::Link { .. }));
        (opened.backend.kind(), opened.reason.clone(), second)
    });
    let (best, expected) = match probe() {
        Probe::Present => (Kind::Kernel, "has WireGuard"),
        Probe::Absent(_) => (Kind::Userspace, "no WireGuard module"),
    };
    assert_eq!(kind, best);
    assert!(reason.contains(expected), "{reason}");
    assert_eq!(second, Err(true), "the name is taken");
    assert!(!namespace.sh("ip -o link").contains("mesh7"));
}

#[test]
fn a_peer_is_followed_when_its_address_changes() {
    let kinds = kinds(Kind::Kernel);
    let (_switch, near, far) = pair(kinds, Underlay::V4);
    let echo = Echo::start(&far.namespace, inside(2));
    let socket = socket(&near.namespace, inside(1), std::time::Duration::from_secs(1));
    eventually("the first answer", || answers(&socket, echo.at));
    near.namespace.sh("ip addr del 10.9.0.1/16 dev eth0; ip addr add 10.9.1.1/16 dev eth0");
    eventually("an answer at the new address", || answers(&socket, echo.at));
    let known = far.endpoint_of(near.key.public()).unwrap();
    assert_eq!(known, (std::net::Ipv4Addr::new(10, 9, 1, 1), near.port).into(), "{kinds:?}");
    // And from the other side, without being asked first.
    let echo = Echo::start(&near.namespace, inside(1));
    let socket = crate::traffic::socket(&far.namespace, inside(2), std::time::Duration::from_secs(1));
    assert!(answers(&socket, echo.at), "{kinds:?}");
}
