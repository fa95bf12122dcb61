//! `atoll image`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

use atoll_client::Client;

use crate::outcome::{CliResult, Outcome};
use crate::printer::size;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// Bring an image in: an OCI layout folder, an OCI or docker archive
    Import {
        path: PathBuf,
        /// <app>/<name>:<tag>
        name: String,
    },
    /// List images
    List,
    /// Show an image's configuration
    Inspect { name: String },
    /// Forget a name; `gc` then frees what no name and no machine needs
    Rm { name: String },
    /// Free what no name and no machine needs
    Gc,
}

pub async fn run(command: ImageCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        ImageCommand::Import { path, name } => {
            let name = import(client, printer, &path, &name).await?;
            printer.data(&serde_json::json!({"image": name}), |printer| printer.line(&name));
        }
        ImageCommand::List => {
            let images = client.images().await?;
            printer.data(&images, |printer| {
                let rows = images
                    .iter()
                    .map(|image| {
                        let digest = image.digest.chars().take(19).collect();
                        vec![image.name.clone(), digest, size(image.bytes), image.layers.to_string()]
                    })
                    .collect();
                printer.table(&["name", "digest", "size", "layers"], rows);
            });
        }
        ImageCommand::Inspect { name } => {
            let image = client.image(&name).await?;
            let text = serde_json::to_string_pretty(&image).unwrap_or_default();
            printer.line(&text);
        }
        ImageCommand::Rm { name } => {
            client.image_remove(&name).await?;
            printer.done(&format!("forgot {name}"), serde_json::json!({"forgot": name}));
        }
        ImageCommand::Gc => {
            let freed = client.image_collect().await?;
            printer.data(&freed, |printer| {
                printer.line(&format!("removed {} blobs, freed {}", freed.blobs_removed, size(freed.bytes_freed)));
            });
        }
    }
    Ok(Outcome::Done)
}

/// Uploads an image from disk under `name`; answers the name.
pub async fn import(client: &Client, printer: &Printer, path: &Path, name: &str) -> Result<String, CliError> {
    let body = if path.is_dir() {
        if !path.join("oci-layout").exists() {
            return Err(CliError::usage(format!(
                "{} is a folder without an `oci-layout` file: an image is an OCI layout folder, an OCI archive or a docker archive",
                path.display()
            )));
        }
        tar_folder(path.to_owned())
    } else {
        let file = tokio::fs::File::open(path).await.map_err(CliError::io(format!("read {}", path.display())))?;
        reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 1 << 16))
    };
    printer.note(&format!("uploading {}", path.display()));
    let summary = client.image_import(name, body).await?;
    printer.note(&format!("imported {} ({}, {})", summary.name, size(summary.bytes), summary.digest));
    Ok(summary.name)
}

/// The folder as a tar stream, made while it is sent.
fn tar_folder(path: PathBuf) -> reqwest::Body {
    let (sender, receiver) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || {
        let failed = sender.clone();
        let mut builder = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 16, ChunkSender(sender)));
        builder.follow_symlinks(false);
        if let Err(error) = builder
            .append_dir_all(".", &path)
            .and_then(|()| builder.into_inner()?.into_inner().map(drop).map_err(std::io::IntoInnerError::into_error))
        {
            // Makes the upload fail instead of ending early; a reader that went away needs no word.
            drop(failed.blocking_send(Err(error)));
        }
    });
    reqwest::Body::wrap_stream(ReceiverStream::new(receiver))
}

/// Sends what is written to it as chunks of a stream.
struct ChunkSender(mpsc::Sender<std::io::Result<Vec<u8>>>);

impl std::io::Write for ChunkSender {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.blocking_send(Ok(data.to_vec())).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
