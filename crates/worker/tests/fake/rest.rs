//! Fakes of images, networks, sealing and rows.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use atoll_model::address::NetworkId;
use atoll_model::policy::NetworkLimits;
use atoll_model::{MachineId, Row, RowKey};

use atoll_worker::seams::{
    BundleSeal, ImageError, ImageProcess, ImageProvider, MachineNetworks, NetworkError, NetworkPlan, PreparedImage,
    RowSink, SealError,
};

use super::World;

pub struct FakeImages(pub Arc<World>);

#[async_trait]
impl ImageProvider for FakeImages {
    async fn ensure(&self, _reference: &str, digest: &str) -> Result<PreparedImage, ImageError> {
        if self.0.missing_images.lock().unwrap().iter().any(|missing| missing == digest) {
            return Err(ImageError { reason: format!("{digest} is nowhere"), source: None });
        }
        let config = ImageProcess { cmd: vec!["sleep".into()], ..ImageProcess::default() };
        Ok(PreparedImage { layers: vec![PathBuf::from("/layer")], config, bytes_fetched: 3 })
    }

    fn pin(&self, digests: Vec<String>) {
        *self.0.pinned.lock().unwrap() = digests;
    }
}

pub struct FakeNetworks(pub Arc<World>);

#[async_trait]
impl MachineNetworks for FakeNetworks {
    fn ipv4(&self, slot: u32) -> Ipv4Addr {
        self.0.address(slot)
    }

    fn capacity(&self) -> u32 {
        16
    }

    async fn attach(&self, plan: &NetworkPlan) -> Result<PathBuf, NetworkError> {
        let mut attached = self.0.attached.lock().unwrap();
        let taken = attached.values().any(|other| other.slot == plan.slot && other.machine != plan.machine);
        assert!(!taken, "slot {} was given twice", plan.slot);
        attached.insert(plan.machine, *plan);
        Ok(PathBuf::from(format!("/run/netns/{}", plan.machine)))
    }

    async fn limit(&self, plan: &NetworkPlan, limits: &NetworkLimits) -> Result<(), NetworkError> {
        assert!(self.0.attached.lock().unwrap().contains_key(&plan.machine), "{} has no network", plan.machine);
        self.0.limited.lock().unwrap().insert(plan.machine, limits.clone());
        Ok(())
    }

    async fn detach(&self, plan: &NetworkPlan) -> Result<(), NetworkError> {
        self.0.attached.lock().unwrap().remove(&plan.machine);
        self.0.limited.lock().unwrap().remove(&plan.machine);
        Ok(())
    }

    async fn reconcile(&self, plans: &[NetworkPlan]) -> Result<(), NetworkError> {
        let known = |machine: &MachineId| plans.iter().any(|plan| plan.machine == *machine);
        self.0.attached.lock().unwrap().retain(|machine, _| known(machine));
        Ok(())
    }

    async fn admit(&self, _network: NetworkId) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// Sealed texts are reversed, and bound to their context.
pub struct FakeSeal;

impl BundleSeal for FakeSeal {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut sealed = format!("{context}\n").into_bytes();
        sealed.extend(plain.iter().rev());
        Ok(sealed)
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let wrong = || SealError { reason: "sealed for another context".into() };
        let rest = sealed.strip_prefix(format!("{context}\n").as_bytes()).ok_or_else(wrong)?;
        Ok(rest.iter().rev().copied().collect())
    }
}

pub struct FakeRows(pub Arc<World>);

impl RowSink for FakeRows {
    fn put(&self, row: Row) {
        self.0.rows.lock().unwrap().insert(row.key(), row);
    }

    fn delete(&self, key: RowKey) {
        self.0.rows.lock().unwrap().remove(&key);
    }
}
