//! `atoll wireguard`: users' own devices in private networks.

mod config;
mod nearest;
mod tunnel;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use atoll_client::Client;
use atoll_mesh::{PrivateKey, PublicKey};
use atoll_model::wire::{WireGuardPeerRequest, WireGuardPeerStatus};
use atoll_model::{DeviceName, RegionCode};

use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms, size};
use crate::{CliError, Printer};

/// Where a device's WireGuard client finds the command that carries its datagrams over HTTPS.
const LISTEN: &str = "127.0.0.1:51821";
/// wg-quick names the interface after the file, and interfaces' names have 15 characters at most.
const MAX_FILE_NAME: usize = 15;

#[derive(Subcommand, Debug)]
pub enum WireguardCommand {
    /// Let a device into a private network; prints its WireGuard configuration
    #[command(after_help = "The private key is made here, is in the configuration alone and cannot be shown again. \
        Use the configuration with any WireGuard client, such as `wg-quick up ./atoll.conf`.")]
    Create(Create),
    /// Carry a device's WireGuard over HTTPS, where UDP does not get through
    #[command(after_help = "For a configuration made with --websocket; runs in the foreground on the device. Needs a \
        token that may read the organization, unless --gateway is given.")]
    Tunnel {
        name: DeviceName,
        /// Where the device's WireGuard client finds this command
        #[arg(long, value_name = "ADDRESS:PORT", default_value = LISTEN)]
        listen: SocketAddr,
        /// The gateway's address and HTTPS port [default: what the platform says of the device]
        #[arg(long, value_name = "ADDRESS:PORT")]
        gateway: Option<SocketAddr>,
        #[command(flatten)]
        organization: Organization,
    },
    /// List devices
    List(Organization),
    /// Shut a device out
    Remove {
        name: DeviceName,
        #[command(flatten)]
        organization: Organization,
    },
    /// Show how a device does, as its gateway sees it
    #[command(after_help = "Ends with 1 if the gateway does not answer or does not let the device in.")]
    Status {
        name: DeviceName,
        #[command(flatten)]
        organization: Organization,
    },
}

#[derive(Args, Debug)]
pub struct Organization {
    /// The organization whose network it is
    #[arg(short, long, default_value = "personal")]
    org: String,
}

#[derive(Args, Debug)]
pub struct Create {
    /// What the device is called: a label of its DNS name <NAME>._peer.internal
    name: DeviceName,
    /// Where it enters [default: at the gateway that answers first]
    #[arg(short, long)]
    region: Option<RegionCode>,
    /// A network of the organization [default: its default one]
    #[arg(long)]
    network: Option<String>,
    /// For networks that let no UDP through: to be used beside `atoll wireguard tunnel <NAME>`
    #[arg(long)]
    websocket: bool,
    /// Write the configuration to a new file that only you can read
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The device's public key, if it makes its own; the configuration then lacks the private one
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
    #[command(flatten)]
    organization: Organization,
}

pub async fn run(command: WireguardCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        WireguardCommand::Create(wanted) => create(wanted, client, printer).await,
        WireguardCommand::Tunnel { name, listen, gateway, organization: Organization { org } } => {
            let gateway = match gateway {
                Some(gateway) => gateway,
                None => client.wireguard_peer(&org, name.as_str()).await?.entrance.gateway.websocket(),
            };
            tunnel::carry(listen, gateway, printer).await?;
            Ok(Outcome::Done)
        }
        WireguardCommand::List(Organization { org }) => {
            let peers = client.wireguard_peers(&org).await?;
            printer.data(&peers, |printer| {
                let row = |peer: &atoll_model::wire::WireGuardPeer| {
                    vec![
                        peer.name.to_string(),
                        peer.network.clone(),
                        peer.address.to_string(),
                        peer.gateway.to_string(),
                        peer.region.map_or_else(|| "-".to_owned(), |region| region.to_string()),
                        age(peer.created_at_ms, now_ms()),
                    ]
                };
                let rows = peers.iter().map(row).collect();
                printer.table(&["name", "network", "address", "gateway", "region", "created"], rows);
            });
            Ok(Outcome::Done)
        }
        WireguardCommand::Remove { name, organization: Organization { org } } => {
            client.wireguard_peer_remove(&org, name.as_str()).await?;
            printer.done(&format!("{name} is shut out"), json!({"removed": name}));
            Ok(Outcome::Done)
        }
        WireguardCommand::Status { name, organization: Organization { org } } => {
            let status = client.wireguard_peer(&org, name.as_str()).await?;
            printer.data(&status, |printer| {
                for (what, value) in described(&status, now_ms()) {
                    printer.line(&format!("{what:<16} {value}"));
                }
            });
            Ok(if status.link.is_some() { Outcome::Done } else { Outcome::Failed })
        }
    }
}

async fn create(wanted: Create, client: &Client, printer: &Printer) -> CliResult {
    let (private_key, public_key) = match &wanted.public_key {
        None => {
            let made = PrivateKey::generate();
            let public_key = made.public();
            (Some(made), public_key)
        }
        Some(given) => {
            let error = |error| CliError::usage(format!("--public-key: {error}"));
            (None, given.parse::<PublicKey>().map_err(error)?)
        }
    };
    // Before the device is made: a configuration that cannot be kept is lost.
    let mut kept = wanted.file.as_deref().map(Kept::create).transpose()?;
    let request = request(&wanted, public_key, client).await?;
    let entrance = client.wireguard_peer_create(&wanted.organization.org, &request).await?;
    let config = config::config(&entrance, private_key.as_ref(), wanted.websocket.then_some(LISTEN));
    if let Some(kept) = &mut kept {
        kept.fill(&config)?;
    }
    printer.data(&json!({"entrance": entrance, "config": config}), |printer| {
        match &wanted.file {
            Some(file) => printer.note(&format!("its configuration is in {}", file.display())),
            None => printer.bytes(config.as_bytes()),
        }
        let gateway = &entrance.gateway;
        printer.note(&format!("{} enters at {} in {}", wanted.name, gateway.node, gateway.region));
    });
    Ok(Outcome::Done)
}

async fn request(wanted: &Create, public_key: PublicKey, client: &Client) -> Result<WireGuardPeerRequest, CliError> {
    let gateway = match wanted.region {
        Some(_) => None,
        // Where none answers, a firewall may be between: the platform then chooses.
        None => nearest::nearest(client.wireguard_gateways().await?).await.map(|gateway| gateway.node),
    };
    Ok(WireGuardPeerRequest {
        name: wanted.name.to_string(),
        public_key: public_key.to_string(),
        network: wanted.network.clone(),
        region: wanted.region,
        gateway,
    })
}

/// A new file that goes again unless it is filled.
struct Kept<'p> {
    path: &'p Path,
    file: File,
    filled: bool,
}

impl<'p> Kept<'p> {
    fn create(path: &'p Path) -> Result<Self, CliError> {
        let stem = path.file_stem().unwrap_or_default();
        if stem.len() > MAX_FILE_NAME {
            let message = format!("{}: wg-quick names an interface after the file", path.display());
            let hint = format!("choose a name of {MAX_FILE_NAME} characters at most before .conf");
            return Err(CliError::Usage { message, hint: Some(hint) });
        }
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = created.map_err(CliError::io(format!("create {}", path.display())))?;
        Ok(Self { path, file, filled: false })
    }

    fn fill(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(CliError::io(format!("write {}", self.path.display())))?;
        self.filled = true;
        Ok(())
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !self.filled {
            // Empty; somebody else may have removed it.
            drop(std::fs::remove_file(self.path));
        }
    }
}

/// What there is to say of a device, line by line.
fn described(status: &WireGuardPeerStatus, now_ms: u64) -> Vec<(&'static str, String)> {
    let WireGuardPeerStatus { entrance, heard, link } = status;
    let (peer, gateway) = (&entrance.peer, &entrance.gateway);
    let mut lines = vec![
        ("name", peer.name.to_string()),
        ("network", format!("{}, {}", peer.network, entrance.allowed)),
        ("address", peer.address.to_string()),
        ("public key", peer.public_key.clone()),
        ("gateway", format!("{} in {}, {}", gateway.node, gateway.region, gateway.endpoint)),
    ];
    match link {
        Some(link) => {
            let never = || "never, or not lately".to_owned();
            lines.push(("last handshake", link.last_handshake.map_or_else(never, |at| age(at * 1000, now_ms))));
            let unknown = || "not known".to_owned();
            lines.push(("speaks from", link.endpoint.map_or_else(unknown, |endpoint| endpoint.to_string())));
            lines.push(("received", size(link.rx_bytes)));
            lines.push(("sent", size(link.tx_bytes)));
        }
        None if *heard => lines.push(("state", "the gateway does not let it in, or not yet".to_owned())),
        None => lines.push(("state", "the gateway does not answer".to_owned())),
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_was_never_filled_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("atoll.conf");
        drop(Kept::create(&path).unwrap());
        assert!(!path.exists());
        let mut kept = Kept::create(&path).unwrap();
        assert!(Kept::create(&path).is_err(), "another one's is not written over");
        kept.fill("text").unwrap();
        drop(kept);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Kept::create(&folder.path().join("sixteen-letters-.conf")), Err(CliError::Usage { .. })));
    }

    #[test]
    fn a_status_says_how_the_device_does() {
        let mut status: WireGuardPeerStatus = serde_json::from_value(json!({
            "peer": {"name": "laptop", "network": "default", "address": "fdaa:0:18::7:2", "public_key": "device",
                     "gateway": "ams1", "created_at_ms": 0},
            "allowed": "fdaa:0:18::/48", "dns": "fdaa:0:18::3",
            "gateway": {"node": "ams1", "region": "ams", "public_key": "gateway", "endpoint": "192.0.2.1:51821",
                        "websocket_port": 443},
            "heard": true,
            "link": {"endpoint": "198.51.100.7:40000", "last_handshake": 970, "rx_bytes": 1200, "tx_bytes": 10},
        }))
        .unwrap();
        let lines = |status: &WireGuardPeerStatus| -> Vec<String> {
            described(status, 1_000_000).into_iter().skip(4).map(|(what, value)| format!("{what}: {value}")).collect()
        };
        assert_eq!(
            lines(&status),
            [
                "gateway: ams1 in ams, 192.0.2.1:51821",
                "last handshake: 30s ago",
                "speaks from: 198.51.100.7:40000",
                "received: 1.2 kB",
                "sent: 10 B",
            ]
        );
        status.link = None;
        assert_eq!(lines(&status)[1], "state: the gateway does not let it in, or not yet");
        status.heard = false;
        assert_eq!(lines(&status)[1], "state: the gateway does not answer");
    }
}
