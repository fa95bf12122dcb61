//! What the host itself needs: forwarding, the claimed block, and the removal of what is nobody's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use ipnet::Ipv4Net;

use super::block::{Block, choose, overlap};
use super::link::Names;
use super::netlink::{Link, Netlink};
use super::{NetworkConfig, failed, namespace};
use crate::seams::NetworkError;

/// Turns forwarding on. IPv6 forwarding makes interfaces deaf to router advertisements, which a
/// host may live by: those that listened go on listening.
pub fn forward() -> io::Result<()> {
    set("/proc/sys/net/ipv4/ip_forward", "1")?;
    let conf = Path::new("/proc/sys/net/ipv6/conf");
    if !conf.exists() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel has IPv6 turned off"));
    }
    for entry in fs::read_dir(conf)? {
        let accept = entry?.path().join("accept_ra");
        // An interface that vanishes meanwhile needs nothing.
        if fs::read_to_string(&accept).is_ok_and(|value| value.trim() == "1") {
            fs::write(&accept, "2").ok();
        }
    }
    set("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}

/// Writes only what differs: a read-only `/proc/sys` that is right already is good enough.
fn set(path: &str, value: &str) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
}

/// The remembered block, or the configured one, or a free one; claimed by a route, so that other
/// instances on this host keep away.
pub fn claim_block(names: Names, config: &NetworkConfig) -> Result<Block, NetworkError> {
    let mut netlink = Netlink::open().map_err(failed("talk to the kernel about networks"))?;
    let file = config.state_dir.join("machine-block");
    let remembered = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<Ipv4Net>().ok());
    let taken = foreign_routes(&mut netlink, names, remembered).map_err(failed("read the host's routes"))?;
    let free = |net: &Ipv4Net| taken.iter().all(|route| !overlap(route, net));
    let block = match (config.block, remembered) {
        (Some(net), _) if !free(&net) => {
            let reason = format!("the configured block {net} overlaps a route of this host");
            return Err(failed("claim addresses for machines")(io::Error::other(reason)));
        }
        (Some(net), _) => Block::new(net),
        (None, Some(net)) if free(&net) => Block::new(net),
        (None, _) => choose(&taken, names.instance),
    };
    let block = block.ok_or_else(|| {
        failed("claim addresses for machines")(io::Error::other(
            "no private /16 is free on this host; configure a block of /29 or larger",
        ))
    })?;
    netlink.add_blackhole(block.net()).map_err(failed("claim addresses for machines"))?;
    if remembered != Some(block.net()) {
        remember(&file, block.net()).map_err(failed("remember the block of addresses"))?;
    }
    Ok(block)
}

pub fn release_block(_names: Names, block: Block) -> Result<(), NetworkError> {
    Netlink::open()
        .and_then(|mut netlink| netlink.delete_blackhole(block.net()))
        .map_err(failed("release the block of addresses"))
}

/// Written aside and renamed, so that it is whole or the old one.
fn remember(file: &Path, net: Ipv4Net) -> io::Result<()> {
    let aside = file.with_extension("new");
    fs::write(&aside, format!("{net}\n"))?;
    fs::rename(aside, file)
}

/// Routes that are not ours: neither through a machine's interface nor the claim itself.
fn foreign_routes(netlink: &mut Netlink, names: Names, ours: Option<Ipv4Net>) -> io::Result<Vec<Ipv4Net>> {
    let own: BTreeSet<u32> = netlink
        .links()?
        .into_iter()
        .filter(|link| link.name.starts_with(&names.link_prefix()))
        .map(|link| link.index)
        .collect();
    let routes = netlink.ipv4_routes()?;
    let is_ours = |(net, link): &(Ipv4Net, u32)| own.contains(link) || (*link == 0 && Some(*net) == ours);
    Ok(routes.into_iter().filter(|route| !is_ours(route)).map(|(net, _)| net).collect())
}

/// Removes interfaces and namespaces of this instance that are not among `held`; returns the interfaces
/// that stay.
pub fn sweep(names: Names, held: &BTreeSet<String>) -> Result<Vec<Link>, NetworkError> {
    let list = failed("list what is left of machines' networks");
    let mut netlink = Netlink::open().map_err(failed("talk to the kernel about networks"))?;
    let links = netlink.links().map_err(list)?;
    if let Ok(entries) = fs::read_dir(namespace::FOLDER) {
        let prefix = format!("{}-", names.prefix());
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && !held.contains(&name) {
                namespace::unname(&name).map_err(failed(format!("remove the namespace {name}")))?;
            }
        }
    }
    let own = links.into_iter().filter(|link| link.name.starts_with(&names.link_prefix()));
    let (stay, go): (Vec<Link>, Vec<Link>) = own.partition(|link| held.contains(&link.name));
    for link in go {
        netlink.delete_link(&link.name).map_err(failed(format!("remove the interface {}", link.name)))?;
    }
    Ok(stay)
}
