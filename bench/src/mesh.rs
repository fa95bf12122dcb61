//! The mesh against ready-made WireGuard: two namespaces with a cable between them, one tunnel, one TCP
//! connection through it. The cable's ends cut nothing by themselves, as a network card without UDP
//! segmentation does not: every datagram is made. Then a whole platform whose net process is killed.

mod ends;
mod first_call;
mod identity;
mod reroute;
mod rtt;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use self::ends::{Cable, Program, Tunnel};
use crate::figure::{Figure, Figures, Samples};

/// Rounds, one program after the other in each; a figure is the median of its rounds.
const ROUNDS: usize = 5;
/// Of one connection.
const SECONDS: u32 = 6;
/// What our tunnel also carries meanwhile.
const PEERS: u32 = 12;
const ADDRESSES: u32 = 100_000;

/// What one round with one program gave.
struct Round {
    gbit: f64,
    cpu_s_per_gb: f64,
    rtt_ms: f64,
    /// Seconds for a thousand changes of addresses, where the program was asked for them.
    changes_s: Option<f64>,
}

pub async fn run() -> anyhow::Result<Figures> {
    // Blocks on programs and sockets in namespaces; nothing else runs meanwhile.
    let mut figures = tokio::task::spawn_blocking(tunnels).await??;
    let lost = identity::rotation().await? as f64;
    figures.push(("rotation_lost_packets", Figure::new(lost, "").held_to(0.0, 0.0)));
    let longest = identity::revocation().await?.percentile(100.0);
    figures.push(("revocation_s", Figure::new(longest, "s").held_to(5.0, 5.0)));
    figures.extend(first_call::run().await?);
    figures.extend(reroute::run().await?);
    Ok(figures)
}

/// Our tunnel beside others.
fn tunnels() -> anyhow::Result<Figures> {
    let cable = Cable::lay()?;
    let mut plain = Vec::new();
    let mut rounds: [Vec<Round>; 3] = Default::default();
    for _ in 0..ROUNDS {
        plain.push(rtt::median_ms(&cable, cable.outside())?);
        for (program, rounds) in Program::ALL.into_iter().zip(&mut rounds) {
            rounds.push(round(&cable, program)?);
        }
    }
    let [ours, device, go] = &rounds;
    let median = |rounds: &[Round], figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Samples>().p50();
    let plain_ms = plain.into_iter().collect::<Samples>().p50();
    let changes = ours.iter().filter_map(|round| round.changes_s).collect::<Samples>().p50();
    let gbit = |rounds: &[Round]| median(rounds, |round| round.gbit);
    let cpu = |rounds: &[Round]| median(rounds, |round| round.cpu_s_per_gb);
    let added = |rounds: &[Round]| median(rounds, |round| round.rtt_ms) - plain_ms;
    Ok(vec![
        ("one_stream_gbit", Figure::new(gbit(ours), "Gbit/s").at_least(2.0, 3.0).against(gbit(device))),
        ("one_stream_gbit_wireguard_go", Figure::new(gbit(ours), "Gbit/s").against(gbit(go))),
        ("cpu_s_per_gb", Figure::new(cpu(ours), "s").against(cpu(device))),
        ("cpu_s_per_gb_wireguard_go", Figure::new(cpu(ours), "s").against(cpu(go))),
        ("added_rtt_median_ms", Figure::new(added(ours), "ms").held_to(0.3, 0.1)),
        ("added_rtt_median_ms_device", Figure::new(added(device), "ms")),
        ("peers", Figure::new(f64::from(PEERS), "")),
        ("addresses", Figure::new(f64::from(ADDRESSES), "")),
        ("address_changes_per_s", Figure::new(1_000.0 / changes, "1/s").at_least(1_000.0, 10_000.0)),
    ])
}

fn round(cable: &Cable, program: Program) -> anyhow::Result<Round> {
    let mut tunnel = Tunnel::start(cable, program, PEERS, ADDRESSES)?;
    // Also waits for the first handshake.
    let rtt_ms = rtt::median_ms(cable, tunnel.inside())?;
    let changes_s = if program == Program::Ours { Some(tunnel.changes_s()?) } else { None };
    let before = tunnel.cpu_s()?;
    let (bytes, gbit) = transfer(cable, &tunnel)?;
    let cpu_s_per_gb = (tunnel.cpu_s()? - before) / (bytes / 1e9);
    Ok(Round { gbit, cpu_s_per_gb, rtt_ms, changes_s })
}

/// One TCP connection: bytes that arrived, and how fast.
fn transfer(cable: &Cable, tunnel: &Tunnel) -> anyhow::Result<(f64, f64)> {
    let (_, far) = tunnel.inside();
    let mut server = cable.far_command("iperf3");
    let mut server = server.args(["--server", "--one-off", "--bind", &far.to_string()]).spawn_quietly()?;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let report = loop {
        let mut client = cable.near_command("iperf3");
        client.args(["--client", &far.to_string(), "--time", &SECONDS.to_string(), "--json"]);
        let output = client.output().context("cannot run iperf3")?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 gave no report")?;
        // The server needs a moment to listen.
        if report["error"].is_null() {
            break report;
        }
        ensure!(std::time::Instant::now() < deadline, "iperf3: {}", report["error"]);
        std::thread::sleep(Duration::from_millis(50));
    };
    server.wait()?;
    let sum = &report["end"]["sum_received"];
    let number = |key: &str| sum[key].as_f64().with_context(|| format!("iperf3 told no {key}"));
    Ok((number("bytes")?, number("bits_per_second")? / 1e9))
}

/// Starting without output.
trait SpawnQuietly {
    fn spawn_quietly(&mut self) -> anyhow::Result<std::process::Child>;
}

impl SpawnQuietly for Command {
    fn spawn_quietly(&mut self) -> anyhow::Result<std::process::Child> {
        self.stdout(std::process::Stdio::null()).spawn().with_context(|| format!("cannot start {self:?}"))
    }
}
