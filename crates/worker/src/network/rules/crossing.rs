//! What passes between machines and the mesh, and users' devices that enter here. Both interfaces are known
//! by name alone: they belong to another process and may be absent or made anew at any time.

use atoll_model::address::{FLYCAST_BITS, FLYCAST_MASK, FLYCAST_PORT, MACHINE_DNS};

use super::super::MeshFace;
use super::super::link::{ANY_INSTANCE, ANY_MESH};

/// Where nodes probe each other's delay and loss, over UDP.
const PROBE_PORT: u16 = 4284;
/// Where nodes' own addresses lie.
const NODES: &str = "fdaa:0:0:1::/64";
/// The bits that say which machine of its network an address is. Flycast and resolver addresses have
/// none of them set.
const MACHINE_BITS: &str = "0:0:0:0:0:ffff:ffff:0";

/// Chains that complete the table.
///
/// - The network of the far end must be that of the machine's own interface: of the destination on the
///   way out, of the source on the way in. Addresses of nodes are no machine's network.
/// - Nothing else is forwarded out of the mesh or into it, but for what passes between it and devices.
/// - Sources from the mesh are 6PN addresses that do not live here. Nodes' own are used by no other way.
/// - On the node itself only probes are answered. Machines' questions to the resolver's address arrive at
///   the node's own; asked there directly they are not.
/// - Nor is the edge: what machines send to Flycast addresses of their own network, by TCP, is led to its socket for
///   them at the node's own address. The edge asks the kernel where they were going.
/// - Machines' packets carry the mark that policy routing sends into the mesh.
/// - TCP is told what fits: the mesh carries less in a packet than what is around it.
pub fn chains(table: &str, machines: &str, face: &MeshFace) -> String {
    let MeshFace { link, address, mark, devices } = face;
    format!(
        r#"table inet {table} {{
    chain mesh_source {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{link}" goto from_mesh
        iifname {{ "lo", "{ANY_INSTANCE}*", "{ANY_MESH}*" }} accept
        ip6 saddr {NODES} drop
        ip6 daddr {address} drop
    }}
    chain from_mesh {{
        meta nfproto ipv4 drop
        ip6 saddr != fdaa::/16 drop
        fib saddr type local drop
        ip6 daddr != {address} ip6 daddr & {MACHINE_BITS} == :: drop
    }}
    chain marking {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "{machines}" ip6 daddr fdaa::/16 meta mark set {mark:#x}
    }}
    chain resolver {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{machines}" ip6 daddr {MACHINE_DNS} meta l4proto {{ tcp, udp }} th dport 53 dnat ip6 to {address}
    }}
    chain flycast {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{machines}" ip6 daddr & {FLYCAST_MASK} == {FLYCAST_BITS} meta l4proto tcp meta iifgroup . ip6 daddr @own_network dnat ip6 to [{address}]:{FLYCAST_PORT}
    }}
    chain served {{
        ct status dnat ct original ip6 daddr {MACHINE_DNS} meta l4proto {{ tcp, udp }} th dport 53 accept
        ct status dnat ct original ip6 daddr & {FLYCAST_MASK} == {FLYCAST_BITS} tcp dport {FLYCAST_PORT} accept
    }}
    chain mesh_node {{
        type filter hook input priority filter; policy accept;
        iifname != "{link}" accept
        ct state established,related accept
        ip6 saddr {NODES} udp dport {PROBE_PORT} accept
        icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
        drop
    }}
    chain crossing {{
        oifname "{link}" ip6 daddr & {MACHINE_BITS} == :: drop
        iifname "{link}" ip6 saddr & {MACHINE_BITS} == :: drop
        iifname "{machines}" oifname {{ "{link}", "{devices}" }} meta iifgroup . ip6 daddr @own_network accept
        iifname {{ "{link}", "{devices}" }} oifname "{machines}" meta oifgroup . ip6 saddr @own_network accept
        iifname "{devices}" oifname "{link}" accept
        iifname "{link}" oifname "{devices}" accept
        iifname "{link}" drop
        oifname "{link}" drop
    }}
    chain clamp {{
        type filter hook forward priority mangle; policy accept;
        iifname "{link}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        oifname "{link}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    }}
}}
"#
    )
}
