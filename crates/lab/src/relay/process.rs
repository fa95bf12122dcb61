//! The relay as the lab holds it: a process of the binary in a network namespace of its own, and the
//! socket pair to it. The relay ends when the socket closes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::wire::{Answer, Order, Report};
use crate::error::{Attempt, LabError};

/// The relay answers within microseconds; this long a silence means that it hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Relay {
    /// Its process, whose network namespace holds the relay's ends of all uplinks.
    pub pid: Pid,
    stream: BufReader<UnixStream>,
    process: Child,
}

impl Relay {
    pub async fn start(program: &Path, hosts: usize, seed: u64) -> Result<Self, LabError> {
        let starting = || "start the relay".to_owned();
        let (ours, theirs) = StdStream::pair().attempting(starting)?;
        ours.set_nonblocking(true).attempting(starting)?;
        let process = Command::new(program)
            .args(["internal", "relay", &hosts.to_string(), &seed.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .attempting(starting)?;
        let pid = process.id().and_then(|id| Pid::from_raw(id as i32)).ok_or(LabError::Ended)?;
        let stream = BufReader::new(UnixStream::from_std(ours).attempting(starting)?);
        let mut relay = Self { pid, stream, process };
        // Its first answer says that it is in its own namespace.
        relay.order(&Order::Report).await?;
        Ok(relay)
    }

    /// Gives an order and waits until it is carried out.
    pub async fn order(&mut self, order: &Order) -> Result<Report, LabError> {
        let refused = |error: serde_json::Error| LabError::Relay(error.to_string());
        let mut text = serde_json::to_string(order).map_err(refused)?;
        text.push('\n');
        let talking = || "talk to the relay".to_owned();
        self.stream.get_mut().write_all(text.as_bytes()).await.attempting(talking)?;
        let mut line = String::new();
        tokio::time::timeout(ANSWER_LIMIT, self.stream.read_line(&mut line))
            .await
            .map_err(|_| LabError::Relay(format!("silent for {ANSWER_LIMIT:?}")))?
            .attempting(talking)?;
        if line.is_empty() {
            let ended = self.process.try_wait().attempting(talking)?;
            return Err(LabError::Relay(ended.map_or("hung up".to_owned(), |status| format!("ended: {status}"))));
        }
        match serde_json::from_str(&line).map_err(refused)? {
            Answer::Done(report) => Ok(report),
            Answer::Refused(why) => Err(LabError::Relay(why)),
        }
    }
}
