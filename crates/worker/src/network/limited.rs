//! Reads back from the kernel which interfaces are held to which network policies and addresses, so that an agent that
//! starts anew can change what an earlier one set. Pure; [`super::rules`] writes the sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Deserialize;

use atoll_model::policy::{AllowedPort, NetworkLimits, Protocol};

/// By interface: its name, or its index once it is gone.
pub type Limited = BTreeMap<String, NetworkLimits>;

/// What the sets of one direction hold.
pub struct Held {
    pub limited: Vec<String>,
    pub allowed: Vec<Allowed>,
}

/// An interface and a port that is open to it, as nft lists them.
#[derive(Deserialize)]
pub struct Allowed {
    concat: (String, Protocol, NonZeroU16),
}

/// Puts both directions and the addresses to leave under together.
pub fn by_interface(ingress: Held, egress: Held, leaves: Vec<(String, IpAddr)>) -> Limited {
    let mut limited = Limited::new();
    for (interface, ports) in ports(ingress) {
        limited.entry(interface).or_default().ingress = Some(ports);
    }
    for (interface, ports) in ports(egress) {
        limited.entry(interface).or_default().egress = Some(ports);
    }
    for (interface, address) in leaves {
        let leaves_as = &mut limited.entry(interface).or_default().leaves_as;
        match address {
            IpAddr::V4(address) => leaves_as.v4 = Some(address),
            IpAddr::V6(address) => leaves_as.v6 = Some(address),
        }
    }
    limited
}

fn ports(held: Held) -> BTreeMap<String, BTreeSet<AllowedPort>> {
    let mut ports: BTreeMap<String, BTreeSet<AllowedPort>> =
        held.limited.into_iter().map(|interface| (interface, BTreeSet::new())).collect();
    for Allowed { concat: (interface, protocol, port) } in held.allowed {
        ports.entry(interface).or_default().insert(AllowedPort { protocol, port });
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_put_together_by_interface() {
        let allowed = |elements: &str| serde_json::from_str::<Vec<Allowed>>(elements).unwrap();
        let ingress = Held {
            limited: vec!["atl0".into(), "77".into()],
            allowed: allowed(
                r#"[{"concat": ["77", "udp", 9]}, {"concat": ["atl0", "tcp", 80]}, {"concat": ["atl0", "udp", 53]}]"#,
            ),
        };
        let leaves = vec![("9".to_owned(), [192, 0, 2, 1].into())];
        let limited = by_interface(ingress, Held { limited: vec!["atl0".into()], allowed: Vec::new() }, leaves);
        let port = |protocol, port: u16| AllowedPort { protocol, port: port.try_into().unwrap() };
        let ingress = [port(Protocol::Tcp, 80), port(Protocol::Udp, 53)].into();
        assert_eq!(
            limited["atl0"],
            NetworkLimits { ingress: Some(ingress), egress: Some(BTreeSet::new()), ..NetworkLimits::default() }
        );
        assert_eq!(limited["77"].ingress, Some([port(Protocol::Udp, 9)].into()));
        assert_eq!(limited["9"].leaves_as.v4, Some([192, 0, 2, 1].into()));
        assert_eq!((limited["77"].egress.is_none(), limited.len()), (true, 3));
    }
}
