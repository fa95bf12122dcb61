//! The TOML form of a world. What is wrong is told with its line and key.

use std::ops::Range;
use std::time::Duration;

use atoll_model::duration::GoDuration;
use serde::Deserialize;
use toml::Spanned;

use super::{DEFAULT_BFD, DEFAULT_PATH_FACTOR, HostSpec, Kind, LinkSpec, Links, Role, World, systems};
use crate::address::{MAX_HOSTS, Port};
use crate::place;

/// Why a text is no world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, key {key:?}: {problem}")]
pub struct WorldError {
    /// From 1.
    pub line: usize,
    pub key: String,
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    pub bgp: systems::Bgp,
    #[serde(default, rename = "as")]
    pub systems: Vec<systems::RawSystem>,
    #[serde(default)]
    pub host: Vec<Host>,
    #[serde(default)]
    pub link: Vec<Link>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Defaults {
    path_factor: Option<Spanned<f64>>,
    #[serde(default)]
    links: Links,
    #[serde(default)]
    seed: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    pub name: Spanned<String>,
    city: Spanned<String>,
    role: Role,
    #[serde(default)]
    kind: Kind,
    #[serde(rename = "as")]
    pub system: Option<Spanned<u32>>,
    pub speaker: Option<Spanned<systems::SpeakerKind>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    pub a: Spanned<String>,
    pub b: Spanned<String>,
    /// `"distance"` or a duration.
    delay: Option<Spanned<String>>,
    jitter: Option<Spanned<String>>,
    /// Percent.
    loss: Option<Spanned<f64>>,
    /// Such as `"100mbit"`.
    rate: Option<Spanned<String>>,
    pub peering: Option<Spanned<systems::Peering>>,
    /// Of the BGP session over this link (TCP MD5).
    pub password: Option<Spanned<String>>,
}

pub(super) fn parse(text: &str) -> Result<World, WorldError> {
    let source = Source(text);
    let file: File = toml::from_str(text).map_err(|error| source.problem(error.span(), error.message()))?;
    let mut world = World {
        path_factor: DEFAULT_PATH_FACTOR,
        links: file.defaults.links,
        seed: file.defaults.seed.into(),
        bfd: DEFAULT_BFD,
        systems: Vec::with_capacity(file.systems.len()),
        hosts: Vec::with_capacity(file.host.len()),
        listed: Vec::with_capacity(file.link.len()),
    };
    if let Some(factor) = &file.defaults.path_factor {
        if !(1.0..=10.0).contains(factor.get_ref()) {
            return Err(source.at(factor, "a cable is 1 to 10 times as long as the great circle"));
        }
        world.path_factor = *factor.get_ref();
    }
    if file.host.is_empty() {
        return Err(source.problem(None, "a world needs at least one [[host]]"));
    }
    if file.host.len() > MAX_HOSTS {
        let first_too_many = &file.host[MAX_HOSTS].name;
        return Err(source.at(first_too_many, &format!("a world has at most {MAX_HOSTS} hosts")));
    }
    for host in &file.host {
        let spec = read_host(&source, &world, host)?;
        world.hosts.push(spec);
    }
    for link in &file.link {
        let spec = read_link(&source, &world, link)?;
        world.listed.push(spec);
    }
    systems::read(&source, &file, &mut world)?;
    Ok(world)
}

fn read_host(source: &Source<'_>, world: &World, host: &Host) -> Result<HostSpec, WorldError> {
    let name = host.name.get_ref();
    let well_formed = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !well_formed {
        let rule = "a name is 1 to 32 lower-case letters, digits and hyphens, a letter first";
        return Err(source.at(&host.name, rule));
    }
    if world.port(name).is_some() {
        return Err(source.at(&host.name, &format!("there are two hosts named {name:?}")));
    }
    let city = host.city.get_ref();
    let place = place::find(city)
        .ok_or_else(|| source.at(&host.city, &format!("{city:?} is neither a region code nor a city the lab knows")))?;
    Ok(HostSpec {
        name: name.clone(),
        city: city.clone(),
        place,
        role: host.role,
        kind: host.kind,
        system: host.system.as_ref().map(|system| *system.get_ref()),
        speaker: host.speaker.as_ref().map(|speaker| *speaker.get_ref()).unwrap_or_default(),
    })
}

fn read_link(source: &Source<'_>, world: &World, link: &Link) -> Result<LinkSpec, WorldError> {
    let end = |name: &Spanned<String>| -> Result<Port, WorldError> {
        world.port(name.get_ref()).ok_or_else(|| source.at(name, &format!("there is no host {:?}", name.get_ref())))
    };
    let (a, b) = (end(&link.a)?, end(&link.b)?);
    if a == b {
        return Err(source.at(&link.b, "a link connects two different hosts"));
    }
    if world.listed.iter().any(|known| (known.a, known.b) == (a, b) || (known.a, known.b) == (b, a)) {
        return Err(source.at(&link.b, "this pair of hosts has a link already"));
    }
    let delay = match &link.delay {
        Some(text) if text.get_ref() != "distance" => Some(source.duration(text)?),
        _ => None,
    };
    let jitter = link.jitter.as_ref().map(|text| source.duration(text)).transpose()?.unwrap_or_default();
    let loss = match &link.loss {
        Some(percent) if !(0.0..=100.0).contains(percent.get_ref()) => {
            return Err(source.at(percent, "loss is a percentage from 0 to 100"));
        }
        Some(percent) => percent.get_ref() / 100.0,
        None => 0.0,
    };
    let rate = match &link.rate {
        Some(text) => Some(parse_rate(text.get_ref()).ok_or_else(|| {
            source.at(text, "a rate is a whole number of at least 1 with kbit, mbit or gbit, such as \"100mbit\"")
        })?),
        None => None,
    };
    let peering = link.peering.as_ref().map(|peering| *peering.get_ref());
    let password = link.password.as_ref().map(|password| password.get_ref().clone());
    Ok(LinkSpec { a, b, delay, jitter, loss, rate, peering, password })
}

/// `"100mbit"` in bits a second.
pub fn parse_rate(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|rate| *rate > 0)
}

pub(super) struct Source<'t>(&'t str);

impl Source<'_> {
    pub fn duration(&self, text: &Spanned<String>) -> Result<Duration, WorldError> {
        let GoDuration(duration) = text.get_ref().parse().map_err(|error| self.at(text, &format!("{error}")))?;
        Ok(duration)
    }

    pub fn at<T>(&self, value: &Spanned<T>, problem: &str) -> WorldError {
        self.problem(Some(value.span()), problem)
    }

    /// The key is the one written on the line of the problem.
    pub fn problem(&self, span: Option<Range<usize>>, problem: &str) -> WorldError {
        let start = span.map_or(0, |span| span.start).min(self.0.len());
        let before = &self.0.as_bytes()[..start];
        let line = before.iter().filter(|byte| **byte == b'\n').count();
        let text = self.0.lines().nth(line).unwrap_or_default();
        let key = text.split('=').next().unwrap_or_default().trim().trim_matches(['[', ']', '"']);
        WorldError { line: line + 1, key: key.to_owned(), problem: problem.trim().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOSTS: &str = "[[host]]\nname = \"a\"\ncity = \"ams\"\nrole = \"node\"\n\
                         [[host]]\nname = \"b\"\ncity = \"Osaka\"\nrole = \"client\"\n";

    #[track_caller]
    fn check(added: &str, line: usize, key: &str, part: &str) {
        let error = parse(&format!("{HOSTS}{added}")).unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (line, key), "{error}");
        assert!(error.problem.contains(part), "{error}");
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        check("[[host]]\nname = \"a\"\ncity = \"ams\"\nrole = \"node\"\n", 10, "name", "two hosts");
        check("[[host]]\nname = \"Ab\"\ncity = \"ams\"\nrole = \"node\"\n", 10, "name", "lower-case");
        check("[[host]]\nname = \"c\"\ncity = \"Atlantis\"\nrole = \"node\"\n", 11, "city", "Atlantis");
        check("[[host]]\nname = \"c\"\ncity = \"ams\"\nrole = \"king\"\n", 12, "role", "king");
        check("[[host]]\nname = \"c\"\ncity = \"ams\"\n", 9, "host", "role");
        check("[[host]]\nname = \"c\"\nplanet = \"mars\"\n", 11, "planet", "unknown");
        check("[[link]]\na = \"a\"\nb = \"z\"\n", 11, "b", "no host");
        check("[[link]]\na = \"a\"\nb = \"a\"\n", 11, "b", "different");
        check("[[link]]\na = \"a\"\nb = \"b\"\ndelay = \"soon\"\n", 12, "delay", "not a duration");
        check("[[link]]\na = \"a\"\nb = \"b\"\nloss = 101\n", 12, "loss", "");
        check("[[link]]\na = \"a\"\nb = \"b\"\nloss = 101.0\n", 12, "loss", "percentage");
        check("[[link]]\na = \"a\"\nb = \"b\"\nrate = \"fast\"\n", 12, "rate", "mbit");
        check("[[link]]\na = \"a\"\nb = \"b\"\n[[link]]\na = \"b\"\nb = \"a\"\n", 14, "b", "already");
        check("[defaults]\npath_factor = 0.5\n", 10, "path_factor", "1 to 10");
        check("[defaults]\nspeed = 1\n", 10, "speed", "unknown");
        check("[weather]\n", 9, "weather", "unknown");
        check("name = \n", 9, "name", "");
    }

    #[test]
    fn an_empty_world_is_refused() {
        assert!(parse("").unwrap_err().problem.contains("[[host]]"));
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(parse_rate("100mbit"), Some(100_000_000));
        for bad in ["", "100", "mbit", "0kbit", "1.5gbit", "99999999999999999999gbit", "18446744073709551615gbit"] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}", tail in "[a-z\\[\\]=\" \n]{0,80}") {
            drop(parse(&format!("{HOSTS}{text}\n{tail}")));
            drop(parse(&text));
        }
    }
}
