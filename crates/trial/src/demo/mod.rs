//! The demonstration: three regions, users in four cities who never stop asking, and one thing after
//! another that goes wrong. What each step claims is checked, and written down whether it held or not.

mod moves;
mod screen;
mod steps;
mod table;
mod traffic;

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::platform::{Platform, Release, THREE_REGIONS};
pub use screen::Screen;
pub use table::Table;
use traffic::Traffic;

/// The app under load.
const APP: &str = "hello";
const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];
/// Each client with the edge that is nearest to it. Mumbai's is a near tie and only reported.
const NEAREST: [(&str, Option<&str>); 4] =
    [("berlin", Some("ams")), ("osaka", Some("nrt")), ("chicago", Some("ord")), ("mumbai", None)];
/// Requests a second from each client.
const RATE: u32 = 30;

/// How often the table is shown anew.
pub const REDRAW: Duration = Duration::from_millis(500);

/// What is written to `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub ok: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub ok: bool,
    pub ms: u64,
    /// Counts; with an `error` if the step did not hold.
    pub detail: Value,
}

/// A platform with its app and the load on it.
pub struct Demo {
    platform: Platform,
    site: String,
    traffic: Traffic,
}

impl Demo {
    /// Starts the platform, deploys the app in three regions and lets the users in.
    pub async fn start() -> anyhow::Result<Self> {
        println!("three servers start in a lab on this machine (lab steering, not BGP)");
        let platform = Platform::start(THREE_REGIONS).await?;
        println!("`atoll deploy -a {APP} -r ams -r nrt -r ord` in a folder with a fly.toml");
        let site = platform.create_app(APP).await?;
        let said = platform.deploy(APP, &Release { name: "one", ..Release::default() }, &REGIONS).await?;
        print!("{}{}", said.stdout, said.stderr);
        anyhow::ensure!(said.code == Some(0), "the first deploy failed");
        for (client, _) in NEAREST {
            platform.served(client, &site).await?;
        }
        let traffic = Traffic::start(&platform, &site)?;
        Ok(Self { platform, site, traffic })
    }

    /// Every step in order; one that does not hold does not end the others.
    pub async fn run(&mut self) -> Summary {
        let mut steps = Vec::new();
        macro_rules! step {
            ($name:ident) => {
                let begun = Instant::now();
                let outcome = self.shown(stringify!($name), steps::$name(self)).await;
                steps.push(done(stringify!($name), begun, outcome));
            };
        }
        step!(served);
        step!(woken);
        step!(agent_killed);
        step!(control_killed);
        step!(bad_release);
        step!(node_cut);
        step!(slow_link);
        Summary { ok: steps.iter().all(|step| step.ok), steps }
    }

    /// Shows the table, and the step that is under way, until it is over.
    async fn shown<T>(&self, name: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let mut screen = Screen::of_stdout();
        let mut ticks = tokio::time::interval(REDRAW);
        let mut step = std::pin::pin!(step);
        loop {
            tokio::select! {
                outcome = &mut step => {
                    screen.clear()?;
                    return outcome;
                }
                _ = ticks.tick() => screen.show(&format_args!("{}now: {name}\n", self.table()))?,
            }
        }
    }

    /// What the users see now.
    pub fn table(&self) -> Table {
        Table::of(&self.traffic)
    }

    /// Keeps the servers' logs; says where.
    pub fn keep_logs(&self) -> anyhow::Result<std::path::PathBuf> {
        self.platform.keep_logs("demo")
    }
}

fn done(name: &'static str, begun: Instant, outcome: anyhow::Result<Value>) -> Step {
    let ms = begun.elapsed().as_millis() as u64;
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(error) => (false, json!({"error": format!("{error:#}")})),
    };
    println!("{} {name} ({ms} ms)", if ok { "held  " } else { "FAILED" });
    println!("       {detail}");
    Step { name, ok, ms, detail }
}
