//! The load generator as a program, for running inside a lab host: prints a JSON line per request.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tokio::sync::mpsc;

use atoll_trial::load::{self, LoadPlan};

/// Send requests at a rate, never retry, print each one's fate as a JSON line
#[derive(Parser)]
struct Arguments {
    /// Address and port of the edge
    target: SocketAddr,
    /// The app's host name
    host: String,
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds; absent: until killed
    #[arg(long)]
    seconds: Option<u64>,
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// Keep one WebSocket open too
    #[arg(long)]
    websocket: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let plan = LoadPlan {
        target: arguments.target,
        host: arguments.host,
        rate: arguments.rate,
        timeout: Duration::from_millis(arguments.timeout_ms),
        duration: arguments.seconds.map(Duration::from_secs),
        websocket: arguments.websocket,
    };
    let (sender, mut shots) = mpsc::channel(1024);
    let mut generator = tokio::spawn(load::run(plan, sender));
    let mut out = std::io::stdout().lock();
    loop {
        // The WebSocket's sender never ends by itself: the generator's end is the end.
        let shot = tokio::select! {
            biased;
            shot = shots.recv() => shot,
            ended = &mut generator => return Ok(ended?),
        };
        let Some(shot) = shot else { return Ok(()) };
        serde_json::to_writer(&mut out, &shot)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
}
