//! The guard's files: the plan that it is given, what the edge serves, the last good ones of both, bird's
//! configuration, the report.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Attempt, GuardError};
use crate::plan::{InvalidPlan, MAX_BYTES, Plan};
use crate::served::{InvalidServed, Served};

/// The name of the report in the guard's folder.
pub const REPORT: &str = "announcements.json";

/// A file that could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("read {file}")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file} is no plan")]
    Invalid {
        file: String,
        #[source]
        source: InvalidPlan,
    },
    #[error("{file} is no list of served addresses")]
    NotServed {
        file: String,
        #[source]
        source: InvalidServed,
    },
}

/// The folder of a guard; one guard holds it.
pub struct Files {
    folder: PathBuf,
    plan: Watched,
    served: Option<Watched>,
    _lock: File,
}

/// Which content a file has, without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), size: metadata.size(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
}

/// A file that others write.
struct Watched {
    path: PathBuf,
    /// How it was when it was last read.
    seen: Option<Stamp>,
}

impl Watched {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None }
    }

    /// Whether it is another than at the last call. One that went away has not changed: whoever writes it may
    /// be dead.
    fn changed(&mut self) -> bool {
        let Ok(metadata) = fs::metadata(&self.path) else { return false };
        let stamp = Some(Stamp::of(&metadata));
        std::mem::replace(&mut self.seen, stamp) != stamp
    }
}

impl Files {
    /// Takes the folder, which is made if it is missing.
    pub fn open(folder: &Path, plan: &Path, served: Option<&Path>) -> Result<Self, GuardError> {
        fs::create_dir_all(folder).attempting(|| format!("make {}", folder.display()))?;
        let path = folder.join("guard.lock");
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .attempting(|| format!("open {}", path.display()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(GuardError::Taken(folder.display().to_string())),
            Err(error) => return Err(error).attempting(|| format!("lock {}", path.display())),
        }
        Ok(Self { folder: folder.to_owned(), plan: Watched::new(plan), served: served.map(Watched::new), _lock: lock })
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("bird.sock")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("bird.conf")
    }

    fn last_plan(&self) -> PathBuf {
        self.folder.join("last-plan.json")
    }

    fn last_served(&self) -> PathBuf {
        self.folder.join("last-served.json")
    }

    /// The plan, if its file has changed since the last call.
    pub fn changed_plan(&mut self) -> Option<Result<Plan, FileError>> {
        self.plan.changed().then(|| read_plan(&self.plan.path))
    }

    /// The served addresses, if their file has changed since the last call.
    pub fn changed_served(&mut self) -> Option<Result<Served, FileError>> {
        let served = self.served.as_mut()?;
        served.changed().then(|| read_served(&served.path))
    }

    /// What was served according to the last list that was taken, by this or an earlier process.
    pub fn remembered_served(&self) -> Result<Served, FileError> {
        let path = self.last_served();
        if path.exists() { read_served(&path) } else { Ok(Served::default()) }
    }

    pub fn remember_served(&self, served: &Served) -> Result<(), GuardError> {
        let path = self.last_served();
        let text = serde_json::to_vec(served).map_err(io::Error::from);
        text.and_then(|text| replace(&path, &text)).attempting(|| format!("write {}", path.display()))
    }

    /// The last plan that was carried out, by this or an earlier process.
    pub fn remembered_plan(&self) -> Result<Option<Plan>, FileError> {
        let path = self.last_plan();
        if path.exists() { read_plan(&path).map(Some) } else { Ok(None) }
    }

    pub fn remember_plan(&self, plan: &Plan) -> Result<(), GuardError> {
        let path = self.last_plan();
        let text = serde_json::to_vec(plan).map_err(io::Error::from);
        text.and_then(|text| replace(&path, &text)).attempting(|| format!("write {}", path.display()))
    }

    pub fn write_config(&self, text: &str) -> Result<(), GuardError> {
        let path = self.config();
        replace(&path, text.as_bytes()).attempting(|| format!("write {}", path.display()))
    }

    pub fn write_report(&self, text: &str) -> Result<(), GuardError> {
        let path = self.folder.join(REPORT);
        replace(&path, text.as_bytes()).attempting(|| format!("write {}", path.display()))
    }
}

fn read_plan(path: &Path) -> Result<Plan, FileError> {
    Plan::parse(&read(path)?).map_err(|source| FileError::Invalid { file: path.display().to_string(), source })
}

fn read_served(path: &Path) -> Result<Served, FileError> {
    Served::parse(&read(path)?).map_err(|source| FileError::NotServed { file: path.display().to_string(), source })
}

/// Reads a file that somebody with fewer rights may have put there: a pipe is not waited for, and a file
/// without end is cut.
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { file: path.display().to_string(), source };
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(ErrorKind::InvalidInput, "it is no ordinary file")));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// Replaces a file as a whole: readers see the old or the new one. Only root may read it, as plans and
/// configurations hold passwords. It need not outlive a power cut.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::example;

    #[test]
    fn a_plan_is_read_when_it_changes_and_kept_when_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        let mut files = Files::open(&folder.path().join("guard"), &path, None).unwrap();
        assert!(files.changed_plan().is_none());
        replace(&path, &serde_json::to_vec(&example()).unwrap()).unwrap();
        assert_eq!(files.changed_plan().unwrap().unwrap(), example());
        assert!(files.changed_plan().is_none());
        replace(&path, b"{").unwrap();
        let error = files.changed_plan().unwrap().unwrap_err().to_string();
        assert!(error.contains("plan.json is no plan"), "{error}");
        assert!(files.changed_plan().is_none());
        fs::remove_file(&path).unwrap();
        assert!(files.changed_plan().is_none());

        files.remember_plan(&example()).unwrap();
        assert_eq!(files.remembered_plan().unwrap(), Some(example()));
    }

    #[test]
    fn a_folder_has_one_guard() {
        let folder = tempfile::tempdir().unwrap();
        let first = Files::open(folder.path(), Path::new("plan.json"), None).unwrap();
        assert!(matches!(Files::open(folder.path(), Path::new("plan.json"), None), Err(GuardError::Taken(_))));
        drop(first);
        assert!(Files::open(folder.path(), Path::new("plan.json"), None).is_ok());
    }
}
