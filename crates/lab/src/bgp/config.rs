//! The configuration of a speaker's bird. Pure.
//!
//! Policies are those by which networks live: what customers tell is preferred and told to everybody, what
//! peers and providers tell is told to customers alone. A route from a customer is marked with a large
//! community of the router's own; no neighbour can set it.

use std::fmt::Write;
use std::time::Duration;

use crate::address::{Port, SERVICE_PREFIX};
use crate::network::UPLINK;
use crate::world::{Relation, Role, Session, Speaker};

/// BGP's own timers; BFD notices before they do.
const HOLD: Duration = Duration::from_secs(9);

pub fn render(port: Port, speaker: &Speaker, bfd: Duration) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let written = match speaker.role {
        Role::Router => router(&mut text, port, speaker, bfd),
        Role::Node | Role::Client => announcer(&mut text, port, speaker, bfd),
    };
    debug_assert!(written.is_ok());
    text
}

fn router(text: &mut String, port: Port, speaker: &Speaker, bfd: Duration) -> std::fmt::Result {
    head(text, port, speaker, bfd)?;
    writeln!(text, "protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}")?;
    writeln!(text, "protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}")?;
    writeln!(text, "protocol static own4 {{ ipv4;\n  route {}/32 blackhole;", port.ipv4())?;
    for host in &speaker.attached {
        writeln!(text, "  route {}/32 via \"{UPLINK}\";", host.ipv4())?;
    }
    writeln!(text, "}}\nprotocol static own6 {{ ipv6;\n  route {}/128 blackhole;", port.ipv6())?;
    for host in &speaker.attached {
        writeln!(text, "  route {}/128 via \"{UPLINK}\";", host.ipv6())?;
    }
    writeln!(text, "}}")?;
    text.push_str(POLICIES);
    for session in &speaker.sessions {
        let (from, to) = match session.relation {
            Relation::Customer => ("from_customer", "to_customer"),
            Relation::Peer => ("from_peer", "to_others"),
            Relation::Provider => ("from_provider", "to_others"),
        };
        open_session(text, port, session)?;
        writeln!(text, "  ipv4 {{ import filter {from}; export filter {to}; next hop self; }};")?;
        writeln!(text, "  ipv6 {{ import filter {from}; export filter {to}; next hop address {}; }};", port.ipv6())?;
        writeln!(text, "}}")?;
    }
    Ok(())
}

fn announcer(text: &mut String, port: Port, speaker: &Speaker, bfd: Duration) -> std::fmt::Result {
    head(text, port, speaker, bfd)?;
    let (address, length) = SERVICE_PREFIX;
    writeln!(text, "protocol static {SERVICE} {{ ipv4; route {address}/{length} blackhole; }}")?;
    for session in &speaker.sessions {
        open_session(text, port, session)?;
        writeln!(text, "  ipv4 {{ import none; export where proto = \"{SERVICE}\"; next hop self; }};\n}}")?;
    }
    Ok(())
}

/// The protocol of the service address in an announcing node.
pub const SERVICE: &str = "service";

fn head(text: &mut String, port: Port, speaker: &Speaker, bfd: Duration) -> std::fmt::Result {
    let interval = bfd.as_millis();
    writeln!(text, "log stderr all;\nrouter id {};\ndefine SELF = {};", port.ipv4(), speaker.system)?;
    writeln!(text, "protocol device {{ scan time 10; }}")?;
    writeln!(text, "protocol bfd {{ interface \"{UPLINK}\" {{")?;
    writeln!(text, "  min rx interval {interval} ms; min tx interval {interval} ms; multiplier 3; }}; }}")
}

const POLICIES: &str = r"
filter from_customer {
  bgp_large_community.delete([(SELF, *, *)]);
  bgp_large_community.add((SELF, 1, 1));
  bgp_local_pref = 200;
  # A customer's wish to be the last resort: RFC 8326, and the older custom.
  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;
  accept;
}
filter from_peer { bgp_large_community.delete([(SELF, *, *)]); bgp_local_pref = 150; accept; }
filter from_provider { bgp_large_community.delete([(SELF, *, *)]); bgp_local_pref = 100; accept; }
filter to_customer { accept; }
filter to_others {
  if source = RTS_STATIC then accept;
  if (SELF, 1, 1) ~ bgp_large_community then accept;
  reject;
}
";

fn open_session(text: &mut String, port: Port, session: &Session) -> std::fmt::Result {
    let (own, with) = (port.ipv4(), session.with);
    writeln!(text, "protocol bgp to_{} {{", with.0)?;
    writeln!(text, "  local {own} as SELF; neighbor {} as {}; direct;", with.ipv4(), session.system)?;
    let (hold, keepalive) = (HOLD.as_secs(), HOLD.as_secs() / 3);
    writeln!(text, "  hold time {hold}; keepalive time {keepalive}; connect delay time 1; connect retry time 1;")?;
    writeln!(text, "  error wait time 1, 2; bfd on; graceful restart off;")?;
    if let Some(password) = &session.password {
        writeln!(text, "  password \"{password}\";")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn of(host: &str) -> String {
        let world = World::parse(include_str!("../../../../worlds/anycast.toml")).unwrap();
        let port = world.port(host).unwrap();
        render(port, &world.routing().unwrap().speakers[&port], world.bfd)
    }

    #[test]
    fn a_router_tells_its_providers_only_of_customers() {
        let text = of("za");
        assert!(text.contains("define SELF = 64709;"), "{text}");
        assert!(text.contains("import filter from_provider; export filter to_others"), "{text}");
        assert!(text.contains("min rx interval 60 ms"), "{text}");
        assert!(!text.contains("password"), "{text}");
    }

    #[test]
    fn a_node_of_the_lab_announces_the_service_prefix_and_learns_nothing() {
        let text = of("gru-1");
        assert!(text.contains("route 198.51.100.0/24 blackhole;"), "{text}");
        assert!(text.contains("import none;") && !text.contains("protocol kernel"), "{text}");
    }
}
