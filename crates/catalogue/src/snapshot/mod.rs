//! The immutable view that hot paths read: every lookup is a hash or two, without locks and without
//! allocation. A new view shares all it can with the one before, so that changing one row among
//! 100,000 copies a few hundred entries.
//!
//! Rows are taken as they come: whether they may be believed is the replica's business.

mod editor;
mod hosts;
mod shards;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use atoll_model::address::NetworkId;
use atoll_model::row::{AppRow, CertificateRow, ChallengeRow, DeviceRow, MachineRow, NodeRow, Row};
use atoll_model::{AppName, MachineId, NodeName};

pub use editor::Editor;
use hosts::HostTable;
use shards::Shards;

/// One consistent view of the catalogue. Cloning is cheap; see [`Editor`] for making the next one.
#[derive(Clone, Default)]
pub struct Snapshot {
    machines: Shards<MachineId, Arc<MachineRow>>,
    /// Sorted by machine id. Never holds an empty list.
    machines_by_app: Shards<AppName, Arc<Vec<Arc<MachineRow>>>>,
    apps: Shards<AppName, Arc<AppRow>>,
    nodes: Shards<NodeName, Arc<NodeRow>>,
    app_by_hostname: HostTable<Claimants>,
    app_by_address: Shards<IpAddr, Claimants>,
    /// Sorted by name. Never holds an empty list.
    apps_by_network: Shards<NetworkId, Arc<Vec<AppName>>>,
    /// How many custom host names and names of challenges lie below each name.
    hostnames_below: Shards<Arc<str>, u32>,
    /// By 6PN address. Workers give each to one machine; of two that claim one, the last row counts.
    machine_by_address: Shards<Ipv6Addr, MachineId>,
    certificates: HostTable<Arc<CertificateRow>>,
    devices: Shards<Ipv6Addr, Arc<DeviceRow>>,
    /// Sorted by name. Never holds an empty list.
    devices_by_network: Shards<NetworkId, Arc<Vec<Arc<DeviceRow>>>>,
    /// By the host name that they prove.
    challenges: Shards<Arc<str>, Arc<ChallengeRow>>,
}

/// Apps that name the same host or address, sorted; the first one has it. Control gives a name to
/// one app only, but while it moves two rows may show it, and every edge must pick the same app
/// whatever the order of arrival. Never empty.
type Claimants = Vec<AppName>;

impl Snapshot {
    /// The view of exactly these rows; of several rows with the same key the last one stays.
    pub fn from_rows(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut editor = Editor::default();
        for row in rows {
            editor.put(row);
        }
        editor.view().clone()
    }

    pub fn machine(&self, id: &MachineId) -> Option<&Arc<MachineRow>> {
        self.machines.get(id)
    }

    /// All machines of an app in whatever state, ordered by id.
    pub fn machines_of(&self, app: &AppName) -> &[Arc<MachineRow>] {
        self.machines_by_app.get(app).map_or(&[], |machines| machines.as_slice())
    }

    pub fn app(&self, name: &AppName) -> Option<&Arc<AppRow>> {
        self.apps.get(name)
    }

    /// As [`Self::app`], by a text that may be no app's name at all.
    pub fn app_named(&self, name: &str) -> Option<&Arc<AppRow>> {
        self.apps.get(name)
    }

    /// The app with this custom host name, or with the wildcard one label above it. `host` must be
    /// in lower case, without port and trailing dot. The default names under the app domain are not
    /// here: their first label is the app's name.
    pub fn app_by_hostname(&self, host: &str) -> Option<&Arc<AppRow>> {
        self.app_by_hostname.find(host).and_then(|claimants| self.first_of(claimants))
    }

    /// The app that has this dedicated or private address.
    pub fn app_by_address(&self, address: IpAddr) -> Option<&Arc<AppRow>> {
        self.app_by_address.get(&address).and_then(|claimants| self.first_of(claimants))
    }

    /// Whether any custom host name, or name of a challenge, lies below this name, at whatever depth. `name` must be in lower
    /// case, without trailing dot.
    pub fn has_hostname_below(&self, name: &str) -> bool {
        self.hostnames_below.get(name).is_some()
    }

    /// The apps of a private network, by name.
    pub fn apps_in(&self, network: NetworkId) -> &[AppName] {
        self.apps_by_network.get(&network).map_or(&[], |apps| apps.as_slice())
    }

    /// The machine with this 6PN address.
    pub fn machine_by_address(&self, address: Ipv6Addr) -> Option<&Arc<MachineRow>> {
        self.machine_by_address.get(&address).and_then(|id| self.machines.get(id))
    }

    /// The users' devices in a private network, by name.
    pub fn devices_in(&self, network: NetworkId) -> &[Arc<DeviceRow>] {
        self.devices_by_network.get(&network).map_or(&[], |devices| devices.as_slice())
    }

    /// The user's device with this 6PN address.
    pub fn device_by_address(&self, address: Ipv6Addr) -> Option<&Arc<DeviceRow>> {
        self.devices.get(&address)
    }

    /// What proves this host name to certificate authorities. `host` must be in lower case, without trailing
    /// dot.
    pub fn challenge(&self, host: &str) -> Option<&Arc<ChallengeRow>> {
        self.challenges.get(host)
    }

    fn first_of(&self, claimants: &Claimants) -> Option<&Arc<AppRow>> {
        self.apps.get(claimants.first()?)
    }

    pub fn node(&self, name: &NodeName) -> Option<&Arc<NodeRow>> {
        self.nodes.get(name)
    }

    /// The certificate of this very name, or else of the wildcard one label above it. `host` must be
    /// in lower case.
    pub fn certificate_for(&self, host: &str) -> Option<&Arc<CertificateRow>> {
        self.certificates.find(host)
    }

    /// All nodes, in no particular order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeRow>> {
        self.nodes.values()
    }

    /// All apps, in no particular order.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<AppRow>> {
        self.apps.values()
    }

    /// All machines, in no particular order.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<MachineRow>> {
        self.machines.values()
    }

    /// All certificates, in no particular order.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<CertificateRow>> {
        self.certificates.values()
    }

    /// All users' devices, in no particular order.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<DeviceRow>> {
        self.devices.values()
    }

    /// All challenges, in no particular order.
    pub fn challenges(&self) -> impl Iterator<Item = &Arc<ChallengeRow>> {
        self.challenges.values()
    }

    pub fn machine_count(&self) -> usize {
        self.machines.len()
    }
}

#[cfg(test)]
mod tests;
