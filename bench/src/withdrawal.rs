//! From a fault to the route gone in the neighbouring router's kernel, detection included.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use http::Method;
use serde_json::json;
use tokio::process::{Child, Command};

use atoll_lab::Host;
use atoll_lab::routes::RouteWatch;
use atoll_model::MachineState;
use atoll_model::wire::AddressPoolRequest;
use atoll_trial::guard::{
    APP_PREFIX, BFD_MS, Guard, PREFIX, WORLD, changed_within, is_about, next_hop, time_until_gone,
};
use atoll_trial::platform::{MachineSpec, Origin, Platform, Role};
use atoll_trial::programs::load_generator;
use atoll_trial::wait::until;

use crate::figure::{Figure, Figures, Samples};

const RUNS: usize = 20;
/// Kills of control and worker, and upgrades of the guard, each.
const HARMLESS_RUNS: usize = 5;
/// In which a harmless event would have shown harm.
const QUIET: Duration = Duration::from_secs(1);
const FULL_CPU: Duration = Duration::from_secs(600);
/// Threads in the node's host that compute for nothing.
const BURDEN: usize = 16;
/// Crowds that ask the edge from beside it, each faster than it can answer, without waiting for answers.
const CROWDS: usize = 3;
const CROWD_RATE: &str = "20000";
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
enum Fault {
    EdgeKilled,
    EdgeHung,
    NodeFrozen,
    LinkCut,
    BgpKilled,
}

struct Scene {
    platform: Platform,
    guard: Guard,
    watch: RouteWatch,
}

pub async fn run() -> anyhow::Result<Figures> {
    let mut scene = Scene::set().await?;
    let mut figures = Figures::new();
    for (p50, p99, fault) in [
        ("edge_killed_p50_ms", "edge_killed_p99_ms", Fault::EdgeKilled),
        ("edge_hung_p50_ms", "edge_hung_p99_ms", Fault::EdgeHung),
        ("node_frozen_p50_ms", "node_frozen_p99_ms", Fault::NodeFrozen),
        ("link_cut_p50_ms", "link_cut_p99_ms", Fault::LinkCut),
        ("bgp_killed_p50_ms", "bgp_killed_p99_ms", Fault::BgpKilled),
    ] {
        let mut taken = Vec::new();
        for _ in 0..RUNS {
            taken.push(scene.strike(fault).await.with_context(|| p50)?);
        }
        let taken = milliseconds(taken);
        // The target is of the median, the gate of the worst of a hundred.
        figures.push((p50, Figure::new(taken.p50(), "ms").held_to(500.0, 200.0)));
        figures.push((p99, Figure::new(taken.p99(), "ms").held_to(500.0, 500.0)));
    }
    let unwanted = scene.harmless().await? as f64;
    figures.push(("unwanted_withdrawals", Figure::new(unwanted, "").held_to(0.0, 0.0)));
    match scene.overloads().await? {
        Some(lowered) => figures.push(("overloaded_preference_p50_ms", Figure::new(lowered.p50(), "ms"))),
        None => eprintln!("the edge answers probes in time beside {CROWDS} crowds: no preference to lower"),
    }
    let (announced, withdrawn) = scene.machines().await?;
    figures.push(("announce_on_machine_healthy_p50_ms", Figure::new(milliseconds(announced).p50(), "ms")));
    figures.push(("withdraw_on_last_machine_p50_ms", Figure::new(milliseconds(withdrawn).p50(), "ms")));
    Ok(figures)
}

/// Ten minutes at full load, by themselves: as long as all the rest together.
pub async fn under_load() -> anyhow::Result<Figures> {
    let mut scene = Scene::set().await?;
    let alarms = scene.full_cpu().await? as f64;
    Ok(vec![("bfd_false_alarms_10min", Figure::new(alarms, "").held_to(0.0, 0.0))])
}

impl Scene {
    async fn set() -> anyhow::Result<Self> {
        let platform = Platform::start(WORLD).await?;
        let guard = Guard::start(&platform.host("ams")?, &platform.host("east")?).await?;
        guard.announced().await?;
        let watch = guard.watch().await?;
        let real_time = guard.report()?["real_time"] == true;
        ensure!(real_time, "the guard was refused real-time priority: the figures would be those of a busy machine");
        Ok(Self { platform, guard, watch })
    }

    /// One fault, from just before it; ends with the place announced again.
    async fn strike(&mut self, fault: Fault) -> anyhow::Result<Duration> {
        let Self { platform, guard, watch } = self;
        let host = platform.host("ams")?;
        let taken = match fault {
            Fault::EdgeKilled => {
                // For good: behind the supervisor's socket the next edge would answer before anyone noticed.
                let node = platform.node_mut("ams")?;
                let edge = node.pid(Role::Edge)?;
                let kill = async || {
                    node.kill_supervisor().await?;
                    node.signal(edge, "KILL").await
                };
                let taken = time_until_gone(watch, PREFIX.0, kill).await?;
                platform.node_mut("ams")?.start(&Origin::First).await?;
                // Its memory of flaps is what makes the real one wait longer each time.
                guard.restart().await?;
                taken
            }
            Fault::EdgeHung => {
                let node = platform.node("ams")?;
                let edge = node.pid(Role::Edge)?;
                let taken = time_until_gone(watch, PREFIX.0, async || node.signal(edge, "STOP").await).await?;
                node.signal(edge, "CONT").await?;
                guard.restart().await?;
                taken
            }
            Fault::NodeFrozen => {
                let taken = time_until_gone(watch, PREFIX.0, async || Ok(host.pause().await?)).await?;
                host.resume().await?;
                taken
            }
            Fault::LinkCut => {
                let taken = time_until_gone(watch, PREFIX.0, async || Ok(platform.lab().cut("east", "ams").await?));
                let taken = taken.await?;
                platform.lab().heal_all().await?;
                taken
            }
            Fault::BgpKilled => {
                let bird = guard.pid("bird")?;
                time_until_gone(watch, PREFIX.0, async || guard.signal(bird, "KILL").await).await?
            }
        };
        self.guarded().await?;
        Ok(taken)
    }

    /// Waits until the place is announced and its link is looked after: BFD begins with one question a second,
    /// in both directions, and a fault in that first second or two is noticed that much later.
    async fn guarded(&self) -> anyhow::Result<()> {
        self.guard.announced().await?;
        let (east, own) = (self.platform.host("east")?, self.platform.host("ams")?.ipv4()?.to_string());
        // Its own pace, and three times the other's.
        let paces = [1, 3].map(|times| format!("{:.3}", f64::from(times * BFD_MS) / 1e3));
        until("both ends look for each other at full pace", LIMIT, async || {
            let sessions = self.ask_neighbour(&["show", "bfd", "sessions"]).await?;
            // Address, interface, state, since, interval, timeout.
            let mut told = sessions.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let guarded =
                told.any(|words| words.len() == 6 && (words[0], words[2]) == (&own, "Up") && words[4..] == paces);
            ensure!(guarded, "{sessions}");
            // After a thaw the session ends once more and is back before the route is.
            ensure!(next_hop(&east, PREFIX.0).await?.is_some(), "it is not announced");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// What the neighbour's routing daemon answers.
    async fn ask_neighbour(&self, question: &[&str]) -> anyhow::Result<String> {
        let socket = self.platform.host("east")?.disk()?.with_file_name("bgp").join("bird.sock");
        let output = Command::new("/usr/sbin/birdc").arg("-s").arg(&socket).args(question).output().await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How often events that concern nobody's traffic withdrew the place.
    async fn harmless(&mut self) -> anyhow::Result<usize> {
        let Self { platform, guard, watch } = self;
        let node = platform.node("ams")?;
        let mut withdrawn = 0;
        for _ in 0..HARMLESS_RUNS {
            for role in [Role::Control, Role::Worker] {
                let old = node.kill(role).await?;
                withdrawn += usize::from(deleted_within(watch, QUIET).await);
                node.replaced(role, old).await?;
            }
            guard.upgrade().await?;
            until("the newer guard runs", LIMIT, async || {
                ensure!(guard.runs_latest()?, "the older one runs");
                Ok(())
            })
            .await?;
            withdrawn += usize::from(deleted_within(watch, QUIET).await);
            guard.announced().await?;
        }
        Ok(withdrawn)
    }

    /// From the coming of crowds until the neighbour knows of a longer path; none if the edge does not mind them.
    async fn overloads(&mut self) -> anyhow::Result<Option<Samples>> {
        let host = self.platform.host("ams")?;
        let mut lowered = Vec::new();
        for _ in 0..RUNS {
            self.prepended(false).await?;
            let began = Instant::now();
            let crowds: Vec<_> = (0..CROWDS).map(|_| crowd(&host)).collect::<anyhow::Result<_>>()?;
            let noticed = self.prepended(true).await;
            let taken = began.elapsed();
            drop(crowds);
            if noticed.is_err() {
                return Ok(None);
            }
            lowered.push(taken);
        }
        Ok(Some(milliseconds(lowered)))
    }

    /// Waits until the path that the neighbour has is longer than one, or is not.
    async fn prepended(&self, wanted: bool) -> anyhow::Result<()> {
        until("the preference is as wanted", LIMIT, async || {
            let routes = self.ask_neighbour(&["show", "route", "all", "for", &PREFIX.0.to_string()]).await?;
            let prepended = routes.contains("65001 65001");
            ensure!(prepended == wanted, "prepended: {prepended}");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// An app's own address follows its machine here: from the machine's start until the neighbour has the route,
    /// and from the order to destroy it until the route is gone. Each run is another app's, as one whose route comes
    /// and goes is held back.
    async fn machines(&mut self) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
        let Self { platform, watch, .. } = self;
        let client = platform.client();
        let pool = AddressPoolRequest { prefix: APP_PREFIX.to_owned(), local: true, shared: false };
        client.address_pool_add(&pool).await?;
        let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            let app = format!("hello-{run}");
            platform.create_app(&app).await?;
            let given = client.address_assign(&app, &json!({"type": "v4", "local": true})).await?;
            let address: Ipv4Addr = given["ip"].as_str().context("the app was given no address")?.parse()?;
            let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
            let id = platform.create_machine(&app, &spec).await?;
            let route = watch.until(LIMIT, |change| is_about(change, address) && !change.deleted).await?;
            let at_ms = unix_ms().saturating_sub(route.at.elapsed().as_millis() as u64);
            platform.in_state(&app, &id, MachineState::Started).await?;
            let path = format!("/v1/apps/{app}/machines/{id}");
            let machine = client.raw(Method::GET, &path, None).await?;
            let events = machine["events"].as_array().into_iter().flatten();
            let started =
                events.filter(|event| event["status"] == "started").find_map(|event| event["timestamp"].as_u64());
            let started = started.context("the machine tells of no start")?;
            announced.push(Duration::from_millis(at_ms.saturating_sub(started)));
            let destroy =
                async || Ok(client.raw(Method::DELETE, &format!("{path}?force=true"), None).await.map(drop)?);
            withdrawn.push(time_until_gone(watch, address, destroy).await?);
        }
        Ok((announced, withdrawn))
    }

    /// How often the place was withdrawn while every processor of its host had more to do than it can.
    async fn full_cpu(&mut self) -> anyhow::Result<usize> {
        let host = self.platform.host("ams")?;
        // Load may do what it should; here only life and death count.
        self.guard.change_plan(|plan| plan["edge"]["slow"] = json!({"busy_ms": 60_000, "overloaded_ms": 60_000}))?;
        self.guard.announced().await?;
        host.overload(BURDEN).await?;
        let (end, mut alarms) = (Instant::now() + FULL_CPU, 0);
        while deleted_within(&mut self.watch, end.saturating_duration_since(Instant::now())).await {
            alarms += 1;
        }
        host.overload(0).await?;
        Ok(alarms)
    }
}

/// Users who ask the edge of this host for an app that does not exist; they leave when this is dropped.
fn crowd(host: &Host) -> anyhow::Result<Child> {
    let mut command = host.command(load_generator()?)?;
    command.args(["127.0.0.1:80", "nobody.invalid", "--rate", CROWD_RATE]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(host.log("crowd")?).kill_on_drop(true).spawn()?)
}

/// Whether the route was deleted within a time.
async fn deleted_within(watch: &mut RouteWatch, time: Duration) -> bool {
    let end = Instant::now() + time;
    while let Some(change) = changed_within(watch, PREFIX.0, end.saturating_duration_since(Instant::now())).await {
        if is_about(&change, PREFIX.0) && change.deleted {
            return true;
        }
    }
    false
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

fn milliseconds(taken: Vec<Duration>) -> Samples {
    taken.into_iter().map(|taken| taken.as_secs_f64() * 1e3).collect()
}
