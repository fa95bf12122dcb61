//! What a link is to be, and what it has become. Values alone.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::error::MeshError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Peers of one link.
pub const MAX_PEERS: usize = 1 << 14;
/// Allowed addresses of all peers of one link together.
pub const MAX_ADDRESSES: usize = 1 << 22;

/// What IPv6, UDP and WireGuard add to a packet, as bytes.
const OVERHEAD: u16 = 80;
/// IPv6 forbids less.
const MIN_MTU: u16 = 1280;

/// The largest packet that a link may take where the way between servers carries packets of
/// `underlay` bytes, over IPv4 or IPv6. Never less than IPv6 needs: what is larger than the way
/// carries is then fragmented on it.
#[must_use]
pub fn link_mtu(underlay: u16) -> u16 {
    underlay.saturating_sub(OVERHEAD).max(MIN_MTU)
}

/// What cannot be changed while the link is there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The interface's name, at most 15 bytes.
    pub link: String,
    /// UDP, on every address of the server; 0 takes any free one.
    pub listen_port: u16,
    /// Largest packet that goes into the link; see [`link_mtu`].
    pub mtu: u16,
    pub private_key: PrivateKey,
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), MeshError> {
        let name = &self.link;
        let odd = |byte: u8| byte == b'/' || byte.is_ascii_whitespace() || byte == 0;
        if name.is_empty() || name.len() > 15 || name.bytes().any(odd) || name == "." || name == ".." {
            return Err(MeshError::LinkName(name.clone()));
        }
        Ok(())
    }
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    pub public_key: PublicKey,
    pub preshared_key: Option<PresharedKey>,
    /// Where to find it until it speaks from elsewhere. Without one the peer must speak first.
    pub endpoint: Option<SocketAddr>,
    /// Where packets may come from and are sent to through this peer. An address of another peer is
    /// taken from it.
    pub allowed: Vec<IpNet>,
    /// Seconds after which something is sent in any case.
    pub keepalive: Option<NonZeroU16>,
}

/// All that a link is to be.
#[derive(Debug, Clone)]
pub struct Desired {
    pub private_key: PrivateKey,
    pub peers: Vec<PeerConfig>,
}

impl Desired {
    /// Whether it can be, before anything is touched.
    pub(crate) fn check(&self) -> Result<(), MeshError> {
        if self.peers.len() > MAX_PEERS {
            return Err(MeshError::TooMany { what: "peers", limit: MAX_PEERS });
        }
        if self.peers.iter().map(|peer| peer.allowed.len()).sum::<usize>() > MAX_ADDRESSES {
            return Err(MeshError::TooMany { what: "allowed addresses", limit: MAX_ADDRESSES });
        }
        let own = self.private_key.public();
        let mut seen = HashSet::new();
        for PeerConfig { public_key, .. } in &self.peers {
            if *public_key == own {
                return Err(MeshError::OwnKey(own));
            }
            if !seen.insert(*public_key) {
                return Err(MeshError::Twice(*public_key));
            }
        }
        Ok(())
    }
}

/// One step of allowed addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChange {
    /// The prefix is this peer's from now on, whosever it was.
    Add { peer: PublicKey, prefix: IpNet },
    /// The prefix is nobody's, if it was this peer's. One that has moved on stays where it is.
    Remove { peer: PublicKey, prefix: IpNet },
}

impl AddressChange {
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        match self {
            Self::Add { peer, .. } | Self::Remove { peer, .. } => *peer,
        }
    }
}

/// What is known of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub public_key: PublicKey,
    /// Where it spoke from last, or where it was said to be.
    pub endpoint: Option<SocketAddr>,
    /// When keys were last agreed on.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of packets that went through the tunnel, as they were on the wire.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(key: u8) -> PeerConfig {
        PeerConfig {
            public_key: PublicKey([key; 32]),
            preshared_key: None,
            endpoint: None,
            allowed: vec![],
            keepalive: None,
        }
    }

    #[test]
    fn a_links_mtu_leaves_room_for_the_outer_headers() {
        assert_eq!(link_mtu(1500), 1420);
        assert_eq!(link_mtu(9000), 8920);
        assert_eq!(link_mtu(1300), 1280);
        assert_eq!(link_mtu(0), 1280);
    }

    #[test]
    fn a_state_that_cannot_be_is_refused_as_a_whole() {
        let private_key = PrivateKey::from_bytes([9; 32]);
        let own = PeerConfig { public_key: private_key.public(), ..peer(1) };
        let desired = |peers| Desired { private_key: private_key.clone(), peers };
        assert!(matches!(desired(vec![peer(1), own]).check(), Err(MeshError::OwnKey(_))));
        assert!(matches!(desired(vec![peer(1), peer(2), peer(1)]).check(), Err(MeshError::Twice(_))));
        desired(vec![peer(1), peer(2)]).check().unwrap();
    }

    #[test]
    fn names_that_no_kernel_takes_are_refused() {
        let settings = |link: &str| Settings {
            link: link.to_owned(),
            listen_port: 0,
            mtu: 1420,
            private_key: PrivateKey::from_bytes([9; 32]),
        };
        settings("atoll-0123abcd").check().unwrap();
        for name in ["", "a/b", "a b", "..", "sixteen-bytes-xx"] {
            assert!(matches!(settings(name).check(), Err(MeshError::LinkName(_))), "{name}");
        }
    }
}
