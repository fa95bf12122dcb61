//! The demonstration as a program: `make demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;

use atoll_trial::demo::{Demo, REDRAW, Screen};

/// Start a platform of three regions behind one anycast address on this machine, deploy an app, break things
#[derive(Parser)]
struct Arguments {
    /// End after the last step instead of showing the table until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Where the outcome is written
    #[arg(long, default_value = "target/demo/summary.json")]
    summary: PathBuf,
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

async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "the demo starts servers in network namespaces: run it as root");
    let mut demo = Demo::start().await?;
    let summary = tokio::select! {
        summary = demo.run() => summary,
        _ = tokio::signal::ctrl_c() => return Ok(false),
    };
    print!("\n{}", demo.table());
    if let Some(folder) = arguments.summary.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(&arguments.summary, serde_json::to_vec_pretty(&summary)?)
        .with_context(|| format!("cannot write {}", arguments.summary.display()))?;
    println!("{}: {}", if summary.ok { "every step held" } else { "not every step held" }, arguments.summary.display());
    if !summary.ok {
        println!("the servers' logs: {}", demo.keep_logs()?.display());
    }
    if !arguments.once {
        println!("\n{}\nthe platform goes on until Ctrl-C", demo.by_hand());
        let by_hand = demo.by_hand();
        tokio::select! {
            watched = watch(&demo) => watched?,
            served = by_hand.serve() => served?,
        }
    }
    Ok(summary.ok)
}

/// Shows the table until Ctrl-C.
async fn watch(demo: &Demo) -> anyhow::Result<()> {
    let mut screen = Screen::of_stdout();
    loop {
        screen.show(&demo.table())?;
        tokio::select! {
            _ = tokio::time::sleep(REDRAW) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}
