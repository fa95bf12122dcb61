//! The nftables table of this instance: who may reach whom. Its text is made by pure functions; one
//! transaction replaces it whole. A machine's start changes nothing here: rules speak of interface
//! names and groups.

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use atoll_model::address::{MACHINE_DNS, NetworkId};

use super::block::Block;
use super::link::{ANY_INSTANCE, Names};
use crate::seams::NetworkError;

/// The whole table, replacing an earlier one.
///
/// - Sources are enforced at the machine's own interface: only what the host would route back there.
/// - The node's own services are out of reach but for DNS; answers to the node's own connections pass.
/// - Machines reach machines of their own private network by 6PN alone, never by IPv4, and never those
///   of another instance on this host.
/// - What leaves by IPv4 does so under the host's address.
pub fn table(names: Names, block: Block, networks: &BTreeSet<NetworkId>) -> String {
    let table = names.prefix();
    let machines = format!("{}*", names.link_prefix());
    let any_machine = format!("{ANY_INSTANCE}*");
    let elements: Vec<String> = networks.iter().map(|network| pair(*network)).collect();
    let elements =
        if elements.is_empty() { String::new() } else { format!("elements = {{ {} }}", elements.join(", ")) };
    let net = block.net();
    format!(
        r#"table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    set same_network {{
        type devgroup . devgroup
        {elements}
    }}
    chain source {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "{machines}" accept
        ip6 saddr fe80::/10 accept
        fib saddr . iif oif missing drop
        meta nfproto ipv4 ip saddr != {net} drop
        meta nfproto ipv6 ip6 saddr != fdaa::/16 drop
    }}
    chain node {{
        type filter hook input priority filter; policy accept;
        iifname != "{machines}" accept
        ct state established,related accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip6 daddr {MACHINE_DNS} meta l4proto {{ tcp, udp }} th dport 53 accept
        drop
    }}
    chain transit {{
        type filter hook forward priority filter; policy accept;
        ct state established,related accept
        iifname "{machines}" oifname "{machines}" ip6 daddr fdaa::/16 meta iifgroup . meta oifgroup @same_network accept
        iifname "{machines}" oifname "{any_machine}" drop
        iifname "{machines}" ip6 daddr fdaa::/16 drop
        oifname "{machines}" drop
    }}
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {net} oifname != "{any_machine}" masquerade
    }}
}}
"#
    )
}

/// Lets machines of one more network talk to each other.
pub fn admission(names: Names, network: NetworkId) -> String {
    format!("add element inet {} same_network {{ {} }}\n", names.prefix(), pair(network))
}

pub fn removal(names: Names) -> String {
    let table = names.prefix();
    format!("table inet {table} {{}}\ndelete table inet {table}\n")
}

/// Both interfaces in the network's group.
fn pair(network: NetworkId) -> String {
    let group = super::link::group(network);
    format!("{group} . {group}")
}

/// Applies a transaction.
pub async fn run(script: String) -> Result<(), NetworkError> {
    let failed = |source| NetworkError { action: "change the packet filter with nft".into(), source };
    let mut nft = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::new(error.kind(), "the program nft is missing: install the package nftables")
            }
            _ => error,
        })
        .map_err(failed)?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(script.as_bytes()).await.map_err(failed)?;
    }
    let output = nft.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
    }
}
