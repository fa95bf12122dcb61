//! Under which addresses machines leave for the internet. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The addresses under which a machine leaves, by family; `None`: an address that its server chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EgressAddresses {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl EgressAddresses {
    /// The first of each family.
    pub fn first_of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut first = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(address) => _ = first.v4.get_or_insert(address),
                IpAddr::V6(address) => _ = first.v6.get_or_insert(address),
            }
        }
        first
    }

    pub fn is_none(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// Whether answers to an address can come back to a server: one machine's own, and no private network's of
/// the platform. Private ones of others may be translated on their way.
pub fn may_leave_under(address: IpAddr) -> bool {
    let everybodys = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !everybodys
        && match address {
            IpAddr::V4(address) => !address.is_link_local() && !address.is_broadcast(),
            IpAddr::V6(address) => !address.is_unicast_link_local() && address.segments()[0] != 0xfdaa,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_no_server_is_no_address_to_leave_under() {
        let may = |text: &str| may_leave_under(text.parse().unwrap());
        for text in ["198.51.100.7", "10.1.2.3", "2001:db8::7", "fd00::7"] {
            assert!(may(text), "{text} was refused");
        }
        for text in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.1.1", "::", "::1", "ff02::1"] {
            assert!(!may(text), "{text} was taken");
        }
        assert!(!may("fe80::1") && !may("fdaa:0:7::1"));
    }

    #[test]
    fn the_first_of_each_family_counts() {
        let first = |texts: &[&str]| EgressAddresses::first_of(texts.iter().map(|text| text.parse().unwrap()));
        assert!(first(&[]).is_none());
        let both = first(&["192.0.2.7", "192.0.2.1", "2001:db8::7", "2001:db8::1"]);
        assert_eq!((both.v4, both.v6), ("192.0.2.7".parse().ok(), "2001:db8::7".parse().ok()));
        assert_eq!(first(&["2001:db8::7"]), EgressAddresses { v4: None, ..both });
    }

    #[test]
    fn what_is_not_said_is_left_out() {
        assert_eq!(serde_json::to_string(&EgressAddresses::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<EgressAddresses>("{}").unwrap(), EgressAddresses::default());
    }
}
