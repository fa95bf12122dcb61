//! Machines of a test's host, and what runs inside them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_model::MachineId;
use atoll_model::address::{NetworkId, machine_address};
use atoll_worker::network::{HostNetworks, NetworkConfig};
use atoll_worker::seams::{MachineNetworks, NetworkPlan};

use crate::neighbour::inside;

pub const INSTANCE: u32 = 0x1a2b_3c4d;
/// Long enough for a busy machine, short enough for the tests that expect silence.
pub const PATIENCE: Duration = Duration::from_millis(700);

pub fn config(state: &Path, instance: u32) -> NetworkConfig {
    NetworkConfig { instance, state_dir: state.to_path_buf(), block: None, ready_namespaces: 2, mesh: None }
}

pub async fn open_with(config: NetworkConfig) -> HostNetworks {
    let networks = HostNetworks::open(config).await.unwrap();
    networks.reconcile(&[]).await.unwrap();
    networks
}

pub async fn open(state: &Path, instance: u32) -> HostNetworks {
    open_with(config(state, instance)).await
}

pub fn plan(slot: u32, network: u32) -> NetworkPlan {
    NetworkPlan {
        machine: MachineId::from_random(u64::from(slot) + 1),
        slot,
        network: NetworkId(network),
        ipv6: machine_address(NetworkId(network), 1, slot + 1),
    }
}

pub async fn machine(networks: &HostNetworks, plan: &NetworkPlan) -> PathBuf {
    networks.admit(plan.network).await.unwrap();
    networks.attach(plan).await.unwrap()
}

/// A server in the namespace that answers each connection with the peer's address.
pub fn serve(namespace: &Path, address: impl Into<IpAddr>) -> SocketAddr {
    let address = address.into();
    inside(namespace, move || serve_here(address))
}

pub fn serve_here(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            // The peer may have gone away.
            let _ = write!(stream, "{}", peer.ip());
        }
    });
    at
}

/// What the server said of us, or why it could not be asked.
pub fn ask(server: SocketAddr) -> Result<String, String> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| error.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
