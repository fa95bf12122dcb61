//! Two machines of one private network on two servers, and what becomes of packets between them while something
//! is done to the servers or the way between them.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::platform::{Platform, RunningMachine, SOON};
use crate::wait::until;

/// Whose machines they are.
const APP: &str = "web";
const BETWEEN_PACKETS: Duration = Duration::from_millis(5);
/// How long packets flow that are to end.
const ENDING_S: &str = "8";

/// The two machines; the near one asks, the far one answers.
pub struct Pair {
    /// The server of the near one.
    node: String,
    pub near: RunningMachine,
    pub far: RunningMachine,
}

/// What became of a stream of packets and their answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    pub sent: u64,
    pub lost: u64,
}

impl Pair {
    /// Makes a machine in each of these regions and waits until they reach each other. The near region's server has
    /// its name.
    pub async fn make(platform: &Platform, [near, far]: [&str; 2]) -> anyhow::Result<Self> {
        platform.create_app(APP).await?;
        let pair = Self {
            node: near.to_owned(),
            near: platform.running_machine(APP, near).await?,
            far: platform.running_machine(APP, far).await?,
        };
        pair.reached(platform).await?;
        Ok(pair)
    }

    /// Whether a packet passes now.
    pub async fn passes(&self, platform: &Platform) -> anyhow::Result<()> {
        let counted = self.count(platform, 1, BETWEEN_PACKETS).await?;
        ensure!(counted.lost == 0, "{counted:?}");
        Ok(())
    }

    /// Waits until one reaches the other; how long that took.
    pub async fn reached(&self, platform: &Platform) -> anyhow::Result<Duration> {
        let waited = until("one machine reaches the other", SOON, async || self.passes(platform).await);
        Ok(waited.await?.1)
    }

    /// Sends so many packets, two hundred a second.
    pub async fn count_quick(&self, platform: &Platform, packets: usize) -> anyhow::Result<Counted> {
        self.count(platform, packets, BETWEEN_PACKETS).await
    }

    /// Sends so many packets, each to be answered within a second.
    pub async fn count(&self, platform: &Platform, packets: usize, every: Duration) -> anyhow::Result<Counted> {
        let (packets, every) = (packets.to_string(), seconds(every));
        let mut ping = self.ping(platform, &["-q", "-c", &packets, "-i", &every, "-W", "1"])?;
        counted(&String::from_utf8(ping.stdin(Stdio::null()).output().await?.stdout)?)
    }

    /// Does something after which no packet may pass any more; the time from its beginning to the last answer.
    pub async fn until_none_passes(
        &self,
        platform: &Platform,
        act: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let mut ping = self.ping(platform, &["-D", "-i", &seconds(BETWEEN_PACKETS), "-w", ENDING_S])?;
        let mut ping = ping.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut out = BufReader::new(ping.stdout.take().context("ping has no output")?);
        let mut said = String::new();
        while last_answer(&said).is_none() {
            ensure!(out.read_line(&mut said).await? > 0, "there never was an answer: {said}");
        }
        let began = SystemTime::now();
        act().await?;
        out.read_to_string(&mut said).await?;
        ping.wait().await?;
        let last = last_answer(&said).context("there never was an answer")?;
        ensure!(counted(&said)?.lost > 0, "packets pass to the end");
        // An answer from before it is as good as none after it.
        Ok(last.duration_since(began).unwrap_or_default())
    }

    fn ping(&self, platform: &Platform, arguments: &[&str]) -> anyhow::Result<Command> {
        let far = self.far.address.to_string();
        let arguments = [&["-6"], arguments, &[&far]].concat();
        platform.node(&self.node)?.command_in_machine(&self.near.id, "ping", &arguments)
    }
}

fn seconds(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}

/// From the summary that ping ends with.
fn counted(said: &str) -> anyhow::Result<Counted> {
    let line = said.lines().find(|line| line.contains("packets transmitted")).with_context(|| said.to_owned())?;
    let number = |word: Option<&str>| word.and_then(|word| word.trim().split(' ').next()?.parse::<u64>().ok());
    let mut parts = line.split(',');
    let (sent, received) = (number(parts.next()), number(parts.next()));
    let (sent, received) = sent.zip(received).with_context(|| line.to_owned())?;
    Ok(Counted { sent, lost: sent.saturating_sub(received) })
}

/// From the times that ping puts before answers.
fn last_answer(said: &str) -> Option<SystemTime> {
    let mut answers = said.lines().rev().filter(|line| line.contains("bytes from"));
    let time = answers.next()?.strip_prefix('[')?.split(']').next()?.parse::<f64>().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs_f64(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_says_is_understood() {
        let said = "[1700000000.250000] 64 bytes from fdaa::1: icmp_seq=1 ttl=62 time=1.0 ms\n\n\
                    --- fdaa::1 ping statistics ---\n\
                    120 packets transmitted, 118 received, 1.66667% packet loss, time 12384ms\n";
        assert_eq!(counted(said).unwrap(), Counted { sent: 120, lost: 2 });
        assert_eq!(last_answer(said), Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)));
        assert!(counted("ping: unknown host").is_err());
        assert_eq!(last_answer("nothing"), None);
    }
}
