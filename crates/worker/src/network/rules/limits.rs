//! Network policies at a machine's own interface, and the addresses under which machines leave, in a table
//! of their own that outlives replacements of the others: an agent that starts anew does not know what
//! running machines are held to. Elements are indices of interfaces, and an index is never given to a
//! second run.
//!
//! Only forwarded packets are looked at: what the node itself sends to a machine, as its edge does, is
//! exempt, and so are questions for names. A machine without an address of its own to leave under is left
//! to the main table, which translates later.

use std::collections::BTreeSet;
use std::net::IpAddr;

use atoll_model::egress::EgressAddresses;
use atoll_model::policy::{AllowedPort, NetworkLimits};

use super::super::link::{ANY_INSTANCE, Names};
use super::INTERNET_V6;

pub fn table_name(names: Names) -> String {
    format!("{}-limits", names.prefix())
}

/// Makes the table, or gives one that is there its present rules.
pub fn table(names: Names) -> String {
    let table = table_name(names);
    // What has no ports matches no element, whatever its bytes: hence allowed first, then dropped.
    format!(
        r#"table inet {table} {{
    set ingress_limited {{ type iface_index; }}
    set egress_limited {{ type iface_index; }}
    set ingress_allowed {{ type iface_index . inet_proto . inet_service; }}
    set egress_allowed {{ type iface_index . inet_proto . inet_service; }}
    map leaves_v4 {{ type iface_index : ipv4_addr; }}
    map leaves_v6 {{ type iface_index : ipv6_addr; }}
    chain limits {{
        type filter hook forward priority filter - 1; policy accept;
    }}
    chain ingress {{
    }}
    chain egress {{
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat - 1; policy accept;
    }}
}}
flush table inet {table}
table inet {table} {{
    chain limits {{
        ct state established,related accept
        iif @egress_limited jump egress
        oif @ingress_limited jump ingress
    }}
    chain ingress {{
        meta l4proto {{ tcp, udp }} oif . meta l4proto . th dport @ingress_allowed return
        drop
    }}
    chain egress {{
        meta l4proto {{ tcp, udp }} iif . meta l4proto . th dport @egress_allowed return
        drop
    }}
    chain leaving {{
        meta nfproto ipv4 oifname != "{ANY_INSTANCE}*" snat ip to iif map @leaves_v4
        ip6 daddr {INTERNET_V6} snat ip6 to iif map @leaves_v6
    }}
}}
"#
    )
}

/// Whether limits begin or end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Begin,
    End,
}

/// Holds the machine behind an interface to its limits, or forgets them.
pub fn change(names: Names, change: Change, index: u32, limits: &NetworkLimits) -> String {
    let verb = match change {
        Change::Begin => "add",
        Change::End => "delete",
    };
    let table = table_name(names);
    let direction = |name: &str, allowed: &Option<BTreeSet<AllowedPort>>| {
        let Some(allowed) = allowed else { return String::new() };
        let mut script = String::new();
        if !allowed.is_empty() {
            let elements: Vec<String> = allowed
                .iter()
                .map(|AllowedPort { protocol, port }| format!("{index} . {} . {port}", protocol.as_str()))
                .collect();
            script = format!("{verb} element inet {table} {name}_allowed {{ {} }}\n", elements.join(", "));
        }
        script + &format!("{verb} element inet {table} {name}_limited {{ {index} }}\n")
    };
    let leaves = |family: &str, address: Option<IpAddr>| {
        let element = |address| format!("{verb} element inet {table} leaves_{family} {{ {index} : {address} }}\n");
        address.map(element).unwrap_or_default()
    };
    let EgressAddresses { v4, v6 } = limits.leaves_as;
    [
        direction("ingress", &limits.ingress),
        direction("egress", &limits.egress),
        leaves("v4", v4.map(IpAddr::V4)),
        leaves("v6", v6.map(IpAddr::V6)),
    ]
    .concat()
}
