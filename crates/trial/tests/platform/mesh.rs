//! Machines of one network talk to each other across servers, by address and by name, and nobody else does.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{bail, ensure};
use http::Method;
use serde_json::json;

use atoll_trial::inside::Inside;
use atoll_trial::platform::{Platform, Role, RunningMachine, SOON, TWO_REGIONS};
use atoll_trial::visit::Who;
use atoll_trial::wait::until;

use crate::support::trial;

/// By when a server that cannot be reached, or can be again, must show in names.
const NOTICED: Duration = Duration::from_secs(3);
/// By when nothing of a revoked server may be accepted anywhere.
const SHUT_OUT: Duration = Duration::from_secs(5);

/// A machine and where it is.
struct Place {
    node: &'static str,
    id: String,
    address: Ipv6Addr,
}

impl Place {
    async fn make(platform: &Platform, app: &str, node: &'static str) -> anyhow::Result<Self> {
        let RunningMachine { id, address } = platform.running_machine(app, node).await?;
        Ok(Self { node, id, address })
    }

    fn inside<'a>(&'a self, platform: &'a Platform) -> anyhow::Result<Inside<'a>> {
        Ok(Inside::new(platform.node(self.node)?, &self.id))
    }

    async fn run(&self, platform: &Platform, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.inside(platform)?.run(program, arguments).await
    }

    /// Asks the app of another machine who it is.
    async fn ask(&self, platform: &Platform, address: Ipv6Addr) -> anyhow::Result<Who> {
        self.inside(platform)?.get(address, "/").await
    }

    async fn is_connected(&self, platform: &Platform, address: Ipv6Addr) -> anyhow::Result<()> {
        let found = self.run(platform, "ss", &["-Htn", "state", "established", "dst", &format!("[{address}]")]).await?;
        ensure!(!found.trim().is_empty(), "there is none");
        Ok(())
    }

    async fn resolve(&self, platform: &Platform, name: &str) -> anyhow::Result<Vec<Ipv6Addr>> {
        self.inside(platform)?.resolve(name).await
    }

    /// Waits until a name has just these addresses here.
    async fn resolves(&self, platform: &Platform, name: &str, wanted: &[Ipv6Addr]) -> anyhow::Result<Duration> {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        let (_, took) = until(&format!("{name} has {wanted:?} in {}", self.node), SOON, async || {
            let found = self.resolve(platform, name).await?;
            ensure!(found == wanted, "it has {found:?}");
            Ok(())
        })
        .await?;
        Ok(took)
    }
}

#[test]
fn machines_reach_each_other_across_servers_and_strangers_reach_none() {
    trial("mesh", TWO_REGIONS, async |platform| {
        platform.create_app("web").await?;
        let (near, far) = (Place::make(platform, "web", "ams").await?, Place::make(platform, "web", "nrt").await?);
        for (from, to) in [(&near, &far), (&far, &near)] {
            until("the machine of the other server answers", SOON, async || {
                let who = from.ask(platform, to.address).await?;
                ensure!(who.machine == to.id, "{} answered", who.machine);
                Ok(())
            })
            .await?;
        }
        near.resolves(platform, "web.internal", &[near.address, far.address]).await?;
        far.resolves(platform, "ams.web.internal", &[near.address]).await?;
        let instances = near.run(platform, "dig", &["+short", "+tcp", "@fdaa::3", "TXT", "vms.web.internal"]).await?;
        ensure!(instances.contains(&far.id), "{instances}");

        // A machine of another network stands on the same server and knows the addresses.
        let foreign = json!({"name": "foreign", "org_slug": "personal", "network": "strangers"});
        platform.client().raw(Method::POST, "/v1/apps", Some(&foreign)).await?;
        platform.import_example("hello", "foreign/web:latest").await?;
        let stranger = Place::make(platform, "foreign", "ams").await?;
        ensure!(stranger.resolve(platform, "web.internal").await?.is_empty(), "a stranger learns of a name");
        for target in [&near, &far] {
            if let Ok(who) = stranger.ask(platform, target.address).await {
                bail!("a stranger reached {}", who.machine);
            }
        }
        stranger.resolves(platform, "foreign.internal", &[stranger.address]).await?;

        policies_hold_at_once(platform, &near, &far).await?;

        // A process that is replaced costs no connection and no question.
        let ams = platform.node("ams")?;
        let net = ams.pid(Role::Net)?;
        let inside = near.inside(platform)?;
        let under_way = inside.get(far.address, "/busy/3000");
        let replaced = async {
            // The question must be under way before the blow.
            until("a connection is open", SOON, async || near.is_connected(platform, far.address).await).await?;
            ams.signal(net, "KILL").await?;
            let answered = near.resolve(platform, "web.internal").await?;
            ensure!(answered.len() == 2, "{answered:?}");
            ams.replaced(Role::Net, net).await
        };
        let (answer, replaced) = tokio::join!(under_way, replaced);
        replaced?;
        answer?;

        until("the doctor finds nothing", SOON, async || {
            let found = platform.client().mesh().await?;
            let ways = found.servers.iter().filter_map(|server| server.report.as_ref()).flat_map(|report| &report.ways);
            let reached = ways.filter(|way| way.reachable == Some(true)).count();
            ensure!(reached == 2 && found.findings.is_empty(), "{found:?}");
            Ok(())
        })
        .await?;

        // Names follow what can be reached.
        platform.lab().cut("ams", "nrt").await?;
        let lost = near.resolves(platform, "web.internal", &[near.address]).await?;
        let found = platform.client().mesh().await?;
        ensure!(found.findings.iter().any(|finding| finding.node.to_string() == "ams"), "{found:?}");
        platform.lab().heal("ams", "nrt").await?;
        let back = near.resolves(platform, "web.internal", &[near.address, far.address]).await?;
        println!("a server left names after {lost:.1?} and was back after {back:.1?}");
        ensure!(lost <= NOTICED && back <= NOTICED, "noticed after {lost:.1?}, back after {back:.1?}");

        platform.client().node_change("nrt", "revoke", false).await?;
        let (_, took) = until("nothing of a revoked server is accepted", SOON, async || {
            match far.ask(platform, near.address).await {
                Ok(who) => bail!("{} answered it", who.machine),
                Err(_) => Ok(()),
            }
        })
        .await?;
        println!("a revoked server was shut out after {took:.1?}");
        ensure!(took <= SHUT_OUT, "only after {took:.1?}");
        Ok(())
    });
}

/// A policy closes a running machine to others of its network, a changed one opens a port, and without one
/// all is open.
async fn policies_hold_at_once(platform: &Platform, from: &Place, to: &Place) -> anyhow::Result<()> {
    let all = "/v1/apps/web/network_policies";
    let allow =
        |port: u16| json!([{"action": "allow", "direction": "ingress", "ports": [{"protocol": "tcp", "port": port}]}]);
    let mut policy = json!({"name": "quiet", "selector": {"machines": [{"id": to.id}]}, "rules": allow(9)});
    let made = platform.client().raw(Method::POST, all, Some(&policy)).await?;
    ensure!(from.ask(platform, to.address).await.is_err(), "a closed machine was reached");
    to.ask(platform, from.address).await?;

    policy["id"] = made["id"].clone();
    policy["rules"] = allow(8080);
    platform.client().raw(Method::POST, all, Some(&policy)).await?;
    from.ask(platform, to.address).await?;

    policy["rules"] = json!([{"action": "allow", "direction": "ingress"}]);
    platform.client().raw(Method::POST, all, Some(&policy)).await?;
    ensure!(from.ask(platform, to.address).await.is_err(), "a machine that is closed again was reached");
    let one = format!("{all}/{}", made["id"].as_str().unwrap_or_default());
    platform.client().raw(Method::DELETE, &one, None).await?;
    from.ask(platform, to.address).await.map(drop)
}
