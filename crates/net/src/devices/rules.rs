//! What users' devices may reach, and what may reach them: one nftables table of this process's own, beside
//! the machines' one. It is there before any device is let in, so that without it nothing passes.

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use atoll_model::address::{FLYCAST_BITS, FLYCAST_MASK, FLYCAST_PORT, NETWORK_PREFIX, NetworkId, network_address};

use crate::Place;

/// The packet filter refused a change.
#[derive(Debug, thiserror::Error)]
#[error("cannot change the packet filter of users' devices with nft")]
pub struct RulesError(#[source] io::Error);

fn table_name(place: &Place) -> String {
    format!("atoll-{:08x}-devices", place.instance)
}

/// The whole table, replacing an earlier one. Sources are enforced by the link: a device has its own alone.
///
/// - What comes from a device goes to its own network, and to the DNS server that this network has there; what it
///   sends to Flycast addresses, by TCP, is led to this server's edge, as with machines;
///   never to the host, to servers' own addresses, to other networks or the internet. Machines' interfaces
///   compare networks once more.
/// - What goes to a device comes from its own network.
/// - Packets find their way as machines' do; TCP is told what fits.
pub fn table(place: &Place, networks: &BTreeSet<NetworkId>) -> String {
    let (table, Place { devices, link, address, mark, instance, .. }) = (table_name(place), place);
    let pair = |network: &NetworkId| {
        let prefix = format!("{}/{NETWORK_PREFIX}", network_address(*network));
        format!("{prefix} . {prefix}")
    };
    let pairs: Vec<String> = networks.iter().map(pair).collect();
    let elements = if pairs.is_empty() { String::new() } else { format!("elements = {{ {} }}", pairs.join(", ")) };
    let private = format!(r#"{{ "{devices}", "{link}", "atl{instance:08x}*" }}"#);
    format!(
        r#"table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    set same_network {{
        type ipv6_addr . ipv6_addr
        flags interval
        {elements}
    }}
    chain arriving {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "{devices}" accept
        ip6 saddr . ip6 daddr @same_network accept
        drop
    }}
    chain marking {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "{devices}" meta mark set {mark:#x}
    }}
    chain served {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{devices}" ip6 daddr & 0:0:0:ffff:ffff:ffff:ffff:ffff == ::3 meta l4proto {{ tcp, udp }} th dport 53 dnat ip6 to {address}
        iifname "{devices}" ip6 daddr & {FLYCAST_MASK} == {FLYCAST_BITS} meta l4proto tcp dnat ip6 to [{address}]:{FLYCAST_PORT}
    }}
    chain node {{
        type filter hook input priority filter; policy accept;
        iifname != "{devices}" accept
        ct state established,related accept
        ct status dnat meta l4proto {{ tcp, udp }} th dport 53 accept
        ct status dnat ct original ip6 daddr & {FLYCAST_MASK} == {FLYCAST_BITS} tcp dport {FLYCAST_PORT} accept
        drop
    }}
    chain transit {{
        type filter hook forward priority filter; policy accept;
        iifname "{devices}" oifname != {private} drop
        oifname "{devices}" goto leaving
    }}
    chain leaving {{
        iifname != {private} drop
        ct state established,related accept
        ip6 saddr . ip6 daddr @same_network accept
        drop
    }}
    chain clamp {{
        type filter hook forward priority mangle; policy accept;
        iifname "{devices}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        oifname "{devices}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    }}
}}
"#
    )
}

pub fn removal(place: &Place) -> String {
    let table = table_name(place);
    format!("table inet {table} {{}}\ndelete table inet {table}\n")
}

/// Applies a transaction. Takes the right to configure networks.
///
/// # Errors
/// If there is no `nft`, or it refuses.
pub async fn apply(script: String) -> Result<(), RulesError> {
    nft(script).await.map_err(RulesError)
}

async fn nft(script: String) -> io::Result<()> {
    let mut nft = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let output = nft.wait_with_output().await?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use atoll_mesh::PublicKey;

    use super::*;

    #[test]
    fn only_networks_that_have_devices_here_pass() {
        let place = Place::new(0x1a2b_3c4d, PublicKey([1; 32]), 51820, 51821);
        let none = table(&place, &BTreeSet::new());
        assert!(!none.contains("elements"), "{none}");
        let some = table(&place, &BTreeSet::from([NetworkId(0x18), NetworkId(0x10_0000)]));
        let pairs = "elements = { fdaa:0:18::/48 . fdaa:0:18::/48, fdaa:10::/48 . fdaa:10::/48 }";
        assert!(some.contains(pairs), "{some}");
        assert!(some.contains(r#"{ "atu1a2b3c4d", "atm1a2b3c4d", "atl1a2b3c4d*" }"#), "{some}");
    }
}
