//! Nodes without sockets: what one sends is handed to the other.

use std::net::{Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

/// A node, what came out of its tunnel, and what it wants to send.
struct Node {
    core: Core,
    key: PrivateKey,
    at: SocketAddr,
    packets: Vec<Vec<u8>>,
    outbox: Outbox,
}

fn host(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, number)
}

/// An IPv6 packet of this length; its content says which it is.
fn packet(from: Ipv6Addr, to: Ipv6Addr, number: u8) -> Vec<u8> {
    let mut packet = vec![number; 100];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&60_u16.to_be_bytes());
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet
}

impl Node {
    fn new(number: u16) -> Self {
        let key = PrivateKey::from_bytes([u8::try_from(number).unwrap(); 32]);
        let at = SocketAddr::from(([192, 0, 2, u8::try_from(number).unwrap()], 51820));
        Self { core: Core::new(&key), key, at, packets: vec![], outbox: Outbox::default() }
    }

    fn as_peer(&self, number: u16) -> PeerConfig {
        PeerConfig {
            public_key: self.key.public(),
            preshared_key: None,
            endpoint: Some(self.at),
            allowed: vec![ipnet::IpNet::new(host(number).into(), 128).unwrap()],
            keepalive: None,
        }
    }

    fn set_peer(&mut self, peer: &PeerConfig) {
        self.core.set_peer(peer, &mut self.outbox).unwrap();
    }

    /// Datagrams that leave when a packet goes into the tunnel.
    fn seal(&mut self, packet: &[u8]) {
        let mut bursts = Bursts::new(4096);
        self.core.outbound([packet].into_iter(), &mut bursts);
        for burst in &bursts.bursts {
            for datagram in bursts.buffer[burst.range.clone()].chunks(burst.segment) {
                self.outbox.push(burst.to, datagram);
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut inbound = Inbound::new(0);
        self.core.inbound(datagram, datagram.len(), from.into(), &mut inbound);
        self.packets.extend(inbound.packets.drain(..inbound.count));
        self.outbox.datagrams.append(&mut inbound.outbox.datagrams);
    }

    fn take(&mut self) -> Vec<(Endpoint, Vec<u8>)> {
        std::mem::take(&mut self.outbox.datagrams)
    }

    fn endpoint_of(&self, peer: &Node) -> Option<SocketAddr> {
        self.core.peer(peer.key.public()).unwrap().lock().endpoint.map(|endpoint| endpoint.remote)
    }
}

/// What was sent elsewhere is lost.
fn deliver(datagrams: Vec<(Endpoint, Vec<u8>)>, from: SocketAddr, node: &mut Node) {
    let at = node.at;
    datagrams.iter().filter(|(to, _)| to.remote == at).for_each(|(_, datagram)| node.receive(from, datagram));
}

/// Hands over what they say to each other until both are silent.
fn talk(a: &mut Node, b: &mut Node) {
    for _ in 0..100 {
        let (to_b, to_a) = (a.take(), b.take());
        if to_b.is_empty() && to_a.is_empty() {
            return;
        }
        deliver(to_b, a.at, b);
        deliver(to_a, b.at, a);
    }
    panic!("they never stop");
}

/// Node 1 and node 2, which know each other.
fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.set_peer(&b.as_peer(2));
    b.set_peer(&a.as_peer(1));
    talk(&mut a, &mut b);
    (a, b)
}

/// Sends a packet from one to the other; whether it came out there.
fn passes(from: &mut Node, to: &mut Node, numbers: (u16, u16)) -> bool {
    let packet = packet(host(numbers.0), host(numbers.1), 7);
    to.packets.clear();
    from.seal(&packet);
    talk(from, to);
    to.packets == [packet]
}

#[test]
fn packets_pass_both_ways() {
    let (mut a, mut b) = pair();
    assert!(passes(&mut a, &mut b, (1, 2)));
    assert!(passes(&mut b, &mut a, (2, 1)));
    assert_eq!((a.core.counters().read(), b.core.counters().read()), Default::default());
    let status = &a.core.statuses()[0];
    assert!(status.last_handshake.is_some() && status.rx_bytes > 0 && status.tx_bytes > 0, "{status:?}");
}

#[test]
fn packets_wait_for_the_handshake_in_order_and_not_without_bound() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    b.set_peer(&PeerConfig { endpoint: None, ..a.as_peer(1) });
    a.set_peer(&b.as_peer(2));
    for _ in 0..3 {
        for number in 0..=255 {
            a.seal(&packet(host(1), host(2), number));
        }
    }
    talk(&mut a, &mut b);
    let numbers: Vec<_> = b.packets.iter().map(|packet| packet[99]).collect();
    assert_eq!(numbers, (0..=255).collect::<Vec<u8>>());
}

/// Numbers of the packets that the node shows from now on.
fn shown(node: &Node) -> Arc<Mutex<Vec<u8>>> {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let taken = shown.clone();
    node.core.show_to(Box::new(move |_, packet| taken.lock().unwrap().push(packet[99])));
    shown
}

#[test]
fn packets_that_wait_are_shown_and_take_their_way_all_the_same() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    b.set_peer(&PeerConfig { endpoint: None, ..a.as_peer(1) });
    a.set_peer(&b.as_peer(2));
    let shown = shown(&a);
    a.seal(&packet(host(1), host(2), 1));
    a.seal(&packet(host(1), host(2), 2));
    talk(&mut a, &mut b);
    a.seal(&packet(host(1), host(2), 3));
    talk(&mut a, &mut b);
    assert_eq!(*shown.lock().unwrap(), [1, 2]);
    assert_eq!(b.packets.iter().map(|packet| packet[99]).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn what_goes_to_a_peer_that_has_forgotten_the_session_is_shown_until_there_is_a_new_one() {
    let (mut a, mut b) = pair();
    let shown = shown(&b);
    b.seal(&packet(host(2), host(1), 1));
    b.core.show_until(a.key.public(), Instant::now() + std::time::Duration::from_secs(60));
    b.seal(&packet(host(2), host(1), 2));
    talk(&mut a, &mut b);
    // It restarts, and its first packet proves the new session.
    a.core = Core::new(&a.key);
    a.set_peer(&b.as_peer(2));
    b.seal(&packet(host(2), host(1), 3));
    talk(&mut a, &mut b);
    assert!(passes(&mut a, &mut b, (1, 2)));
    b.seal(&packet(host(2), host(1), 4));
    b.core.show_until(a.key.public(), Instant::now());
    b.seal(&packet(host(2), host(1), 5));
    assert_eq!(*shown.lock().unwrap(), [2, 3]);
}

#[test]
fn a_packet_that_came_beside_is_a_peers_only_from_its_own_addresses() {
    let (a, b) = pair();
    assert!(b.core.allows(a.key.public(), &packet(host(1), host(2), 1)));
    assert!(!b.core.allows(a.key.public(), &packet(host(3), host(2), 1)));
    assert!(!b.core.allows(PublicKey([9; 32]), &packet(host(1), host(2), 1)));
    assert!(!b.core.allows(a.key.public(), b"x"));
    assert_eq!(b.core.counters().read().spoofed, 3);
}

#[test]
fn a_packet_from_another_peers_address_is_dropped_and_counted() {
    let (mut a, mut b) = pair();
    assert!(!passes(&mut a, &mut b, (3, 2)), "nobody's address");
    let mut c = Node::new(3);
    b.set_peer(&c.as_peer(3));
    c.set_peer(&b.as_peer(2));
    talk(&mut c, &mut b);
    assert!(!passes(&mut a, &mut b, (3, 2)), "node 3's address");
    assert_eq!(b.core.counters().read().spoofed, 2);
}

#[test]
fn a_peer_is_followed_by_what_it_proves_alone() {
    let (mut a, mut b) = pair();
    let elsewhere = SocketAddr::from(([198, 51, 100, 9], 9));
    // Forged: the right session, a wrong seal.
    a.seal(&packet(host(1), host(2), 1));
    let (_, mut forged) = a.take().remove(0);
    *forged.last_mut().unwrap() ^= 1;
    b.receive(elsewhere, &forged);
    assert_eq!(b.endpoint_of(&a), Some(a.at));
    // Repeated.
    a.seal(&packet(host(1), host(2), 2));
    let (_, datagram) = a.take().remove(0);
    b.receive(a.at, &datagram);
    b.receive(elsewhere, &datagram);
    assert_eq!(b.endpoint_of(&a), Some(a.at));
    assert_eq!(b.core.counters().read().rejected, 2);
    // Genuine.
    a.at = elsewhere;
    assert!(passes(&mut a, &mut b, (1, 2)));
    assert_eq!(b.endpoint_of(&a), Some(elsewhere));
    assert!(passes(&mut b, &mut a, (2, 1)));
}

#[test]
fn a_recorded_initiation_does_not_move_a_peer_even_after_a_restart() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.set_peer(&b.as_peer(2));
    let (_, initiation) = a.take().remove(0);
    // Node 2 has just started and remembers no handshake.
    b.set_peer(&a.as_peer(1));
    b.take();
    let elsewhere = SocketAddr::from(([198, 51, 100, 9], 9));
    b.receive(elsewhere, &initiation);
    assert_eq!(b.endpoint_of(&a), Some(a.at));
    assert!(matches!(&b.take()[..], [(to, _)] if to.remote == elsewhere), "but it is answered");
}

#[test]
fn a_shared_secret_changes_inside_a_live_session() {
    let (mut a, mut b) = pair();
    let secret = PresharedKey::from_bytes([5; 32]);
    a.core.set_preshared_key(b.key.public(), Some(&secret), &mut a.outbox).unwrap();
    for _ in 0..3 {
        assert!(passes(&mut a, &mut b, (1, 2)), "one side has changed, the session goes on");
        assert!(passes(&mut b, &mut a, (2, 1)));
    }
    b.core.set_preshared_key(a.key.public(), Some(&secret), &mut b.outbox).unwrap();
    let before = a.core.statuses()[0].last_handshake;
    assert!(passes(&mut a, &mut b, (1, 2)) && passes(&mut b, &mut a, (2, 1)));
    let sessions = |node: &Node, peer: &Node| node.core.peer(peer.key.public()).unwrap().lock().current.age();
    assert!(sessions(&a, &b).is_some() && sessions(&b, &a).is_some(), "the new secret is in use");
    assert!(a.core.statuses()[0].last_handshake > before);
    // As often as it takes until tunnels that have ended are forgotten, several times.
    for number in 6..60 {
        let secret = PresharedKey::from_bytes([number; 32]);
        a.core.set_preshared_key(b.key.public(), Some(&secret), &mut a.outbox).unwrap();
        b.core.set_preshared_key(a.key.public(), Some(&secret), &mut b.outbox).unwrap();
        assert!(passes(&mut a, &mut b, (1, 2)) && passes(&mut b, &mut a, (2, 1)), "change {number}");
        assert!(sessions(&a, &b).is_some() && sessions(&b, &a).is_some(), "secret {number} is in use");
    }
}

#[test]
fn a_secret_that_only_one_side_has_changed_does_not_end_the_session() {
    let (mut a, mut b) = pair();
    let secret = PresharedKey::from_bytes([5; 32]);
    a.core.set_preshared_key(b.key.public(), Some(&secret), &mut a.outbox).unwrap();
    for _ in 0..30 {
        a.core.peer(b.key.public()).unwrap().lock().call(&mut a.outbox);
        talk(&mut a, &mut b);
        assert!(passes(&mut a, &mut b, (1, 2)) && passes(&mut b, &mut a, (2, 1)));
    }
    // It heals when the other side follows, by either's call.
    b.core.set_preshared_key(a.key.public(), Some(&secret), &mut b.outbox).unwrap();
    talk(&mut a, &mut b);
    assert!(a.core.peer(b.key.public()).unwrap().lock().current.age().is_some());
    assert!(passes(&mut a, &mut b, (1, 2)) && passes(&mut b, &mut a, (2, 1)));
}

#[test]
fn keys_are_agreed_on_again_and_again() {
    let (mut a, mut b) = pair();
    for _ in 0..30 {
        a.core.peer(b.key.public()).unwrap().lock().call(&mut a.outbox);
        talk(&mut a, &mut b);
        assert!(passes(&mut a, &mut b, (1, 2)) && passes(&mut b, &mut a, (2, 1)));
    }
    assert_eq!(b.core.counters().read().rejected, 0);
}

#[test]
fn different_secrets_never_agree() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.set_peer(&PeerConfig { preshared_key: Some(PresharedKey::from_bytes([5; 32])), ..b.as_peer(2) });
    b.set_peer(&a.as_peer(1));
    talk(&mut a, &mut b);
    assert!(!passes(&mut a, &mut b, (1, 2)));
    assert!(!passes(&mut b, &mut a, (2, 1)));
}

#[test]
fn a_node_can_take_another_key() {
    let (mut a, mut b) = pair();
    let old = a.key.public();
    a.key = PrivateKey::from_bytes([11; 32]);
    a.core.set_private_key(&a.key, &mut a.outbox).unwrap();
    talk(&mut a, &mut b);
    assert!(!passes(&mut a, &mut b, (1, 2)), "the other side does not know the key yet");
    b.core.remove_peer(old);
    b.set_peer(&a.as_peer(1));
    talk(&mut a, &mut b);
    assert!(passes(&mut a, &mut b, (1, 2)) && passes(&mut b, &mut a, (2, 1)));
    assert!(matches!(a.core.set_private_key(&b.key, &mut a.outbox), Err(MeshError::OwnKey(_))));
    assert!(matches!(a.core.set_peer(&a.as_peer(1), &mut a.outbox), Err(MeshError::OwnKey(_))));
}

#[test]
fn nothing_of_a_removed_peer_is_accepted() {
    let (mut a, mut b) = pair();
    a.seal(&packet(host(1), host(2), 1));
    let on_its_way = a.take();
    b.core.remove_peer(a.key.public());
    b.receive(a.at, &on_its_way[0].1);
    assert!(!passes(&mut a, &mut b, (1, 2)));
    a.core.set_preshared_key(b.key.public(), None, &mut a.outbox).unwrap();
    a.core.peer(b.key.public()).unwrap().lock().call(&mut a.outbox);
    talk(&mut a, &mut b);
    assert!(b.packets.is_empty() && b.core.statuses().is_empty());
    let dropped = b.core.counters().read();
    assert_eq!((dropped.unknown_session, dropped.unknown_peer), (2, 1), "{dropped:?}");
    assert_eq!(b.core.addresses(), 0);
    b.seal(&packet(host(2), host(1), 1));
    assert_eq!(b.core.counters().read().no_route, 1);
}

#[test]
fn an_address_moves_to_its_new_owner_and_back() {
    let (mut a, mut b) = pair();
    let mut c = Node::new(3);
    c.set_peer(&b.as_peer(2));
    b.set_peer(&c.as_peer(3));
    talk(&mut c, &mut b);
    let (first, second) = (a.key.public(), c.key.public());
    let prefix = ipnet::IpNet::new(host(1).into(), 128).unwrap();
    b.core.change_addresses(&[AddressChange::Add { peer: second, prefix }]).unwrap();
    b.core.change_addresses(&[AddressChange::Remove { peer: first, prefix }]).unwrap();
    assert!(!passes(&mut a, &mut b, (1, 2)) && passes(&mut c, &mut b, (1, 2)));
    b.set_peer(&a.as_peer(1));
    talk(&mut a, &mut b);
    assert!(passes(&mut a, &mut b, (1, 2)) && !passes(&mut c, &mut b, (1, 2)));
    let unknown = PublicKey([77; 32]);
    let refused = b.core.change_addresses(&[AddressChange::Add { peer: unknown, prefix }]);
    assert!(matches!(refused, Err(MeshError::UnknownPeer(_))));
}

#[test]
fn too_many_handshakes_are_answered_with_a_cookie_which_the_next_ones_carry() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    b.set_peer(&PeerConfig { endpoint: None, ..a.as_peer(1) });
    a.set_peer(&b.as_peer(2));
    let (_, first) = a.take().remove(0);
    for _ in 0..600 {
        b.receive(SocketAddr::from(([203, 0, 113, 1], 1)), &first);
    }
    let dropped = b.core.counters().read();
    assert!(dropped.challenged > 0 && dropped.rejected > 0, "{dropped:?}");
    b.take();
    a.core.peer(b.key.public()).unwrap().lock().call(&mut a.outbox);
    talk(&mut a, &mut b);
    assert!(a.core.statuses()[0].last_handshake.is_none(), "the cookie came, no keys");
    a.core.peer(b.key.public()).unwrap().lock().call(&mut a.outbox);
    talk(&mut a, &mut b);
    assert!(passes(&mut a, &mut b, (1, 2)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A datagram that was touched anywhere is not a packet.
    #[test]
    fn a_touched_datagram_is_never_a_packet(at in 0..1000_usize, change in 1..=255_u8, cut in 0..8_usize) {
        let (mut a, mut b) = pair();
        a.seal(&packet(host(1), host(2), 1));
        let (_, mut datagram) = a.take().remove(0);
        let at = at % datagram.len();
        datagram[at] ^= change;
        datagram.truncate(datagram.len() - cut);
        b.receive(a.at, &datagram);
        prop_assert!(b.packets.is_empty());
        prop_assert!(passes(&mut a, &mut b, (1, 2)), "and does no harm");
    }

    #[test]
    fn noise_is_counted(
        noise in proptest::collection::vec(any::<u8>(), 1..400), segment in 1..200_usize, kind in 0..6_u8
    ) {
        let (a, b) = pair();
        let mut noise = noise;
        noise[0] = kind;
        noise.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
        let mut inbound = Inbound::new(12);
        b.core.inbound(&noise, segment, a.at.into(), &mut inbound);
        prop_assert_eq!(inbound.count, 0);
        let counted: u64 = b.core.counters().read().named().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(counted, noise.chunks(segment).take(BATCH).count() as u64);
        crate::fuzz::datagrams(&noise);
        crate::fuzz::packet(&noise);
    }
}
