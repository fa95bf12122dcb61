//! Where bytes of strangers enter, for the fuzzer.

use std::net::SocketAddr;
use std::sync::OnceLock;

use crate::config::PeerConfig;
use crate::key::PrivateKey;
use crate::userspace::{Bursts, Core, Inbound, Outbox};

/// A node with one peer, in the middle of a handshake.
fn node() -> &'static Core {
    static NODE: OnceLock<Core> = OnceLock::new();
    NODE.get_or_init(|| {
        let core = Core::new(&PrivateKey::from_bytes([1; 32]));
        let peer = PeerConfig {
            public_key: PrivateKey::from_bytes([2; 32]).public(),
            preshared_key: None,
            endpoint: Some(SocketAddr::from(([192, 0, 2, 1], 51820))),
            allowed: vec!["fdaa::/16".parse().expect("a prefix"), "10.0.0.0/8".parse().expect("a prefix")],
            keepalive: None,
        };
        core.set_peer(&peer, &mut Outbox::default()).expect("one peer fits");
        core
    })
}

/// Datagrams to begin with, by name: an initiation of the node's peer, and what looks like the others.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let peer = Core::new(&PrivateKey::from_bytes([2; 32]));
    let own = PeerConfig {
        public_key: PrivateKey::from_bytes([1; 32]).public(),
        preshared_key: None,
        endpoint: Some(SocketAddr::from(([192, 0, 2, 2], 51820))),
        allowed: vec![],
        keepalive: None,
    };
    let mut outbox = Outbox::default();
    peer.set_peer(&own, &mut outbox).expect("one peer fits");
    let initiations = outbox.datagrams.into_iter().map(|(_, datagram)| ("initiation", datagram));
    let others = [("response", 2, 92), ("cookie", 3, 64), ("data", 4, 80)];
    let others = others.into_iter().map(|(name, kind, length)| (name, [vec![kind], vec![0; length - 1]].concat()));
    initiations.chain(others).collect()
}

/// Datagrams as the socket gives them: the first byte says how many bytes each has.
pub fn datagrams(bytes: &[u8]) {
    let Some((segment, bytes)) = bytes.split_first() else { return };
    let mut inbound = Inbound::new(0);
    let from = SocketAddr::from(([192, 0, 2, 7], 7)).into();
    node().inbound(bytes, usize::from(*segment), from, &mut inbound);
    assert_eq!(inbound.count, 0, "nobody has agreed on keys");
}

/// A stream of datagrams from a client that asked for one: the first byte says in pieces of how many it arrives.
/// The datagrams are the same whatever the pieces.
pub fn stream(bytes: &[u8]) {
    use crate::stream::Unframer;
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let read = |size: usize| {
        let (mut unframer, mut datagrams) = (Unframer::of_accepter(), Vec::new());
        let mut pieces = bytes.chunks(size.max(1));
        let failed = pieces.find_map(|piece| unframer.push(piece, |datagram| datagrams.push(datagram.to_vec())).err());
        (datagrams, failed)
    };
    assert_eq!(read(usize::from(*piece)), read(bytes.len()));
}

/// What a peer has sealed as a signal. One that is read is written the same.
pub fn signal(bytes: &[u8]) {
    if let Some(signal) = crate::signal::read(bytes) {
        let mut again = Vec::new();
        crate::signal::write(&signal, &mut again);
        assert!(again.len() <= bytes.len(), "zeros may be missing, nothing else");
        assert_eq!(crate::signal::read(&again), Some(signal));
    }
}

/// Signals to begin with, by name.
pub fn signals() -> Vec<(&'static str, Vec<u8>)> {
    use crate::signal::{Id, KnownWay, Signal};
    let (one, other) = (Id([1; 8]), Id([2; 8]));
    let way = KnownWay {
        to: one,
        silent: std::time::Duration::from_millis(40),
        round_trip: std::time::Duration::from_millis(12),
        loss: 0.1,
        mesh: Some(SocketAddr::from(([192, 0, 2, 1], 51820))),
        signals: Some("[2001:db8::1]:51822".parse().expect("an address")),
    };
    let number = std::num::NonZeroU64::new(7);
    let question = Signal { ask: number, direct: true, about: vec![one], relay_to: vec![other], ..Signal::default() };
    let answer = Signal { answer: number, ways: vec![way], relaying: vec![(other, 51_920)], ..Signal::default() };
    let bytes = |signal| {
        let mut bytes = Vec::new();
        crate::signal::write(&signal, &mut bytes);
        bytes
    };
    vec![("question", bytes(question)), ("answer", bytes(answer)), ("alive", bytes(Signal::default()))]
}

/// A packet as the interface gives it, which machines have made.
pub fn packet(bytes: &[u8]) {
    let mut bursts = Bursts::new(bytes.len() + 256);
    node().outbound([bytes].into_iter(), &mut bursts);
}
