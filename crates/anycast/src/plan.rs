//! The guard's plan: who this place is, to whom it announces what, and how. A file of JSON, replaced
//! atomically by whoever plans; the guard keeps the last good one.
//!
//! A plan may not take a prefix away from its last place, and must say of each prefix that it no longer has
//! why it is gone: so neither an empty nor a truncated nor an old plan withdraws anything.

mod succession;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::load;
use crate::prefix::Prefix;

pub use succession::{Refused, succeed};

/// Files beyond this are no plans.
pub const MAX_BYTES: u64 = 4 << 20;
/// The most prefixes a place announces.
pub const MAX_PREFIXES: usize = 4096;
/// More neighbours than any place has.
pub const MAX_UPSTREAMS: usize = 32;
/// Longer paths are filtered by some networks.
pub const MAX_PREPEND: u8 = 10;

/// What the guard is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Rises with every change.
    pub generation: u64,
    /// The router's id; an address of this place.
    pub router_id: Ipv4Addr,
    /// Our autonomous system.
    pub system: u32,
    #[serde(default)]
    pub bfd: Bfd,
    pub upstreams: Vec<Upstream>,
    pub prefixes: BTreeSet<Prefix>,
    /// Prefixes whose single addresses are announced as well, while the edge says that it serves them.
    #[serde(default)]
    pub local: BTreeSet<Prefix>,
    /// Prefixes that an earlier plan had and why this one has them no more.
    #[serde(default)]
    pub given_up: BTreeMap<Prefix, Because>,
    /// Withdraw everything while the edge goes on serving, so that it can be stopped.
    #[serde(default)]
    pub drain: Option<Drain>,
    pub edge: Edge,
    #[serde(default)]
    pub fleet: Fleet,
}

/// How quickly a silent neighbour is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bfd {
    /// Milliseconds between signs of life. On a busy machine without real-time priority less than 100 is
    /// asking for false alarms.
    pub interval_ms: u32,
    /// How many may be missing.
    pub multiplier: u8,
}

impl Default for Bfd {
    fn default() -> Self {
        Self { interval_ms: 100, multiplier: 3 }
    }
}

/// A neighbouring network's router.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    pub name: UpstreamName,
    pub address: IpAddr,
    pub system: u32,
    /// Our address on the link.
    pub own: IpAddr,
    /// Our IPv6 address on the link, where IPv6 prefixes go over a session between IPv4 addresses.
    #[serde(default)]
    pub own_ipv6: Option<Ipv6Addr>,
    /// Of the session, as TCP MD5 has it.
    #[serde(default)]
    pub password: Option<Password>,
    /// Takes routes of single addresses.
    #[serde(default)]
    pub host_routes: bool,
    /// Ordinarily.
    #[serde(default)]
    pub preference: Preference,
    /// Added when this place is busy.
    #[serde(default = "Preference::last_resort")]
    pub when_busy: Preference,
    /// Routes the neighbour may tell us; more are dropped, as we use none.
    #[serde(default = "Upstream::max_received_default")]
    pub max_received: u32,
}

impl Upstream {
    fn max_received_default() -> u32 {
        1000
    }
}

/// How much the world should like a route.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// How often our number is put on the path once more; the longer, the less it is liked.
    #[serde(default)]
    pub prepend: u8,
    #[serde(default)]
    pub communities: BTreeSet<Community>,
}

impl Preference {
    /// What every network understands: a longer path, and the wish to be the last resort (RFC 8326).
    pub fn last_resort() -> Self {
        Self { prepend: 3, communities: BTreeSet::from([Community(65535, 0)]) }
    }

    /// Both together.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            prepend: self.prepend.saturating_add(other.prepend).min(MAX_PREPEND),
            communities: self.communities.union(&other.communities).copied().collect(),
        }
    }
}

/// A word between networks, such as `65535:0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Community(pub u16, pub u16);

impl TryFrom<String> for Community {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(a, b)| Some(Self(a.parse().ok()?, b.parse().ok()?)));
        parts.ok_or_else(|| "a community is two numbers up to 65535, such as \"65535:0\"".to_owned())
    }
}

impl From<Community> for String {
    fn from(Community(a, b): Community) -> Self {
        format!("{a}:{b}")
    }
}

/// A neighbour's name: lower-case letters, digits and hyphens, a letter first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamName(String);

impl UpstreamName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UpstreamName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let well_formed = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !well_formed {
            return Err("a name is 1 to 32 lower-case letters, digits and hyphens, a letter first".to_owned());
        }
        Ok(Self(text))
    }
}

impl From<UpstreamName> for String {
    fn from(name: UpstreamName) -> Self {
        name.0
    }
}

/// A session's secret: never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Password(String);

impl Password {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Password {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        // The kernel takes 80 bytes; the daemon's configuration knows no escapes.
        let possible = (1..=80).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != '"');
        if possible { Ok(Self(text)) } else { Err("a password is 1 to 80 visible ASCII characters without quotes") }
    }
}

impl From<Password> for String {
    fn from(password: Password) -> Self {
        password.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why a prefix is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Because {
    /// Nothing here serves it any more: that is health, and is always allowed.
    NothingServes,
    /// Somebody wants it so; other places announce it still.
    Planned { places_left: u32 },
}

/// A place that is being emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Of the prefix with the fewest: how many other places announce it.
    pub places_left: u32,
}

/// Where the local edge is asked whether it serves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// Where it serves HTTP.
    pub address: SocketAddr,
    /// Holds its process id, so that an edge that waits for a processor can be told from a dead one.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// Milliseconds between probes, and what each waits.
    #[serde(default = "Edge::probe_default")]
    pub probe_ms: u64,
    #[serde(default)]
    pub slow: load::Limits,
}

impl Edge {
    fn probe_default() -> u64 {
        40
    }
}

/// What the planner knew of the other places.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// All places, this one included.
    pub places: u32,
    /// Those that have withdrawn because of load.
    pub relieved: u32,
}

/// A text that is no plan.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlan {
    #[error("the plan has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the plan cannot be read")]
    Form(#[source] serde_json::Error),
    #[error("the plan makes no sense: {0}")]
    Sense(String),
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidPlan> {
        if text.len() as u64 > MAX_BYTES {
            return Err(InvalidPlan::TooLarge);
        }
        let plan: Self = serde_json::from_slice(text).map_err(InvalidPlan::Form)?;
        plan.check().map_err(InvalidPlan::Sense)?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), String> {
        if self.system == 0 {
            return Err("system 0 is nobody".to_owned());
        }
        if !(10..=10_000).contains(&self.bfd.interval_ms) || !(2..=20).contains(&self.bfd.multiplier) {
            return Err("bfd: from 10 to 10000 ms and from 2 to 20 signs are possible".to_owned());
        }
        if !(1..=MAX_UPSTREAMS).contains(&self.upstreams.len()) {
            return Err(format!("it has {} upstreams: from 1 to {MAX_UPSTREAMS} are possible", self.upstreams.len()));
        }
        if self.prefixes.len() > MAX_PREFIXES {
            return Err(format!("it has {} prefixes: up to {MAX_PREFIXES} are possible", self.prefixes.len()));
        }
        if !(10..=10_000).contains(&self.edge.probe_ms) {
            return Err("edge: probes every 10 to 10000 ms are possible".to_owned());
        }
        if self.edge.slow.busy_ms == 0 || self.edge.slow.busy_ms > self.edge.slow.overloaded_ms {
            return Err("edge: slow.busy_ms is above 0 and not above slow.overloaded_ms".to_owned());
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            check_upstream(upstream).map_err(|why| format!("upstream {}: {why}", upstream.name.as_str()))?;
            let twice = |other: &Upstream| other.name == upstream.name || other.address == upstream.address;
            if self.upstreams[..index].iter().any(twice) {
                return Err(format!("two upstreams have the name or address of {}", upstream.name.as_str()));
            }
        }
        match self.prefixes.iter().find(|prefix| self.given_up.contains_key(prefix)) {
            Some(prefix) => Err(format!("{prefix} is both announced and given up")),
            None => Ok(()),
        }
    }
}

fn check_upstream(upstream: &Upstream) -> Result<(), &'static str> {
    if upstream.system == 0 {
        return Err("system 0 is nobody");
    }
    if upstream.address.is_ipv4() != upstream.own.is_ipv4() {
        return Err("both addresses of a session are of one family");
    }
    if upstream.preference.prepend > MAX_PREPEND || upstream.when_busy.prepend > MAX_PREPEND {
        return Err("a path is made longer by up to 10");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A plan with two neighbours and a prefix of each kind.
    pub fn example() -> Plan {
        let text = json!({
            "generation": 7,
            "router_id": "10.77.0.9",
            "system": 65001,
            "upstreams": [
                {"name": "east", "address": "10.77.0.1", "system": 64512, "own": "10.77.0.9",
                 "own_ipv6": "fd00:77::9", "password": "between-us", "host_routes": true,
                 "preference": {"communities": ["64512:100"]}},
                {"name": "west", "address": "10.77.0.2", "system": 64513, "own": "10.77.0.9",
                 "preference": {"prepend": 1}},
            ],
            "prefixes": ["198.51.100.0/24", "203.0.113.7/32", "2001:db8::/48"],
            "edge": {"address": "127.0.0.1:80"},
            "fleet": {"places": 3, "relieved": 0},
        });
        Plan::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_plan_is_read_as_it_is_written_and_has_the_documented_defaults() {
        let plan = example();
        assert_eq!((plan.bfd.interval_ms, plan.bfd.multiplier, plan.edge.probe_ms), (100, 3, 40));
        let text = serde_json::to_vec(&plan).unwrap();
        assert_eq!(Plan::parse(&text).unwrap(), plan);
        assert!(!format!("{plan:?}").contains("between-us"));
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut serde_json::Value), part: &str) {
        let mut value = serde_json::to_value(example()).unwrap();
        change(&mut value);
        let error = Plan::parse(value.to_string().as_bytes()).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error}: {source}").contains(part), "{error}: {source}");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        refused(|plan| plan["wishes"] = json!(1), "unknown field");
        refused(|plan| plan["upstreams"] = json!([]), "0 upstreams");
        refused(|plan| plan["upstreams"][0]["name"] = json!("west"), "two upstreams");
        refused(|plan| plan["upstreams"][0]["name"] = json!("a b"), "lower-case");
        refused(|plan| plan["upstreams"][0]["password"] = json!("a\"; include \"/etc/shadow"), "visible ASCII");
        refused(|plan| plan["upstreams"][0]["own"] = json!("fd00::1"), "one family");
        refused(|plan| plan["upstreams"][0]["when_busy"]["prepend"] = json!(11), "up to 10");
        refused(|plan| plan["upstreams"][0]["preference"]["communities"] = json!(["1:2:3"]), "two numbers");
        refused(|plan| plan["prefixes"] = json!(["0.0.0.0/0"]), "default route");
        refused(|plan| plan["given_up"] = json!({"198.51.100.0/24": "nothing_serves"}), "both announced");
        refused(|plan| plan["bfd"] = json!({"interval_ms": 1, "multiplier": 3}), "bfd");
        refused(|plan| plan["edge"]["slow"]["busy_ms"] = json!(90), "busy_ms");
        assert!(matches!(Plan::parse(&vec![b' '; MAX_BYTES as usize + 1]), Err(InvalidPlan::TooLarge)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..2000) {
            drop(Plan::parse(&bytes));
            let text = serde_json::to_vec(&example()).unwrap();
            // A file that was cut short is no plan.
            if cut < text.len() {
                prop_assert!(Plan::parse(&text[..cut]).is_err());
            }
        }
    }
}
