//! Measures what the platform promises in numbers: `make bench`. Each bench starts a platform of its
//! own in a lab on this machine, and uses the program's faces alone. How each measures is told in
//! `bench/RESULTS.md`.

mod catalogue;
mod deploy;
mod dns;
mod failover;
mod figure;
mod footprint;
mod isolation;
mod lifecycle;
mod machine_start;
mod mesh;
mod report;
mod runc;
mod scene;
mod stages;
mod wake;
mod withdrawal;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use clap::{Parser, ValueEnum};

use figure::Figures;
use report::Origin;

/// Measure the platform; ends with 1 if a gate was missed
#[derive(Parser)]
struct Arguments {
    /// This bench alone
    #[arg(long)]
    only: Option<Bench>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Bench {
    MachineStart,
    Wake,
    Deploy,
    Footprint,
    Catalogue,
    Dns,
    Withdrawal,
    WithdrawalUnderLoad,
    Mesh,
    Isolation,
    Lifecycle,
    Failover,
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Self::MachineStart => "machine_start",
            Self::Wake => "wake",
            Self::Deploy => "deploy",
            Self::Footprint => "footprint",
            Self::Catalogue => "catalogue",
            Self::Dns => "dns",
            Self::Withdrawal => "withdrawal",
            Self::WithdrawalUnderLoad => "withdrawal_under_load",
            Self::Mesh => "mesh",
            Self::Isolation => "isolation",
            Self::Lifecycle => "lifecycle",
            Self::Failover => "failover",
        }
    }

    async fn run(self) -> anyhow::Result<Figures> {
        match self {
            Self::MachineStart => machine_start::run().await,
            Self::Wake => wake::run().await,
            Self::Deploy => deploy::run().await,
            Self::Footprint => footprint::run().await,
            Self::Catalogue => catalogue::run().await,
            Self::Dns => dns::run().await,
            Self::Withdrawal => withdrawal::run().await,
            Self::WithdrawalUnderLoad => withdrawal::under_load().await,
            Self::Mesh => mesh::run().await,
            // Blocks on programs and sockets in namespaces; nothing else runs meanwhile.
            Self::Isolation => tokio::task::spawn_blocking(isolation::run).await?,
            Self::Lifecycle => lifecycle::run().await,
            Self::Failover => failover::run().await,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every gate was held.
async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "benches start servers in network namespaces: run them as root");
    let origin = Origin::here(&scene::checkout())?;
    let folder = scene::checkout().join("bench");
    let mut held = true;
    for bench in arguments.only.map_or_else(|| Bench::value_variants().to_vec(), |only| vec![only]) {
        let name = bench.name();
        let began = Instant::now();
        match bench.run().await {
            Ok(figures) => {
                report::write(&folder, name, &figures, &origin)?;
                held &= figures.iter().all(|(_, figure)| figure.held() != Some(false));
                show(name, &figures);
            }
            Err(error) => {
                // The others are worth running all the same.
                eprintln!("{name} could not be measured: {error:#}");
                held = false;
            }
        }
        println!("{name}: {:.0} s\n", began.elapsed().as_secs_f64());
    }
    Ok(held)
}

fn show(name: &str, figures: &Figures) {
    for (key, figure) in figures {
        let against = match (figure.peer, figure.ratio) {
            (Some(peer), Some(ratio)) => format!(", peer {peer}, ratio {ratio}"),
            _ => String::new(),
        };
        let gate = match (figure.gate, figure.held()) {
            (Some(gate), Some(true)) => format!(", gate {gate} held"),
            (Some(gate), _) => format!(", gate {gate} MISSED"),
            _ => String::new(),
        };
        println!("{name}.{key}: {} {}{against}{gate}", figure.value, figure.unit);
    }
}
