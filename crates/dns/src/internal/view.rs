//! What internal names are answered from: one immutable view, made anew whenever a part of it changes.

use std::net::Ipv6Addr;
use std::sync::Arc;

use atoll_catalogue::Snapshot;
use atoll_model::address::NetworkId;
use atoll_model::reach::Reachability;
use atoll_model::row::{AppRow, MachineRow};
use atoll_model::{AppName, MachineState, NodeName, RegionCode};

/// The node that answers.
#[derive(Clone, Debug)]
pub struct Here {
    pub node: NodeName,
    pub region: RegionCode,
}

/// All that answers follow from. Cloning is cheap: parts are shared.
#[derive(Clone)]
pub struct View {
    pub catalogue: Snapshot,
    pub reach: Arc<Reachability>,
    pub here: Here,
    /// Where machines reach the API, if they do: answered to every network.
    pub api: Option<Ipv6Addr>,
}

impl View {
    /// The app of this name, for a caller of its network.
    pub(super) fn app(&self, network: NetworkId, name: &AppName) -> Option<&AppRow> {
        self.catalogue.app(name).map(|row| &**row).filter(|row| row.network == network)
    }

    /// The app's machines that have names, in whatever state.
    pub(super) fn machines<'v>(&'v self, app: &'v AppRow) -> impl Iterator<Item = &'v MachineRow> + Clone {
        let machines = self.catalogue.machines_of(&app.name).iter();
        // A machine's own network counts: a row with another one is not this app's for this caller.
        machines.map(|row| &**row).filter(|row| row.network == app.network && !row.skip_dns)
    }

    /// Apps of a network, by name.
    pub(super) fn apps(&self, network: NetworkId) -> impl Iterator<Item = &AppRow> {
        let names = self.catalogue.apps_in(network).iter();
        names.filter_map(move |name| self.app(network, name))
    }

    /// Whether this node gets answers from the machine's. A node that was never probed may be fine.
    pub(super) fn reaches(&self, machine: &MachineRow) -> bool {
        machine.node == self.here.node || self.reach.paths.get(&machine.node).is_none_or(|path| path.reachable)
    }
}

pub(super) fn is_started(machine: &&MachineRow) -> bool {
    machine.state == MachineState::Started
}
