//! Changes under load.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use atoll_mesh::{AddressChange, Kind, PeerConfig, PresharedKey, PrivateKey};

use crate::place::{Underlay, eventually, inside, kinds, pair, whole};
use crate::traffic::{Echo, Flow, answers, socket};

const A_SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_thousand_address_changes_a_second_lose_no_packet() {
    let kinds = kinds(Kind::Userspace);
    let (_switch, near, far) = pair(kinds, Underlay::V4);
    let echo = Echo::start(&far.namespace, inside(2));
    let socket = socket(&near.namespace, inside(1), A_SECOND);
    eventually("the first answer", || answers(&socket, echo.at));
    let flow = Flow::start(&near.namespace, inside(1), echo.at);
    let other = |number: u16| whole(IpAddr::from(Ipv6Addr::new(0xfdaa, 0, 1, 0, 0, 0, number, 2)));
    let peers = [(&near, far.key.public()), (&far, near.key.public())];
    let (began, mut rounds) = (Instant::now(), 0);
    // One by one, on both sides, as they come from the directory; for as long as packets flow beside.
    while rounds < 2 || began.elapsed() < A_SECOND / 2 {
        for number in 0..1_000 {
            for (node, peer) in peers {
                node.backend().change_addresses(&[AddressChange::Add { peer, prefix: other(number) }]).unwrap();
            }
        }
        for number in 0..1_000 {
            for (node, peer) in peers {
                node.backend().change_addresses(&[AddressChange::Remove { peer, prefix: other(number) }]).unwrap();
            }
        }
        rounds += 1;
    }
    let took = began.elapsed();
    let counted = flow.stop();
    assert!(counted.lost == 0 && counted.sent > 100, "{kinds:?}: {counted:?}");
    let rate = f64::from(rounds * 2_000) / took.as_secs_f64();
    eprintln!("{kinds:?}: {rate:.0} changes a second on each node beside {} packets", counted.sent);
    // An emulated processor is given its time.
    let wanted = if kinds.contains(&Kind::Kernel) { 200.0 } else { 1_000.0 };
    assert!(rate > wanted, "{kinds:?}: {rate:.0}");
}

#[test]
fn a_shared_secret_changes_under_load_without_a_loss() {
    let kinds = kinds(Kind::Kernel);
    let (_switch, near, far) = pair(kinds, Underlay::V6);
    let echo = Echo::start(&far.namespace, inside(2));
    let socket = socket(&near.namespace, inside(1), A_SECOND);
    eventually("the first answer", || answers(&socket, echo.at));
    let flow = Flow::start(&near.namespace, inside(1), echo.at);
    let before = |node: &crate::place::Node| node.backend().peers().unwrap()[0].last_handshake;
    let first = before(&near);
    // The kernel's handshakes are told in whole seconds.
    std::thread::sleep(A_SECOND);
    let secret = PresharedKey::from_bytes(rand::random());
    near.backend().set_preshared_key(far.key.public(), Some(&secret)).unwrap();
    assert!(answers(&socket, echo.at), "{kinds:?}: between the two changes");
    far.backend().set_preshared_key(near.key.public(), Some(&secret)).unwrap();
    eventually("a handshake under the new secret", || before(&near) > first);
    let counted = flow.stop();
    assert!(counted.lost == 0 && counted.sent > 100, "{kinds:?}: {counted:?}");
}

#[test]
fn a_node_takes_another_key() {
    let kinds = kinds(Kind::Kernel);
    let (_switch, mut near, far) = pair(kinds, Underlay::V4);
    let echo = Echo::start(&far.namespace, inside(2));
    let socket = socket(&near.namespace, inside(1), Duration::from_millis(200));
    eventually("the first answer", || answers(&socket, echo.at));
    let old = near.key.public();
    near.key = PrivateKey::generate();
    near.backend().set_private_key(&near.key).unwrap();
    assert!(!answers(&socket, echo.at), "{kinds:?}: the other side does not know the key yet");
    far.backend().set_peer(&near.as_peer()).unwrap();
    far.backend().remove_peer(old).unwrap();
    eventually("an answer under the new key", || answers(&socket, echo.at));
}

#[test]
fn nothing_of_a_removed_peer_is_accepted_and_it_can_return() {
    let kinds = kinds(Kind::Userspace);
    let (_switch, near, far) = pair(kinds, Underlay::V4);
    let echo = Echo::start(&far.namespace, inside(2));
    let socket = socket(&near.namespace, inside(1), Duration::from_millis(300));
    eventually("the first answer", || answers(&socket, echo.at));
    far.backend().remove_peer(near.key.public()).unwrap();
    assert!((0..5).all(|_| !answers(&socket, echo.at)), "{kinds:?}");
    assert!(far.backend().peers().unwrap().is_empty());
    far.backend().set_peer(&near.as_peer()).unwrap();
    eventually("an answer after its return", || answers(&socket, echo.at));
}

#[test]
fn a_state_is_reached_whatever_was_before_and_live_sessions_stay() {
    let kinds = kinds(Kind::Kernel);
    let (_switch, near, far) = pair(kinds, Underlay::V4);
    let echo = Echo::start(&far.namespace, inside(2));
    let socket = socket(&near.namespace, inside(1), A_SECOND);
    eventually("the first answer", || answers(&socket, echo.at));
    let flow = Flow::start(&near.namespace, inside(1), echo.at);
    let stranger = PeerConfig { public_key: PrivateKey::generate().public(), allowed: vec![], ..far.as_peer() };
    near.backend().set_peer(&stranger).unwrap();
    let mut allowed = far.as_peer().allowed;
    allowed.extend((0..2_000).map(|number| whole(Ipv6Addr::new(0xfdaa, 0, 2, 0, 0, 0, number, 2).into())));
    let desired =
        atoll_mesh::Desired { private_key: near.key.clone(), peers: vec![PeerConfig { allowed, ..far.as_peer() }] };
    for _ in 0..3 {
        near.backend().apply(&desired).unwrap();
    }
    let peers = near.backend().peers().unwrap();
    assert_eq!(peers.iter().map(|peer| peer.public_key).collect::<Vec<_>>(), [far.key.public()]);
    assert_eq!(flow.stop().lost, 0, "{kinds:?}");
}
