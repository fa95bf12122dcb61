//! Tickets on disk, sealed, for the process after this one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use atoll_keyring::{FileKeys, Keyring};
use atoll_resume::{Saved, Ticket};
use atoll_rpc::files::write_durably;

const SEALED_AS: &str = "net/tickets";
/// Chosen by the kernel at its start; tickets' times mean nothing after another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub struct TicketFile {
    path: PathBuf,
    keyring: Keyring,
    boot: String,
}

impl TicketFile {
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let keys =
            FileKeys::open_or_create(&folder.join("root.key")).context("cannot open the key of the net process")?;
        let boot = std::fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
        let keyring = Keyring::new(Arc::new(keys));
        Ok(Self { path: folder.join("tickets"), keyring, boot: boot.trim().to_owned() })
    }

    /// Those that are still good; none where there is no file of ours.
    pub fn load(&self, now: Duration) -> Vec<Ticket> {
        let sealed = match std::fs::read(&self.path) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::debug!(%error, file = %self.path.display(), "no tickets are kept");
                return Vec::new();
            }
        };
        let opened = self.keyring.open(SEALED_AS, &sealed).context("the seal is broken");
        let tickets = opened.and_then(|bytes| Saved::decode(&bytes, &self.boot, now).context("damaged"));
        tickets.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), file = %self.path.display(), "kept tickets are not used");
            Vec::new()
        })
    }

    pub fn save(&self, tickets: &[Ticket]) -> anyhow::Result<()> {
        let bytes = Saved::new(&self.boot, tickets).encode()?;
        let sealed = self.keyring.seal(SEALED_AS, &bytes)?;
        write_durably(&self.path, &sealed, true).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_resume::{Party, Responder};

    #[test]
    fn tickets_are_kept_sealed_and_a_damaged_file_holds_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = TicketFile::open(folder.path()).unwrap();
        let now = Duration::from_secs(1_000);
        assert!(file.load(now).is_empty());
        let party = |node: &str, key| Party { node: node.parse().unwrap(), mesh_key: [key; 32] };
        let grant = Responder::new(party("nrt1", 2)).issue(&party("ams1", 1), now, &[0x5a; 48]);
        let ticket = Ticket::new(grant, party("nrt1", 2), "192.0.2.1:51822".parse().unwrap(), now);
        file.save(std::slice::from_ref(&ticket)).unwrap();
        assert_eq!(TicketFile::open(folder.path()).unwrap().load(now), [ticket]);
        let mut bytes = std::fs::read(folder.path().join("tickets")).unwrap();
        assert!(
            !bytes.windows(8).any(|window| window == [0x5a; 8]) && !bytes.windows(4).any(|window| window == b"nrt1")
        );
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(folder.path().join("tickets"), bytes).unwrap();
        assert!(file.load(now).is_empty());
    }
}
