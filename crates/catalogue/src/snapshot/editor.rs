//! Makes the next snapshot out of the last one, row by row, and keeps the memory of a row small:
//! equal service lists and names are stored once.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use atoll_model::row::{
    AppRow, CHALLENGE_LABEL, CertificateRow, ChallengeRow, DeviceRow, MachineRow, NodeRow, Row, RowKey, ServiceRow,
};
use atoll_model::{AppName, MachineId};

use super::{Claimants, Snapshot};

/// Different service lists remembered for one app. Machines of an app differ by version, health and
/// load, so there are a handful; past the limit lists are simply not shared.
const SERVICE_LISTS_PER_APP: usize = 64;

/// Machines of an app whose metadata a new one's is compared with. When none of them has the same, the
/// machine keeps its own copy.
const METADATA_COMPARED: usize = 4;

/// The writer of snapshots. Parts shared with a published view are copied on the first write.
#[derive(Default)]
pub struct Editor {
    view: Snapshot,
    /// Service lists in use, by app.
    services: HashMap<AppName, Vec<Arc<[ServiceRow]>>>,
}

impl Editor {
    /// The present state; clone it to publish it.
    pub fn view(&self) -> &Snapshot {
        &self.view
    }

    /// Adds a row or replaces the one with the same key.
    pub fn put(&mut self, row: Row) {
        match row {
            Row::App(row) => self.put_app(row),
            Row::Machine(row) => self.put_machine(row),
            Row::Node(row) => self.put_node(row),
            Row::Certificate(row) => self.put_certificate(row),
            Row::Device(row) => self.put_device(row),
            Row::Challenge(row) => self.put_challenge(row),
        }
    }

    /// Removes a row if it is there.
    pub fn remove(&mut self, key: &RowKey) {
        match key {
            RowKey::App(name) => self.remove_app(name),
            RowKey::Machine(id) => self.remove_machine(id),
            RowKey::Node(name) => {
                self.view.nodes.remove(name);
            }
            RowKey::Certificate(host) => self.view.certificates.remove(host),
            RowKey::Device(address) => self.remove_device(address),
            RowKey::Challenge(host) => self.remove_challenge(host),
        }
    }

    fn put_app(&mut self, mut row: AppRow) {
        row.name = self.shared_app_name(row.name);
        self.remove_app(&row.name);
        for host in &row.hostnames {
            claim(self.view.app_by_hostname.entry(host), &row.name);
            for above in names_above(host) {
                *self.view.hostnames_below.entry(above.into()) += 1;
            }
        }
        for address in &row.addresses {
            claim(self.view.app_by_address.entry(*address), &row.name);
        }
        let siblings = Arc::make_mut(self.view.apps_by_network.entry(row.network));
        if let Err(at) = siblings.binary_search(&row.name) {
            siblings.insert(at, row.name.clone());
        }
        self.view.apps.insert(row.name.clone(), Arc::new(row));
    }

    fn remove_app(&mut self, name: &AppName) {
        let Some(row) = self.view.apps.remove(name) else { return };
        for host in &row.hostnames {
            let claimants = self.view.app_by_hostname.entry(host);
            claimants.retain(|claimant| claimant != name);
            if claimants.is_empty() {
                self.view.app_by_hostname.remove(host);
            }
            for above in names_above(host) {
                self.no_longer_above(above);
            }
        }
        for address in &row.addresses {
            let claimants = self.view.app_by_address.entry(*address);
            claimants.retain(|claimant| claimant != name);
            if claimants.is_empty() {
                self.view.app_by_address.remove(address);
            }
        }
        let siblings = Arc::make_mut(self.view.apps_by_network.entry(row.network));
        siblings.retain(|sibling| sibling != name);
        if siblings.is_empty() {
            self.view.apps_by_network.remove(&row.network);
        }
    }

    fn put_challenge(&mut self, row: ChallengeRow) {
        if self.view.challenge(&row.host).is_none() {
            for above in names_above(&challenge_name(&row.host)) {
                *self.view.hostnames_below.entry(above.into()) += 1;
            }
        }
        self.view.challenges.insert(row.host.clone(), Arc::new(row));
    }

    fn remove_challenge(&mut self, host: &str) {
        if self.view.challenges.remove(host).is_some() {
            for above in names_above(&challenge_name(host)) {
                self.no_longer_above(above);
            }
        }
    }

    fn no_longer_above(&mut self, name: &str) {
        let count = self.view.hostnames_below.entry(name.into());
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.view.hostnames_below.remove(name);
        }
    }

    fn put_machine(&mut self, mut row: MachineRow) {
        let moved = |known: &Arc<MachineRow>| known.app != row.app || known.private_ipv6 != row.private_ipv6;
        if self.view.machine(&row.id).is_some_and(moved) {
            self.remove_machine(&row.id);
        }
        row.app = self.shared_app_name(row.app);
        if let Some(node) = self.view.nodes.stored_key(&row.node) {
            row.node = node.clone();
        }
        row.services = self.shared_services(&row.app, row.services);
        self.share_metadata(&mut row);
        if self.view.machine_by_address.get(&row.private_ipv6) != Some(&row.id) {
            self.view.machine_by_address.insert(row.private_ipv6, row.id);
        }

        let row = Arc::new(row);
        let siblings = Arc::make_mut(self.view.machines_by_app.entry(row.app.clone()));
        match siblings.binary_search_by_key(&row.id, |sibling| sibling.id) {
            Ok(at) => siblings[at] = row.clone(),
            Err(at) => siblings.insert(at, row.clone()),
        }
        self.view.machines.insert(row.id, row);
    }

    fn remove_machine(&mut self, id: &MachineId) {
        let Some(row) = self.view.machines.remove(id) else { return };
        if self.view.machine_by_address.get(&row.private_ipv6) == Some(id) {
            self.view.machine_by_address.remove(&row.private_ipv6);
        }
        let siblings = Arc::make_mut(self.view.machines_by_app.entry(row.app.clone()));
        siblings.retain(|sibling| sibling.id != *id);
        if siblings.is_empty() {
            self.view.machines_by_app.remove(&row.app);
            self.services.remove(&row.app);
        }
    }

    fn put_node(&mut self, row: NodeRow) {
        self.view.nodes.insert(row.name.clone(), Arc::new(row));
    }

    fn put_certificate(&mut self, row: CertificateRow) {
        let host = row.host.clone();
        self.view.certificates.insert(&host, Arc::new(row));
    }

    fn put_device(&mut self, row: DeviceRow) {
        self.remove_device(&row.address);
        let row = Arc::new(row);
        let siblings = Arc::make_mut(self.view.devices_by_network.entry(row.network));
        let at = siblings.partition_point(|sibling| (&sibling.name, sibling.address) < (&row.name, row.address));
        siblings.insert(at, row.clone());
        self.view.devices.insert(row.address, row);
    }

    fn remove_device(&mut self, address: &Ipv6Addr) {
        let Some(row) = self.view.devices.remove(address) else { return };
        let siblings = Arc::make_mut(self.view.devices_by_network.entry(row.network));
        siblings.retain(|sibling| sibling.address != *address);
        if siblings.is_empty() {
            self.view.devices_by_network.remove(&row.network);
        }
    }

    fn shared_app_name(&self, name: AppName) -> AppName {
        let stored = self.view.apps.stored_key(&name).or_else(|| self.view.machines_by_app.stored_key(&name));
        stored.cloned().unwrap_or(name)
    }

    /// Most machines of an app have the metadata of those made with them.
    fn share_metadata(&self, row: &mut MachineRow) {
        let siblings = self.view.machines_of(&row.app).iter().rev().take(METADATA_COMPARED);
        let own = self.view.machine(&row.id).into_iter();
        if let Some(same) = own.chain(siblings).find(|sibling| sibling.metadata == row.metadata) {
            row.metadata = same.metadata.clone();
        }
    }

    fn shared_services(&mut self, app: &AppName, services: Arc<[ServiceRow]>) -> Arc<[ServiceRow]> {
        let known = self.services.entry(app.clone()).or_default();
        if let Some(same) = known.iter().find(|list| ***list == *services) {
            return same.clone();
        }
        if known.len() >= SERVICE_LISTS_PER_APP {
            // A list that only this table holds belongs to a version or load that is gone.
            known.retain(|list| Arc::strong_count(list) > 1);
        }
        if known.len() < SERVICE_LISTS_PER_APP {
            known.push(services.clone());
        }
        services
    }
}

fn claim(claimants: &mut Claimants, name: &AppName) {
    if let Err(at) = claimants.binary_search(name) {
        claimants.insert(at, name.clone());
    }
}

fn challenge_name(host: &str) -> String {
    format!("{CHALLENGE_LABEL}.{host}")
}

/// The names that a host name (or pattern) lies below, the nearest first.
fn names_above(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(host.split_once('.').map(|(_, above)| above), |name| {
        name.split_once('.').map(|(_, above)| above)
    })
}
