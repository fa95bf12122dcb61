//! Where devices spoke from last, kept so that a gateway that begins anew calls them: their clients would
//! go on for a quarter of a minute before they noticed that it knows no session any more.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use atoll_mesh::{PeerStatus, PublicKey};

use super::Wanted;

/// By key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Whereabouts(BTreeMap<PublicKey, SocketAddr>);

impl Whereabouts {
    /// Of those that are let in and have a session, but not through this host's loopback, where a WebSocket
    /// ends with the process; of the others what is known stays.
    #[must_use]
    pub fn after(&self, statuses: &[PeerStatus], wanted: &Wanted) -> Self {
        let heard = statuses.iter().filter(|status| status.last_handshake.is_some());
        let heard = heard.filter_map(|status| Some((status.public_key, status.endpoint?)));
        let heard = heard.filter(|(_, endpoint)| !endpoint.ip().is_loopback());
        let all = self.0.clone().into_iter().chain(heard);
        Self(all.filter(|(key, _)| wanted.0.contains_key(key)).collect())
    }

    pub fn of(&self, key: PublicKey) -> Option<SocketAddr> {
        self.0.get(&key).copied()
    }

    /// What an earlier process kept; nothing where that cannot be read, as devices call themselves in time.
    pub fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let pair = |line: &str| {
            let (key, endpoint) = line.split_once(' ')?;
            Some((key.parse().ok()?, endpoint.parse().ok()?))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// Not for power cuts: those end sessions at machines, too.
    ///
    /// # Errors
    /// If the file cannot be replaced.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text: String = self.0.iter().map(|(key, endpoint)| format!("{key} {endpoint}\n")).collect();
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use atoll_model::address::{NetworkId, machine_address};

    use super::super::Device;
    use super::*;

    #[test]
    fn what_is_known_of_devices_that_are_let_in_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices");
        let status = |key: u8, port: u16, agreed: bool| PeerStatus {
            public_key: PublicKey([key; 32]),
            endpoint: Some(([192, 0, 2, key], port).into()),
            last_handshake: agreed.then(SystemTime::now),
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let device = |number: u8| {
            let network = NetworkId(1);
            (PublicKey([number; 32]), Device { address: machine_address(network, 0, number.into()), network })
        };
        let wanted = Wanted(BTreeMap::from([device(1), device(2)]));
        let statuses = [status(1, 1000, true), status(2, 1000, false), status(3, 1000, true)];
        Whereabouts::default().after(&statuses, &wanted).save(&path).unwrap();
        let kept = Whereabouts::load(&path);
        let at = |kept: &Whereabouts| [1, 2, 3].map(|key| kept.of(PublicKey([key; 32])).map(|at| at.port()));
        assert_eq!(at(&kept), [Some(1000), None, None]);
        // It moves, and stays where it was while nothing is heard of it.
        let kept = kept.after(&[status(1, 2000, true)], &wanted).after(&[], &wanted);
        assert_eq!(at(&kept), [Some(2000), None, None]);
        assert_eq!(kept.after(&[], &Wanted::default()), Whereabouts::default());
        std::fs::write(&path, "nonsense\n\n= =").unwrap();
        assert_eq!(Whereabouts::load(&path), Whereabouts::default());
        assert_eq!(Whereabouts::load(&folder.path().join("missing")), Whereabouts::default());
    }
}
