//! The demonstration: three regions that announce one address by BGP, users in four cities who never stop
//! asking, and one thing after another that goes wrong. What each step claims is checked, and written down
//! whether it held or not.

mod by_hand;
mod moves;
mod screen;
mod steps;
mod table;
mod traffic;

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use atoll_lab::address::SERVICE_ADDRESS;

use crate::lifecycle::Announced;
use crate::platform::{Platform, Release};
pub use by_hand::ByHand;
pub use screen::Screen;
pub use table::Table;
use traffic::Traffic;

/// Three regions, four networks, users in four cities.
const WORLD: &str = include_str!("../../../../worlds/demo.toml");
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
    announced: Announced,
    site: String,
    traffic: Traffic,
}

impl Demo {
    /// Starts the platform, deploys the app in three regions and lets the users in.
    pub async fn start() -> anyhow::Result<Self> {
        println!("three servers start in a lab on this machine, each in a network with a BGP router of its own");
        let announced = Announced::start(WORLD).await?;
        let platform = &announced.platform;
        println!("all three announce {SERVICE_ADDRESS}, and BGP leads there:");
        for (client, _) in NEAREST {
            println!("  {}", announced.way(client).await?.join(" > "));
        }
        println!("`atoll deploy -a {APP} -r ams -r nrt -r ord` in a folder with a fly.toml");
        let site = platform.create_app(APP).await?;
        let said = platform.deploy(APP, &Release { name: "one", ..Release::default() }, &REGIONS).await?;
        print!("{}{}", said.stdout, said.stderr);
        anyhow::ensure!(said.code == Some(0), "the first deploy failed");
        for (client, _) in NEAREST {
            platform.served(client, &site).await?;
        }
        let traffic = Traffic::start(platform, &site)?;
        Ok(Self { announced, site, traffic })
    }

    fn platform(&self) -> &Platform {
        &self.announced.platform
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
        step!(private_name);
        step!(woken);
        step!(agent_killed);
        step!(control_killed);
        step!(bad_release);
        step!(withdrawn);
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
        self.platform().keep_logs("demo")
    }

    /// What its user can do while it goes on.
    pub fn by_hand(&self) -> ByHand<'_> {
        ByHand { platform: self.platform(), site: &self.site }
    }
}

fn done(name: &'static str, begun: Instant, outcome: anyhow::Result<Value>) -> Step {
    let ms = begun.elapsed().as_millis() as u64;
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(error) => (false, json!({"error": format!("{error:#}")})),
    };
    println!("{} {name} ({ms} ms)", if ok { "held  " } else { "FAILED" });
    print!("{}", lines(&detail));
    Step { name, ok, ms, detail }
}

/// A line for each thing that a step found; of the load only how it went as a whole.
fn lines(detail: &Value) -> String {
    let found = detail.as_object().into_iter().flatten();
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("       {name}: {text}\n"),
        load if name == "load" => {
            format!("       load: {} requests, {} failed\n", load["requests"], load["failed"])
        }
        value => format!("       {name}: {value}\n"),
    };
    found.map(line).collect()
}

/// For people: nobody reads more than a tenth.
fn tenths(milliseconds: f64) -> f64 {
    (milliseconds * 10.0).round() / 10.0
}
