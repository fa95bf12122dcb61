//! The nftables table of this instance: who may reach whom. Its text is made by pure functions; one
//! transaction replaces it whole. A machine's start changes nothing here: rules speak of interface
//! names and groups, and what a network needs is added when its first machine is made.

mod crossing;
mod limits;
mod traffic;

pub use limits::{Change, change as limit};
pub use traffic::{REGION_ROOM, region};

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;

use ipnet::Ipv6Net;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;

use atoll_model::address::{NetworkId, machine_address};

use super::block::Block;
use super::limited::{self, Held, Limited};
use super::link::{ANY_DEVICES, ANY_INSTANCE, ANY_MESH, Names};
use super::traffic::{Counter, Reading};
use super::{MeshFace, failed, listing};
use crate::seams::NetworkError;

/// What machines may reach outside by IPv6: all global unicast addresses.
const INTERNET_V6: &str = "2000::/3";
/// The network of the platform's own addresses, that no machine is in.
const PLATFORM: NetworkId = NetworkId(0);

/// The whole table, replacing an earlier one; those beside it ([`limits`], [`traffic`]) keep what
/// they hold.
///
/// - Sources are enforced at the machine's own interface: only what the host would route back there,
///   and nothing link-local. Both ends know each other's hardware address, so of neighbour discovery
///   only questions in the machine's own name are heard, and no answer. Nobody else may use them.
/// - The node's own services are out of reach; answers to the node's own connections pass.
/// - Machines reach machines of their own private network by 6PN alone, never by IPv4, and never those
///   of another instance on this host. Other nodes' machines are a matter of [`crossing`].
/// - What a neighbour of the host sends to private addresses is not led on, not even away again.
/// - What leaves for the internet does so under an address of the host, or not at all: packets that no
///   translation was found for, as those of no known connection, are dropped behind it.
/// - By IPv4 nothing leaves for link-local addresses, by IPv6 only what is bound for global unicast
///   ([`INTERNET_V6`]): clouds tell credentials of the host at the others.
pub fn table(names: Names, block: Block, mesh: Option<&MeshFace>, networks: &BTreeSet<NetworkId>) -> String {
    let table = names.prefix();
    let machines = format!("{}*", names.link_prefix());
    let any_machine = format!("{ANY_INSTANCE}*");
    let same = elements(networks.iter().map(|network| same_network(*network)));
    let own = elements(networks.iter().filter_map(|network| own_network(*network)));
    let net = block.net();
    let crossing = mesh.map(|face| crossing::chains(&table, &machines, face)).unwrap_or_default();
    let beside = limits::table(names) + &traffic::table(names, mesh);
    format!(
        r#"table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    set same_network {{
        type devgroup . devgroup
        {same}
    }}
    set own_network {{
        type devgroup . ipv6_addr
        flags interval
        {own}
    }}
    chain source {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{machines}" goto machine_source
        iifname "lo" accept
        ip saddr {net} drop
        ip6 saddr fdaa::/16 fib saddr oifname "{machines}" drop
    }}
    chain machine_source {{
        fib saddr . iif oif missing drop
        meta nfproto ipv4 ip saddr != {net} drop
        meta nfproto ipv6 ip6 saddr != fdaa::/16 drop
    }}
    chain node {{
        type filter hook input priority filter; policy accept;
        iifname "{machines}" goto from_machine
    }}
    chain from_machine {{
        ct state established,related accept
        icmpv6 type nd-neighbor-solicit accept
        jump served
        drop
    }}
    chain served {{
    }}
    chain transit {{
        type filter hook forward priority filter; policy accept;
        ct state established,related accept
        iifname "{machines}" oifname "{machines}" ip6 daddr fdaa::/16 meta iifgroup . meta oifgroup @same_network accept
        jump crossing
        iifname "{machines}" oifname "{any_machine}" drop
        iifname "{machines}" ip6 daddr != {INTERNET_V6} drop
        iifname "{machines}" ip daddr 169.254.0.0/16 drop
        iifname != {{ "{any_machine}", "{ANY_MESH}*", "{ANY_DEVICES}*" }} ip6 daddr fdaa::/16 drop
        oifname "{machines}" drop
    }}
    chain crossing {{
    }}
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {net} oifname != "{any_machine}" masquerade
        ip6 saddr fdaa::/16 ip6 daddr {INTERNET_V6} iifname "{machines}" masquerade
    }}
    chain untranslated {{
        type filter hook postrouting priority srcnat + 10; policy accept;
        iifname "{machines}" oifname != "{any_machine}" ip saddr {net} drop
        iifname "{machines}" ip6 saddr fdaa::/16 ip6 daddr {INTERNET_V6} drop
    }}
}}
{crossing}{beside}"#
    )
}

/// Lets machines of one more network talk to each other.
pub fn admission(names: Names, network: NetworkId) -> String {
    let table = names.prefix();
    let mut script = format!("add element inet {table} same_network {{ {} }}\n", same_network(network));
    if let Some(own) = own_network(network) {
        script.push_str(&format!("add element inet {table} own_network {{ {own} }}\n"));
    }
    script
}

pub fn removal(names: Names) -> String {
    [names.prefix(), limits::table_name(names), traffic::table_name(names)]
        .map(|table| format!("table inet {table} {{}}\ndelete table inet {table}\n"))
        .concat()
}

/// Both interfaces in the network's group.
fn same_network(network: NetworkId) -> String {
    let group = super::link::group(network);
    format!("{group} . {group}")
}

/// An interface in the network's group, and an address of the network.
fn own_network(network: NetworkId) -> Option<String> {
    let prefix = Ipv6Net::new_assert(machine_address(network, 0, 0), 48).trunc();
    (network != PLATFORM).then(|| format!("{} . {prefix}", super::link::group(network)))
}

fn elements(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    if elements.is_empty() { String::new() } else { format!("elements = {{ {} }}", elements.join(", ")) }
}

/// Applies a transaction.
pub async fn run(script: String) -> Result<(), NetworkError> {
    nft(&["-f", "-"], script).await.map_err(failed("change the packet filter with nft")).map(|_| ())
}

/// What has been counted.
pub async fn read_traffic(names: Names) -> Result<Reading, NetworkError> {
    let table = traffic::table_name(names);
    let mut counted = Vec::new();
    for counter in Counter::ALL {
        let interfaces = read_set(&table, &counter.name()).await;
        counted.push((counter, interfaces.map_err(failed("read what machines' networks carried with nft"))?));
    }
    Ok(super::traffic::by_interface(counted))
}

/// Which interfaces are held to what.
pub async fn read_limits(names: Names) -> Result<Limited, NetworkError> {
    let table = limits::table_name(names);
    let held = async |direction: &str| {
        io::Result::Ok(Held {
            limited: read_set(&table, &format!("{direction}_limited")).await?,
            allowed: read_set(&table, &format!("{direction}_allowed")).await?,
        })
    };
    let all = async {
        let (v4, v6) = (read(&table, "map", "leaves_v4").await?, read(&table, "map", "leaves_v6").await?);
        io::Result::Ok(limited::by_interface(held("ingress").await?, held("egress").await?, [v4, v6].concat()))
    };
    all.await.map_err(failed("read what machines are held to with nft"))
}

/// Sets are read one by one, so that others in their table, however large, cost nothing.
async fn read_set<E: DeserializeOwned>(table: &str, set: &str) -> io::Result<Vec<E>> {
    read(table, "set", set).await
}

/// Reads a set or a map.
async fn read<E: DeserializeOwned>(table: &str, kind: &str, name: &str) -> io::Result<Vec<E>> {
    let listing = nft(&["--json", "list", kind, "inet", table, name], String::new()).await?;
    Ok(listing::elements(&listing)?)
}

/// Runs the program; what it writes.
async fn nft(arguments: &[&str], input: String) -> io::Result<Vec<u8>> {
    let mut nft = tokio::process::Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::new(error.kind(), "the program nft is missing: install the package nftables")
            }
            _ => error,
        })?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = nft.wait_with_output().await?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_its_group_and_its_prefix() {
        assert_eq!(own_network(NetworkId(0x3ec2)).unwrap(), "16066 . fdaa:0:3ec2::/48");
        assert_eq!(own_network(NetworkId(0x10_0000)).unwrap(), "1048576 . fdaa:10::/48");
        assert_eq!(own_network(PLATFORM), None);
    }
}
