//! A request's life, from the name to the answer, in a world where BGP leads it: whole platforms whose nodes
//! announce the service address by guards.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use atoll_lab::World;
use atoll_lab::address::SERVICE_ADDRESS;
use atoll_lab::world::Role as HostRole;
use atoll_model::MachineState;

use crate::guard::Guard;
use crate::platform::{MachineSpec, Platform, SOON, Seen, see};
use crate::visit::Ask;
use crate::wait::until;

/// Somebody in Mumbai, edges in Chennai, Bangalore and Singapore.
pub const REQUEST_LIFECYCLE: &str = include_str!("../../../worlds/request-lifecycle.toml");
/// Users around New York and London.
pub const TWO_CITIES: &str = include_str!("../../../worlds/two-cities.toml");

/// A new connection that has no answer by then is given up for another one; no way around these worlds is
/// longer.
const PATIENCE: Duration = Duration::from_millis(750);

/// A platform that BGP leads to.
pub struct Announced {
    pub platform: Platform,
    pub world: World,
    guards: Vec<(String, Guard)>,
}

impl Announced {
    /// Starts a world, its servers and a guard beside each; names are served at the address that all announce.
    pub async fn start(world: &str) -> anyhow::Result<Self> {
        let service = SERVICE_ADDRESS.to_string();
        let dns = format!("{service}:53");
        let platform = Platform::start_with(world, &["--dns", &dns, "--public-address", &service]).await?;
        let world = World::parse(world)?;
        let mut guards = Vec::new();
        for (port, host) in world.ports().filter(|(_, host)| host.role == HostRole::Node) {
            let link = world.listed.iter().find(|link| link.a == port || link.b == port);
            let link = link.with_context(|| format!("{} has no link", host.name))?;
            let neighbour = &world.hosts[if link.a == port { link.b } else { link.a }.0];
            let system = neighbour.system.with_context(|| format!("{} is of no system", neighbour.name))?;
            let (node, router) = (platform.host(&host.name)?, platform.host(&neighbour.name)?);
            guards.push((
                host.name.clone(),
                Guard::start_towards(&node, &router, system, link.password.as_deref()).await?,
            ));
        }
        for (_, guard) in &guards {
            guard.announced().await?;
        }
        Ok(Self { platform, world, guards })
    }

    pub fn guard(&self, node: &str) -> anyhow::Result<&Guard> {
        let found = self.guards.iter().find(|(name, _)| name == node);
        Ok(&found.with_context(|| format!("no guard runs on {node}"))?.1)
    }

    pub fn guard_mut(&mut self, node: &str) -> anyhow::Result<&mut Guard> {
        let found = self.guards.iter_mut().find(|(name, _)| name == node);
        Ok(&mut found.with_context(|| format!("no guard runs on {node}"))?.1)
    }

    /// An app with a machine in each of these regions, all started.
    pub async fn app(&self, app: &str, regions: &[&str]) -> anyhow::Result<String> {
        let site = self.platform.create_app(app).await?;
        for region in regions {
            self.machine(app, region).await?;
        }
        Ok(site)
    }

    pub async fn machine(&self, app: &str, region: &str) -> anyhow::Result<()> {
        let spec = MachineSpec { region, ..MachineSpec::default() };
        let machine = self.platform.create_machine(app, &spec).await?;
        self.platform.in_state(app, &machine, MachineState::Started).await.map(drop)
    }

    /// What a client is told of a name, at the address at which every place serves names.
    pub async fn resolve(&self, client: &str, name: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
        let server = format!("@{SERVICE_ADDRESS}");
        let host = self.platform.host(client)?;
        let output = host.command("dig")?.args(["+short", "+timeout=2", &server, name, "A"]).output().await?;
        ensure!(output.status.success(), "dig {name}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8(output.stdout)?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// The hosts between a client and the place to which BGP leads it, both included.
    pub async fn way(&self, client: &str) -> anyhow::Result<Vec<String>> {
        Ok(self.platform.lab().trace(client, SERVICE_ADDRESS).await?)
    }

    /// There and back between two hosts, by the delays of the links on the way.
    pub async fn round_trip(&self, from: &str, to: &str) -> anyhow::Result<Duration> {
        let there = self.platform.lab().trace(from, self.platform.host(to)?.ipv4()?).await?;
        let back = self.platform.lab().trace(to, self.platform.host(from)?.ipv4()?).await?;
        Ok(self.delay(&there)? + self.delay(&back)?)
    }

    fn delay(&self, way: &[String]) -> anyhow::Result<Duration> {
        let paths = self.world.paths();
        let port = |name: &String| self.world.port(name).with_context(|| format!("{name} is not in this world"));
        way.windows(2).try_fold(Duration::ZERO, |sum, pair| {
            let path = paths.effective(port(&pair[0])?, port(&pair[1])?);
            Ok(sum + path.with_context(|| format!("{pair:?} are not connected"))?.delay)
        })
    }

    /// The quickest of several requests on new connections, which must all go the same way.
    pub async fn quickest(&self, client: &str, site: &str, edge: &str, region: &str) -> anyhow::Result<Duration> {
        let mut quickest = Duration::MAX;
        for _ in 0..10 {
            let seen = self.see(client, site).await?;
            ensure!(seen.edge == edge && seen.who.region == region, "the request went another way: {seen:?}");
            quickest = quickest.min(seen.took);
        }
        Ok(quickest)
    }

    /// A user in Mumbai asks for an app in Bangalore: the name leads to the address that all announce, BGP leads
    /// to Chennai, and its edge fetches the answer. Gives the time of the quickest request, and what the links
    /// on its way take: the connection, the request, and its way on through a connection that is there.
    pub async fn mumbai_by_chennai(&self, site: &str) -> anyhow::Result<(Duration, Duration)> {
        until("the name leads to the address that all announce", SOON, async || {
            let told = self.resolve("mumbai", site).await?;
            ensure!(told == [SERVICE_ADDRESS], "it leads to {told:?}");
            Ok(())
        })
        .await?;
        let way = self.way("mumbai").await?;
        ensure!(way == ["mumbai", "west", "south", "maa"], "BGP leads by {way:?}");
        self.goes("mumbai", site, |seen| seen.edge == "maa" && seen.who.region == "blr").await?;
        let took = self.quickest("mumbai", site, "maa", "blr").await?;
        let links = self.round_trip("mumbai", "maa").await? * 2 + self.round_trip("maa", "blr").await?;
        ensure!(took >= links, "a request was quicker than its links: {took:.1?}, {links:.1?}");
        Ok((took, links))
    }

    /// Users of two cities, each led where the path is shortest; Paris to New York, though London is nearer.
    pub async fn users_by_path(&self, site: &str) -> anyhow::Result<()> {
        for (user, place) in [("chicago", "ewr"), ("new-york", "ewr"), ("paris", "ewr"), ("berlin", "lhr")] {
            let way = self.way(user).await?;
            ensure!(way.last().is_some_and(|end| end == place), "BGP leads {user} by {way:?}");
            self.goes(user, site, |seen| seen.edge == place && seen.who.region == place).await?;
        }
        Ok(())
    }

    pub async fn see(&self, client: &str, site: &str) -> anyhow::Result<Seen> {
        see(&self.platform.host(client)?, &Ask::get(site, "/")).await
    }

    /// Waits until a client's requests go the way that is wanted; gives the time.
    pub async fn goes(
        &self,
        client: &str,
        site: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<(Seen, Duration)> {
        let host = self.platform.host(client)?;
        let began = Instant::now();
        let (seen, _) =
            until(&format!("requests of {client} go as wanted"), SOON, async || {
                match tokio::time::timeout(PATIENCE, see(&host, &Ask::get(site, "/"))).await {
                    Ok(Ok(seen)) if wanted(&seen) => Ok(seen),
                    Ok(Ok(seen)) => bail!("the last answer was {seen:?}"),
                    Ok(Err(error)) => Err(error),
                    Err(_) => bail!("the last one had no answer"),
                }
            })
            .await?;
        Ok((seen, began.elapsed()))
    }
}
