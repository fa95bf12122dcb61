//! Counting of bytes, in a table of its own that outlives replacements of the other: sets by interface
//! index, which the packets themselves fill, so that a start adds nothing. An index is never given to a
//! second run. What a machine exchanges with its own node, its edge included, is not forwarded and
//! counted elsewhere.

use super::super::MeshFace;
use super::super::link::{ANY_INSTANCE, Names};
use super::super::traffic::Counter;

/// For how long the bytes of an interface that carries nothing any more can still be read.
const KEPT: &str = "1h";
/// Interfaces in a set.
const ROOM: u32 = 65_535;

pub fn table_name(names: Names) -> String {
    format!("{}-traffic", names.prefix())
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
    let beyond = |end: &str, own: &str, counted: &str| {
        mesh.map(|MeshFace { link, devices, .. }| {
            format!("{end} {{ \"{link}\", \"{devices}\" }} update @mesh_{counted} {{ {own} }} return")
        })
        .unwrap_or_default()
    };
    let (sent_to_mesh, received_from_mesh) = (beyond("oifname", "iif", "sent"), beyond("iifname", "oif", "received"));
    format!(
        r#"table inet {table} {{
{sets}    chain count {{
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
        {sent_to_mesh}
        update @public_sent {{ iif }}
    }}
    chain received {{
        iifname "{ANY_INSTANCE}*" update @same_node_received {{ oif }} return
        {received_from_mesh}
        update @public_received {{ oif }}
    }}
}}
"#
    )
}
