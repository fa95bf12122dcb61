//! Addresses by which apps are entered: the operator's pools, who has which address, and their way into
//! the catalogue. An address that an app gives back rests before another app may get it ([`resting`]).

mod pools;
mod resting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use atoll_model::address::{NetworkId, flycast_address};
use atoll_model::{AppName, NodeName, OrgSlug, Row, RowKey, RowVersion};
use atoll_store::{AddressKind, AddressPool, App, AppAddress, AppStatus, ErrorKind, Network, ReadTx, StoreError};
use ipnet::{IpNet, Ipv6Net};

use crate::rows::app_row;
use crate::{Changed, Control, ControlError, ControlResult, Kind, Readers};
use pools::{PoolRefused, lowest_free, new_pool};
use resting::{FLOOR, Rest, rest};

/// An app's row names all of its addresses and must stay small.
const MAX_PER_APP: usize = 64;

/// What an app asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressWish {
    /// One that is the app's alone. `host_route`: announced by itself where the app is served.
    Dedicated { family: Family, host_route: bool },
    /// One of many apps. Asking again answers the same.
    Shared { family: Family },
    /// One in a private network of the app's organization; `None`: the app's own. Asking again answers
    /// the same.
    Private { network: Option<String> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A pool and how much of it is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolUse {
    pub pool: AddressPool,
    /// Addresses that apps have.
    pub used: usize,
    /// Addresses that were given back and are not given out yet.
    pub resting: usize,
    /// Servers that have not said that they go without some of these.
    pub waiting_for: BTreeSet<NodeName>,
}

/// Everything that a choice depends on, of one moment.
struct Situation {
    pools: Vec<AddressPool>,
    held: Vec<AppAddress>,
    /// Given back, and who is waited for.
    resting: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    /// Given back, and free from now on.
    rested: Vec<IpAddr>,
}

impl Situation {
    async fn read(tx: &ReadTx, now_ms: u64, readers: &dyn Readers) -> Result<Self, StoreError> {
        let nodes = tx.node_list().await?;
        let (mut resting, mut rested) = (BTreeMap::new(), Vec::new());
        for found in tx.addresses_resting().await? {
            let goes_by = |node: &_, reader, key: &_, version| readers.goes_by(node, reader, key, version);
            match rest(&found, &nodes, now_ms, goes_by) {
                Rest::Over => rested.push(found.address),
                Rest::Time => drop(resting.insert(found.address, BTreeSet::new())),
                Rest::Servers(servers) => drop(resting.insert(found.address, servers)),
            }
        }
        Ok(Self { pools: tx.address_pools().await?, held: tx.addresses().await?, resting, rested })
    }

    fn taken(&self) -> BTreeSet<IpAddr> {
        self.held.iter().map(|held| held.address).chain(self.resting.keys().copied()).collect()
    }

    /// Pools of one kind, as prefixes.
    fn pools(&self, family: Family, fits: impl Fn(&AddressPool) -> bool) -> Vec<IpNet> {
        let fitting = self.pools.iter().filter(|pool| fits(pool));
        fitting
            .filter_map(|pool| pool.prefix.parse().ok())
            .filter(|net: &IpNet| Family::of(net.addr()) == family)
            .collect()
    }

    /// The address that `app` gets for its wish, and whether it has it already.
    fn choose(&self, app: &App, wish: &Wish) -> ControlResult<(IpAddr, bool)> {
        let mut mine = self.held.iter().filter(|held| held.app == app.name);
        let count = mine.clone().count();
        let found = match wish {
            Wish::Dedicated { family, host_route } => {
                // Plain addresses first come from where no host routes are possible: those are scarce.
                let mut pools = self.pools(*family, |pool| !pool.shared && !pool.host_routes);
                let local = self.pools(*family, |pool| !pool.shared && pool.host_routes);
                if *host_route {
                    pools = local
                } else {
                    pools.extend(local)
                }
                let what = if *host_route { "dedicated, with host routes" } else { "dedicated" };
                next_of(&pools, &self.taken(), what, *family)?
            }
            Wish::Shared { family } => {
                let same = |held: &&AppAddress| held.kind == AddressKind::Shared && Family::of(held.address) == *family;
                if let Some(held) = mine.find(same) {
                    return Ok((held.address, true));
                }
                next_of(&self.pools(*family, |pool| pool.shared), &BTreeSet::new(), "shared", *family)?
            }
            Wish::Private { network } => {
                let same = |held: &&AppAddress| held.network == Some(*network);
                if let Some(held) = mine.find(same) {
                    return Ok((held.address, true));
                }
                let net = IpNet::V6(Ipv6Net::new_assert(flycast_address(*network, 0), FLYCAST_LENGTH));
                next_of(&[net], &self.taken(), "private", Family::V6)?
            }
        };
        match count < MAX_PER_APP {
            true => Ok((found, false)),
            false => {
                Err(ControlError::new(Kind::Precondition, format!("app {} has {count} addresses already", app.name)))
            }
        }
    }
}

/// Flycast numbers have 16 bits.
const FLYCAST_LENGTH: u8 = 112;

/// A wish with the network's name looked up.
#[derive(Clone)]
enum Wish {
    Dedicated { family: Family, host_route: bool },
    Shared { family: Family },
    Private { network: NetworkId },
}

fn next_of(pools: &[IpNet], taken: &BTreeSet<IpAddr>, what: &str, family: Family) -> ControlResult<IpAddr> {
    let family = family.name();
    if pools.is_empty() {
        let text = format!("no pool of this platform has {family} addresses that are {what}: its operator adds pools");
        return Err(ControlError::new(Kind::Precondition, text));
    }
    lowest_free(pools, taken).ok_or_else(|| {
        let text = format!("every {family} address of the pools ({what}) is in use, or rests after its last use");
        ControlError::new(Kind::Capacity, text)
    })
}

impl From<PoolRefused> for ControlError {
    fn from(refused: PoolRefused) -> Self {
        let kind = if matches!(refused, PoolRefused::Overlaps { .. }) { Kind::Conflict } else { Kind::Invalid };
        Self::new(kind, refused.to_string())
    }
}

/// The pools, and what of each is in use.
impl Control {
    pub async fn address_pools(&self) -> ControlResult<Vec<PoolUse>> {
        let (now, readers) = (self.now_ms(), &*self.readers);
        let situation = self.store.read(|tx| async move { Situation::read(&tx, now, readers).await }).await?;
        let within =
            |pool: &AddressPool, address: &IpAddr| pool.prefix.parse::<IpNet>().is_ok_and(|net| net.contains(address));
        let held: BTreeSet<IpAddr> = situation.held.iter().map(|held| held.address).collect();
        let of = |pool: AddressPool| {
            let resting = situation.resting.iter().filter(|(address, _)| within(&pool, address));
            PoolUse {
                used: held.iter().filter(|address| within(&pool, address)).count(),
                resting: resting.clone().count(),
                waiting_for: resting.flat_map(|(_, servers)| servers.iter().cloned()).collect(),
                pool,
            }
        };
        Ok(situation.pools.into_iter().map(of).collect())
    }

    /// Gives a prefix of the operator's to apps.
    pub async fn address_pool_add(&self, prefix: &str, shared: bool, host_routes: bool) -> ControlResult<AddressPool> {
        if shared && host_routes {
            return Err(PoolRefused::SharedHostRoutes.into());
        }
        let now = self.now_ms();
        let added = self.store.write(|tx| async move {
            let others: Vec<IpNet> =
                tx.address_pools().await?.iter().filter_map(|pool| pool.prefix.parse().ok()).collect();
            let prefix = match new_pool(prefix, &others) {
                Ok(prefix) => prefix.to_string(),
                Err(refused) => return Ok(Err(refused)),
            };
            let pool = AddressPool { prefix, shared, host_routes, created_at_ms: now };
            tx.address_pool_add(&pool).await?;
            Ok::<_, StoreError>(Ok(pool))
        });
        Ok(added.await??)
    }

    /// Takes a pool back that no app has an address of; says what it was.
    pub async fn address_pool_remove(&self, prefix: &str) -> ControlResult<AddressPool> {
        let net: IpNet =
            prefix.parse().map_err(|_| ControlError::not_found(format!("address pool {prefix:?} not found")))?;
        let prefix = &net.to_string();
        let removed = self.store.write(|tx| async move {
            let held = tx.addresses().await?;
            let in_use: BTreeSet<IpAddr> =
                held.into_iter().map(|held| held.address).filter(|address| net.contains(address)).collect();
            Ok::<_, StoreError>(match in_use.len() {
                0 => Ok(tx.address_pool_remove(prefix).await?),
                count => Err(count),
            })
        });
        removed.await?.map_err(|count| {
            ControlError::new(Kind::Conflict, format!("{prefix} is in use: addresses that apps have: {count}"))
        })
    }
}

/// Apps' addresses.
impl Control {
    /// The private networks of an organization.
    pub async fn networks(&self, org: &OrgSlug) -> ControlResult<Vec<Network>> {
        Ok(self.store.read(|tx| async move { tx.network_list(org).await }).await?)
    }

    pub async fn addresses(&self, app: &AppName) -> ControlResult<Vec<AppAddress>> {
        Ok(self.store.read(|tx| async move { tx.addresses_of(app).await }).await?)
    }

    /// Gives an app an address, the lowest free one; publishes it.
    pub async fn address_allocate(&self, app: &App, wish: &AddressWish) -> ControlResult<Changed<AppAddress>> {
        let wish = &self.look_up(app, wish).await?;
        let (now, readers) = (self.now_ms(), &*self.readers);
        let given = self.store.write(|tx| async move {
            let situation = Situation::read(&tx, now, readers).await?;
            let (address, has_it) = match situation.choose(app, wish) {
                Ok(chosen) => chosen,
                Err(refused) => return Ok(Err(refused)),
            };
            let new = AppAddress {
                address,
                app: app.name.clone(),
                kind: match wish {
                    Wish::Dedicated { .. } => AddressKind::Dedicated,
                    Wish::Shared { .. } => AddressKind::Shared,
                    Wish::Private { .. } => AddressKind::Private,
                },
                host_route: matches!(wish, Wish::Dedicated { host_route: true, .. }),
                network: match wish {
                    Wish::Private { network } => Some(*network),
                    Wish::Dedicated { .. } | Wish::Shared { .. } => None,
                },
                created_at_ms: now,
            };
            if !has_it {
                tx.addresses_rested(&situation.rested).await?;
                tx.address_bind(&new).await?;
            }
            let held = tx.addresses_of(&app.name).await?.into_iter().find(|held| held.address == address);
            let after = held.unwrap_or(new);
            Ok::<_, StoreError>(Ok(Changed { before: has_it.then(|| after.clone()), after }))
        });
        let given = given.await??;
        self.app_publish(&app.name).await?;
        Ok(given)
    }

    /// Takes an address from an app; says what it was. It leads nowhere from then on, and rests.
    pub async fn address_release(&self, app: &AppName, address: IpAddr) -> ControlResult<AppAddress> {
        let until = self.rests_until();
        let released = self.store.write(|tx| async move { tx.address_release(app, address, until).await }).await;
        let released = released.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ControlError::not_found(format!("app {app} has no address {address}")),
            _ => error.into(),
        })?;
        self.app_publish(app).await?;
        Ok(released)
    }

    /// Until when an address rests at least that is given back now, in Unix milliseconds.
    pub(crate) fn rests_until(&self) -> u64 {
        self.now_ms().saturating_add(u64::try_from(FLOOR.as_millis()).unwrap_or(u64::MAX))
    }

    /// Notes of addresses that were given back which write of the catalogue is without them; servers
    /// acknowledge it.
    pub(crate) async fn addresses_settle(&self) -> ControlResult<()> {
        let mut unsettled: BTreeMap<AppName, Vec<IpAddr>> = BTreeMap::new();
        for found in self.store.read(|tx| async move { tx.addresses_resting().await }).await? {
            if let (Some(app), None) = (found.app, found.gone) {
                unsettled.entry(app).or_default().push(found.address);
            }
        }
        for (app, addresses) in &unsettled {
            // What is published here was read after the addresses were found to be given back.
            let version = self.app_publish(app).await?;
            self.store.write(|tx| async move { tx.addresses_gone(addresses, version).await }).await?;
        }
        Ok(())
    }

    /// A network is named by its organization's people; it must be there, as nobody could enter by it else.
    async fn look_up(&self, app: &App, wish: &AddressWish) -> ControlResult<Wish> {
        Ok(match wish {
            AddressWish::Dedicated { family, host_route } => {
                Wish::Dedicated { family: *family, host_route: *host_route }
            }
            AddressWish::Shared { family } => Wish::Shared { family: *family },
            AddressWish::Private { network: None } => Wish::Private { network: app.network },
            AddressWish::Private { network: Some(name) } => {
                let org: &OrgSlug = &app.org;
                let found = self.networks(org).await?.into_iter().find(|network| network.name == *name);
                let missing = || ControlError::not_found(format!("organization {org} has no network {name:?}"));
                Wish::Private { network: found.ok_or_else(missing)?.id }
            }
        })
    }
}

/// Into the catalogue.
impl Control {
    /// Lets routing know what the records say of an app. Published again if the records have changed
    /// meanwhile, so that of two changes at once the later one stays. Whoever goes by the write that is answered
    /// goes by these records, or by later ones.
    ///
    /// # Errors
    /// Besides failures of the records, `Internal` if the catalogue takes no such row.
    pub async fn app_publish(&self, name: &AppName) -> ControlResult<RowVersion> {
        let mut known = self.app_row_of(name).await?;
        loop {
            let version = match &known {
                Some(row) => self.rows.put(row.clone()),
                // Where there is none to be deleted, all that was published so far is without it.
                None => self.rows.delete(RowKey::App(name.clone())).or_else(|| Some(self.rows.position())),
            };
            let now = self.app_row_of(name).await?;
            if now == known {
                let refused = || ControlError::internal(format!("the catalogue took no row of app {name}"));
                return version.ok_or_else(refused);
            }
            known = now;
        }
    }

    /// `None`: there is no such app, or none any more.
    async fn app_row_of(&self, name: &AppName) -> ControlResult<Option<Row>> {
        let read = self
            .store
            .read(|tx| async move { Ok::<_, StoreError>((tx.app_fetch(name).await?, tx.addresses_of(name).await?)) });
        match read.await {
            Ok((app, _)) if app.status == AppStatus::Deleting => Ok(None),
            Ok((app, addresses)) => Ok(Some(app_row(&app, &addresses))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All apps' addresses, by app.
    pub(crate) async fn addresses_by_app(&self) -> ControlResult<BTreeMap<AppName, Vec<AppAddress>>> {
        let mut by_app: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for held in self.store.read(|tx| async move { tx.addresses().await }).await? {
            by_app.entry(held.app.clone()).or_default().push(held);
        }
        Ok(by_app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        App {
            id: "a".repeat(16),
            numeric_id: 1,
            name: "web".parse().unwrap(),
            org: "personal".parse().unwrap(),
            network: NetworkId(1),
            network_name: "default".to_owned(),
            status: AppStatus::Deployed,
            primary_region: None,
            regions: Vec::new(),
            secrets_version: 0,
            created_at_ms: 0,
        }
    }

    fn held(app: &str, address: &str, kind: AddressKind, network: Option<NetworkId>) -> AppAddress {
        let (app, address) = (app.parse().unwrap(), address.parse().unwrap());
        AppAddress { address, app, kind, host_route: false, network, created_at_ms: 0 }
    }

    fn situation(held: Vec<AppAddress>) -> Situation {
        let pool = |prefix: &str, shared, host_routes| AddressPool {
            prefix: prefix.to_owned(),
            shared,
            host_routes,
            created_at_ms: 0,
        };
        let pools = vec![
            pool("192.0.2.0/30", false, true),
            pool("198.51.100.0/30", false, false),
            pool("203.0.113.0/30", true, false),
        ];
        let resting = BTreeMap::from([("198.51.100.1".parse().unwrap(), BTreeSet::new())]);
        Situation { pools, held, resting, rested: Vec::new() }
    }

    fn chosen(situation: &Situation, wish: &Wish) -> Result<(String, bool), Kind> {
        let found = situation.choose(&app(), wish);
        found.map(|(address, has_it)| (address.to_string(), has_it)).map_err(|error| error.kind)
    }

    fn dedicated(host_route: bool) -> Wish {
        Wish::Dedicated { family: Family::V4, host_route }
    }

    #[test]
    fn plain_addresses_leave_those_with_host_routes_to_who_wants_them() {
        let new = |address: &str| Ok((address.to_owned(), false));
        let some = situation(Vec::new());
        assert_eq!(chosen(&some, &dedicated(false)), new("198.51.100.2"), "the one before rests");
        assert_eq!(chosen(&some, &dedicated(true)), new("192.0.2.1"));
        let few = situation(vec![held("db", "198.51.100.2", AddressKind::Dedicated, None)]);
        assert_eq!(chosen(&few, &dedicated(false)), new("192.0.2.1"));
        let none = ["198.51.100.2", "192.0.2.1", "192.0.2.2"];
        let none = situation(none.map(|address| held("db", address, AddressKind::Dedicated, None)).into());
        assert_eq!(chosen(&none, &dedicated(false)), Err(Kind::Capacity));
        let v6 = Wish::Dedicated { family: Family::V6, host_route: false };
        assert_eq!(chosen(&none, &v6), Err(Kind::Precondition), "there is no such pool");
    }

    #[test]
    fn what_an_app_has_but_once_it_is_given_again() {
        let (shared, private) = (Wish::Shared { family: Family::V4 }, Wish::Private { network: NetworkId(0x18) });
        let others = situation(vec![
            held("db", "203.0.113.1", AddressKind::Shared, None),
            held("db", "fdaa:0:18:0:1::1", AddressKind::Private, Some(NetworkId(0x18))),
        ]);
        assert_eq!(chosen(&others, &shared), Ok(("203.0.113.1".to_owned(), false)));
        assert_eq!(chosen(&others, &private), Ok(("fdaa:0:18:0:1::2".to_owned(), false)));
        let mine = situation(vec![
            held("web", "203.0.113.2", AddressKind::Shared, None),
            held("web", "fdaa:0:18:0:1::7", AddressKind::Private, Some(NetworkId(0x18))),
        ]);
        assert_eq!(chosen(&mine, &shared), Ok(("203.0.113.2".to_owned(), true)));
        assert_eq!(chosen(&mine, &private), Ok(("fdaa:0:18:0:1::7".to_owned(), true)));
        let other_network = Wish::Private { network: NetworkId(1) };
        assert_eq!(chosen(&mine, &other_network), Ok(("fdaa:0:1:0:1::1".to_owned(), false)));
    }

    #[test]
    fn an_app_has_only_so_many() {
        let many = (1..=MAX_PER_APP).map(|n| held("web", &format!("2001:db8::{n:x}"), AddressKind::Dedicated, None));
        assert_eq!(chosen(&situation(many.collect()), &dedicated(true)), Err(Kind::Precondition));
    }
}
