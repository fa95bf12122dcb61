//! The node's own lines about a machine.

use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;

use super::{Line, files};

/// A file of this size is put away.
const FILE_MAX: u64 = 256 * 1024;

/// Writes them. A line that cannot be written is lost: logs never hold up a machine.
pub struct OwnLog {
    current: PathBuf,
    previous: PathBuf,
}

impl OwnLog {
    pub fn new(machine_dir: &Path) -> Self {
        let [_, own] = files(machine_dir);
        Self { current: own.current, previous: own.previous }
    }

    pub async fn line(&self, now_ms: u64, text: &str) {
        let line = Line { ts_ms: now_ms, stream: "atoll".into(), line: text.to_owned() };
        if let Err(error) = self.write(&line).await {
            tracing::debug!(path = %self.current.display(), %error, "a log line was lost");
        }
    }

    async fn write(&self, line: &Line) -> std::io::Result<()> {
        if tokio::fs::metadata(&self.current).await.is_ok_and(|file| file.len() > FILE_MAX) {
            tokio::fs::rename(&self.current, &self.previous).await?;
        }
        if let Some(dir) = self.current.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&self.current).await?;
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        file.write_all(&text).await?;
        file.flush().await
    }
}
