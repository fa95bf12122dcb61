//! Addresses under which apps' machines leave for the internet. A server says which addresses lead back to
//! it; an app is given some of them, and its machines at the server that has one leave under it, all others
//! under an address of their own server's. Who has an address is asked anew each time, so that the operator
//! may move it to another server.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use atoll_model::egress::EgressAddresses;
use atoll_model::{AppName, NodeName, RegionCode};
use atoll_store::{App, EgressAddress, ErrorKind, Node, NodeStatus, StoreError};
use ipnet::IpNet;

use crate::addresses::Family;
use crate::{Control, ControlError, ControlResult, Kind};

/// Others may have the address on a list, and connections that are open go on under it.
const REST_MS: u64 = 60 * 60 * 1000;

/// What an app asks for, in one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EgressWish {
    One(Family),
    /// One of each family, of the same server.
    Pair,
}

impl EgressWish {
    fn families(self) -> Vec<Family> {
        match self {
            Self::One(family) => vec![family],
            Self::Pair => vec![Family::V4, Family::V6],
        }
    }
}

/// An address that an app has, and the server that it leads back to now, if any says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EgressHeld {
    pub held: EgressAddress,
    pub node: Option<NodeName>,
}

impl EgressHeld {
    fn of(held: EgressAddress, nodes: &[Node]) -> Self {
        let has_it = |node: &&Node| !node.state.is_over() && node.network.egress_addresses.contains(&held.address);
        Self { node: nodes.iter().find(has_it).map(|node| node.name.clone()), held }
    }
}

/// A server that addresses may be chosen from.
struct Server {
    name: NodeName,
    /// What leads back to it.
    addresses: Vec<IpAddr>,
    /// Of the app.
    machines: usize,
}

/// What a choice must keep away from.
struct Taken {
    /// The app's.
    own: BTreeSet<IpAddr>,
    /// Other apps', and those that rest.
    others: BTreeSet<IpAddr>,
    /// What lies in these is for entering.
    pools: Vec<IpNet>,
}

impl Taken {
    fn is_free(&self, address: &IpAddr) -> bool {
        !self.own.contains(address)
            && !self.others.contains(address)
            && !self.pools.iter().any(|pool| pool.contains(address))
    }
}

/// The addresses that an app gets: of the server with the most of its machines among those that have some
/// free and none of the app's yet.
fn choose(servers: &[Server], taken: &Taken, wish: EgressWish, place: &str) -> ControlResult<Vec<IpAddr>> {
    let families = wish.families();
    let what = match wish {
        EgressWish::One(family) => family.name(),
        EgressWish::Pair => "IPv4 and IPv6",
    };
    let of = |server: &Server, family: Family| -> Vec<IpAddr> {
        server.addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
    };
    let has = |server: &&Server| families.iter().all(|family| !of(server, *family).is_empty());
    let with_any: Vec<&Server> = servers.iter().filter(has).collect();
    if with_any.is_empty() {
        let text = format!("no server in {place} has {what} addresses to leave under: its operator names them");
        return Err(ControlError::new(Kind::Precondition, text));
    }
    let without_own = |server: &&Server| {
        families.iter().all(|family| of(server, *family).iter().all(|address| !taken.own.contains(address)))
    };
    let mut wanting: Vec<&Server> = with_any.into_iter().filter(without_own).collect();
    if wanting.is_empty() {
        let text =
            format!("the app has an address of every server in {place} that has {what} addresses to leave under");
        return Err(ControlError::new(Kind::Precondition, text));
    }
    wanting.sort_by_key(|server| (Reverse(server.machines), server.name.clone()));
    let free = |server: &Server| -> Option<Vec<IpAddr>> {
        families.iter().map(|family| of(server, *family).into_iter().find(|address| taken.is_free(address))).collect()
    };
    wanting.into_iter().find_map(free).ok_or_else(|| {
        let text = format!(
            "every {what} address that machines in {place} may leave under is in use, or rests after its last use"
        );
        ControlError::new(Kind::Capacity, text)
    })
}

/// What an app's machines leave under, by server.
pub(crate) fn by_node(held: &[EgressAddress], nodes: &[Node]) -> BTreeMap<NodeName, EgressAddresses> {
    let of = |node: &Node| {
        let here = held.iter().map(|held| held.address).filter(|held| node.network.egress_addresses.contains(held));
        (node.name.clone(), EgressAddresses::first_of(here))
    };
    nodes.iter().map(of).collect()
}

impl Control {
    /// What an app's machines may leave under, in the order in which it got it.
    pub async fn egress_addresses(&self, app: &AppName) -> ControlResult<Vec<EgressHeld>> {
        let read =
            self.store.read(|tx| async move { Ok::<_, StoreError>((tx.egress_of(app).await?, tx.node_list().await?)) });
        let (held, nodes) = read.await?;
        Ok(held.into_iter().map(|held| EgressHeld::of(held, &nodes)).collect())
    }

    /// Gives an app addresses of one server in the region. Holds at once for machines whose server answers.
    pub async fn egress_allocate(
        &self,
        app: &App,
        region: RegionCode,
        wish: EgressWish,
    ) -> ControlResult<Vec<EgressHeld>> {
        let machines = &self.machine_records(&app.name, false).await?;
        let now = self.now_ms();
        let given = self.store.write(|tx| async move {
            let nodes = tx.node_list().await?;
            let in_region = |node: &&Node| node.region == region && node.state == NodeStatus::Active;
            let server = |node: &Node| Server {
                name: node.name.clone(),
                addresses: node.network.egress_addresses.clone(),
                machines: machines.iter().filter(|machine| machine.node == node.name).count(),
            };
            let servers: Vec<Server> = nodes.iter().filter(in_region).map(server).collect();
            let (own, others): (Vec<_>, Vec<_>) =
                tx.egress_addresses().await?.into_iter().partition(|held| held.app == app.name);
            let resting = tx.addresses_resting().await?.into_iter().filter(|resting| !resting.is_over_by_time(now));
            let taken = Taken {
                own: own.into_iter().map(|held| held.address).collect(),
                others: others
                    .into_iter()
                    .map(|held| held.address)
                    .chain(resting.map(|resting| resting.address))
                    .collect(),
                pools: tx.address_pools().await?.iter().filter_map(|pool| pool.prefix.parse().ok()).collect(),
            };
            let chosen = match choose(&servers, &taken, wish, region.as_str()) {
                Ok(chosen) => chosen,
                Err(refused) => return Ok(Err(refused)),
            };
            let mut given = Vec::new();
            for address in chosen {
                let new = EgressAddress { address, app: app.name.clone(), region, created_at_ms: now };
                tx.egress_bind(&new).await?;
                given.push(EgressHeld::of(new, &nodes));
            }
            Ok::<_, StoreError>(Ok(given))
        });
        let given = given.await??;
        self.policies_settle(Some(&app.name)).await;
        Ok(given)
    }

    /// Takes an address from an app; says what it was. It rests, as connections that are open go on under it.
    ///
    /// # Errors
    /// `NotFound` if the app does not leave under it.
    pub async fn egress_release(&self, app: &AppName, address: IpAddr) -> ControlResult<EgressAddress> {
        let until = self.now_ms().saturating_add(REST_MS);
        let released = self.store.write(|tx| async move { tx.egress_release(app, address, until).await }).await;
        let released = released.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ControlError::not_found(format!("app {app} has no address {address}")),
            _ => error.into(),
        })?;
        self.policies_settle(Some(app)).await;
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, machines: usize, addresses: &[&str]) -> Server {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Server { name: name.parse().unwrap(), addresses, machines }
    }

    fn taken(own: &[&str], others: &[&str]) -> Taken {
        let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Taken { own: set(own), others: set(others), pools: vec!["203.0.113.0/24".parse().unwrap()] }
    }

    fn chosen(servers: &[Server], taken: &Taken, wish: EgressWish) -> Result<Vec<String>, Kind> {
        let chosen = choose(servers, taken, wish, "ams").map_err(|refused| refused.kind)?;
        Ok(chosen.iter().map(IpAddr::to_string).collect())
    }

    const V4: EgressWish = EgressWish::One(Family::V4);

    #[test]
    fn the_server_with_most_machines_that_wants_one_gives_it() {
        let servers = [
            server("ams1", 1, &["198.51.100.1", "2001:db8::1"]),
            server("ams2", 3, &["203.0.113.9", "198.51.100.2", "198.51.100.3", "2001:db8::2"]),
            server("ams3", 9, &[]),
        ];
        let given = |own: &[&str], wish| chosen(&servers, &taken(own, &[]), wish);
        assert_eq!(given(&[], V4).unwrap(), ["198.51.100.2"], "the first is for entering");
        assert_eq!(given(&[], EgressWish::Pair).unwrap(), ["198.51.100.2", "2001:db8::2"]);
        assert_eq!(given(&["198.51.100.3"], V4).unwrap(), ["198.51.100.1"]);
        assert_eq!(given(&["2001:db8::2"], EgressWish::Pair).unwrap(), ["198.51.100.1", "2001:db8::1"]);
        assert_eq!(given(&["198.51.100.1", "198.51.100.3"], V4), Err(Kind::Precondition));
    }

    #[test]
    fn what_is_anothers_or_rests_is_left() {
        let servers = [server("ams1", 0, &["198.51.100.1"]), server("ams2", 1, &["198.51.100.2", "198.51.100.3"])];
        let given = |others: &[&str], wish| chosen(&servers, &taken(&[], others), wish);
        assert_eq!(given(&["198.51.100.2"], V4).unwrap(), ["198.51.100.3"]);
        assert_eq!(given(&["198.51.100.2", "198.51.100.3"], V4).unwrap(), ["198.51.100.1"]);
        let all = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
        assert_eq!(given(&all, V4), Err(Kind::Capacity));
        assert_eq!(given(&[], EgressWish::Pair), Err(Kind::Precondition), "nobody has IPv6");
        assert_eq!(chosen(&[], &taken(&[], &[]), V4), Err(Kind::Precondition));
    }
}
