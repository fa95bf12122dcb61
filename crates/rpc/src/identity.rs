//! Who a process is to the others: a role on a node of one platform, written as a URI in its
//! certificate (SPIFFE-style: `spiffe://<platform>/<role>/<node>`).

use std::fmt;
use std::str::FromStr;

use atoll_model::NodeName;

/// What a process does, and so what it may ask of others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Control,
    Worker,
    Edge,
    Net,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Worker => "worker",
            Self::Edge => "edge",
            Self::Net => "net",
        }
    }
}

/// A proven peer, or ourselves.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The platform's id: peers of another platform are strangers, whatever their certificate says.
    pub platform: String,
    pub role: Role,
    pub node: NodeName,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.platform, self.role.as_str(), self.node)
    }
}

/// The URI of a certificate is no identity of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an identity of the form spiffe://<platform>/<role>/<node>")]
pub struct InvalidIdentity(String);

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let invalid = || InvalidIdentity(uri.chars().take(200).collect());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(invalid)?;
        let mut parts = rest.split('/');
        let (Some(platform), Some(role), Some(node), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        let role = match role {
            "control" => Role::Control,
            "worker" => Role::Worker,
            "edge" => Role::Edge,
            "net" => Role::Net,
            _ => return Err(invalid()),
        };
        if platform.is_empty() || !platform.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        Ok(Self { platform: platform.to_owned(), role, node: node.parse().map_err(|_| invalid())? })
    }
}

/// Which peers a connection is meant for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Any process of this role.
    Role(Role),
    /// This role on this node and no other.
    Exactly(Role, NodeName),
}

impl Expected {
    pub fn admits(&self, identity: &Identity) -> bool {
        match self {
            Self::Role(role) => identity.role == *role,
            Self::Exactly(role, node) => identity.role == *role && identity.node == *node,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_their_uri() {
        let text = "spiffe://0a1b2c3d/edge/ams1";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity.to_string(), text);
        assert!(Expected::Exactly(Role::Edge, "ams1".parse().unwrap()).admits(&identity));
        assert!(!Expected::Exactly(Role::Edge, "nrt1".parse().unwrap()).admits(&identity));
        assert!(!Expected::Role(Role::Control).admits(&identity));
    }

    #[test]
    fn other_uris_are_refused() {
        for bad in [
            "",
            "https://0a/edge/ams1",
            "spiffe://0a/edge",
            "spiffe://0a/edge/ams1/x",
            "spiffe:///edge/ams1",
            "spiffe://0a/root/ams1",
            "spiffe://0a/edge/AMS",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad} was accepted");
        }
    }
}
