//! Rows that can be read but make no sense, and would do harm where they are used. Each is refused
//! by itself; what the row said before stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use atoll_model::address::network_of;
use atoll_model::row::{
    ChallengeRow, DeviceRow, InvalidRow, MAX_CHALLENGE_BYTES, MAX_ROW_BYTES, MachineRow, NodeRow, is_hostname_pattern,
};
use atoll_model::service::Port;
use atoll_model::{Owner, Row, RowKey};

const MAX_SERVICES: usize = 256;

/// Why a row was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Invalid(#[from] InvalidRow),
    #[error("row {key} makes no sense: {reason}")]
    Nonsense { key: String, reason: String },
    #[error("row {key} is one too many: {owner} has {limit} already")]
    TooMany { key: String, owner: String, limit: usize },
}

impl Refusal {
    /// The reason as a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Invalid(InvalidRow::TooLarge { .. }) => "too_large",
            Self::Invalid(InvalidRow::Unreadable { .. }) => "unreadable",
            Self::Invalid(InvalidRow::WrongKey { .. }) => "wrong_key",
            Self::Invalid(InvalidRow::WrongOwner { .. }) => "wrong_owner",
            Self::Nonsense { .. } => "nonsense",
            Self::TooMany { .. } => "too_many",
        }
    }
}

/// How many rows were refused, by [`Refusal::label`].
pub type RefusalCounts = BTreeMap<&'static str, u64>;

/// The row that `owner` published under `key`, if it may be believed.
pub(super) fn read(key: &RowKey, owner: &Owner, body: &[u8]) -> Result<Row, Refusal> {
    let row = Row::decode(key, owner, body)?;
    let sensible = match &row {
        Row::App(app) => match app.hostnames.iter().find(|host| !is_hostname_pattern(host)) {
            Some(host) => Err(format!("{host:?} is no host name")),
            None => Ok(()),
        },
        Row::Machine(machine) => check_machine(machine),
        Row::Node(node) => check_node(node),
        Row::Certificate(_) => Ok(()),
        Row::Device(device) => check_device(device),
        Row::Challenge(challenge) => check_challenge(challenge),
    };
    match sensible {
        Ok(()) => Ok(row),
        Err(reason) => Err(Refusal::Nonsense { key: key.to_string(), reason }),
    }
}

/// A body too large to be kept or relayed.
pub(super) fn check_size(key: &RowKey, body: &[u8]) -> Result<(), Refusal> {
    if body.len() > MAX_ROW_BYTES {
        return Err(InvalidRow::TooLarge { key: key.to_string(), bytes: body.len() }.into());
    }
    Ok(())
}

fn check_machine(machine: &MachineRow) -> Result<(), String> {
    if machine.services.len() > MAX_SERVICES {
        return Err(format!("{} services, {MAX_SERVICES} at most", machine.services.len()));
    }
    if machine.private_ipv4.is_multicast() || machine.private_ipv4.is_broadcast() {
        return Err(format!("{} is no machine's address", machine.private_ipv4));
    }
    for service in machine.services.iter() {
        if service.service.internal_port == 0 {
            return Err("a service on port 0".into());
        }
        if let Some(port) = service.service.ports.iter().find(|port| is_reversed(port)) {
            return Err(format!("ports {:?} to {:?} are no range", port.start_port, port.end_port));
        }
    }
    Ok(())
}

fn check_device(device: &DeviceRow) -> Result<(), String> {
    match network_of(device.address) == Some(device.network) && device.network.0 != 0 {
        true => Ok(()),
        false => Err(format!("{} is no address in network {}", device.address, device.network)),
    }
}

fn check_challenge(challenge: &ChallengeRow) -> Result<(), String> {
    match challenge.values.iter().find(|value| value.len() > MAX_CHALLENGE_BYTES) {
        None => Ok(()),
        Some(value) => Err(format!("a value of {} bytes, {MAX_CHALLENGE_BYTES} at most", value.len())),
    }
}

fn is_reversed(port: &Port) -> bool {
    matches!((port.start_port, port.end_port), (Some(start), Some(end)) if start > end)
}

fn check_node(node: &NodeRow) -> Result<(), String> {
    let unusable = |address: &&SocketAddr| address.port() == 0 || address.ip().is_unspecified();
    match node.backhaul.iter().chain(&node.worker_rpc).find(unusable) {
        Some(address) => Err(format!("{address} cannot be connected to")),
        None => Ok(()),
    }
}
