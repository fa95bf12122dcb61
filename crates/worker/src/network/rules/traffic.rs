//! Counting of bytes, in a table of its own that outlives replacements of the other: sets by interface
//! index, which the packets themselves fill, so that a start adds nothing. An index is never given to a
//! second run. What a machine exchanges with its own node, its edge included, is not forwarded and
//! counted elsewhere.
//!
//! Which private addresses are in this node's region is the catalogue's to say, which the agent does not
//! read: another process keeps that one set ([`region`]). What the mesh carries to and from addresses that
//! are not in it counts as another region's.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::super::MeshFace;
use super::super::link::{ANY_INSTANCE, Names};
use super::super::traffic::Counter;

/// For how long the bytes of an interface that carries nothing any more can still be read.
const KEPT: &str = "1h";
/// Interfaces in a set.
const ROOM: u32 = 65_535;
/// Addresses of this region that are told apart; about a sixth of a second of `nft`.
pub const REGION_ROOM: usize = 65_536;

pub fn table_name(names: Names) -> String {
    format!("{}-traffic", names.prefix())
}

/// The addresses of machines and devices at other nodes of this region.
fn region_set() -> String {
    format!("    set region {{ type ipv6_addr; size {REGION_ROOM}; }}\n")
}

/// Has this region be these addresses and no others, of which the lowest find room. The set is made where
/// nobody counts yet.
pub fn region(names: Names, addresses: &BTreeSet<Ipv6Addr>) -> String {
    let (table, set) = (table_name(names), region_set());
    let script = format!("table inet {table} {{\n{set}}}\nflush set inet {table} region\n");
    if addresses.is_empty() {
        return script;
    }
    let addresses: Vec<String> = addresses.iter().take(REGION_ROOM).map(Ipv6Addr::to_string).collect();
    script + &format!("add element inet {table} region {{ {} }}\n", addresses.join(", "))
}

/// Makes the table, or gives one that is there its present rules.
pub fn table(names: Names, mesh: Option<&MeshFace>) -> String {
    let table = table_name(names);
    let machines = format!("{}*", names.link_prefix());
    let sets: String = Counter::ALL
        .map(|counter| {
            let name = counter.name();
            format!(
                "    set {name} {{ type iface_index; size {ROOM}; flags dynamic,timeout; timeout {KEPT}; counter; }}\n"
            )
        })
        .concat();
    let region = region_set();
    let beyond = |end: &str, address: &str, own: &str, counted: &str| {
        let rules = |MeshFace { link, devices, .. }: &MeshFace| {
            format!(
                r#"{end} "{devices}" update @same_region_{counted} {{ {own} }} return
        {end} "{link}" ip6 {address} @region update @same_region_{counted} {{ {own} }} return
        {end} "{link}" update @cross_region_{counted} {{ {own} }} return"#
            )
        };
        mesh.map(rules).unwrap_or_default()
    };
    let sent_beyond = beyond("oifname", "daddr", "iif", "sent");
    let received_beyond = beyond("iifname", "saddr", "oif", "received");
    format!(
        r#"table inet {table} {{
{sets}{region}    chain count {{
        type filter hook forward priority filter + 10; policy accept;
    }}
    chain sent {{
    }}
    chain received {{
    }}
}}
flush table inet {table}
table inet {table} {{
    chain count {{
        iifname "{machines}" jump sent
        oifname "{machines}" jump received
    }}
    chain sent {{
        oifname "{ANY_INSTANCE}*" update @same_node_sent {{ iif }} return
        {sent_beyond}
        update @public_sent {{ iif }}
    }}
    chain received {{
        iifname "{ANY_INSTANCE}*" update @same_node_received {{ oif }} return
        {received_beyond}
        update @public_received {{ oif }}
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_replaced_whole_and_bounded() {
        let names = Names { instance: 0x1a2b_3c4d };
        let begin = "table inet atoll-1a2b3c4d-traffic {\n    set region { type ipv6_addr; size 65536; }\n}\n\
            flush set inet atoll-1a2b3c4d-traffic region\n";
        assert_eq!(region(names, &BTreeSet::new()), begin);
        let two = ["fdaa:0:7::1:2", "fdaa:0:7::3:2"].map(|address| address.parse().unwrap());
        let end = "add element inet atoll-1a2b3c4d-traffic region { fdaa:0:7::1:2, fdaa:0:7::3:2 }\n";
        assert_eq!(region(names, &two.into()), format!("{begin}{end}"));
        let many: BTreeSet<Ipv6Addr> = (0..REGION_ROOM as u128 + 5).map(Ipv6Addr::from_bits).collect();
        assert_eq!(region(names, &many).matches(',').count(), REGION_ROOM - 1);
    }
}
