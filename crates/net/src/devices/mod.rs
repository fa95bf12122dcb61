//! Users' devices that enter private networks at this server: which its link for them has, a pure function
//! of the catalogue, and the link kept that way. What they may reach is in [`rules`].

pub mod rules;
pub mod whereabouts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use atoll_catalogue::Snapshot;
use atoll_mesh::{Backend, Desired, MeshError, PeerConfig, PrivateKey, PublicKey};
use atoll_model::NodeName;
use atoll_model::address::NetworkId;
use atoll_model::row::DeviceRow;

use self::whereabouts::Whereabouts;

/// Whom a link lets in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted(pub BTreeMap<PublicKey, Device>);

/// A device: all that comes from it has this source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    pub address: Ipv6Addr,
    pub network: NetworkId,
}

/// Makes it of the catalogue, for the gateway `here` with the key `own`.
pub fn wanted(catalogue: &Snapshot, here: &NodeName, own: PublicKey) -> Wanted {
    let mut rows: Vec<&DeviceRow> =
        catalogue.devices().map(|row| &**row).filter(|device| device.gateway == *here).collect();
    // Of two that claim one key the older one has it.
    rows.sort_by_key(|device| device.address);
    let mut wanted = Wanted::default();
    for row in rows {
        match row.public_key.parse::<PublicKey>() {
            Ok(key) if key != own && !wanted.0.contains_key(&key) => {
                wanted.0.insert(key, Device { address: row.address, network: row.network });
            }
            Ok(_) => tracing::warn!(device = %row.name, org = %row.org, "a device has another one's key"),
            Err(error) => tracing::warn!(device = %row.name, org = %row.org, %error, "a device has no key"),
        }
    }
    wanted
}

impl Wanted {
    pub fn networks(&self) -> BTreeSet<NetworkId> {
        self.0.values().map(|device| device.network).collect()
    }

    pub fn addresses(&self) -> BTreeSet<Ipv6Addr> {
        self.0.values().map(|device| device.address).collect()
    }

    /// The key of the device with this address.
    pub fn key_of(&self, address: Ipv6Addr) -> Option<PublicKey> {
        self.0.iter().find(|(_, device)| device.address == address).map(|(key, _)| *key)
    }

    fn desired(&self, private_key: &PrivateKey) -> Desired {
        let peers = self.0.iter().map(|(key, device)| config(*key, device, None)).collect();
        Desired { private_key: private_key.clone(), peers }
    }
}

/// Devices speak first, from wherever they are, and keep their ways open themselves.
fn config(public_key: PublicKey, device: &Device, endpoint: Option<SocketAddr>) -> PeerConfig {
    let allowed = vec![IpAddr::V6(device.address).into()];
    PeerConfig { public_key, preshared_key: None, endpoint, allowed, keepalive: None }
}

/// The link and whom it was made to let in.
pub struct Entrance {
    backend: Arc<dyn Backend>,
    private_key: PrivateKey,
    /// Not known at first, nor after something failed half way.
    have: Option<Wanted>,
}

impl Entrance {
    pub fn new(backend: Arc<dyn Backend>, private_key: PrivateKey) -> Self {
        Self { backend, private_key, have: None }
    }

    /// From its return on nothing is accepted of devices that are not wanted.
    ///
    /// # Errors
    /// If the link refuses a step; the next call then begins with all of it.
    pub fn shut_out(&mut self, want: &Wanted) -> Result<(), MeshError> {
        let Some(mut have) = self.have.take() else {
            return self.backend.apply(&Wanted::default().desired(&self.private_key)).map(|()| {
                self.have = Some(Wanted::default());
            });
        };
        for key in have.0.keys().filter(|key| !want.0.contains_key(key)) {
            self.backend.remove_peer(*key)?;
        }
        have.0.retain(|key, _| want.0.contains_key(key));
        self.have = Some(have);
        Ok(())
    }

    /// Lets all in that are wanted, and calls new ones of which it is known where they are. Sessions of those
    /// that stay are not touched.
    ///
    /// # Errors
    /// As [`Self::shut_out`].
    pub fn let_in(&mut self, want: Wanted, known: &Whereabouts) -> Result<(), MeshError> {
        let have = self.have.take().unwrap_or_default();
        for (key, device) in want.0.iter().filter(|(key, device)| have.0.get(key) != Some(device)) {
            self.backend.set_peer(&config(*key, device, known.of(*key)))?;
        }
        self.have = Some(want);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use atoll_mesh::{AddressChange, Kind, PeerStatus, PresharedKey};
    use atoll_model::address::machine_address;
    use atoll_model::row::Row;
    use proptest::prelude::*;

    use super::*;

    fn row(network: u32, number: u32, key: u8, gateway: &str) -> Row {
        Row::Device(DeviceRow {
            name: format!("device-{number}").parse().unwrap(),
            org: "acme".parse().unwrap(),
            network: NetworkId(network),
            address: machine_address(NetworkId(network), 0, number),
            public_key: PublicKey([key; 32]).to_string(),
            gateway: gateway.parse().unwrap(),
        })
    }

    fn here() -> NodeName {
        "ams1".parse().unwrap()
    }

    #[test]
    fn a_gateway_lets_in_its_own_devices_each_under_one_key() {
        let rows = [row(1, 1, 1, "ams1"), row(2, 1, 2, "ams1"), row(1, 2, 1, "ams1"), row(1, 3, 3, "nrt1")];
        let odd = [row(1, 4, 9, "ams1")];
        let wanted = wanted(&Snapshot::from_rows(rows.into_iter().chain(odd)), &here(), PublicKey([9; 32]));
        let (one, two) = (machine_address(NetworkId(1), 0, 1), machine_address(NetworkId(2), 0, 1));
        assert_eq!(wanted.addresses(), BTreeSet::from([one, two]));
        assert_eq!(wanted.networks(), BTreeSet::from([NetworkId(1), NetworkId(2)]));
        assert_eq!(wanted.key_of(one), Some(PublicKey([1; 32])));
    }

    /// A link that only remembers, and may refuse.
    #[derive(Default)]
    struct Remembering {
        peers: Mutex<HashMap<PublicKey, PeerConfig>>,
        refusals: Mutex<u32>,
    }

    impl Remembering {
        fn try_it(&self) -> Result<(), MeshError> {
            let mut refusals = self.refusals.lock().unwrap();
            match refusals.checked_sub(1) {
                None => Ok(()),
                Some(0) => {
                    *refusals = 0;
                    Ok(())
                }
                Some(left) => {
                    *refusals = left;
                    Err(MeshError::OwnKey(PublicKey([0; 32])))
                }
            }
        }
    }

    impl Backend for Remembering {
        fn kind(&self) -> Kind {
            Kind::Userspace
        }
        fn link(&self) -> &str {
            "atu"
        }
        fn listen_port(&self) -> u16 {
            0
        }
        fn set_private_key(&self, _: &PrivateKey) -> Result<(), MeshError> {
            Ok(())
        }
        fn set_peer(&self, peer: &PeerConfig) -> Result<(), MeshError> {
            self.try_it()?;
            self.peers.lock().unwrap().insert(peer.public_key, peer.clone());
            Ok(())
        }
        fn remove_peer(&self, peer: PublicKey) -> Result<(), MeshError> {
            self.try_it()?;
            self.peers.lock().unwrap().remove(&peer);
            Ok(())
        }
        fn change_addresses(&self, _: &[AddressChange]) -> Result<(), MeshError> {
            Ok(())
        }
        fn set_preshared_key(&self, _: PublicKey, _: Option<&PresharedKey>) -> Result<(), MeshError> {
            Ok(())
        }
        fn set_endpoint(&self, _: PublicKey, _: std::net::SocketAddr) -> Result<(), MeshError> {
            Ok(())
        }
        fn hold_endpoint(&self, _: PublicKey, _: Option<SocketAddr>) -> Result<(), MeshError> {
            unreachable!("devices are found where they speak from")
        }
        fn peers(&self) -> Result<Vec<PeerStatus>, MeshError> {
            let status = |key: &PublicKey| PeerStatus {
                public_key: *key,
                endpoint: None,
                last_handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
            };
            Ok(self.peers.lock().unwrap().keys().map(status).collect())
        }
    }

    fn some_wanted() -> impl Strategy<Value = Wanted> {
        proptest::collection::btree_map(0..6_u8, 1..4_u32, 0..6).prop_map(|devices| {
            let device = |(key, number): (u8, u32)| {
                let network = NetworkId(1);
                (PublicKey([key; 32]), Device { address: machine_address(network, u32::from(key), number), network })
            };
            Wanted(devices.into_iter().map(device).collect())
        })
    }

    proptest! {
        /// Whatever the link refuses on the way, it ends with those that are wanted and no other.
        #[test]
        fn a_link_ends_with_whom_the_catalogue_wants(
            steps in proptest::collection::vec((some_wanted(), 0..4_u32), 1..8)
        ) {
            let link = Arc::new(Remembering::default());
            let mut entrance = Entrance::new(link.clone(), PrivateKey::from_bytes([9; 32]));
            for (want, refusals) in steps {
                *link.refusals.lock().unwrap() = refusals;
                let mut tries = 0;
                loop {
                    let shut = entrance.shut_out(&want);
                    if shut.is_ok() {
                        let left = link.peers.lock().unwrap();
                        prop_assert!(left.keys().all(|key| want.0.contains_key(key)));
                    }
                    if shut.and_then(|()| entrance.let_in(want.clone(), &Whereabouts::default())).is_ok() {
                        break;
                    }
                    tries += 1;
                    prop_assert!(tries < 20);
                }
                let found: BTreeMap<_, _> = link.peers.lock().unwrap().iter()
                    .map(|(key, peer)| (*key, peer.allowed.clone())).collect();
                let expected: BTreeMap<_, _> = want.0.iter()
                    .map(|(key, device)| (*key, config(*key, device, None).allowed)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
