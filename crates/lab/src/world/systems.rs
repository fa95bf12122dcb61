//! What a world file says about autonomous systems, their routers and the policies between them, and
//! whether it makes sense. What is wrong is told with its line and key.

use serde::Deserialize;
use toml::Spanned;

use super::file::{File, Host, Link, Source, WorldError};
use super::{Kind, Links, Role, World};
use crate::address::Port;

/// What two neighbouring networks are to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peering {
    /// `a` sells transit to `b`: it tells `b` every route, and everybody the routes of `b`.
    Transit,
    /// They exchange what is their own or their customers'.
    Peer,
}

/// Who speaks BGP in a host that has an autonomous system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeakerKind {
    /// Of a node: a program that is started there. Routers speak by the lab's daemon all the same.
    #[default]
    Own,
    /// Of a node: the lab's daemon, which announces the service address as long as the host runs.
    Lab,
}

/// An autonomous system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct System {
    pub number: u32,
    pub name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSystem {
    number: Spanned<u32>,
    name: Spanned<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Bgp {
    bfd: Option<Spanned<String>>,
}

/// Reads the systems into a world whose hosts and links are there, and checks all that speaks of them.
pub(super) fn read(source: &Source<'_>, file: &File, world: &mut World) -> Result<(), WorldError> {
    for raw in &file.systems {
        let (number, name) = (*raw.number.get_ref(), raw.name.get_ref().clone());
        // 23456 stands for numbers that old routers cannot write.
        if matches!(number, 0 | 23_456 | 65_535 | u32::MAX) {
            return Err(source.at(&raw.number, "this number is reserved; 64512 to 65534 are free for private use"));
        }
        if world.systems.iter().any(|known| known.number == number) {
            return Err(source.at(&raw.number, &format!("there are two autonomous systems {number}")));
        }
        if world.systems.iter().any(|known| known.name == name) {
            return Err(source.at(&raw.name, &format!("there are two autonomous systems named {name:?}")));
        }
        world.systems.push(System { number, name });
    }
    if let Some(text) = &file.bgp.bfd {
        let bfd = source.duration(text)?;
        if !(10..=10_000).contains(&bfd.as_millis()) {
            return Err(source.at(text, "neighbours probe each other every 10ms to 10s"));
        }
        world.bfd = bfd;
    }
    if world.systems.is_empty() {
        return without_systems(source, file);
    }
    if world.links != Links::Listed {
        let problem = "a world with autonomous systems lists its links: [defaults] links = \"listed\"";
        return Err(source.problem(file.systems.first().map(|raw| raw.number.span()), problem));
    }
    for (raw, port) in file.host.iter().zip((0..).map(Port)) {
        check_host(source, world, raw, port)?;
    }
    for (raw, index) in file.link.iter().zip(0..) {
        check_link(source, world, raw, index)?;
    }
    Ok(())
}

fn without_systems(source: &Source<'_>, file: &File) -> Result<(), WorldError> {
    const MISSING: &str = "this world has no [[as]]";
    let systems = file.host.iter().filter_map(|host| host.system.as_ref()).map(Spanned::span);
    let speakers = file.host.iter().filter_map(|host| host.speaker.as_ref()).map(Spanned::span);
    let peerings = file.link.iter().filter_map(|link| link.peering.as_ref()).map(Spanned::span);
    let passwords = file.link.iter().filter_map(|link| link.password.as_ref()).map(Spanned::span);
    let bfd = file.bgp.bfd.iter().map(Spanned::span);
    match systems.chain(speakers).chain(peerings).chain(passwords).chain(bfd).next() {
        Some(span) => Err(source.problem(Some(span), MISSING)),
        None => Ok(()),
    }
}

fn check_host(source: &Source<'_>, world: &World, raw: &Host, port: Port) -> Result<(), WorldError> {
    let host = &world.hosts[port.0];
    if let Some(system) = &raw.system {
        let number = *system.get_ref();
        if world.systems.iter().all(|known| known.number != number) {
            return Err(source.at(system, &format!("there is no [[as]] with number {number}")));
        }
        let routers = world.ports().filter(|(_, other)| other.role == Role::Router && other.system == Some(number));
        let first = routers.map(|(port, _)| port).next();
        match host.role {
            Role::Client => return Err(source.at(system, "a client is in the system of the router it is linked to")),
            Role::Router if first != Some(port) => {
                return Err(source.at(system, "an autonomous system has one router here, and this one has one already"));
            }
            Role::Node if first.is_some() => {
                let problem = "a node that announces is in a system without a router: the platform's own";
                return Err(source.at(system, problem));
            }
            _ => {}
        }
    }
    if let Some(speaker) = &raw.speaker
        && (host.role != Role::Node || host.system.is_none())
    {
        return Err(source.at(speaker, "only a node with an autonomous system has a speaker"));
    }
    let neighbours: Vec<Role> = (world.listed.iter())
        .filter_map(|link| match port {
            port if port == link.a => Some(link.b),
            port if port == link.b => Some(link.a),
            _ => None,
        })
        .map(|neighbour| world.hosts[neighbour.0].role)
        .collect();
    let routers = neighbours.iter().filter(|role| **role == Role::Router).count();
    match host.role {
        Role::Router if host.system.is_none() => Err(source.at(&raw.name, "a router needs the number of its as")),
        Role::Router if host.kind == Kind::Vm => Err(source.at(&raw.name, "a router cannot be a virtual machine")),
        Role::Client if neighbours.len() != 1 || routers != 1 => {
            Err(source.at(&raw.name, "a client has one link, to a router"))
        }
        Role::Node if routers == 0 => Err(source.at(&raw.name, "a node needs a link to a router")),
        _ => Ok(()),
    }
}

fn check_link(source: &Source<'_>, world: &World, raw: &Link, index: usize) -> Result<(), WorldError> {
    let link = &world.listed[index];
    let (a, b) = (&world.hosts[link.a.0], &world.hosts[link.b.0]);
    let both_routers = a.role == Role::Router && b.role == Role::Router;
    match &raw.peering {
        None if both_routers => {
            return Err(source.at(&raw.b, "a link between routers says its peering: \"transit\" or \"peer\""));
        }
        Some(peering) if !both_routers => {
            return Err(source.at(peering, "peering is between routers; a router sells transit to every other host"));
        }
        _ => {}
    }
    let Some(password) = &raw.password else { return Ok(()) };
    if a.system.is_none() || b.system.is_none() {
        return Err(source.at(password, "there is no BGP session over this link"));
    }
    let text = password.get_ref();
    // The kernel takes 80 bytes; the daemon's configuration knows no escapes.
    let possible = (1..=80).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != '"');
    if possible {
        Ok(())
    } else {
        Err(source.at(password, "a password is 1 to 80 visible ASCII characters, no quotes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two networks, a node on one, a client on the other.
    const HEAD: &str = "[defaults]\nlinks = \"listed\"\n\
        [[as]]\nnumber = 64512\nname = \"east\"\n[[as]]\nnumber = 64513\nname = \"west\"\n\
        [[as]]\nnumber = 65000\nname = \"platform\"\n";
    const HOSTS: &str = "[[host]]\nname = \"e\"\ncity = \"ams\"\nrole = \"router\"\nas = 64512\n\
        [[host]]\nname = \"w\"\ncity = \"ord\"\nrole = \"router\"\nas = 64513\n\
        [[host]]\nname = \"n\"\ncity = \"ams\"\nrole = \"node\"\nas = 65000\n\
        [[host]]\nname = \"c\"\ncity = \"ord\"\nrole = \"client\"\n";
    const LINKS: &str = "[[link]]\na = \"e\"\nb = \"w\"\npeering = \"peer\"\n\
        [[link]]\na = \"e\"\nb = \"n\"\npassword = \"word\"\n[[link]]\na = \"w\"\nb = \"c\"\n";

    #[track_caller]
    fn refused(text: &str, key: &str, part: &str) {
        let error = World::parse(text).unwrap_err();
        assert!(error.problem.contains(part) && error.key == key, "{error}");
    }

    #[track_caller]
    fn refused_with(change: (&str, &str), key: &str, part: &str) {
        let whole = format!("{HEAD}{HOSTS}{LINKS}");
        assert!(whole.contains(change.0), "{} is not in the world", change.0);
        refused(&whole.replacen(change.0, change.1, 1), key, part);
    }

    #[test]
    fn a_world_of_systems_is_read() {
        let world = World::parse(&format!("{HEAD}{HOSTS}{LINKS}[bgp]\nbfd = \"100ms\"\n")).unwrap();
        assert_eq!(world.systems.len(), 3);
        assert_eq!(world.bfd.as_millis(), 100);
        assert_eq!(world.listed[0].peering, Some(Peering::Peer));
        assert_eq!(world.listed[1].password.as_deref(), Some("word"));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        refused_with(("links = \"listed\"\n", ""), "number", "lists its links");
        refused_with(("number = 64513", "number = 64512"), "number", "two autonomous systems");
        refused_with(("number = 64513", "number = 23456"), "number", "reserved");
        refused_with(("name = \"west\"", "name = \"east\""), "name", "two autonomous systems named");
        refused_with(("as = 64513", "as = 7"), "as", "no [[as]]");
        refused_with(("as = 64513", "as = 64512"), "as", "one router");
        refused_with(("as = 64513\n", ""), "name", "number of its as");
        refused_with(("as = 65000", "as = 64512"), "as", "the platform's own");
        refused_with(("role = \"client\"\n", "role = \"client\"\nas = 65000\n"), "as", "client");
        refused_with(("role = \"client\"\n", "role = \"client\"\nspeaker = \"lab\"\n"), "speaker", "only a node");
        refused_with(("peering = \"peer\"\n", ""), "b", "says its peering");
        refused_with(("password = \"word\"", "peering = \"peer\""), "peering", "between routers");
        refused_with(("password = \"word\"", "password = \"a\\\"b\""), "password", "visible");
        refused_with(("b = \"c\"\n", "b = \"c\"\npassword = \"x\"\n"), "password", "no BGP session");
        refused_with(("[[link]]\na = \"w\"\nb = \"c\"\n", ""), "name", "one link");
        refused_with(("a = \"e\"\nb = \"n\"", "a = \"c\"\nb = \"n\""), "name", "link to a router");
        let whole = format!("{HEAD}{HOSTS}{LINKS}");
        refused(&format!("{whole}[bgp]\nbfd = \"1ms\"\n"), "bfd", "every 10ms");
    }

    #[test]
    fn without_systems_nothing_may_speak_of_them() {
        let host = "[[host]]\nname = \"e\"\ncity = \"ams\"\nrole = \"router\"\n";
        assert!(World::parse(host).unwrap().routing().is_none());
        refused(&format!("{host}as = 1\n"), "as", "no [[as]]");
        refused(&format!("{host}[bgp]\nbfd = \"60ms\"\n"), "bfd", "no [[as]]");
    }
}
