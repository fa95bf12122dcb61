//! The guard's files: the plan that it is given, the last good plan, bird's configuration, the report.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Attempt, GuardError};
use crate::plan::{InvalidPlan, MAX_BYTES, Plan};

/// The name of the report in the guard's folder.
pub const REPORT: &str = "announcements.json";

/// A plan's file that could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
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
}

/// The folder of a guard; one guard holds it.
pub struct Files {
    folder: PathBuf,
    plan: PathBuf,
    /// How the plan's file was when it was last read.
    seen: Option<Stamp>,
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

impl Files {
    /// Takes the folder, which is made if it is missing.
    pub fn open(folder: &Path, plan: &Path) -> Result<Self, GuardError> {
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
        Ok(Self { folder: folder.to_owned(), plan: plan.to_owned(), seen: None, _lock: lock })
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

    /// The plan, if its file has changed since the last call. A file that went away is no change: whoever plans
    /// may be dead.
    pub fn changed_plan(&mut self) -> Option<Result<Plan, PlanFileError>> {
        let stamp = fs::metadata(&self.plan).ok().map(|metadata| Stamp::of(&metadata))?;
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        Some(read(&self.plan))
    }

    /// The last plan that was carried out, by this or an earlier process.
    pub fn remembered_plan(&self) -> Result<Option<Plan>, PlanFileError> {
        let path = self.last_plan();
        if path.exists() { read(&path).map(Some) } else { Ok(None) }
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

fn read(path: &Path) -> Result<Plan, PlanFileError> {
    let file = || path.display().to_string();
    let failed = |source| PlanFileError::Read { file: file(), source };
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    Plan::parse(&text).map_err(|source| PlanFileError::Invalid { file: file(), source })
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
        let mut files = Files::open(&folder.path().join("guard"), &path).unwrap();
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
        let first = Files::open(folder.path(), Path::new("plan.json")).unwrap();
        assert!(matches!(Files::open(folder.path(), Path::new("plan.json")), Err(GuardError::Taken(_))));
        drop(first);
        assert!(Files::open(folder.path(), Path::new("plan.json")).is_ok());
    }
}
