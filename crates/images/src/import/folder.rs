//! A layout folder on disk. Nothing in it may lead out of it.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

use super::{Files, ImportError, Part};
use crate::{ImageStore, manifest::Descriptor, store::StagedBlob};

pub(super) struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty())
            .map_err(|errno| ImportError::Open { path: path.to_owned(), source: errno.into() })?;
        Ok(Self { root, path: path.to_owned() })
    }

    fn file(&self, path: &str) -> Result<Option<File>, ImportError> {
        // A fifo in place of a blob must not keep us waiting.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let file: File = match openat2(&self.root, path, flags, Mode::empty(), resolve) {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => {
                return Err(self.wrong(path, "it is a symbolic link; a layout holds files".to_owned()));
            }
            Err(errno) => return Err(self.open_error(path)(errno.into())),
        };
        if !file.metadata().map_err(self.open_error(path))?.is_file() {
            return Err(self.wrong(path, "it is no file".to_owned()));
        }
        Ok(Some(file))
    }

    fn open_error(&self, path: &str) -> impl FnOnce(io::Error) -> ImportError {
        let path = self.path.join(path);
        |source| ImportError::Open { path, source }
    }

    fn wrong(&self, path: &str, reason: String) -> ImportError {
        ImportError::File { file: self.path.join(path).display().to_string(), reason }
    }

    /// Copies a blob under `tmp/` of the store, verified.
    pub(super) fn stage(&self, store: &ImageStore, part: &Part) -> Result<StagedBlob, ImportError> {
        let mut file = self.file(&part.path)?.ok_or_else(|| self.wrong(&part.path, "it is not there".to_owned()))?;
        let mut writer = store.writer(part.descriptor.size)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).map_err(self.open_error(&part.path))? {
                0 => break,
                read => writer.write(&buffer[..read])?,
            }
        }
        Ok(writer.stage(Some((&part.descriptor.digest, Some(part.descriptor.size))))?)
    }
}

impl Files for Folder {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(self.open_error(path))?;
        if bytes.len() as u64 > limit {
            return Err(self.wrong(path, format!("it has more than {limit} bytes")));
        }
        Ok(Some(bytes))
    }

    /// A layout names its blobs by digest; nothing has to be found out.
    fn describe(&self, _: &str) -> Option<Descriptor> {
        None
    }
}
