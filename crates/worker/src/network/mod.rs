//! Networks of machines on this node: a namespace and a veth pair for each run, host routes, a
//! private IPv4 address behind NAT and the machine's 6PN address.
//!
//! ```text
//!   machine's namespace                     host
//!   eth0  <ipv4>/32  <6pn>/128  ◄──veth──►  atl<8 hex><slot>  <gateway>/32  fe80::1/64
//!   default via <gateway>, fe80::1          <ipv4>/32 and <6pn>/128 dev atl…, static neighbours
//! ```
//!
//! Both families leave for the internet under an address of the host. If it has no way there by IPv6 when
//! the run begins, only private addresses are led to it.
//!
//! No bridge: what a machine may reach is a matter of routes and of one nftables table
//! ([`rules`]). Interfaces of one private network share an interface group, which is all that the
//! start of a machine has to set; nothing on that path runs a program or waits for ARP.
//!
//! Machines of other nodes are reached through the mesh, whose interface another process owns
//! ([`MeshFace`]).
//!
//! Names derive from the instance and the slot, so that a later agent finds everything again.
//! Interface names have 15 characters at most: `atl`, the instance's 8 hex, 4 for the slot.

mod block;
mod host;
mod limited;
mod link;
mod listing;
mod namespace;
mod netlink;
mod rules;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ipnet::Ipv4Net;

use atoll_model::MachineId;
use atoll_model::address::NetworkId;
use atoll_model::policy::NetworkLimits;

use crate::seams::{MachineNetworks, NetworkError, NetworkPlan};
use block::Block;
use link::Names;
use namespace::Pool;
use netlink::Link;
use traffic::Ledger;
pub use traffic::{Counter, Direction, Traffic, TrafficClass};

/// What the networks are told at the start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Names every kernel object.
    pub instance: u32,
    /// Where the chosen block is remembered.
    pub state_dir: PathBuf,
    /// Private IPv4 addresses for machines; `None`: a /16 that overlaps no route of the host.
    pub block: Option<Ipv4Net>,
    /// Namespaces kept ready for the next starts. Default 4.
    pub ready_namespaces: usize,
    /// Where machines reach those of other nodes; `None`: nowhere, and nobody answers their questions for
    /// names.
    pub mesh: Option<MeshFace>,
}

/// What machines' networks must know of the node's mesh, which another process makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshFace {
    /// Name of the interface, which begins with `atm` so that instances on one host leave each other's
    /// alone. It may be absent at any time.
    pub link: String,
    /// This node's own address in the mesh, where machines' questions for names are answered at port 53, and their
    /// calls of Flycast addresses taken.
    pub address: Ipv6Addr,
    /// Of packets that policy routing is to lead into the mesh.
    pub mark: u32,
    /// Name of the interface of users' devices that enter private networks here; may be absent, too. Whose
    /// process it is compares networks before anything passes between it and the mesh.
    pub devices: String,
}

/// The networks of this host's machines. Needs root.
pub struct HostNetworks {
    names: Names,
    block: Block,
    pool: Arc<Pool>,
    mesh: Option<MeshFace>,
    /// Networks whose machines may already talk to each other here.
    admitted: Mutex<BTreeSet<NetworkId>>,
    ledger: Mutex<Ledger>,
    /// Runs that are held to policies or to addresses, by their interfaces' names: as the kernel has it.
    limited: Mutex<BTreeMap<String, (u32, NetworkLimits)>>,
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let action = action.into();
    move |source| NetworkError { action, source }
}

impl HostNetworks {
    /// Chooses or finds the block, turns forwarding on and begins to make namespaces.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let names = Names { instance: config.instance };
        let block = blocking({
            let config = config.clone();
            move || {
                host::forward().map_err(failed("turn IP forwarding on"))?;
                host::claim_block(names, &config)
            }
        })
        .await?;
        let pool = Pool::start(config.ready_namespaces).map_err(failed("make namespaces"))?;
        Ok(Self {
            names,
            block,
            pool: Arc::new(pool),
            mesh: config.mesh,
            admitted: Mutex::default(),
            ledger: Mutex::default(),
            limited: Mutex::default(),
        })
    }

    /// Where machines' addresses lie.
    pub fn block(&self) -> Ipv4Net {
        self.block.net()
    }

    /// Removes every kernel object of this instance.
    pub async fn remove_all(&self) -> Result<(), NetworkError> {
        self.sweep(BTreeSet::new()).await?;
        rules::run(rules::removal(self.names)).await?;
        let (names, block) = (self.names, self.block);
        blocking(move || host::release_block(names, block)).await
    }

    /// Removes interfaces and namespaces of slots that no machine holds.
    async fn sweep(&self, machines: BTreeSet<String>) -> Result<Vec<Link>, NetworkError> {
        let names = self.names;
        blocking(move || host::sweep(names, &machines)).await
    }

    /// Reads what machines' networks carried since the reading before. What an interface carried after
    /// its machine's end is known for two readings, if they are within an hour. `is_here` tells which
    /// machines are this node's still.
    pub async fn read_traffic(&self, is_here: impl Fn(MachineId) -> bool) -> Result<(), NetworkError> {
        let reading = rules::read_traffic(self.names).await?;
        self.ledger().record(&reading, is_here);
        Ok(())
    }

    /// Bytes of machines of this node, as of the last reading and since this process began.
    pub fn traffic(&self) -> BTreeMap<MachineId, Traffic> {
        self.ledger().machines()
    }

    /// Bytes of all machines, those that have left included.
    pub fn total_traffic(&self) -> Traffic {
        self.ledger().total()
    }

    /// Forgets what a run was held to, if anything.
    async fn unlimit(&self, link: &str) -> Result<(), NetworkError> {
        let limited = self.limited().remove(link);
        match limited {
            Some((index, limits)) => rules::run(rules::limit(self.names, rules::Change::End, index, &limits)).await,
            None => Ok(()),
        }
    }

    /// Learns what an earlier agent holds which runs to, and has the kernel forget those that are over.
    async fn find_limited(&self, links: &[Link]) -> Result<(), NetworkError> {
        let mut script = String::new();
        for (interface, limits) in rules::read_limits(self.names).await? {
            if let Some(link) = links.iter().find(|link| link.name == interface) {
                self.limited().insert(interface, (link.index, limits));
            } else if let Ok(index) = interface.parse() {
                // Interfaces that are gone are listed by their indices.
                script.push_str(&rules::limit(self.names, rules::Change::End, index, &limits));
            }
        }
        if script.is_empty() { Ok(()) } else { rules::run(script).await }
    }

    fn limited(&self) -> MutexGuard<'_, BTreeMap<String, (u32, NetworkLimits)>> {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the counting of an instance's bytes ([`TrafficClass`]) which private addresses are of its node's own
/// region: those of machines and devices at its other nodes. Who reads the catalogue calls this, before or
/// after the networks are opened, and what was said stays until the next call. Needs the right to configure
/// networks.
///
/// # Errors
/// If `nft` is missing or refuses; nothing has changed then.
pub async fn set_region(instance: u32, addresses: &BTreeSet<Ipv6Addr>) -> Result<(), NetworkError> {
    if addresses.len() > rules::REGION_ROOM {
        let (addresses, told_apart) = (addresses.len(), rules::REGION_ROOM);
        tracing::warn!(addresses, told_apart, "bytes to and from the rest of this region count as another's");
    }
    rules::run(rules::region(Names { instance }, addresses)).await
}

/// Netlink calls wait for the kernel, so they run beside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(NetworkError { action: "finish a network change".into(), source: io::Error::other(error) }),
    }
}

#[async_trait]
impl MachineNetworks for HostNetworks {
    fn ipv4(&self, slot: u32) -> Ipv4Addr {
        self.block.address(slot)
    }

    fn capacity(&self) -> u32 {
        self.block.capacity().min(link::MAX_SLOTS)
    }

    async fn attach(&self, plan: &NetworkPlan) -> Result<PathBuf, NetworkError> {
        let (names, block, pool, plan) = (self.names, self.block, self.pool.clone(), *plan);
        let attached = blocking(move || link::attach(names, block, &pool, &plan)).await?;
        self.ledger().begin(attached.index, &names.link(plan.slot), plan.machine);
        Ok(attached.namespace)
    }

    async fn limit(&self, plan: &NetworkPlan, limits: &NetworkLimits) -> Result<(), NetworkError> {
        let link = self.names.link(plan.slot);
        let before = self.limited().get(&link).cloned();
        if before.is_none() && limits.is_none() {
            return Ok(());
        }
        let index = link::index(&link).map_err(failed(format!("find the interface {link}")))?;
        let after = (index, limits.clone());
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        // One transaction, so that the run is never unlimited in between. What was before may be of a run
        // that was replaced, not ended.
        let end = before.map(|(index, limits)| rules::limit(self.names, rules::Change::End, index, &limits));
        let begin = rules::limit(self.names, rules::Change::Begin, index, limits);
        rules::run(end.unwrap_or_default() + &begin).await?;
        if limits.is_none() {
            self.limited().remove(&link);
        } else {
            self.limited().insert(link, after);
        }
        Ok(())
    }

    async fn detach(&self, plan: &NetworkPlan) -> Result<(), NetworkError> {
        let (names, plan) = (self.names, *plan);
        let link = names.link(plan.slot);
        self.ledger().end(&link);
        self.unlimit(&link).await?;
        blocking(move || link::detach(names, &plan)).await
    }

    async fn reconcile(&self, plans: &[NetworkPlan]) -> Result<(), NetworkError> {
        let networks: BTreeSet<NetworkId> = plans.iter().map(|plan| plan.network).collect();
        rules::run(rules::table(self.names, self.block, self.mesh.as_ref(), &networks)).await?;
        *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = networks;
        let held = plans.iter().flat_map(|plan| [self.names.link(plan.slot), self.names.namespace(plan.machine)]);
        let links = self.sweep(held.collect()).await?;
        self.find_limited(&links).await?;
        let mut ledger = self.ledger();
        for plan in plans {
            let name = self.names.link(plan.slot);
            if let Some(link) = links.iter().find(|link| link.name == name) {
                ledger.begin(link.index, &name, plan.machine);
            }
        }
        Ok(())
    }

    async fn admit(&self, network: NetworkId) -> Result<(), NetworkError> {
        let known = self.admitted.lock().unwrap_or_else(PoisonError::into_inner).contains(&network);
        if !known {
            // Adding an element again changes nothing, so two at once are harmless.
            rules::run(rules::admission(self.names, network)).await?;
            self.admitted.lock().unwrap_or_else(PoisonError::into_inner).insert(network);
        }
        Ok(())
    }
}
