//! Secrets with all other servers: on disk, and in the link. Whoever changes one writes it first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use atoll_keyring::{Keyring, OpenError, SealError};
use atoll_mesh::{Backend, MeshError, PresharedKey, PublicKey};
use atoll_rpc::files::write_durably;

use super::{Ask, Pair, Secret, SecretId, Used};

/// What the file is sealed for.
const CONTEXT: &str = "net/secrets";

/// Why a secret was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("cannot write the shared secrets to {path}", path = .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot seal the shared secrets")]
    Seal(#[source] SealError),
    #[error("cannot put the shared secret with {peer} into the link")]
    Link { peer: PublicKey, source: MeshError },
}

/// Why the file of an earlier process is of no use.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    #[error("it is not sealed with this server's key")]
    Open(#[from] OpenError),
    #[error("it holds something else")]
    Parse(#[from] serde_json::Error),
    #[error("it holds a key of another form")]
    Key,
}

/// All pairs that this server is one of.
pub struct Secrets {
    held: Mutex<Held>,
}

struct Held {
    pairs: BTreeMap<PublicKey, Pair>,
    link: Option<Arc<dyn Backend>>,
    file: PathBuf,
    keyring: Keyring,
}

impl Secrets {
    /// Begins with what an earlier process kept. If that is lost, sessions end and are agreed on anew as soon
    /// as the leaders of the pairs notice.
    pub fn open(file: &Path, keyring: Keyring) -> Self {
        let pairs = read(file, &keyring).unwrap_or_else(|error| {
            if !matches!(&error, Unreadable::Read(error) if error.kind() == std::io::ErrorKind::NotFound) {
                tracing::warn!(
                    file = %file.display(),
                    error = &error as &dyn std::error::Error,
                    "shared secrets with other servers are lost and will be agreed on anew"
                );
            }
            BTreeMap::new()
        });
        Self { held: Mutex::new(Held { pairs, link: None, file: file.to_owned(), keyring }) }
    }

    /// From now on a change reaches the link, which has none yet.
    pub fn lead_into(&self, link: Arc<dyn Backend>) {
        self.lock().link = Some(link);
    }

    /// Calls `make` with the secret to be used with each peer; none changes meanwhile, so that a peer which
    /// is just being made gets the latest.
    pub fn with_current<T>(&self, make: impl FnOnce(&dyn Fn(PublicKey) -> Option<PresharedKey>) -> T) -> T {
        let held = self.lock();
        make(&|peer| held.pairs.get(&peer)?.current().map(|secret| secret.key.clone()))
    }

    /// Unix seconds: when the certificate ends under which the leader made the secret that is in use.
    pub fn leader_until(&self, peer: PublicKey) -> Option<u64> {
        Some(self.lock().pairs.get(&peer)?.current()?.leader_until)
    }

    /// See [`Pair::next`].
    pub fn next(&self, peer: PublicKey, certificate_until: u64, reached: bool) -> Option<Ask> {
        let held = self.lock();
        held.pairs.get(&peer).unwrap_or(&Pair::default()).next(certificate_until, reached)
    }

    /// See [`Pair::agree`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn agree(&self, peer: PublicKey, secret: Secret) -> Result<(), SecretsError> {
        let mut held = self.lock();
        let mut pair = held.pairs.get(&peer).cloned().unwrap_or_default();
        pair.agree(secret);
        held.keep(peer, pair)
    }

    /// See [`Pair::take_into_use`].
    ///
    /// # Errors
    /// If it cannot be written, or the link refuses it, which the next start makes good.
    pub fn take_into_use(&self, peer: PublicKey, id: SecretId) -> Result<Used, SecretsError> {
        let mut held = self.lock();
        let mut pair = held.pairs.get(&peer).cloned().unwrap_or_default();
        let used = pair.take_into_use(id);
        if used == Used::Now {
            let key = pair.current().map(|secret| secret.key.clone());
            held.keep(peer, pair)?;
            match held.link.as_ref().map(|link| link.set_preshared_key(peer, key.as_ref())) {
                // The catalogue has not brought it yet, or has taken it away.
                None | Some(Ok(()) | Err(MeshError::UnknownPeer(_))) => {}
                Some(Err(source)) => return Err(SecretsError::Link { peer, source }),
            }
        }
        Ok(used)
    }

    /// See [`Pair::disowned`].
    pub fn disowned(&self, peer: PublicKey, id: SecretId) {
        if let Some(pair) = self.lock().pairs.get_mut(&peer) {
            pair.disowned(id);
        }
    }

    /// Servers that are peers no more.
    pub fn forget(&self, peers: &[PublicKey]) {
        let mut held = self.lock();
        let known = held.pairs.len();
        held.pairs.retain(|peer, _| !peers.contains(peer));
        if held.pairs.len() < known
            && let Err(error) = held.write()
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "secrets of servers that have left stay on disk");
        }
    }

    /// Held for the time of a file's writing at most.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Nothing has changed if this fails.
    fn keep(&mut self, peer: PublicKey, pair: Pair) -> Result<(), SecretsError> {
        let before = self.pairs.insert(peer, pair);
        let written = self.write();
        if written.is_err() {
            match before {
                Some(before) => self.pairs.insert(peer, before),
                None => self.pairs.remove(&peer),
            };
        }
        written
    }

    fn write(&self) -> Result<(), SecretsError> {
        let pairs: Vec<KeptPair> = self.pairs.iter().map(|(peer, pair)| KeptPair::of(*peer, pair)).collect();
        let failed = |source| SecretsError::Write { path: self.file.clone(), source };
        let text = Zeroizing::new(serde_json::to_vec(&pairs).map_err(|error| failed(error.into()))?);
        let sealed = self.keyring.seal(CONTEXT, &text).map_err(SecretsError::Seal)?;
        write_durably(&self.file, &sealed, true).map_err(failed)
    }
}

fn read(file: &Path, keyring: &Keyring) -> Result<BTreeMap<PublicKey, Pair>, Unreadable> {
    let text = keyring.open(CONTEXT, &std::fs::read(file)?)?;
    let kept: Vec<KeptPair> = serde_json::from_slice(&text)?;
    kept.into_iter().map(|pair| pair.into_pair().ok_or(Unreadable::Key)).collect()
}

#[derive(Serialize, Deserialize)]
struct KeptPair {
    peer: String,
    current: Option<KeptSecret>,
    agreed: Option<KeptSecret>,
}

#[derive(Serialize, Deserialize)]
struct KeptSecret {
    id: [u8; 16],
    key: [u8; 32],
    leader_until: u64,
}

impl Drop for KeptSecret {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl KeptPair {
    fn of(peer: PublicKey, Pair { current, agreed }: &Pair) -> Self {
        let kept = |secret: &Secret| KeptSecret {
            id: secret.id.0,
            key: *secret.key.expose(),
            leader_until: secret.leader_until,
        };
        Self { peer: peer.to_string(), current: current.as_ref().map(kept), agreed: agreed.as_ref().map(kept) }
    }

    fn into_pair(self) -> Option<(PublicKey, Pair)> {
        let secret = |kept: KeptSecret| Secret {
            id: SecretId(kept.id),
            key: PresharedKey::from_bytes(kept.key),
            leader_until: kept.leader_until,
        };
        let pair = Pair { current: self.current.map(secret), agreed: self.agreed.map(secret) };
        Some((self.peer.parse().ok()?, pair))
    }
}

#[cfg(test)]
mod tests {
    use atoll_keyring::FileKeys;

    use super::*;

    const PEER: PublicKey = PublicKey([5; 32]);

    fn secret(number: u8) -> Secret {
        Secret { id: SecretId([number; 16]), key: PresharedKey::from_bytes([number; 32]), leader_until: 10 }
    }

    fn open(dir: &Path) -> Secrets {
        let keys = FileKeys::open_or_create(&dir.join("root.key")).unwrap();
        Secrets::open(&dir.join("secrets"), Keyring::new(Arc::new(keys)))
    }

    fn current(secrets: &Secrets) -> Option<PresharedKey> {
        secrets.with_current(|current| current(PEER))
    }

    #[test]
    fn what_was_agreed_on_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = open(dir.path());
        secrets.agree(PEER, secret(1)).unwrap();
        assert_eq!(current(&secrets), None, "agreed is not yet in use");
        let secrets = open(dir.path());
        assert_eq!(secrets.next(PEER, 10, true), Some(Ask::Use(SecretId([1; 16]))));
        assert_eq!(secrets.take_into_use(PEER, SecretId([1; 16])).unwrap(), Used::Now);
        let secrets = open(dir.path());
        assert_eq!(current(&secrets), Some(secret(1).key));
        assert_eq!(secrets.next(PEER, 10, true), None);
        assert_eq!(secrets.next(PEER, 11, true), Some(Ask::Offer));
        let text = std::fs::read(dir.path().join("secrets")).unwrap();
        assert!(!text.windows(16).any(|part| part == [1; 16]), "it is sealed");
        secrets.forget(&[PEER]);
        assert_eq!(current(&open(dir.path())), None);
    }

    #[test]
    fn what_cannot_be_written_has_not_happened() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = open(dir.path());
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        assert!(matches!(secrets.agree(PEER, secret(1)), Err(SecretsError::Write { .. })));
        assert_eq!(secrets.next(PEER, 10, true), Some(Ask::Offer));
    }

    #[test]
    fn a_damaged_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).agree(PEER, secret(1)).unwrap();
        std::fs::write(dir.path().join("secrets"), b"something else").unwrap();
        let secrets = open(dir.path());
        assert_eq!(secrets.next(PEER, 10, true), Some(Ask::Offer));
        secrets.agree(PEER, secret(2)).unwrap();
        assert_eq!(open(dir.path()).next(PEER, 10, true), Some(Ask::Use(SecretId([2; 16]))));
    }
}
