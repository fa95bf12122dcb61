//! The control socket of a running lab: one JSON verb a line, one JSON reply a line. Only root may
//! connect, for the socket lies in the lab's folder with mode 0600.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader as StdBufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::error::{Attempt, LabError, chain};
use crate::lab::Lab;
use crate::verb::{Reply, Status, Verb};

const MAX_CONNECTIONS: usize = 32;
/// Of one verb.
const MAX_LINE: u64 = 64 << 10;

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

/// Serves the lab's control socket for ever.
pub async fn serve(lab: Lab) -> Result<(), LabError> {
    let path = socket_in(lab.folder());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).attempting(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).attempting(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).attempting(|| format!("guard {}", path.display()))?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return Ok(()) };
        let (stream, _) = listener.accept().await.attempting(|| "accept on the control socket".to_owned())?;
        let lab = lab.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(&lab, stream).await {
                tracing::debug!(%error, "a control connection broke");
            }
            drop(permit);
        });
    }
}

async fn converse(lab: &Lab, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut read).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_str::<Verb>(&line) {
            Ok(verb) => lab.apply(verb).await.map_or_else(|error| Reply::Failed(chain(&error)), Reply::Done),
            Err(error) => Reply::Failed(format!("not a verb: {error}")),
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
    }
}

/// Asks the lab in a folder to do something, and waits until it is done.
pub fn ask(folder: &Path, verb: &Verb) -> Result<Status, LabError> {
    let path = socket_in(folder);
    let talking = || format!("talk to {}", path.display());
    let stream = StdStream::connect(&path).map_err(|_| LabError::NoLab(path.display().to_string()))?;
    let mut text = serde_json::to_string(verb).map_err(std::io::Error::from).attempting(talking)?;
    text.push('\n');
    (&stream).write_all(text.as_bytes()).attempting(talking)?;
    let mut line = String::new();
    StdBufReader::new(&stream).read_line(&mut line).attempting(talking)?;
    match serde_json::from_str(&line).map_err(std::io::Error::from).attempting(talking)? {
        Reply::Done(status) => Ok(status),
        Reply::Failed(why) => Err(LabError::Refused(why)),
    }
}
