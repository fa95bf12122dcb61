//! The configuration of bird. Pure.
//!
//! Each prefix is a static protocol of its own, so that it comes and goes by one word on the control socket;
//! each upstream has filters that let through exactly what it is to be told. Nothing is learnt, nothing goes
//! into the kernel, and sessions have no graceful restart: a dead place must not be remembered.

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::announcements::{Routes, routes};
use crate::plan::{Plan, Upstream};
use crate::prefix::Prefix;

/// Matches the protocols of all prefixes.
pub const EVERY_PREFIX: &str = "net_*";

/// How BGP notices a dead neighbour if BFD does not: seconds.
const HOLD: u32 = 9;

/// The name of a prefix's protocol.
pub fn protocol(prefix: Prefix) -> String {
    let parts: Vec<String> = match prefix.net().network() {
        IpAddr::V4(address) => address.octets().iter().map(ToString::to_string).collect(),
        IpAddr::V6(address) => address.segments().iter().map(|part| format!("{part:x}")).collect(),
    };
    let family = if prefix.is_ipv4() { 4 } else { 6 };
    format!("net_{family}_{}_{}", parts.join("_"), prefix.net().prefix_len())
}

/// The name of an upstream's session.
pub fn session(upstream: &Upstream) -> String {
    format!("up_{}", symbol(upstream))
}

/// Names have hyphens where bird's symbols may not.
fn symbol(upstream: &Upstream) -> String {
    upstream.name.as_str().replace('-', "_")
}

/// What bird is told. Without `announced` every prefix is there, but withdrawn.
pub fn render(plan: &Plan, busy: bool, announced: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let written = write(&mut text, plan, &routes(plan, busy), announced);
    debug_assert!(written.is_ok());
    text
}

fn write(text: &mut String, plan: &Plan, routes: &Routes, announced: bool) -> fmt::Result {
    writeln!(text, "# Written by atoll guard for generation {}; changes are overwritten.", plan.generation)?;
    // Not what neighbours do wrong: after a restart each of their BFD packets would be a line.
    writeln!(text, "log stderr {{ info, warning, error, auth, fatal, bug }};")?;
    writeln!(text, "router id {};\ndefine SELF = {};", plan.router_id, plan.system)?;
    writeln!(text, "protocol device {{ scan time 10; }}")?;
    let (interval, multiplier) = (plan.bfd.interval_ms, plan.bfd.multiplier);
    writeln!(text, "protocol bfd {{ interface \"*\" {{")?;
    writeln!(text, "  min rx interval {interval} ms; min tx interval {interval} ms; multiplier {multiplier};\n}}; }}")?;
    for prefix in &plan.prefixes {
        let family = if prefix.is_ipv4() { "ipv4" } else { "ipv6" };
        let disabled = if announced { "" } else { "disabled; " };
        writeln!(text, "protocol static {} {{ {disabled}{family}; route {prefix} blackhole; }}", protocol(*prefix))?;
    }
    for upstream in &plan.upstreams {
        filter(text, upstream, routes, true)?;
        filter(text, upstream, routes, false)?;
        bgp(text, plan, upstream)?;
    }
    Ok(())
}

/// What an upstream is told of one family of addresses.
fn filter(text: &mut String, upstream: &Upstream, routes: &Routes, ipv4: bool) -> fmt::Result {
    let family = if ipv4 { 4 } else { 6 };
    writeln!(text, "filter to_{}_{family} {{", symbol(upstream))?;
    let mut told = routes.iter().filter(|(prefix, _)| prefix.is_ipv4() == ipv4).filter_map(|(prefix, to)| {
        // An upstream's preference is the same for all that it is told.
        to.get(&upstream.name).map(|preference| (prefix.to_string(), preference))
    });
    if let Some((first, preference)) = told.next() {
        let nets: Vec<String> = std::iter::once(first).chain(told.map(|(prefix, _)| prefix)).collect();
        writeln!(text, "  if net ~ [ {} ] then {{", nets.join(", "))?;
        for _ in 0..preference.prepend {
            writeln!(text, "    bgp_path.prepend(SELF);")?;
        }
        for community in &preference.communities {
            writeln!(text, "    bgp_community.add(({}, {}));", community.0, community.1)?;
        }
        writeln!(text, "    accept;\n  }}")?;
    }
    writeln!(text, "  reject;\n}}")
}

fn bgp(text: &mut String, plan: &Plan, upstream: &Upstream) -> fmt::Result {
    writeln!(text, "protocol bgp {} {{", session(upstream))?;
    writeln!(text, "  local {} as SELF; neighbor {} as {};", upstream.own, upstream.address, upstream.system)?;
    writeln!(text, "  hold time {HOLD}; keepalive time {}; connect delay time 1; connect retry time 1;", HOLD / 3)?;
    writeln!(text, "  error wait time 1, 5; bfd on; graceful restart off; long lived graceful restart off;")?;
    if let Some(password) = &upstream.password {
        writeln!(text, "  password \"{}\";", password.reveal())?;
    }
    let mut channel = |family: u8, next_hop: &str| {
        let most = plan.prefixes.iter().filter(|prefix| prefix.is_ipv4() == (family == 4)).count().max(1);
        writeln!(text, "  ipv{family} {{")?;
        writeln!(text, "    import none; receive limit {} action block;", upstream.max_received)?;
        writeln!(text, "    export filter to_{}_{family}; export limit {most} action block;", symbol(upstream))?;
        writeln!(text, "    next hop {next_hop};\n  }};")
    };
    if upstream.address.is_ipv4() {
        channel(4, "self")?;
        if let Some(own) = upstream.own_ipv6 {
            channel(6, &format!("address {own}"))?;
        }
    } else {
        channel(6, "self")?;
    }
    writeln!(text, "}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::example;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_the_daemons_symbols() {
        assert_eq!(protocol(prefix("198.51.100.0/24")), "net_4_198_51_100_0_24");
        assert_eq!(protocol(prefix("2001:db8::/48")), "net_6_2001_db8_0_0_0_0_0_0_48");
    }

    #[test]
    fn each_upstream_is_told_what_it_takes_and_how_much_to_like_it() {
        let text = render(&example(), true, true);
        for line in [
            "protocol static net_4_198_51_100_0_24 { ipv4; route 198.51.100.0/24 blackhole; }",
            "  if net ~ [ 198.51.100.0/24, 203.0.113.7/32 ] then {",
            "  if net ~ [ 198.51.100.0/24 ] then {",
            "  if net ~ [ 2001:db8::/48 ] then {",
            "    bgp_community.add((65535, 0));",
            "  password \"between-us\";",
            "    next hop address fd00:77::9;",
            "  min rx interval 100 ms; min tx interval 100 ms; multiplier 3;",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        // Three times for one, one and three for the other, in both filters of each that tell anything.
        assert_eq!(text.matches("bgp_path.prepend(SELF);").count(), 3 + 3 + 4);
        assert_eq!(text.matches("graceful restart off; long lived graceful restart off;").count(), 2);
        assert!(!text.contains("disabled") && !text.contains("protocol kernel"));
    }

    #[test]
    fn withdrawn_prefixes_stay_in_the_configuration() {
        let text = render(&example(), false, false);
        assert_eq!(text.matches("{ disabled; ipv").count(), 3);
        assert_eq!(text.matches("bgp_path.prepend(SELF);").count(), 1);
    }
}
