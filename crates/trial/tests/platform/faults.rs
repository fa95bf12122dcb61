//! Every blow of the fault table is struck under load, and what it cost is held against the table.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use atoll_lab::Host;
use atoll_trial::faults::{Attempt, Blow, Duty, Measured, PAUSE, Process, Row, TABLE};
use atoll_trial::load::{RunningLoad, Shot, ShotKind, unix_ms};
use atoll_trial::persist::persist;
use atoll_trial::platform::{MachineSpec, ONE_REGION, Origin, Platform, Role, see};
use atoll_trial::programs::checkout;
use atoll_trial::visit::{Ask, ask};

use crate::support::trial;

/// Requests a second; half of them carry 64 KiB.
const RATE: u32 = 60;
/// How long nobody starts a killed supervisor again: the others go on without it.
const ABSENCE: Duration = Duration::from_secs(3);

/// What the load and the others who persist make use of.
struct Scene {
    site: String,
    /// Machines of `site`, which the policy starts again.
    running: Vec<String>,
    /// An app with one machine, which is stopped before each blow.
    sleeper: String,
    asleep: String,
    /// An app with two machines, of which one crashes in each blow and stays down.
    pair: String,
    twins: Vec<String>,
}

impl Scene {
    async fn set(platform: &Platform) -> anyhow::Result<Self> {
        let up = MachineSpec { region: "ams", ..MachineSpec::default() };
        let stays_down = MachineSpec { restart: "no", ..up.clone() };
        let site = platform.create_app("hello").await?;
        let running = vec![platform.create_machine("hello", &up).await?, platform.create_machine("hello", &up).await?];
        let sleeper = platform.create_app("sleeper").await?;
        let asleep = platform.create_machine("sleeper", &stays_down).await?;
        let pair = platform.create_app("pair").await?;
        let twins = vec![
            platform.create_machine("pair", &stays_down).await?,
            platform.create_machine("pair", &stays_down).await?,
        ];
        Ok(Self { site, running, sleeper, asleep, pair, twins })
    }

    /// Everything as before the blow.
    async fn restore(&self, platform: &Platform) -> anyhow::Result<()> {
        for (app, site, machines) in [("hello", &self.site, &self.running), ("pair", &self.pair, &self.twins)] {
            for machine in machines {
                platform.start_machine(app, machine).await?;
                platform.served_as("berlin", site, |seen| seen.who.machine == *machine).await?;
            }
        }
        platform.stop_machine("sleeper", &self.asleep).await
    }
}

/// A blow about to be struck: others wait for it here.
struct Moment(watch::Receiver<Option<u64>>);

impl Moment {
    /// Unix milliseconds of the blow, once it was struck.
    async fn struck(&self) -> anyhow::Result<u64> {
        self.0.clone().wait_for(Option::is_some).await?.context("no blow")
    }
}

/// A process as the node knows it.
async fn target(platform: &Platform, process: Process, scene: &Scene) -> anyhow::Result<u32> {
    let node = platform.node("ams")?;
    match process {
        Process::Supervisor => node.pid(Role::Supervisor),
        Process::Control => node.pid(Role::Control),
        Process::Worker => node.pid(Role::Worker),
        Process::Edge => node.pid(Role::Edge),
        Process::Net => node.pid(Role::Net),
        Process::Shim => node.shim(&scene.running[0]).await,
    }
}

/// Strikes, and waits until whoever repairs it has done so.
async fn strike(
    platform: &mut Platform,
    row: &Row,
    scene: &Scene,
    moment: &watch::Sender<Option<u64>>,
) -> anyhow::Result<()> {
    let pid = target(platform, row.process, scene).await?;
    let node = platform.node_mut("ams")?;
    let role = match row.process {
        Process::Control => Some(Role::Control),
        Process::Worker => Some(Role::Worker),
        Process::Edge => Some(Role::Edge),
        Process::Net => Some(Role::Net),
        Process::Supervisor | Process::Shim => None,
    };
    let struck = || moment.send_replace(Some(unix_ms()));
    match (row.blow, row.process) {
        (Blow::Killed, Process::Supervisor) => {
            node.kill_supervisor().await?;
            struck();
            tokio::time::sleep(ABSENCE).await;
        }
        (Blow::Restarted, Process::Supervisor) => {
            struck();
            node.end().await?;
            node.start(&Origin::First).await?;
        }
        (Blow::Paused, _) => {
            node.signal(pid, "STOP").await?;
            struck();
            tokio::time::sleep(PAUSE).await;
            node.signal(pid, "CONT").await?;
        }
        (Blow::Killed | Blow::Restarted, _) => {
            node.signal(pid, if row.blow == Blow::Killed { "KILL" } else { "TERM" }).await?;
            struck();
            if let Some(role) = role {
                node.replaced(role, pid).await?;
            }
        }
    }
    Ok(())
}

async fn wake(from: &Host, scene: &Scene, moment: &Moment) -> anyhow::Result<Vec<Attempt>> {
    moment.struck().await?;
    let until_it_works = Cell::new(true);
    Ok(persist(&until_it_works, async || {
        let seen = see(from, &Ask::get(&scene.sleeper, "/")).await?;
        ensure!(seen.who.machine == scene.asleep, "{seen:?}");
        Ok(())
    })
    .await)
}

/// Crashes one of the twins, then asks for whoever is left.
async fn crash(from: &Host, scene: &Scene, moment: &Moment) -> anyhow::Result<Vec<Attempt>> {
    const ASKED: usize = 10;
    moment.struck().await?;
    let until_it_works = Cell::new(true);
    persist(&until_it_works, async || {
        // What crashes has no answer: the edge says that the machine broke off.
        let answer = ask(from, &Ask::post(&scene.pair, "/crash")).await?;
        ensure!(answer.status == StatusCode::BAD_GATEWAY, "{answer:?}");
        Ok(())
    })
    .await;
    let mut attempts = Vec::new();
    let mut answered = BTreeSet::new();
    for _ in 0..ASKED {
        let asked = persist(&until_it_works, async || {
            answered.insert(see(from, &Ask::get(&scene.pair, "/")).await?.who.machine);
            Ok(())
        });
        attempts.extend(asked.await);
    }
    ensure!(answered.len() == 1, "not one machine alone answered after a crash: {answered:?}");
    Ok(attempts)
}

fn attempts_of(shots: &[Shot], wanted: impl Fn(ShotKind) -> bool) -> Vec<Attempt> {
    let wanted = shots.iter().filter(|shot| wanted(shot.kind));
    let attempt = |shot: &Shot| Attempt {
        began_ms: shot.at_ms,
        took: Duration::from_secs_f64(shot.took_ms / 1e3),
        error: shot.error.clone(),
    };
    wanted.map(attempt).collect()
}

async fn measure(platform: &mut Platform, row: &Row, scene: &Scene) -> anyhow::Result<Vec<(Duty, Measured)>> {
    let berlin = platform.host("berlin")?;
    let client = platform.client().clone();
    scene.restore(platform).await?;
    let load = RunningLoad::start(&berlin, &scene.site, RATE)?;
    load.more(30).await?;
    let over = Cell::new(false);
    let (announce, heard) = watch::channel(None);
    let moment = Moment(heard);
    let blow = async {
        let struck = strike(platform, row, scene, &announce).await;
        // Whoever waits for a blow that failed must not wait for ever.
        announce.send_if_modified(|at| at.is_none() && at.replace(unix_ms()).is_none());
        let calm = load.more(60).await;
        over.set(true);
        struck.and(calm)
    };
    let records = persist(&over, async || {
        let name = format!("app-{}", unix_ms());
        client.app_create(&name, "personal").await?;
        Ok(())
    });
    let machines = persist(&over, async || {
        let path = format!("/v1/apps/hello/machines/{}/metadata/tried", scene.running[1]);
        let value = json!({ "value": unix_ms().to_string() });
        client.raw(Method::POST, &path, Some(&value)).await?;
        Ok(())
    });
    let (blow, records, machines, woken, crashed) =
        tokio::join!(blow, records, machines, wake(&berlin, scene, &moment), crash(&berlin, scene, &moment));
    let shots = load.stop().await?;
    blow.with_context(|| format!("{} {}", row.process, row.blow))?;
    let at = moment.struck().await?;
    if !row.costs_a_machine() {
        let boots: BTreeSet<_> = shots.iter().filter_map(|shot| shot.boot_id.as_ref()).collect();
        ensure!(boots.len() == scene.running.len(), "machines were started anew: {boots:?}");
    }
    let open = |kind| matches!(kind, ShotKind::GetKept | ShotKind::PostKept | ShotKind::Socket);
    Ok(vec![
        (Duty::Requests, Measured::of(attempts_of(&shots, |kind| !open(kind)), at)),
        (Duty::Connections, Measured::of(attempts_of(&shots, open), at)),
        (Duty::Wakes, Measured::of(woken?, at)),
        (Duty::Crashes, Measured::of(crashed?, at)),
        (Duty::Records, Measured::of(records, at)),
        (Duty::Machines, Measured::of(machines, at)),
    ])
}

/// A line of what is printed: of each duty the longest wait, and how many failed.
fn shown(row: &Row, measured: &[(Duty, Measured)]) -> String {
    let mut line = format!("{:<10} {:<9}", row.process.to_string(), row.blow.to_string());
    for (_, Measured { failed, longest, .. }) in measured {
        let longest = longest.as_millis();
        // Writing to a String cannot fail.
        write!(line, " {:>17}", format!("{longest} ms, {failed} lost")).ok();
    }
    line
}

#[test]
fn each_blow_costs_what_the_fault_table_says_and_no_more() {
    trial("faults", ONE_REGION, async |platform| {
        let begun = Instant::now();
        let scene = Scene::set(platform).await?;
        let mut table = String::from("what waited longest, and how many attempts were lost\n");
        write!(table, "{:<20}", "")?;
        for duty in ["requests", "connections", "wakes", "crashes", "records", "machines"] {
            write!(table, " {duty:>17}")?;
        }
        let mut broken = Vec::new();
        for row in &TABLE {
            let measured = measure(platform, row, &scene).await?;
            let line = shown(row, &measured);
            println!("{line}");
            write!(table, "\n{line}")?;
            broken.extend(row.holds(&measured).err().map(|error| format!("{error:#}")));
            if (row.process, row.blow) == (Process::Supervisor, Blow::Killed) {
                platform.node_mut("ams")?.start(&Origin::First).await?;
            }
        }
        println!("{table}\nin {:.1?}", begun.elapsed());
        let folder = checkout().join("target/trial");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("faults.txt"), table)?;
        ensure!(broken.is_empty(), "{}", broken.join("\n"));
        Ok(())
    });
}
