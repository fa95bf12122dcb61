//! What an idle server costs, and what each idle machine adds beyond its workload.

use std::time::Duration;

use anyhow::{Context, ensure};

use atoll_trial::platform::{Node, Platform};
use atoll_trial::programs;

use crate::figure::{Figure, Figures};
use crate::scene;

const MACHINES: usize = 50;
/// Until what a start or a change stirred up has settled: heartbeats and savers have come round.
const SETTLE: Duration = Duration::from_secs(8);
/// The program inside machines.
const WORKLOAD: &str = "first";

/// Kilobytes of proportional memory: the platform's, and the workloads'.
#[derive(Clone, Copy)]
struct Memory {
    platform: f64,
    workloads: f64,
    kernel: f64,
}

pub async fn run() -> anyhow::Result<Figures> {
    let platform = scene::one_node(&[]).await?;
    let idle = settled(&platform).await?;
    let image = scene::import(&platform, WORKLOAD, &scene::first_image()).await?;
    // The first machine pays for what all share: the unpacked image, the programs' pages.
    scene::machine(&platform, "ams", &image, None).await?;
    let one = settled(&platform).await?;
    for _ in 0..MACHINES {
        scene::machine(&platform, "ams", &image, None).await?;
    }
    let many = settled(&platform).await?;
    ensure!(many.workloads > 0.0, "no workload was found");
    let each = |after: f64, before: f64| (after - before) / MACHINES as f64 / 1024.0;
    let binary = std::fs::metadata(programs::atoll()?)?.len() as f64 / f64::from(1 << 20);
    Ok(vec![
        ("up_idle_pss_mb", Figure::new(idle.platform / 1024.0, "MiB").held_to(100.0, 60.0)),
        ("binary_mb", Figure::new(binary, "MiB")),
        ("per_idle_machine_mb", Figure::new(each(many.platform, one.platform), "MiB").held_to(4.0, 2.0)),
        ("per_idle_machine_workload_mb", Figure::new(each(many.workloads, one.workloads), "MiB")),
        ("per_idle_machine_kernel_mb", Figure::new(each(many.kernel, one.kernel), "MiB")),
    ])
}

async fn settled(platform: &Platform) -> anyhow::Result<Memory> {
    tokio::time::sleep(SETTLE).await;
    memory(platform.node("ams")?).await
}

/// Sums over all processes of the host; the kernel's own is this whole machine's.
async fn memory(node: &Node) -> anyhow::Result<Memory> {
    // A process that ends meanwhile has an empty field. The guest's program is nowhere in the file system.
    let script = "for p in /proc/[0-9]*; do \
        echo \"$(readlink $p/exe):$(cat $p/comm):$(sed -n 's/^Pss: *\\([0-9]*\\) kB/\\1/p' $p/smaps_rollup)\"; \
        done 2>/dev/null";
    let output = node.run("sh", &["-c", script]).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut memory = Memory { platform: 0.0, workloads: 0.0, kernel: kernel_kilobytes()? };
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(program), Some(name), Some(Ok(kilobytes))) =
            (fields.next(), fields.next(), fields.next().map(str::parse::<f64>))
        else {
            continue;
        };
        let program = program.rsplit('/').next().unwrap_or_default();
        if program == WORKLOAD {
            memory.workloads += kilobytes;
        } else if program == "atoll" || program.starts_with("atoll-shim") || name == "atoll-guest" {
            memory.platform += kilobytes;
        }
        // The rest is the lab's own, and the shell that asks.
    }
    ensure!(memory.platform > 0.0, "no process of the platform was found among:\n{text}");
    Ok(memory)
}

/// What the kernel holds for its own structures.
fn kernel_kilobytes() -> anyhow::Result<f64> {
    const KINDS: [&str; 4] = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kinds = text.lines().filter(|line| KINDS.iter().any(|kind| line.starts_with(kind)));
    Ok(kinds.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum())
}
