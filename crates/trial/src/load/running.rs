//! The load generator at work in a lab host: a process of its own there, its shots as they come.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;

use atoll_lab::Host;
use atoll_lab::address::SERVICE_ADDRESS;

use super::{Shot, ShotKind};
use crate::programs;
use crate::wait::until;

/// Until a number of requests was answered.
const LIMIT: Duration = Duration::from_secs(60);

/// A running generator; killed when dropped.
pub struct RunningLoad {
    name: String,
    generator: Child,
    shots: Arc<Mutex<Vec<Shot>>>,
    reading: JoinHandle<()>,
}

impl RunningLoad {
    /// Half on new connections, half kept, GET and 64 KiB POST, one open WebSocket; never a retry.
    pub fn start(from: &Host, host_name: &str, rate: u32) -> anyhow::Result<Self> {
        let mut command = from.command(programs::load_generator()?)?;
        command
            .arg(SocketAddr::new(SERVICE_ADDRESS.into(), 80).to_string())
            .args([host_name, "--rate", &rate.to_string(), "--websocket"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(from.log("load")?)
            .kill_on_drop(true);
        let mut generator = command.spawn()?;
        let out = generator.stdout.take().context("the generator has no output")?;
        let shots = Arc::new(Mutex::new(Vec::new()));
        let kept = shots.clone();
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // A line that the generator's end broke off is no shot.
                let Ok(shot) = serde_json::from_str(&line) else { continue };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(shot);
            }
        });
        Ok(Self { name: from.name().to_owned(), generator, shots, reading })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many shots have met their fate.
    pub fn count(&self) -> usize {
        self.with(<[Shot]>::len)
    }

    /// Looks at the shots so far.
    pub fn with<T>(&self, look: impl FnOnce(&[Shot]) -> T) -> T {
        look(&self.shots.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until so many more shots have met their fate.
    pub async fn more(&self, shots: usize) -> anyhow::Result<()> {
        let wanted = self.count() + shots;
        until(&format!("{shots} more requests from {}", self.name), LIMIT, async || {
            ensure!(self.count() >= wanted, "{} of {wanted}", self.count());
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Ends the generator; what was under way then counts neither way.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Shot>> {
        // The companion passes the signal on; killing it would leave the generator to the kernel.
        if let Some(pid) = self.generator.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, Signal::TERM)?;
        }
        self.generator.wait().await?;
        self.reading.await?;
        Ok(std::mem::take(&mut *self.shots.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What became of some shots.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Tally {
    pub requests: usize,
    pub failed: usize,
    /// Messages over the open WebSocket, among the requests.
    pub socket: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
    /// The first few failures, each with its time.
    pub failures: Vec<String>,
}

impl Tally {
    pub fn of<'a>(shots: impl IntoIterator<Item = &'a Shot>) -> Self {
        const SHOWN: usize = 5;
        let mut tally = Self::default();
        let mut took = Vec::new();
        for shot in shots {
            tally.requests += 1;
            tally.socket += usize::from(shot.kind == ShotKind::Socket);
            match &shot.error {
                None => took.push(shot.took_ms),
                Some(error) => {
                    tally.failed += 1;
                    if tally.failures.len() < SHOWN {
                        tally
                            .failures
                            .push(format!("at {}, after {:.0} ms, {:?}: {error}", shot.at_ms, shot.took_ms, shot.kind));
                    }
                }
            }
        }
        took.sort_by(f64::total_cmp);
        tally.p50_ms = part(&took, 0.5);
        tally.p99_ms = part(&took, 0.99);
        tally.longest_ms = took.last().copied().unwrap_or_default();
        tally
    }

    /// # Errors
    /// If any failed, with the first ones.
    pub fn all_well(&self) -> anyhow::Result<()> {
        ensure!(self.requests > 0, "there was no request");
        ensure!(
            self.failed == 0,
            "{} of {} requests failed:\n{}",
            self.failed,
            self.requests,
            self.failures.join("\n")
        );
        Ok(())
    }
}

/// The value below which this part of the sorted values lies.
fn part(sorted: &[f64], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_failures_and_takes_times_of_successes_only() {
        let mut shots: Vec<Shot> = (0..100).map(|_| Shot::begun(ShotKind::GetNew)).collect();
        for (index, shot) in shots.iter_mut().enumerate() {
            shot.took_ms = index as f64;
        }
        shots[99].error = Some("reset".into());
        let tally = Tally::of(&shots);
        assert_eq!((tally.requests, tally.failed), (100, 1));
        assert_eq!((tally.p50_ms, tally.longest_ms), (49.0, 98.0));
        assert!(tally.all_well().unwrap_err().to_string().contains("reset"));
        assert!(Tally::of(&[]).all_well().is_err());
    }
}
