//! Names that list things, as text.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use atoll_model::address::NetworkId;
use atoll_model::row::MachineRow;

use super::answer::is_up;
use super::view::View;

/// Longest list in bytes: with the lengths of its pieces it fits one record of one TCP message.
pub(super) const MAX_LIST: usize = 60_000;
/// Peers that tools make for one session are not worth listing.
const HIDDEN_PEER: &str = "interactive-";

/// Joins items until the next one does not fit.
fn joined<T: Display>(items: impl Iterator<Item = T>, separator: char) -> String {
    let mut list = String::new();
    for item in items {
        let item = item.to_string();
        if list.len() + 1 + item.len() > MAX_LIST {
            break;
        }
        if !list.is_empty() {
            list.push(separator);
        }
        list.push_str(&item);
    }
    list
}

pub(super) fn apps(view: &View, network: NetworkId) -> String {
    joined(view.apps(network).map(|app| &app.name), ',')
}

pub(super) fn peers(view: &View, network: NetworkId) -> String {
    let names = view.catalogue.devices_in(network).iter().map(|device| &device.name);
    joined(names.filter(|name| !name.as_str().starts_with(HIDDEN_PEER)), ',')
}

/// `id region`, by id.
pub(super) fn machines<'v>(machines: impl Iterator<Item = &'v MachineRow>, all: bool) -> String {
    let machines = machines.filter(|machine| is_up(machine.state, all));
    joined(machines.map(|machine| format!("{} {}", machine.id, machine.region)), ',')
}

pub(super) fn regions<'v>(machines: impl Iterator<Item = &'v MachineRow>, all: bool) -> String {
    let machines = machines.filter(|machine| is_up(machine.state, all));
    let regions: BTreeSet<_> = machines.map(|machine| machine.region).collect();
    joined(regions.iter(), ',')
}

/// One machine in the list of a network's.
struct Instance<'v>(&'v MachineRow);

impl Display for Instance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MachineRow { id, app, private_ipv6, region, .. } = self.0;
        write!(f, "instance={id},app={app},ip={private_ipv6},region={region}")
    }
}

pub(super) fn instances(view: &View, network: NetworkId, all: bool) -> String {
    let machines = view.apps(network).flat_map(|app| view.machines(app));
    joined(machines.filter(|machine| is_up(machine.state, all)).map(Instance), ';')
}
