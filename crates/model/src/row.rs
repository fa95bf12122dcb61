//! Rows of the catalogue: the replicated view that routing needs. Each row has one owner, who alone
//! writes it; everybody else holds a copy that may be seconds old.
//!
//! A row's version is (owner epoch, sequence). The epoch is issued when a node joins or lost its
//! state; raising it fences every older writer of the same rows.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::NetworkId;
use crate::ids::{InvalidId, serde_as_text};
use crate::service::{LoadBucket, Service};
use crate::{AppName, DeviceName, MachineId, MachineState, MachineVersion, NodeName, OrgSlug, RegionCode};

/// Who writes a row: control, or the node that hosts the thing described.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    Control,
    Node(NodeName),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Node(name) => write!(f, "node/{name}"),
        }
    }
}

impl FromStr for Owner {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('/') {
            None if text == "control" => Ok(Self::Control),
            Some(("node", name)) => name.parse().map(Self::Node),
            _ => Err(InvalidId::new("row owner", text, "\"control\" or \"node/<name>\"")),
        }
    }
}
serde_as_text!(Owner);

/// Orders the writes of one owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RowVersion {
    pub epoch: u64,
    pub sequence: u64,
}

impl fmt::Display for RowVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// What a row is about; its text form is `<kind>/<name>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    App(AppName),
    Machine(MachineId),
    Node(NodeName),
    /// A hostname, possibly with a leading `*.`.
    Certificate(Arc<str>),
    /// A user's device, by its private address, which no other device ever gets.
    Device(Ipv6Addr),
    /// What proves a host name to certificate authorities, by that name.
    Challenge(Arc<str>),
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(name) => write!(f, "app/{name}"),
            Self::Machine(id) => write!(f, "machine/{id}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Certificate(host) => write!(f, "certificate/{host}"),
            Self::Device(address) => write!(f, "device/{address}"),
            Self::Challenge(host) => write!(f, "challenge/{host}"),
        }
    }
}

impl FromStr for RowKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('/') {
            Some(("app", name)) => name.parse().map(Self::App),
            Some(("machine", id)) => id.parse().map(Self::Machine),
            Some(("node", name)) => name.parse().map(Self::Node),
            Some(("certificate", host)) if is_hostname_pattern(host) => Ok(Self::Certificate(host.into())),
            Some(("device", address)) => {
                let expected = "device/ and an IPv6 address";
                address.parse().map(Self::Device).map_err(|_| InvalidId::new("row key", text, expected))
            }
            Some(("challenge", host)) if is_hostname(host) => Ok(Self::Challenge(host.into())),
            _ => {
                let expected = "app/, machine/, node/, certificate/, device/ or challenge/ and a name";
                Err(InvalidId::new("row key", text, expected))
            }
        }
    }
}
serde_as_text!(RowKey);

/// A lower-case host name, optionally with `*` as its first label.
pub fn is_hostname_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// A lower-case host name.
pub fn is_hostname(text: &str) -> bool {
    !text.starts_with('*') && is_hostname_pattern(text)
}

/// The content of a row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Row {
    App(AppRow),
    Machine(MachineRow),
    Node(NodeRow),
    Certificate(CertificateRow),
    Device(DeviceRow),
    Challenge(ChallengeRow),
}

/// An app as routing sees it: by which names and addresses it is entered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AppRow {
    pub name: AppName,
    pub org: OrgSlug,
    pub network: NetworkId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_region: Option<RegionCode>,
    /// Host names beyond the default one under the app domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Dedicated and private (Flycast) addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Public addresses that it shares with other apps: names lead there, and there only names tell
    /// apps apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_addresses: Vec<IpAddr>,
    /// Those of `addresses` that places announce by themselves, as host routes, while they serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_addresses: Vec<IpAddr>,
}

/// A machine as routing sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineRow {
    pub id: MachineId,
    pub app: AppName,
    pub network: NetworkId,
    pub node: NodeName,
    pub region: RegionCode,
    pub version: MachineVersion,
    pub state: MachineState,
    #[serde(default)]
    pub cordoned: bool,
    /// Where the node's own proxy connects.
    pub private_ipv4: Ipv4Addr,
    /// The 6PN address.
    pub private_ipv6: Ipv6Addr,
    #[serde(default)]
    pub process_group: String,
    /// Present in the same order in every row of a machine version, so that indexes may be used.
    pub services: Arc<[ServiceRow]>,
    /// A restart is not awaited: the machine will not come back by itself. Unix milliseconds of the
    /// moment the state last changed.
    #[serde(default)]
    pub changed_at_ms: u64,
    /// What of the machine's metadata names can be made of, as
    /// [`MachineConfig::name_metadata`](crate::MachineConfig::name_metadata) gives it.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub metadata: Arc<[(String, String)]>,
    /// The machine wants no names in the private network.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skip_dns: bool,
}

fn is_empty<T>(list: &Arc<[T]>) -> bool {
    list.is_empty()
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// A service of a machine with what is known of it now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceRow {
    #[serde(flatten)]
    pub service: Service,
    /// Every readiness condition holds: checks pass, or the port accepts where there is no check.
    #[serde(default)]
    pub healthy: bool,
    #[serde(default)]
    pub load: LoadBucket,
}

/// A server of the platform.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeRow {
    pub name: NodeName,
    pub region: RegionCode,
    pub state: NodeState,
    /// Current owner epoch: rows of this node with a lower one are void.
    pub epoch: u64,
    /// Where other edges reach this node's edge (mutual TLS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backhaul: Option<SocketAddr>,
    /// Where edges and control reach this node's worker (mutual TLS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_rpc: Option<SocketAddr>,
    /// Where users reach this node's edge, if they do. Public DNS answers with them by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_addresses: Vec<IpAddr>,
    /// What leads back to it beside that, for machines to leave under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress_addresses: Vec<IpAddr>,
    /// Its end of the mesh, once it has told control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshEnd>,
    /// Where users' devices enter private networks here, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayEnd>,
    /// Zones of public DNS that it answers for, without the dot at the end; [`MAX_ZONES`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
}

/// Zones that one server answers for: their names fit a row, however long they are.
pub const MAX_ZONES: usize = 200;

/// Where and as whom a server takes part in the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeshEnd {
    /// The WireGuard key, 32 bytes in base64. Its address in the mesh follows from it, see
    /// [`node_address`](crate::address::node_address).
    pub public_key: String,
    /// UDP.
    pub endpoint: SocketAddr,
    /// TCP: where its net process talks to those of others; none of an earlier version's.
    #[serde(default)]
    pub rpc: Option<SocketAddr>,
}

/// Where and as whom a server lets users' devices in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GatewayEnd {
    /// The WireGuard key, 32 bytes in base64; not the one of the mesh.
    pub public_key: String,
    /// UDP.
    pub endpoint: SocketAddr,
    /// TCP, at the same address: the edge's HTTPS port, where datagrams may travel in a WebSocket.
    pub websocket_port: u16,
}

/// A user's device: a WireGuard peer that is in one private network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceRow {
    pub name: DeviceName,
    pub org: OrgSlug,
    pub network: NetworkId,
    /// Its 6PN address.
    pub address: Ipv6Addr,
    /// The device's WireGuard key, 32 bytes in base64.
    pub public_key: String,
    /// The server that lets it in.
    pub gateway: NodeName,
}

/// What public DNS answers at `_acme-challenge.<host>`, which proves the host name to certificate
/// authorities.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengeRow {
    pub host: Arc<str>,
    /// Texts of at most [`MAX_CHALLENGE_BYTES`]; never empty.
    pub values: Vec<String>,
}

/// Of one text in a DNS record.
pub const MAX_CHALLENGE_BYTES: usize = 255;
/// Values at one name.
pub const MAX_CHALLENGES: usize = 8;
/// The label below the host name to which challenges are asked for.
pub const CHALLENGE_LABEL: &str = "_acme-challenge";

/// Which process of a server reads rows of the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reader {
    Edge,
    Net,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Active,
    /// Serves what it has, gets nothing new.
    Draining,
    /// Its identity is void; nothing of it is accepted.
    Revoked,
}

/// A certificate with its key, for edges to end TLS with.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateRow {
    /// A hostname, possibly with a leading `*.`.
    pub host: Arc<str>,
    pub chain_pem: String,
    pub key_pem: String,
    /// Unix seconds.
    pub not_after: u64,
}

impl fmt::Debug for CertificateRow {
    /// Never prints the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRow")
            .field("host", &self.host)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Largest accepted encoding of one row.
pub const MAX_ROW_BYTES: usize = 64 * 1024;

/// A row that is refused by itself, while all others stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRow {
    #[error("row {key} of {bytes} bytes is larger than {MAX_ROW_BYTES}")]
    TooLarge { key: String, bytes: usize },
    #[error("row {key} cannot be read: {reason}")]
    Unreadable { key: String, reason: String },
    #[error("row {key} describes {described} instead")]
    WrongKey { key: String, described: String },
    #[error("row {key} belongs to {rightful}, not to {claimed}")]
    WrongOwner { key: String, rightful: String, claimed: String },
}

impl Row {
    pub fn key(&self) -> RowKey {
        match self {
            Self::App(row) => RowKey::App(row.name.clone()),
            Self::Machine(row) => RowKey::Machine(row.id),
            Self::Node(row) => RowKey::Node(row.name.clone()),
            Self::Certificate(row) => RowKey::Certificate(row.host.clone()),
            Self::Device(row) => RowKey::Device(row.address),
            Self::Challenge(row) => RowKey::Challenge(row.host.clone()),
        }
    }

    /// The only owner whose writes of this row count.
    pub fn rightful_owner(&self) -> Owner {
        match self {
            Self::Machine(row) => Owner::Node(row.node.clone()),
            Self::App(_) | Self::Node(_) | Self::Certificate(_) | Self::Device(_) | Self::Challenge(_) => {
                Owner::Control
            }
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        // Rows hold only maps with text keys, so this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a row that `claimed` published under `key`; checks that both fit the content.
    pub fn decode(key: &RowKey, claimed: &Owner, body: &[u8]) -> Result<Self, InvalidRow> {
        if body.len() > MAX_ROW_BYTES {
            return Err(InvalidRow::TooLarge { key: key.to_string(), bytes: body.len() });
        }
        let row: Self = serde_json::from_slice(body)
            .map_err(|error| InvalidRow::Unreadable { key: key.to_string(), reason: error.to_string() })?;
        if row.key() != *key {
            return Err(InvalidRow::WrongKey { key: key.to_string(), described: row.key().to_string() });
        }
        let rightful = row.rightful_owner();
        if rightful != *claimed {
            return Err(InvalidRow::WrongOwner {
                key: key.to_string(),
                rightful: rightful.to_string(),
                claimed: claimed.to_string(),
            });
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_row(name: &str) -> Row {
        Row::Node(NodeRow {
            name: name.parse().unwrap(),
            region: "ams".parse().unwrap(),
            state: NodeState::Active,
            epoch: 1,
            backhaul: None,
            worker_rpc: None,
            public_addresses: Vec::new(),
            egress_addresses: Vec::new(),
            mesh: None,
            gateway: None,
            zones: Vec::new(),
        })
    }

    #[test]
    fn keys_and_owners_survive_their_text_form() {
        let keys =
            ["app/web", "machine/73d8d46dbee589", "node/ams1", "certificate/*.example.org", "device/fdaa:0:1::5:2"];
        for text in keys {
            assert_eq!(text.parse::<RowKey>().unwrap().to_string(), text);
        }
        for text in ["control", "node/ams1"] {
            assert_eq!(text.parse::<Owner>().unwrap().to_string(), text);
        }
        for bad in ["", "app", "app/", "app/Web", "certificate/..", "certificate/a b", "device/web", "thing/x"] {
            assert!(bad.parse::<RowKey>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_row_is_refused_when_key_owner_or_size_do_not_fit() {
        let row = node_row("ams1");
        let body = row.encode();
        assert_eq!(Row::decode(&row.key(), &Owner::Control, &body).unwrap(), row);

        let foreign = Owner::Node("ams1".parse().unwrap());
        assert!(matches!(Row::decode(&row.key(), &foreign, &body), Err(InvalidRow::WrongOwner { .. })));
        let other_key = RowKey::Node("nrt1".parse().unwrap());
        assert!(matches!(Row::decode(&other_key, &Owner::Control, &body), Err(InvalidRow::WrongKey { .. })));
        let huge = vec![b' '; MAX_ROW_BYTES + 1];
        assert!(matches!(Row::decode(&row.key(), &Owner::Control, &huge), Err(InvalidRow::TooLarge { .. })));
        assert!(matches!(Row::decode(&row.key(), &Owner::Control, b"{"), Err(InvalidRow::Unreadable { .. })));
    }

    #[test]
    fn a_row_without_newer_fields_is_read() {
        let row = r#"{"kind":"app","name":"web","org":"personal","network":1,"addresses":["192.0.2.1"]}"#;
        let row = Row::decode(&"app/web".parse().unwrap(), &Owner::Control, row.as_bytes()).unwrap();
        let Row::App(row) = row else { panic!("{row:?} is no app") };
        assert_eq!((row.addresses.len(), row.shared_addresses, row.local_addresses), (1, vec![], vec![]));
    }

    #[test]
    fn versions_order_by_epoch_first() {
        let old = RowVersion { epoch: 1, sequence: 900 };
        let new = RowVersion { epoch: 2, sequence: 1 };
        assert!(old < new);
    }
}
