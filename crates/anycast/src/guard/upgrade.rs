//! Replacing the guard's program while bird runs on. The process stays: bird's parent, its control socket and
//! what is announced are the same before and after.
//!
//! The state goes through an unnamed file in memory, whose descriptor the new program is told. Before that, the
//! new program is run once beside us to say whether it understands the state and the plan.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::report::Change;
use super::run::Told;
use super::{Attempt, GuardError, system};
use crate::health::Health;
use crate::load::Load;
use crate::plan::Plan;

/// The argument that names the descriptor.
const RESUME: &str = "--resume";
/// The argument by which the new program only says whether it could go on.
const CHECK: &str = "--check";
/// Of what is left; rises when an older program's could not be read.
pub const VERSION: u32 = 1;

/// What a program leaves to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Legacy {
    pub version: u32,
    pub bird: Option<Running>,
    /// With the addresses that are served.
    pub plan: Option<Plan>,
    /// The plan as it was written; older programs left none.
    #[serde(default)]
    pub written: Option<Plan>,
    pub health: Health,
    pub load: Load,
    /// Since when what is announced has its reason: seconds since 1970.
    pub since: Option<u64>,
    #[serde(default)]
    pub changes: VecDeque<Change>,
}

/// A bird that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub pid: i32,
    pub started: Duration,
    pub told: Told,
}

impl Legacy {
    /// Reads what the older program left.
    pub fn take(descriptor: RawFd) -> Result<Self, GuardError> {
        let reading = || format!("read descriptor {descriptor}");
        // SAFETY: the older program made this descriptor for us and nobody else knows of it; a number that is
        // no descriptor gives an error when it is read.
        let mut file = unsafe { File::from_raw_fd(descriptor) };
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0)).attempting(reading)?;
        file.read_to_end(&mut text).attempting(reading)?;
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(&text).map_err(GuardError::Resume)?;
        if version != VERSION {
            return Err(GuardError::ResumeVersion(version));
        }
        serde_json::from_slice(&text).map_err(GuardError::Resume)
    }

    /// Leaves it in a file that a program executed from here on has open.
    fn leave(&self) -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("atoll-guard", MemfdFlags::empty())?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }
}

/// Says whether this program could go on where an older one is.
///
/// # Errors
/// If it could not.
pub fn check(resume: RawFd) -> Result<(), GuardError> {
    Legacy::take(resume).map(drop)
}

/// The program that this process runs, as it was named when it began: a newer one is put in its place.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    pub fn own() -> io::Result<Self> {
        let mut words = std::env::args_os().skip(1);
        let mut arguments = Vec::new();
        while let Some(word) = words.next() {
            if word == RESUME {
                // Its value was the older program's.
                words.next();
            } else {
                arguments.push(word);
            }
        }
        Ok(Self { path: std::env::current_exe()?, arguments })
    }

    /// Lets the program that lies there now say whether it could go on.
    pub fn try_out(&self, legacy: &Legacy) -> Result<Child, GuardError> {
        let starting = || format!("start {}", self.path.display());
        let file = legacy.leave().attempting(starting)?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).args([RESUME, &file.as_raw_fd().to_string(), CHECK]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().attempting(starting)
    }

    /// Becomes the program that lies there now. Returns only on failure.
    pub fn become_new(&self, legacy: &Legacy) -> GuardError {
        let failed = |source| GuardError::System { attempted: format!("become {}", self.path.display()), source };
        let file = match legacy.leave() {
            Ok(file) => file,
            Err(error) => return failed(error),
        };
        let mut arguments = self.arguments.clone();
        arguments.extend([RESUME.into(), file.as_raw_fd().to_string().into()]);
        failed(system::become_program(self.path.as_os_str(), &arguments))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;
    use crate::plan::tests::example;

    #[test]
    fn what_is_left_is_taken_up_and_other_versions_are_refused() {
        let told = Told { generation: 7, edition: 3, announced: true, busy: false };
        let bird = Some(Running { pid: 42, started: Duration::from_secs(3), told });
        let (health, load) = (Health::unknown(Duration::ZERO), Load::default());
        let legacy = Legacy {
            version: VERSION,
            bird,
            plan: Some(example()),
            written: None,
            health,
            load,
            since: Some(9),
            changes: VecDeque::new(),
        };
        let taken = Legacy::take(legacy.leave().unwrap().into_raw_fd()).unwrap();
        assert_eq!((taken.plan, taken.health, taken.since), (legacy.plan.clone(), legacy.health.clone(), Some(9)));
        assert_eq!(taken.bird.map(|bird| (bird.pid, bird.told)), Some((42, told)));

        let newer = Legacy { version: 2, ..legacy };
        let refused = Legacy::take(newer.leave().unwrap().into_raw_fd());
        assert!(matches!(refused, Err(GuardError::ResumeVersion(2))), "{refused:?}");
    }
}
