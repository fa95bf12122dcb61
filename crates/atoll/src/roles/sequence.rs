//! Numbers for catalogue rows that never go back within an epoch, also after a kill: numbers are
//! reserved in blocks, in a file, before they are given out. A start goes on after the last block.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::Context;

use atoll_catalogue::protocol::OwnerLog;
use atoll_catalogue::watch::Publisher;
use atoll_model::row::InvalidRow;
use atoll_model::{Owner, Row, RowKey, RowVersion};
use atoll_rpc::files::write_durably;

const BLOCK: u64 = 1 << 20;
/// The next block is reserved while so many numbers are left: more than rows can be in flight.
const MARGIN: u64 = 1 << 16;

/// An owner's publisher whose numbers outlive the process.
#[derive(Clone)]
pub struct DurablePublisher {
    publisher: Publisher,
    reservation: std::sync::Arc<Mutex<Reservation>>,
}

struct Reservation {
    file: PathBuf,
    end: u64,
}

impl DurablePublisher {
    /// Goes on where an earlier process on the same state ended, at latest.
    pub fn open(owner: Owner, epoch: u64, file: PathBuf) -> anyhow::Result<Self> {
        let last = read(&file, epoch)?;
        let mut reservation = Reservation { file, end: last };
        reservation.extend(epoch).context("cannot reserve numbers for catalogue rows")?;
        let publisher = Publisher::new(OwnerLog::resume(owner, epoch, last));
        Ok(Self { publisher, reservation: std::sync::Arc::new(Mutex::new(reservation)) })
    }

    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    pub fn put(&self, row: &Row) -> Result<RowVersion, InvalidRow> {
        let version = self.publisher.put(row)?;
        self.keep_ahead(version);
        Ok(version)
    }

    pub fn delete(&self, key: &RowKey) -> Option<RowVersion> {
        let version = self.publisher.delete(key)?;
        self.keep_ahead(version);
        Some(version)
    }

    fn keep_ahead(&self, used: RowVersion) {
        let mut reservation = self.reservation.lock().unwrap_or_else(PoisonError::into_inner);
        if used.sequence + MARGIN >= reservation.end
            && let Err(error) = reservation.extend(used.epoch)
        {
            // The margin lasts a while; the next write tries again.
            tracing::error!(%error, "cannot reserve numbers for catalogue rows");
        }
    }
}

impl Reservation {
    fn extend(&mut self, epoch: u64) -> std::io::Result<()> {
        let end = self.end + BLOCK;
        write_durably(&self.file, format!("{epoch} {end}").as_bytes(), false)?;
        self.end = end;
        Ok(())
    }
}

/// The end of the last reserved block of this epoch; another epoch begins anew.
fn read(file: &Path, epoch: u64) -> anyhow::Result<u64> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    match (words.next(), words.next()) {
        (Some(Ok(kept)), Some(Ok(end))) if kept == epoch => Ok(end),
        (Some(Ok(_)), Some(Ok(_))) => Ok(0),
        _ => anyhow::bail!("{} is damaged: it should hold an epoch and a number", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_never_reuses_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sequence");
        let open = |epoch| DurablePublisher::open(Owner::Control, epoch, file.clone()).unwrap();
        let first = open(1).publisher().position();
        let second = open(1).publisher().position();
        assert!(second.sequence >= first.sequence + BLOCK);
        assert_eq!(open(2).publisher().position(), RowVersion { epoch: 2, sequence: 0 });
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sequence");
        std::fs::write(&file, "nonsense").unwrap();
        assert!(DurablePublisher::open(Owner::Control, 1, file).is_err());
    }
}
