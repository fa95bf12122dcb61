//! The file of a backup: writing it whole, checking it, reading it line by line. No database here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{BackupError, BackupSummary, TABLES};
use crate::migrate::SCHEMA_VERSION;

const FORMAT: u32 = 1;
/// A longer line is not one of ours.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A row on its way.
pub(super) struct Line {
    /// Index into [`TABLES`].
    pub(super) table: usize,
    pub(super) columns: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    atoll_backup: u32,
    schema: u32,
    created_at: u64,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    rows: u64,
    /// Of every line before this one, line ends included.
    sha256: String,
}

/// Writes what arrives until a `None` says that it was all; without one the file never gets its name.
pub(super) fn write(
    path: &Path,
    now_ms: u64,
    mut lines: mpsc::Receiver<Option<Line>>,
) -> Result<BackupSummary, BackupError> {
    let write_failed = |source| BackupError::Write { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = write_part(&part, now_ms, &mut lines).and_then(|summary| {
        fs::rename(&part, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(summary)
    });
    if written.is_err() {
        // What is there is no backup; that it cannot be removed either adds nothing to the error.
        fs::remove_file(&part).ok();
    }
    written.map_err(write_failed)
}

fn write_part(part: &Path, now_ms: u64, lines: &mut mpsc::Receiver<Option<Line>>) -> io::Result<BackupSummary> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part)?;
    let mut out = Out { encoder: zstd::Encoder::new(file, 0)?, digest: Sha256::new() };
    out.line(&Header { atoll_backup: FORMAT, schema: SCHEMA_VERSION, created_at: now_ms })?;
    let mut rows = 0;
    while let Some(line) = lines.blocking_recv().ok_or_else(|| io::Error::other("the copy was broken off"))? {
        let name = TABLES.get(line.table).map_or("", |table| table.name);
        out.line(&(name, line.columns))?;
        rows += 1;
    }
    let sha256 = hex::encode(out.digest.clone().finalize());
    out.line(&Trailer { rows, sha256 })?;
    out.encoder.finish()?.sync_all()?;
    Ok(BackupSummary { rows, schema: SCHEMA_VERSION, created_at_ms: now_ms })
}

struct Out {
    encoder: zstd::Encoder<'static, File>,
    digest: Sha256,
}

impl Out {
    fn line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.digest.update(&line);
        self.encoder.write_all(&line)
    }
}

/// Reads the file to its end and says what it holds, if it is whole.
pub(super) fn check(path: &Path) -> Result<BackupSummary, BackupError> {
    read(path, |_| true)
}

/// Hands each row to `take` until it returns `false`. Errors in what follows a row come after it,
/// so only a file that was checked may be acted upon while it is read.
pub(super) fn read(path: &Path, mut take: impl FnMut(Line) -> bool) -> Result<BackupSummary, BackupError> {
    let mut lines = Lines::open(path)?;
    let header: Header = lines.next()?;
    if header.atoll_backup != FORMAT {
        return Err(lines.damaged(format!("its format {} is not known", header.atoll_backup)));
    }
    if header.schema > SCHEMA_VERSION {
        return Err(BackupError::Newer { path: path.to_owned(), found: header.schema });
    }
    let mut rows = 0;
    loop {
        // The digest so far covers every line before this one, as the trailer's does.
        let sha256 = hex::encode(lines.digest.clone().finalize());
        match lines.next::<Record>()? {
            Record::Row(name, columns) => {
                let table = TABLES.iter().position(|table| table.name == name);
                let table = table.ok_or_else(|| lines.damaged(format!("there is no table {name:?}")))?;
                rows += 1;
                if !take(Line { table, columns }) {
                    break;
                }
            }
            Record::End(trailer) if trailer.rows != rows => return Err(lines.damaged("rows are missing".into())),
            Record::End(trailer) if trailer.sha256 != sha256 => {
                return Err(lines.damaged("its checksum does not match".into()));
            }
            Record::End(_) => break,
        }
    }
    Ok(BackupSummary { rows, schema: header.schema, created_at_ms: header.created_at })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    Row(String, Map<String, Value>),
    End(Trailer),
}

struct Lines<'a> {
    path: &'a Path,
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    digest: Sha256,
    number: u64,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, BackupError> {
        let read_failed = |source| BackupError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read_failed)?;
        let input = BufReader::new(zstd::Decoder::new(file).map_err(read_failed)?);
        Ok(Self { path, input, digest: Sha256::new(), number: 0 })
    }

    fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, BackupError> {
        self.number += 1;
        let mut line = Vec::new();
        let read = self.input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        if let Err(error) = read {
            return Err(self.damaged(format!("{error}")));
        }
        if line.last() != Some(&b'\n') {
            return Err(self.damaged("it ends too early".into()));
        }
        self.digest.update(&line);
        serde_json::from_slice(&line).map_err(|error| self.damaged(format!("{error}")))
    }

    fn damaged(&self, reason: String) -> BackupError {
        BackupError::Damaged { path: self.path.to_owned(), line: self.number, reason }
    }
}
