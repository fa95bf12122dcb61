//! All authorities of a platform: the one that signs and, while its root is being replaced, the one that
//! follows or went before it. When which of them does what is decided in [`crate::rotation`].
//!
//! On disk the first authority lies in the folder itself and each later one in a folder of its number;
//! `rotation.json` says which of them counts and is replaced as a whole. It is the only thing that is
//! changed: an authority is complete before the file names it, and is removed when the file no longer does.
//! So a kill at any instant leaves the state before a change or the one after it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::ca::{Authority, CaError, FILES, has_root_key};
use crate::files;
use crate::identity::Identity;
use crate::rotation::{Number, Phase, Rotation};

const ROTATION: &str = "rotation.json";
/// With less than this left a root is replaced by itself, if its key is there to vouch for the next. A tenth
/// of its life: until then all who have taken the old one along can take the new one.
const ROOT_LEFT: Duration = Duration::from_secs(2 * 365 * 86_400);

/// The authorities of a platform, ready; changed in place by one process at a time.
pub struct Authorities {
    dir: PathBuf,
    platform: String,
    node_life: Duration,
    held: ArcSwap<Held>,
    changing: Mutex<()>,
}

/// What holds until the next change.
struct Held {
    rotation: Rotation,
    issuing: Authority,
    /// See [`Rotation::other`].
    other: Option<Authority>,
    roots_pem: String,
    generation: u64,
}

/// A root as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootSeen {
    /// SHA-256 of its certificate, hex.
    pub fingerprint: String,
    /// Unix seconds.
    pub ends_at: u64,
    /// The root before it vouches for it.
    pub linked: bool,
}

/// Where the rotation stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RotationSeen {
    pub phase: Phase,
    pub issuing: RootSeen,
    pub other: Option<RootSeen>,
    /// When the phase ends if control is not silent until then, in Unix seconds.
    pub phase_ends: Option<u64>,
}

impl Authorities {
    /// Loads what is kept in `dir`, or makes a first authority there. `node_life`: how long certificates of
    /// nodes live.
    pub fn open(dir: &Path, platform: &str, node_life: Duration, now_unix: u64) -> Result<Self, CaError> {
        let held = match read_rotation(dir)? {
            Some(rotation) => {
                let held = Held::load(dir, rotation, platform, node_life, now_unix)?;
                remove_others(dir, &rotation)?;
                held
            }
            None if !dir.join(FIRST_ROOT).exists() && numbered(dir)?.next().is_some() => {
                let reason = "there are authorities beside it, and it does not say which of them signs";
                return Err(CaError::Corrupt { path: dir.join(ROTATION), reason: reason.to_owned() });
            }
            None => {
                Authority::open(dir, platform, now_unix)?;
                Held::load(dir, Rotation::default(), platform, node_life, now_unix)?
            }
        };
        let authorities = Self {
            dir: dir.to_owned(),
            platform: platform.to_owned(),
            node_life,
            held: ArcSwap::from_pointee(held),
            changing: Mutex::default(),
        };
        if authorities.is_due(now_unix) && !authorities.has_root_key() {
            tracing::warn!(
                folder = %authorities.signing_folder().display(),
                "the platform's root certificate is to be replaced before it ends: put its root.key back there"
            );
        }
        Ok(authorities)
    }

    /// The platform of the authorities kept in `dir`; `None` when there are none.
    pub fn platform_of(dir: &Path) -> Result<Option<String>, CaError> {
        let rotation = read_rotation(dir)?.unwrap_or_default();
        Authority::platform_of(&folder(dir, rotation.issuing))
    }

    /// The trust anchors that nodes and users are given, PEM; the one that signs is the first.
    pub fn roots_pem(&self) -> String {
        self.held.load().roots_pem.clone()
    }

    /// What a join token pins: SHA-256 of the root certificate, hex.
    pub fn root_fingerprint(&self) -> String {
        self.held.load().issuing.root_fingerprint()
    }

    /// Counts the changes since the start: with each, control itself needs another certificate.
    pub fn generation(&self) -> u64 {
        self.held.load().generation
    }

    /// A chain (leaf first, PEM) that proves `identity` to be the holder of the request's key, and the roots
    /// to go with it, of the same instant.
    pub fn issue_node(&self, request_der: &[u8], identity: &Identity, now_unix: u64) -> Result<Issued, CaError> {
        let held = self.held.load();
        let mut chain_pem = held.issuing.issue_node(request_der, identity, now_unix)?;
        // A token that was made before the change pins the root before.
        if let (Phase::Overlapping { .. }, Some(previous)) = (held.rotation.phase, &held.other) {
            chain_pem.push_str(previous.root_pem());
        }
        Ok(Issued { chain_pem, roots_pem: held.roots_pem.clone() })
    }

    /// See [`Authority::issue_hosts`].
    pub fn issue_hosts(&self, hosts: &[String], now_unix: u64, life: Duration) -> Result<(String, String), CaError> {
        self.held.load().issuing.issue_hosts(hosts, now_unix, life)
    }

    pub fn seen(&self) -> RotationSeen {
        let held = self.held.load();
        let seen = |authority: &Authority| RootSeen {
            fingerprint: authority.root_fingerprint(),
            ends_at: authority.root_ends(),
            linked: authority.is_linked(),
        };
        RotationSeen {
            phase: held.rotation.phase,
            issuing: seen(&held.issuing),
            other: held.other.as_ref().map(seen),
            phase_ends: held.rotation.phase_ends(self.node_life.as_secs()),
        }
    }

    /// Begins to replace the root. The old root's key signs the new one, so that whoever knows only the old
    /// one is led to it; `old_key_lost` goes on without where the key is not there.
    ///
    /// # Errors
    /// [`CaError::Underway`] while a rotation is, [`CaError::NoRootKey`] without the old root's key.
    pub fn begin(&self, old_key_lost: bool, now_unix: u64) -> Result<(), CaError> {
        let _changing = self.changing();
        let held = self.held.load();
        let rotation = held.rotation.begun(now_unix).ok_or(CaError::Underway)?;
        let before = folder(&self.dir, held.rotation.issuing);
        let before = (!old_key_lost || has_root_key(&before)).then_some(before);
        let next = folder(&self.dir, held.rotation.issuing + 1);
        // Of a beginning that did not come to its end, and that nobody has heard of.
        remove_folder(&next)?;
        Authority::make(&next, &self.platform, before.as_deref(), now_unix)?;
        sync(&self.dir)?;
        self.enter(rotation, now_unix)
    }

    /// Does what is due; whether anything changed. `alive`: when control was alive last, in Unix seconds.
    pub fn step(&self, now_unix: u64, alive: u64) -> Result<bool, CaError> {
        if self.is_due(now_unix) && self.has_root_key() {
            self.begin(false, now_unix)?;
            return Ok(true);
        }
        let _changing = self.changing();
        let rotation = self.held.load().rotation;
        let following = rotation.after(now_unix, alive, self.node_life.as_secs());
        if following != rotation {
            self.enter(following, now_unix)?;
        }
        Ok(following != rotation)
    }

    /// The root is to be replaced because of its age.
    fn is_due(&self, now_unix: u64) -> bool {
        let held = self.held.load();
        let left = held.issuing.root_ends().saturating_sub(now_unix);
        held.rotation.phase == Phase::Settled && left < ROOT_LEFT.as_secs()
    }

    fn has_root_key(&self) -> bool {
        has_root_key(&self.signing_folder())
    }

    fn signing_folder(&self) -> PathBuf {
        folder(&self.dir, self.held.load().rotation.issuing)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the folders into use as `rotation` says. The caller holds `changing`.
    fn enter(&self, rotation: Rotation, now_unix: u64) -> Result<(), CaError> {
        // First, so that what cannot be used is not entered.
        let mut held = Held::load(&self.dir, rotation, &self.platform, self.node_life, now_unix)?;
        write_rotation(&self.dir, &rotation)?;
        held.generation = self.held.load().generation + 1;
        self.held.store(Arc::new(held));
        remove_others(&self.dir, &rotation)
    }
}

/// A certificate's chain and the roots to trust from then on, PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub chain_pem: String,
    pub roots_pem: String,
}

impl Held {
    fn load(
        dir: &Path,
        rotation: Rotation,
        platform: &str,
        node_life: Duration,
        now_unix: u64,
    ) -> Result<Self, CaError> {
        let load = |number| Authority::load(&folder(dir, number), platform, now_unix);
        let issuing = load(rotation.issuing)?.with_node_life(node_life);
        let other = rotation.other().map(load).transpose()?;
        let roots_pem = format!("{}{}", issuing.root_pem(), other.as_ref().map_or("", Authority::root_pem));
        Ok(Self { rotation, issuing, other, roots_pem, generation: 0 })
    }
}

const FIRST: Number = 1;
const FIRST_ROOT: &str = "root.pem";

fn folder(dir: &Path, number: Number) -> PathBuf {
    if number == FIRST { dir.to_owned() } else { dir.join(number.to_string()) }
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    move |source| CaError::File { action, path: path.to_owned(), source }
}

fn read_rotation(dir: &Path) -> Result<Option<Rotation>, CaError> {
    let path = dir.join(ROTATION);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", &path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| CaError::Corrupt { path, reason: error.to_string() })
}

fn write_rotation(dir: &Path, rotation: &Rotation) -> Result<(), CaError> {
    let path = dir.join(ROTATION);
    let text = serde_json::to_vec(rotation).map_err(io::Error::other);
    text.and_then(|text| files::write_durably(&path, &text, false)).map_err(file_error("write", &path))
}

/// The authorities that have a folder of their own.
fn numbered(dir: &Path) -> Result<impl Iterator<Item = Number>, CaError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => Some(entries.collect::<io::Result<Vec<_>>>().map_err(file_error("read", dir))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error("read", dir)(error)),
    };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.into_iter().flatten().filter_map(number))
}

/// Removes the authorities that no longer count, with their keys.
fn remove_others(dir: &Path, rotation: &Rotation) -> Result<(), CaError> {
    for number in numbered(dir)?.filter(|number| !rotation.trusts(*number)) {
        remove_folder(&folder(dir, number))?;
    }
    if !rotation.trusts(FIRST) {
        for path in FILES.map(|name| dir.join(name)) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), CaError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// So that a folder made in it is there after a power cut.
fn sync(dir: &Path) -> Result<(), CaError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(file_error("sync", dir))
}

#[cfg(test)]
mod tests;
