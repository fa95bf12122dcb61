//! Reads back from the kernel which interfaces are held to which network policies, so that an agent that
//! starts anew can change what an earlier one set. Pure; [`super::rules`] writes the sets.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::Deserialize;

use atoll_model::policy::{AllowedPort, NetworkLimits, Protocol};

/// By interface: its name, or its index once it is gone.
pub type Limited = BTreeMap<String, NetworkLimits>;

/// Takes a listing of the table apart, as `nft --json` writes it.
pub fn parse(listing: &[u8]) -> serde_json::Result<Limited> {
    let listing: Listing = serde_json::from_slice(listing)?;
    let mut limited = Limited::new();
    for set in listing.nftables.into_iter().filter_map(|object| object.set) {
        let Some((name, _)) = set.name.split_once('_') else { continue };
        let direction: fn(&mut NetworkLimits) -> &mut Option<BTreeSet<AllowedPort>> = match name {
            "ingress" => |limits| &mut limits.ingress,
            "egress" => |limits| &mut limits.egress,
            _ => continue,
        };
        for element in set.elem {
            let (interface, port) = match element {
                Element::Limited(interface) => (interface, None),
                Element::Allowed { concat: (interface, protocol, port) } => {
                    (interface, Some(AllowedPort { protocol, port }))
                }
            };
            direction(limited.entry(interface).or_default()).get_or_insert_default().extend(port);
        }
    }
    Ok(limited)
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    set: Option<Set>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Element>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Element {
    Limited(String),
    Allowed { concat: (String, Protocol, NonZeroU16) },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_by_direction_and_interface() {
        let listing = br#"{"nftables": [{"metainfo": {"version": "1"}}, {"table": {"name": "limits"}},
            {"set": {"name": "ingress_limited", "elem": ["atl0", "77"]}},
            {"set": {"name": "egress_limited", "elem": ["atl0"]}},
            {"set": {"name": "ingress_allowed", "elem": [
                {"concat": ["77", "udp", 9]}, {"concat": ["atl0", "tcp", 80]}, {"concat": ["atl0", "udp", 53]}]}},
            {"set": {"name": "egress_allowed"}}, {"chain": {"name": "limits"}}]}"#;
        let limited = parse(listing).unwrap();
        let allowed = |protocol, port: u16| AllowedPort { protocol, port: port.try_into().unwrap() };
        let ingress = [allowed(Protocol::Tcp, 80), allowed(Protocol::Udp, 53)].into();
        assert_eq!(limited["atl0"], NetworkLimits { ingress: Some(ingress), egress: Some(BTreeSet::new()) });
        assert_eq!(limited["77"].ingress, Some([allowed(Protocol::Udp, 9)].into()));
        assert_eq!((limited["77"].egress.is_none(), limited.len()), (true, 2));
        assert!(parse(b"{}").is_err());
    }
}
