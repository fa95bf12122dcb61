//! The peer of the mesh bench: boringtun's own device, as it is. Configured through its socket in
//! `/var/run/wireguard`, like WireGuard's other userspace programs; ends with its input.

use std::io::Read;

use anyhow::{Context, anyhow};
use boringtun::device::{DeviceConfig, DeviceHandle};

fn main() -> anyhow::Result<()> {
    let link = std::env::args().nth(1).context("usage: boringtun-device <link>")?;
    // The faster of its settings here: a thread a processor, and a socket for each peer.
    let config = DeviceConfig { n_threads: 2, ..DeviceConfig::default() };
    let _device = DeviceHandle::new(&link, config).map_err(|error| anyhow!("cannot make {link}: {error:?}"))?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // The device's threads wait for packets for ever; the process takes them and the link along.
    std::process::exit(0)
}
