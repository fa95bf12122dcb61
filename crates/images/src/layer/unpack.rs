//! Unpacking a layer of the store: into a folder of its own, whole or not at all.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::PathBuf,
};

use rustix::{
    fs::{Mode, OFlags, getxattr, open, syncfs},
    io::Errno,
};

use super::{
    Expected, LayerError,
    limits::UnpackLimits,
    stream::{LayerSummary, read_layer},
    write::{LayerWriter, OPAQUE_XATTR},
};
use crate::{
    Digest, ImageStore, StoreError,
    store::{sync_folder, temp},
};

impl ImageStore {
    /// The folder of the layer `diff_id` and what it cost, if it is unpacked.
    pub fn unpacked_layer(&self, diff_id: &Digest) -> Result<Option<(PathBuf, LayerSummary)>, StoreError> {
        let folder = self.layers_path().join(diff_id.hex());
        match fs::metadata(&folder) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("look up", folder)(error)),
        }
        // Written before the folder got its name.
        let path = summary_path(self, diff_id);
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let summary = serde_json::from_slice(&bytes).map_err(|source| StoreError::Index { path, source })?;
        Ok(Some((folder, summary)))
    }

    /// Unpacks the blob `digest` as the layer `diff_id`, unless that was done before. Blocks for as
    /// long as it takes; at most one caller a layer, see [`crate::ensure_image`].
    pub(crate) fn unpack_layer(
        &self,
        digest: &Digest,
        diff_id: &Digest,
        limits: &UnpackLimits,
    ) -> Result<(PathBuf, LayerSummary), LayerError> {
        if let Some(unpacked) = self.unpacked_layer(diff_id)? {
            return Ok(unpacked);
        }
        let (packed, _) = self.open_blob(digest)?;
        let temp = self.temp("layer");
        let path = temp.path();
        fs::create_dir(path).map_err(StoreError::io("create", path))?;
        fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(StoreError::io("set the mode of", path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root: OwnedFd =
            open(path, flags, Mode::empty()).map_err(|errno| StoreError::io("open", path)(errno.into()))?;
        let keep_open = root.try_clone().map_err(StoreError::io("open", path))?;

        let mut writer = LayerWriter::new(root);
        let expected = Expected { digest: Some(*digest), diff_id: Some(*diff_id) };
        let summary = read_layer(packed, &expected, limits, &mut writer)?;
        writer.finish()?;

        // One call for thousands of files: a name must never survive a power cut without content.
        syncfs(&keep_open).map_err(|errno| StoreError::io("make durable", path)(errno.into()))?;
        self.write_summary(diff_id, &summary)?;
        let folder = self.layers_path().join(diff_id.hex());
        fs::rename(path, &folder).map_err(StoreError::io("rename to", &folder))?;
        sync_folder(&self.layers_path())?;
        Ok((folder, summary))
    }

    fn write_summary(&self, diff_id: &Digest, summary: &LayerSummary) -> Result<(), StoreError> {
        let path = summary_path(self, diff_id);
        let temp = self.temp("summary");
        let bytes = serde_json::to_vec(summary).map_err(|source| StoreError::Index { path: path.clone(), source })?;
        fs::write(temp.path(), bytes).map_err(StoreError::io("write", temp.path()))?;
        File::open(temp.path())
            .and_then(|file| file.sync_all())
            .map_err(StoreError::io("make durable", temp.path()))?;
        fs::rename(temp.path(), &path).map_err(StoreError::io("rename to", &path))
    }

    /// Removes an unpacked layer; the summary last, so that a folder always has one.
    pub(crate) fn remove_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let folder = self.layers_path().join(diff_id.hex());
        // Away from its name first: half a layer must never be found.
        let doomed = self.temp("removed");
        match fs::rename(&folder, doomed.path()) {
            Ok(()) => sync_folder(&self.layers_path())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", folder)(error)),
        }
        let summary = summary_path(self, diff_id);
        temp::remove(&summary).map_err(StoreError::io("remove", &summary))
    }
}

fn summary_path(store: &ImageStore, diff_id: &Digest) -> PathBuf {
    store.layers_path().join(format!("{}.json", diff_id.hex()))
}

/// Whether a layer hides all layers below it. An overlay mount does not look at the roots' own
/// marks, so whoever lists the layers leaves out what is hidden.
pub(crate) fn hides_all_below(layer: &std::path::Path) -> Result<bool, StoreError> {
    let mut value = [0u8; 8];
    match getxattr(layer, OPAQUE_XATTR, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(StoreError::io("read the mark of", layer)(errno.into())),
    }
}
