//! What a lab leaves on the machine and takes away again: its control groups, its folder and its record.
//!
//! The record names them, so that a lab that was killed can be cleaned up after. Everything else (the
//! processes, their namespaces and interfaces) ends by itself when the lab's own process does.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::error::{Attempt, LabError};

/// Where labs that live are recorded.
const RECORDS: &str = "/run/atoll-lab";

/// How long the killed may take to die.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// A process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: i32,
    /// Clock ticks after boot.
    started: u64,
}

impl Process {
    fn of(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = started(&stat).ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
        Ok(Self { pid, started })
    }

    fn pid_if_alive(self) -> Option<Pid> {
        let pid = Pid::from_raw(self.pid)?;
        (Self::of(pid).ok()? == self).then_some(pid)
    }
}

/// The start time in a line of `/proc/<pid>/stat`; the name before it may hold spaces and brackets.
fn started(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    id: String,
    lab: Process,
    relay: Option<Process>,
    folder: PathBuf,
    /// The folder was made by the lab, which thus removes it.
    own_folder: bool,
}

/// The machine's part of one lab. Dropping it takes everything away.
#[derive(Debug)]
pub struct Premises {
    record: Record,
    pub group: Group,
}

impl Premises {
    /// Moves in: cleans after dead labs, then makes the folder (in `/var/tmp` if none is given), the
    /// control group and the record.
    pub fn occupy(folder: Option<&Path>) -> Result<Self, LabError> {
        clean()?;
        let mut random = [0; 4];
        fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .attempting(|| "choose an id".to_owned())?;
        let id = format!("{:08x}", u32::from_be_bytes(random));
        let name = format!("atl-{id}");
        let own_folder = folder.is_none();
        let folder = folder.map_or_else(|| Path::new("/var/tmp").join(&name), Path::to_owned);
        fs::create_dir_all(&folder).attempting(|| format!("make {}", folder.display()))?;
        let folder = folder.canonicalize().attempting(|| format!("find {}", folder.display()))?;
        if folder.starts_with("/run") {
            let why = format!("{} is below /run, which every host has its own of", folder.display());
            return Err(LabError::Invalid(why));
        }
        let lab = Process::of(rustix::process::getpid()).attempting(|| "look at our own process".to_owned())?;
        let group = group_of(&id).attempting(|| "read the cgroup mounts".to_owned())?;
        let premises = Self { record: Record { id, lab, relay: None, folder, own_folder }, group };
        premises.write_record()?;
        premises.group.create().attempting(|| format!("make the control group {name}"))?;
        Ok(premises)
    }

    pub fn id(&self) -> &str {
        &self.record.id
    }

    pub fn folder(&self) -> &Path {
        &self.record.folder
    }

    /// Notes the relay, which is in no control group of ours.
    pub fn note_relay(&mut self, pid: Pid) -> Result<(), LabError> {
        self.record.relay = Some(Process::of(pid).attempting(|| "look at the relay".to_owned())?);
        self.write_record()
    }

    fn write_record(&self) -> Result<(), LabError> {
        let file = record_file(&self.record.id);
        let write = || {
            fs::create_dir_all(RECORDS)?;
            fs::write(&file, serde_json::to_vec(&self.record)?)
        };
        write().attempting(|| format!("write {}", file.display()))
    }
}

impl Drop for Premises {
    fn drop(&mut self) {
        if let Err(error) = demolish(&self.record) {
            tracing::warn!(id = self.record.id, %error, "the lab was not cleaned up whole; `atoll-lab clean` goes on");
        }
    }
}

/// A lab that lives, as others find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    pub id: String,
    pub folder: PathBuf,
}

/// Every lab on this machine whose process lives.
pub fn living() -> Result<Vec<Living>, LabError> {
    let records = records()?.into_iter().filter(|record| record.lab.pid_if_alive().is_some());
    Ok(records.map(|record| Living { id: record.id, folder: record.folder }).collect())
}

/// Removes what dead labs left, and nothing else. Gives their ids.
pub fn clean() -> Result<Vec<String>, LabError> {
    let mut cleaned = Vec::new();
    for record in records()? {
        if record.lab.pid_if_alive().is_none() {
            demolish(&record).attempting(|| format!("clean up after lab {}", record.id))?;
            cleaned.push(record.id);
        }
    }
    Ok(cleaned)
}

fn records() -> Result<Vec<Record>, LabError> {
    let reading = || format!("read {RECORDS}");
    let entries = match fs::read_dir(RECORDS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempting(reading)?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let text = match fs::read(entry.attempting(reading)?.path()) {
            // Another lab has just cleaned it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.attempting(reading)?,
        };
        // A record being written is one of a living lab.
        records.extend(serde_json::from_slice::<Record>(&text).ok());
    }
    Ok(records)
}

fn demolish(record: &Record) -> io::Result<()> {
    if let Some(relay) = record.relay.and_then(Process::pid_if_alive) {
        match rustix::process::kill_process(relay, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    group_of(&record.id)?.destroy(DEATH_LIMIT)?;
    if record.own_folder {
        accept_missing(fs::remove_dir_all(&record.folder))?;
    }
    accept_missing(fs::remove_file(record_file(&record.id)))
}

fn accept_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn group_of(id: &str) -> io::Result<Group> {
    Group::named(format!("atl-{id}"))
}

fn record_file(id: &str) -> PathBuf {
    Path::new(RECORDS).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let own = Process::of(rustix::process::getpid()).unwrap();
        assert!(own.pid_if_alive().is_some());
        assert!(Process { started: own.started + 1, ..own }.pid_if_alive().is_none());
    }

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4321 9 9";
        assert_eq!(started(stat), Some(4321));
    }
}
