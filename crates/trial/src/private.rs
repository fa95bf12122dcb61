//! Two servers and a machine on each: packets between them are counted while servers' secrets change or a
//! server is revoked.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use atoll_model::MachineState;

use crate::platform::{MachineSpec, Node, Origin, Platform, SOON};
use crate::wait::until;

/// Of servers' certificates; each leader makes a new secret at half of it.
const SHORT_LIFE_S: &str = "6";
const BETWEEN_PACKETS: &str = "0.005";
/// How long packets flow that are to end.
const ENDING_S: &str = "8";

/// The two machines, on the server where control runs and on another one.
pub struct Pair {
    near: String,
    far_address: String,
}

/// What became of a stream of packets and their answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    pub sent: u64,
    pub lost: u64,
}

impl Pair {
    /// Makes a machine in each of these regions and waits until they reach each other.
    pub async fn make(platform: &Platform, regions: [&str; 2]) -> anyhow::Result<Self> {
        platform.create_app("web").await?;
        let mut machines = Vec::new();
        for region in regions {
            let id = platform.create_machine("web", &MachineSpec { region, ..MachineSpec::default() }).await?;
            machines.push(platform.in_state("web", &id, MachineState::Started).await?);
        }
        let pair = Self { near: machines[0].id.to_string(), far_address: machines[1].private_ip.clone() };
        pair.reached(platform).await?;
        Ok(pair)
    }

    /// Waits until one reaches the other; how long that took.
    pub async fn reached(&self, platform: &Platform) -> anyhow::Result<Duration> {
        let waited = until("one machine reaches the other", SOON, async || {
            let counted = self.count(platform, 1).await?;
            ensure!(counted.lost == 0, "{counted:?}");
            Ok(())
        });
        Ok(waited.await?.1)
    }

    /// Sends so many packets, two hundred a second, each to be answered within a second.
    pub async fn count(&self, platform: &Platform, packets: usize) -> anyhow::Result<Counted> {
        let said = self.ping(platform, &["-q", "-c", &packets.to_string(), "-i", BETWEEN_PACKETS, "-W", "1"]).await?;
        counted(&said)
    }

    /// Does something after which no packet may pass any more; the time from its beginning to the last answer.
    pub async fn until_none_passes(
        &self,
        platform: &Platform,
        act: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let mut ping = self.command(platform, &["-D", "-i", BETWEEN_PACKETS, "-w", ENDING_S])?;
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

    async fn ping(&self, platform: &Platform, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(platform, arguments)?.stdin(Stdio::null()).output().await?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn command(&self, platform: &Platform, arguments: &[&str]) -> anyhow::Result<Command> {
        let first = platform.nodes().first().context("there is no server")?;
        first.command_in_machine(&self.near, "ping", &[&["-6"], arguments, &[&self.far_address]].concat())
    }
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

/// Begins the first server again with certificates of seconds and lets the second host join: each leader of a
/// pair then makes a new secret every three seconds.
pub async fn join_with_short_lives(platform: &mut Platform) -> anyhow::Result<Node> {
    let first = platform.node_mut("ams")?;
    first.end().await?;
    first.set_arguments(&["--certificate-seconds", SHORT_LIFE_S]);
    first.start(&Origin::First).await?;
    let control = platform.nodes_address()?;
    let token = platform.client().node_token().await?.token;
    let mut late = Node::new(platform.host("late")?, "nrt");
    late.start(&Origin::Joins { control, token }).await?;
    Ok(late)
}

/// What the two servers share: when the certificate ends under which their secret was made.
pub async fn shared_secret(platform: &Platform) -> anyhow::Result<u64> {
    let found = platform.client().mesh().await?;
    let ways = found.servers.iter().filter_map(|server| server.report.as_ref()).flat_map(|report| &report.ways);
    let until: Vec<_> = ways.map(|way| way.secret_until).collect();
    ensure!(until.len() == 2, "{} ways", until.len());
    ensure!(until[0] == until[1], "they do not mean the same: {until:?}");
    until[0].context("they share none yet")
}

/// Waits until the two share another secret than this one.
pub async fn another_secret(platform: &Platform, than: u64) -> anyhow::Result<u64> {
    let waited = until("a new secret", SOON, async || {
        let now = shared_secret(platform).await?;
        ensure!(now != than, "it is the old one");
        Ok(now)
    });
    Ok(waited.await?.0)
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
