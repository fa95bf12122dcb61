//! One end of a tunnel in this process, for benches and for trying things by hand:
//!
//! `atoll-tunnel <link> <private key> <port> <peer's public key> <endpoint> <prefix> [<peers> <addresses>]`
//!
//! Beside the peer it has `peers` in all, which together have `addresses`. Says `ready`, and for each line
//! of its input the seconds that a thousand single changes of addresses took; ends with its input.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use anyhow::bail;
use atoll_mesh::userspace::Userspace;
use atoll_mesh::{AddressChange, Backend, PeerConfig, PrivateKey, Settings, link_mtu};
use ipnet::IpNet;

const CHANGES: u32 = 1_000;

/// The address of a machine, as networks have them.
fn machine(group: u16, number: u32) -> IpNet {
    let [high, low] = [(number >> 16) as u16, number as u16];
    IpNet::from(IpAddr::from(Ipv6Addr::new(0xfdaa, 0, 7, group, high, low, 1, 2)))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [link, private_key, port, public_key, endpoint, prefix, more @ ..] = &arguments[..] else {
        bail!("usage: atoll-tunnel <link> <private key> <port> <public key> <endpoint> <prefix> [<peers> <addresses>]");
    };
    let settings = Settings {
        link: link.clone(),
        listen_port: port.parse()?,
        mtu: link_mtu(1500),
        private_key: private_key.parse()?,
    };
    let peer = PeerConfig {
        public_key: public_key.parse()?,
        preshared_key: None,
        endpoint: Some(endpoint.parse()?),
        allowed: vec![prefix.parse()?],
        keepalive: None,
    };
    let tunnel = Userspace::open(&settings)?;
    tunnel.set_peer(&peer)?;
    if let [peers, addresses] = more {
        let (peers, addresses): (u16, u32) = (peers.parse()?, addresses.parse()?);
        let each = addresses / u32::from(peers).max(1);
        for group in 1..peers {
            let allowed = (0..each).map(|number| machine(group, number)).collect();
            let public_key = PrivateKey::generate().public();
            tunnel.set_peer(&PeerConfig {
                public_key,
                preshared_key: None,
                endpoint: None,
                allowed,
                keepalive: None,
            })?;
        }
        let own: Vec<_> = (0..addresses.saturating_sub(each * u32::from(peers - 1)))
            .map(|number| AddressChange::Add { peer: peer.public_key, prefix: machine(0, number) })
            .collect();
        tunnel.change_addresses(&own)?;
    }
    println!("ready {} {}", tunnel.peers()?.len(), tunnel.addresses());
    for line in std::io::stdin().lines() {
        line?;
        let began = Instant::now();
        for number in 0..CHANGES / 2 {
            let change = (peer.public_key, machine(u16::MAX, number));
            tunnel.change_addresses(&[AddressChange::Add { peer: change.0, prefix: change.1 }])?;
            tunnel.change_addresses(&[AddressChange::Remove { peer: change.0, prefix: change.1 }])?;
        }
        println!("{}", began.elapsed().as_secs_f64());
    }
    let dropped = tunnel.dropped().unwrap_or_default().named();
    for (name, count) in dropped.into_iter().filter(|(_, count)| *count > 0) {
        eprintln!("dropped, {name}: {count}");
    }
    Ok(())
}
