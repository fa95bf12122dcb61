//! The files of an archive, kept aside until the import is decided.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use super::{Files, ImportError, Part};
use crate::{
    Digest, ImageStore, LayerError,
    layer::{
        UnpackLimits,
        entry::{Entry, EntryKind},
        path::LayerPath,
        stream::{GZIP_MAGIC, LayerSink, ZSTD_MAGIC},
    },
    manifest::{Descriptor, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD},
    store::StagedBlob,
};

/// Files in one archive: an image has a handful a layer.
const MAX_FILES: u64 = 10_000;
/// Links from file to file that are followed.
const MAX_LINKS: usize = 8;

/// What an archive of an image may cost.
pub(super) fn limits(image: &UnpackLimits) -> UnpackLimits {
    UnpackLimits { entries: image.entries.min(MAX_FILES), ..image.clone() }
}

/// Archive members by path; `docker save` names one layer several times by links.
struct Members<T>(HashMap<String, Member<T>>);

enum Member<T> {
    File(T),
    Link(String),
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Members<T> {
    /// The path of the file that `path` leads to.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut path = spelled(path)?;
        for _ in 0..MAX_LINKS {
            match self.0.get(&path)? {
                Member::File(_) => return Some(path),
                Member::Link(target) => path.clone_from(target),
            }
        }
        None
    }

    fn file(&self, path: &str) -> Option<&T> {
        match self.0.get(&self.resolve(path)?)? {
            Member::File(file) => Some(file),
            Member::Link(_) => None,
        }
    }

    fn note_link(&mut self, entry: &Entry) {
        let path = entry.path.to_string();
        match &entry.kind {
            EntryKind::HardLink { target } => {
                self.0.insert(path, Member::Link(target.to_string()));
            }
            EntryKind::Symlink { target } => {
                if let Some(target) = beside(&entry.path, target) {
                    self.0.insert(path, Member::Link(target));
                }
            }
            // Folders are implied; nothing else means anything in an archive of an image.
            _ => {}
        }
    }
}

/// The one spelling under which members are kept.
fn spelled(path: &str) -> Option<String> {
    LayerPath::parse(path.as_bytes(), &UnpackLimits::default()).ok().map(|path| path.to_string())
}

/// A symbolic link's target as a path in the archive. Text only: there are no folders to follow.
fn beside(link: &LayerPath, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let (folder, _) = link.split()?;
    let folder = folder.to_string();
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    spelled(&parts.join("/"))
}

/// Members on disk, under `tmp/` of the store.
pub(super) struct StagedFiles<'a> {
    store: &'a ImageStore,
    members: Members<(StagedBlob, &'static str)>,
}

impl<'a> StagedFiles<'a> {
    pub(super) fn new(store: &'a ImageStore) -> Self {
        Self { store, members: Members::default() }
    }

    /// Hands a file over; it can be had once.
    pub(super) fn take(&mut self, part: &Part) -> Result<StagedBlob, ImportError> {
        let wrong = |reason: &str| ImportError::File { file: part.path.clone(), reason: reason.to_owned() };
        let path = self.members.resolve(&part.path).ok_or_else(|| wrong("it is not in the archive"))?;
        let Some(Member::File((blob, _))) = self.members.0.remove(&path) else {
            return Err(wrong("it is not in the archive"));
        };
        let Descriptor { digest, size, .. } = part.descriptor;
        if (blob.digest(), blob.size()) != (digest, size) {
            let found = format!("it is {} of {} bytes, expected {digest} of {size}", blob.digest(), blob.size());
            return Err(wrong(&found));
        }
        Ok(blob)
    }
}

impl LayerSink for StagedFiles<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        let EntryKind::File { size } = entry.kind else {
            self.members.note_link(entry);
            return Ok(());
        };
        let mut writer = self.store.writer(size)?;
        let mut first = Vec::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = content.read(&mut buffer).map_err(LayerError::reading)?;
            if read == 0 {
                break;
            }
            if first.is_empty() {
                first.extend_from_slice(&buffer[..read.min(MAGIC_LENGTH)]);
            }
            writer.write(&buffer[..read])?;
        }
        let member = (writer.stage(None)?, layer_type(&first));
        self.members.0.insert(entry.path.to_string(), Member::File(member));
        Ok(())
    }
}

impl Files for StagedFiles<'_> {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        let Some((blob, _)) = self.members.file(path) else { return Ok(None) };
        if blob.size() > limit {
            return Err(too_large(path, blob.size(), limit));
        }
        let mut bytes = Vec::new();
        let read = blob.open()?.read_to_end(&mut bytes);
        read.map_err(|source| ImportError::Archive { source: LayerError::reading(source) })?;
        Ok(Some(bytes))
    }

    fn describe(&self, path: &str) -> Option<Descriptor> {
        let (blob, media_type) = self.members.file(path)?;
        Some(described(media_type, blob.digest(), blob.size()))
    }
}

/// Members in memory: for trying hostile archives without a store.
#[derive(Default)]
pub(crate) struct MemoryFiles {
    members: Members<Vec<u8>>,
}

impl LayerSink for MemoryFiles {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        if !matches!(entry.kind, EntryKind::File { .. }) {
            self.members.note_link(entry);
            return Ok(());
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(LayerError::reading)?;
        self.members.0.insert(entry.path.to_string(), Member::File(bytes));
        Ok(())
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        match self.members.file(path) {
            Some(bytes) if bytes.len() as u64 > limit => Err(too_large(path, bytes.len() as u64, limit)),
            found => Ok(found.cloned()),
        }
    }

    fn describe(&self, path: &str) -> Option<Descriptor> {
        let bytes = self.members.file(path)?;
        Some(described(layer_type(bytes), Digest::of(bytes), bytes.len() as u64))
    }
}

/// Bytes that tell how a layer is packed.
const MAGIC_LENGTH: usize = 4;

fn layer_type(first: &[u8]) -> &'static str {
    if first.starts_with(&GZIP_MAGIC) {
        OCI_LAYER_GZIP
    } else if first.starts_with(&ZSTD_MAGIC) {
        OCI_LAYER_ZSTD
    } else {
        OCI_LAYER
    }
}

fn described(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
}

fn too_large(path: &str, size: u64, limit: u64) -> ImportError {
    ImportError::File { file: path.to_owned(), reason: format!("it has {size} bytes, more than {limit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_an_archive_are_text_and_stay_inside() {
        let path = |text: &str| LayerPath::parse(text.as_bytes(), &UnpackLimits::default()).unwrap();
        assert_eq!(beside(&path("b/layer.tar"), b"../a/layer.tar").as_deref(), Some("/a/layer.tar"));
        assert_eq!(beside(&path("b/layer.tar"), b"/a").as_deref(), Some("/a"));
        assert_eq!(beside(&path("b"), b"../../etc/passwd"), None);
        assert_eq!(beside(&path("b"), b"\xff"), None);
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let link = |to: &str| Member::<Vec<u8>>::Link(to.to_owned());
        let members = Members(HashMap::from([("/a".to_owned(), link("/b")), ("/b".to_owned(), link("/a"))]));
        assert!(members.file("a").is_none());
    }
}
