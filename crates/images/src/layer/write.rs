//! Writes a layer's entries below one folder, as an overlay mount wants them.
//!
//! Every path is resolved by the kernel, relative to the folder's descriptor, beneath it and through
//! no symbolic link (`openat2`). Names are then used relative to their parent's descriptor, so no
//! entry can redirect a later one.
//!
//! A parent that has no entry of its own in the layer is made with mode 0755: the layer is shared by
//! images whose lower layers differ, so there is nobody to inherit from.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
        chownat, fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat2, statat, symlinkat,
        unlinkat, utimensat,
    },
    io::Errno,
};
use thiserror::Error;

use super::{
    LayerError,
    entry::{Entry, EntryKind},
    limits::Exceeded,
    path::LayerPath,
    stream::LayerSink,
};

/// Memory for the folders whose times are set at the end: their paths' bytes together.
const MAX_FOLDER_BYTES: usize = 64 << 20;
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Why an entry was not written.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error("a part of its path is a symbolic link or no folder; entries must name their real place")]
    ThroughLink,
    #[error("the hard link's target {target} is no earlier file of this layer")]
    LinkTarget { target: String },
    #[error("it would replace a folder of the same layer that is not empty")]
    ReplacesFolder,
    #[error("{operation} failed")]
    Io { operation: &'static str, source: io::Error },
}

fn io_error(operation: &'static str) -> impl Fn(Errno) -> WriteError {
    move |errno| WriteError::Io { operation, source: errno.into() }
}

/// Writes entries below `root`.
pub struct LayerWriter {
    root: OwnedFd,
    /// The parent of the last entry: archives list a folder's entries together.
    last_parent: Option<(LayerPath, OwnedFd)>,
    /// Folders get their times when nothing is written into them any more.
    folders: Vec<(LayerPath, Timestamps)>,
    folder_bytes: usize,
    /// For copying; one for all files.
    buffer: Vec<u8>,
}

const COPY_SIZE: usize = 128 << 10;

impl LayerSink for LayerWriter {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        if entry.kind == EntryKind::Directory {
            self.folder_bytes += entry.path.weight();
            if self.folder_bytes > MAX_FOLDER_BYTES {
                return Err(Exceeded::Folders { limit: MAX_FOLDER_BYTES }.into());
            }
        }
        self.write(entry, content).map_err(|failure| match failure {
            Failure::Content(error) => LayerError::reading(error),
            Failure::Write(source) => LayerError::Write { entry: entry.path.to_string(), source },
        })
    }
}

/// Which side of a copy failed.
enum Failure {
    Content(io::Error),
    Write(WriteError),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl LayerWriter {
    /// Writes below the folder `root`, which must exist.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, last_parent: None, folders: Vec::new(), folder_bytes: 0, buffer: vec![0; COPY_SIZE] }
    }

    /// Sets the folders' times in the entries' order: of two entries of one folder the last counts.
    pub fn finish(self) -> Result<(), LayerError> {
        for (path, times) in &self.folders {
            let set = match open_beneath(&self.root, path, folder_flags()) {
                Ok(folder) => futimens(&folder, times),
                // Another entry took its place later.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno),
            };
            set.map_err(|errno| LayerError::Write {
                entry: path.to_string(),
                source: io_error("setting the folder's time")(errno),
            })?;
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Failure> {
        if entry.kind == EntryKind::Opaque {
            let folder = self.folder(&entry.path)?;
            return Ok(set_opaque(&folder)?);
        }
        let Some((parent_path, name)) = entry.path.split() else {
            let root =
                self.root.try_clone().map_err(|source| WriteError::Io { operation: "opening the root", source })?;
            return Ok(self.finish_folder(entry, &root)?);
        };
        let parent = self.take_parent(parent_path.clone())?;
        let name = OsStr::from_bytes(name);
        let written = match &entry.kind {
            EntryKind::Directory => self.write_folder(entry, &parent, name).map_err(Failure::Write),
            EntryKind::File { .. } => write_file(entry, &parent, name, content, &mut self.buffer),
            EntryKind::Symlink { target } => write_symlink(entry, &parent, name, target).map_err(Failure::Write),
            EntryKind::HardLink { target } => self.write_hard_link(&parent, name, target).map_err(Failure::Write),
            EntryKind::Fifo => write_fifo(entry, &parent, name).map_err(Failure::Write),
            EntryKind::Whiteout => write_whiteout(&parent, name).map_err(Failure::Write),
            EntryKind::Opaque => Ok(()),
        };
        self.last_parent = Some((parent_path, parent));
        written
    }

    /// The open folder `path`; made if the layer had no entry for it.
    fn take_parent(&mut self, path: LayerPath) -> Result<OwnedFd, WriteError> {
        match self.last_parent.take() {
            Some((last, folder)) if last == path => Ok(folder),
            _ => self.folder(&path),
        }
    }

    fn folder(&self, path: &LayerPath) -> Result<OwnedFd, WriteError> {
        match open_beneath(&self.root, path, folder_flags()) {
            Ok(folder) => Ok(folder),
            Err(Errno::NOENT) => self.make_folders(path),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Err(WriteError::ThroughLink),
            Err(errno) => Err(io_error("opening its folder")(errno)),
        }
    }

    fn make_folders(&self, path: &LayerPath) -> Result<OwnedFd, WriteError> {
        let mut folder =
            self.root.try_clone().map_err(|source| WriteError::Io { operation: "opening the root", source })?;
        for part in path.parts() {
            let name = OsStr::from_bytes(part);
            match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                // The umask is not asked.
                Ok(()) => {
                    let made = open_name(&folder, name)?;
                    fchmod(&made, Mode::from_raw_mode(0o755)).map_err(io_error("setting its folder's mode"))?;
                    folder = made;
                }
                Err(Errno::EXIST) => folder = open_name(&folder, name)?,
                Err(errno) => return Err(io_error("making its folder")(errno)),
            }
        }
        Ok(folder)
    }

    fn write_folder(&mut self, entry: &Entry, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
        let mut hides_below = false;
        match kind_of(parent, name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            existing => {
                hides_below = existing.is_some_and(|stat| is_whiteout(&stat));
                if existing.is_some() {
                    unlinkat(parent, name, AtFlags::empty()).map_err(io_error("replacing it"))?;
                }
                mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(io_error("making the folder"))?;
            }
        }
        let folder = open_name(parent, name)?;
        if hides_below {
            // Removed below and made anew here: what was below must not show through.
            set_opaque(&folder)?;
        }
        self.finish_folder(entry, &folder)
    }

    fn finish_folder(&mut self, entry: &Entry, folder: &OwnedFd) -> Result<(), WriteError> {
        set_metadata(entry, folder)?;
        self.folders.push((entry.path.clone(), times(entry)));
        Ok(())
    }

    fn write_hard_link(&self, parent: &OwnedFd, name: &OsStr, target: &LayerPath) -> Result<(), WriteError> {
        let wrong_target = || WriteError::LinkTarget { target: target.to_string() };
        let (target_parent, target_name) = target.split().ok_or_else(wrong_target)?;
        let target_parent = match open_beneath(&self.root, &target_parent, folder_flags()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => return Err(wrong_target()),
            Err(errno) => return Err(io_error("opening the link's target")(errno)),
        };
        let target_name = OsStr::from_bytes(target_name);
        let stat = kind_of(&target_parent, target_name)?.ok_or_else(wrong_target)?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink | FileType::Fifo)
        {
            return Err(wrong_target());
        }
        if let Some(existing) = kind_of(parent, name)? {
            if (existing.st_dev, existing.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(());
            }
            clear(parent, name)?;
        }
        linkat(&target_parent, target_name, parent, name, AtFlags::empty()).map_err(io_error("making the hard link"))
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn open_beneath(root: &OwnedFd, path: &LayerPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    loop {
        // The kernel asks for another try when a rename happened anywhere during the walk.
        match openat2(root, path.as_path(), flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens the folder `name`, a single name, of `parent`.
fn open_name(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, WriteError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    match openat2(parent, Path::new(name), folder_flags(), Mode::empty(), resolve) {
        Ok(folder) => Ok(folder),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(WriteError::ThroughLink),
        Err(errno) => Err(io_error("opening its folder")(errno)),
    }
}

fn kind_of(parent: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, WriteError> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(io_error("looking it up")(errno)),
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
}

/// Removes what an earlier entry of this layer left under `name`: the last entry counts.
fn clear(parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    let removed = match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(parent, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(WriteError::ReplacesFolder),
        Err(errno) => Err(io_error("replacing it")(errno)),
    }
}

fn write_file(
    entry: &Entry,
    parent: &OwnedFd,
    name: &OsStr,
    content: &mut dyn Read,
    buffer: &mut [u8],
) -> Result<(), Failure> {
    clear(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let file = openat2(parent, Path::new(name), flags, Mode::from_raw_mode(0o600), resolve)
        .map_err(io_error("creating the file"))?;
    let mut file = File::from(file);
    copy(content, &mut file, buffer)?;
    set_metadata(entry, file.as_fd())?;
    futimens(&file, &times(entry)).map_err(io_error("setting the time"))?;
    Ok(())
}

fn copy(content: &mut dyn Read, file: &mut File, buffer: &mut [u8]) -> Result<(), Failure> {
    loop {
        match content.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => io::Write::write_all(file, &buffer[..read])
                .map_err(|source| WriteError::Io { operation: "writing the file", source })?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Content(error)),
        }
    }
}

fn write_symlink(entry: &Entry, parent: &OwnedFd, name: &OsStr, target: &[u8]) -> Result<(), WriteError> {
    clear(parent, name)?;
    symlinkat(OsStr::from_bytes(target), parent, name).map_err(io_error("making the symbolic link"))?;
    set_owner_and_time(entry, parent, name)
}

fn write_fifo(entry: &Entry, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    clear(parent, name)?;
    let mode = Mode::from_raw_mode(entry.mode as RawMode);
    mknodat(parent, name, FileType::Fifo, mode, 0).map_err(io_error("making the fifo"))?;
    set_owner_and_time(entry, parent, name)?;
    // After the owner, which takes set-id bits away; the name was made a moment ago, by us.
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(io_error("setting the mode"))
}

fn write_whiteout(parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    match kind_of(parent, name)? {
        // A whiteout hides what is below, never what its own layer brings.
        Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            set_opaque(&open_name(parent, name)?)
        }
        Some(_) => Ok(()),
        None => mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
            .map_err(io_error("making the whiteout")),
    }
}

fn set_opaque(folder: &OwnedFd) -> Result<(), WriteError> {
    fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty()).map_err(io_error("marking the folder as opaque"))
}

fn set_owner_and_time(entry: &Entry, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    let (uid, gid) = owner(entry);
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(io_error("setting the owner"))?;
    utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(io_error("setting the time"))
}

/// Owner, then mode, then attributes: a change of owner takes set-id bits and capabilities away.
fn set_metadata(entry: &Entry, file: impl AsFd) -> Result<(), WriteError> {
    let file = file.as_fd();
    let (uid, gid) = owner(entry);
    fchown(file, Some(uid), Some(gid)).map_err(io_error("setting the owner"))?;
    fchmod(file, Mode::from_raw_mode(entry.mode as RawMode)).map_err(io_error("setting the mode"))?;
    for (name, value) in &entry.xattrs {
        fsetxattr(file, name.as_str(), value, XattrFlags::empty())
            .map_err(io_error("setting an extended attribute"))?;
    }
    Ok(())
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: i64::from(entry.mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}
