//! The answer to a question about internal names.

use std::net::Ipv6Addr;

use atoll_model::address::{NetworkId, network_of};
use atoll_model::row::{AppRow, MachineRow};
use atoll_model::{AppName, MachineState};

use super::forms::{Form, OfApp, form};
use super::view::{View, is_started};
use super::{lists, nearest, reverse};
use crate::wire::{Name, Type};

/// Addresses in one answer. More of them fit no UDP answer and help nobody.
pub(super) const MAX_ADDRESSES: usize = 1000;

/// What a question comes to, before it is written.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Addresses(Vec<Ipv6Addr>),
    Text(String),
    Pointer(Box<Name>),
    /// The name exists and has nothing of this type.
    NoData,
    /// Neither this name nor any below it exists.
    NoSuchName,
    /// Not a name of the private network.
    Elsewhere,
}

/// Answers the caller of a network. `turn` says with which of equal machines a list begins, so that
/// callers who use the first one spread; any number does.
pub fn answer(view: &View, caller: NetworkId, name: &Name, kind: Type, turn: u16) -> Answer {
    let mut buffer = [""; 6];
    let labels = match texts(name, &mut buffer) {
        Ok(labels) => labels,
        Err(ours) => return if ours { Answer::NoSuchName } else { reverse::answer(view, caller, name, kind) },
    };
    match labels {
        [within @ .., "internal"] => match form(within) {
            Some(form) => internal(view, caller, form, kind, turn),
            None => Answer::NoSuchName,
        },
        ["flycast"] => Answer::NoData,
        [app, "flycast"] => flycast(view, caller, app, kind),
        [.., "flycast"] => Answer::NoSuchName,
        _ => reverse::answer(view, caller, name, kind),
    }
}

/// The labels as texts. An error when there are more of them than any name of ours has, or when one is no
/// text; it says whether the name is under one of our ends all the same.
fn texts<'n, 'b>(name: &'n Name, buffer: &'b mut [&'n str]) -> Result<&'b [&'n str], bool> {
    let count = name.label_count();
    let last = name.labels().last().unwrap_or_default();
    let ours = last == b"internal" || last == b"flycast";
    let places = buffer.get_mut(..count).ok_or(ours)?;
    for (place, label) in places.iter_mut().zip(name.labels()) {
        *place = std::str::from_utf8(label).map_err(|_| ours)?;
    }
    Ok(places)
}

fn internal(view: &View, caller: NetworkId, form: Form<'_>, kind: Type, turn: u16) -> Answer {
    match form {
        Form::Branch => Answer::NoData,
        Form::Apps => text(kind, || lists::apps(view, caller)),
        Form::Peers => text(kind, || lists::peers(view, caller)),
        Form::Instances { all } => text(kind, || lists::instances(view, caller, all)),
        Form::Peer(peer) => {
            // Sorted by name.
            let devices = view.catalogue.devices_in(caller);
            match devices.binary_search_by(|device| device.name.as_str().cmp(peer)) {
                Ok(at) => addresses(kind, || vec![devices[at].address]),
                Err(_) => Answer::NoSuchName,
            }
        }
        Form::Api => match view.api {
            Some(address) => addresses(kind, || vec![address]),
            None => Answer::NoSuchName,
        },
        Form::App(app, of) => match view.app(caller, &app) {
            Some(app) => of_app(view, app, of, kind, turn),
            None => Answer::NoSuchName,
        },
    }
}

fn of_app(view: &View, app: &AppRow, of: OfApp<'_>, kind: Type, turn: u16) -> Answer {
    let machines = || view.machines(app);
    match of {
        OfApp::Branch => Answer::NoData,
        OfApp::Started => addresses(kind, || pick(view, machines(), turn)),
        OfApp::Region(region) => which(view, machines().filter(|machine| machine.region == region), kind, turn),
        OfApp::Group(group) => {
            let group = machines().filter(|machine| machine.process_group.eq_ignore_ascii_case(group));
            which(view, group, kind, turn)
        }
        OfApp::Machine(id) => which(view, machines().filter(|machine| machine.id == id), kind, turn),
        OfApp::Metadata { key, value } => {
            let is = |(own, has): &(String, String)| own.eq_ignore_ascii_case(key) && has.eq_ignore_ascii_case(value);
            which(view, machines().filter(|machine| machine.metadata.iter().any(is)), kind, turn)
        }
        OfApp::Nearest(count) => addresses(kind, || {
            let mut near = rotated(reachable(view, machines().filter(is_started)), turn);
            nearest::nearest_first(view, &mut near);
            near.truncate(count.min(MAX_ADDRESSES));
            near.iter().map(|machine| machine.private_ipv6).collect()
        }),
        OfApp::Machines { all } => text(kind, || lists::machines(machines(), all)),
        OfApp::Regions { all } => text(kind, || lists::regions(machines(), all)),
    }
}

/// A name that exists if it means any machine, started or not.
fn which<'v>(view: &View, machines: impl Iterator<Item = &'v MachineRow> + Clone, kind: Type, turn: u16) -> Answer {
    match machines.clone().next() {
        Some(_) => addresses(kind, || pick(view, machines, turn)),
        None => Answer::NoSuchName,
    }
}

/// Addresses of started machines, beginning with another one each turn.
fn pick<'v>(view: &View, machines: impl Iterator<Item = &'v MachineRow>, turn: u16) -> Vec<Ipv6Addr> {
    let machines = rotated(reachable(view, machines.filter(is_started)), turn);
    machines.iter().take(MAX_ADDRESSES).map(|machine| machine.private_ipv6).collect()
}

/// Without those that nobody here reaches, as long as any is left: when all seem lost it may be this
/// node that is.
fn reachable<'v>(view: &View, machines: impl Iterator<Item = &'v MachineRow>) -> Vec<&'v MachineRow> {
    let sound = |machine: &&MachineRow| network_of(machine.private_ipv6) == Some(machine.network);
    let all: Vec<_> = machines.filter(sound).collect();
    let reached: Vec<_> = all.iter().copied().filter(|machine| view.reaches(machine)).collect();
    if reached.is_empty() { all } else { reached }
}

fn rotated(mut machines: Vec<&MachineRow>, turn: u16) -> Vec<&MachineRow> {
    if !machines.is_empty() {
        let first = usize::from(turn) % machines.len();
        machines.rotate_left(first);
    }
    machines
}

/// The addresses at which callers of a network enter an app through the proxy. They are of the caller's
/// network, whatever the app's own is.
fn flycast(view: &View, caller: NetworkId, app: &str, kind: Type) -> Answer {
    let row = app.parse::<AppName>().ok().and_then(|name| view.catalogue.app(&name));
    let entered = row.iter().flat_map(|row| &row.addresses).filter_map(|address| match address {
        std::net::IpAddr::V6(address) => Some(*address).filter(|address| network_of(*address) == Some(caller)),
        std::net::IpAddr::V4(_) => None,
    });
    let entered: Vec<_> = entered.take(MAX_ADDRESSES).collect();
    if entered.is_empty() { Answer::NoSuchName } else { addresses(kind, || entered) }
}

pub(super) fn is_up(state: MachineState, all: bool) -> bool {
    all || state == MachineState::Started
}

fn addresses(kind: Type, list: impl FnOnce() -> Vec<Ipv6Addr>) -> Answer {
    let list = if matches!(kind, Type::AAAA | Type::ANY) { list() } else { Vec::new() };
    if list.is_empty() { Answer::NoData } else { Answer::Addresses(list) }
}

fn text(kind: Type, text: impl FnOnce() -> String) -> Answer {
    if matches!(kind, Type::TXT | Type::ANY) { Answer::Text(text()) } else { Answer::NoData }
}
