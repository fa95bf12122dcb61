//! A prefix that is announced.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses that share their first bits; those after are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNet);

/// A text that is no prefix, or one that nobody may announce.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be announced: {why}")]
pub struct InvalidPrefix {
    text: String,
    why: &'static str,
}

impl Prefix {
    /// The route of one address.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    pub fn is_host(self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    pub fn is_ipv4(self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }

    pub fn net(self) -> IpNet {
        self.0
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let refuse = |why| InvalidPrefix { text: text.chars().take(64).collect(), why };
        let net: IpNet = text.parse().map_err(|_| refuse("write an address, a slash and a length"))?;
        if net.trunc() != net {
            return Err(refuse("there are bits set after its length"));
        }
        if net.prefix_len() == 0 {
            return Err(refuse("a default route is nobody's to announce here"));
        }
        let address = net.network();
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err(refuse("loopback, multicast and unspecified addresses are not routed"));
        }
        Ok(Self(net))
    }
}

impl TryFrom<String> for Prefix {
    type Error = InvalidPrefix;

    fn try_from(text: String) -> Result<Self, InvalidPrefix> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_written_as_they_are_read() {
        for text in ["198.51.100.0/24", "198.51.100.7/32", "2001:db8::/48", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        let (net, host): (Prefix, Prefix) = ("198.51.100.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap());
        assert!(net.covers(host) && !host.covers(net) && host.is_host() && !net.is_host());
    }

    #[test]
    fn what_must_not_be_announced_is_no_prefix() {
        for text in
            ["", "198.51.100.0", "198.51.100.1/24", "0.0.0.0/0", "::/0", "127.0.0.0/8", "224.0.0.0/4", "::1/128"]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
