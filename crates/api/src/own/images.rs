//! `/api/v1/images`: what the platform's registry keeps, by name.

use std::io::Read;

use axum::Json;
use axum::extract::State;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use atoll_identity::{Action, Target};
use atoll_images::{Image, ImageReference, NamedImage};
use atoll_model::AppName;
use atoll_model::wire::{CollectReply, ImageDetails, ImageSummary};

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::{Params, Upload};
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Routes {
    Routes::default()
        .get("/api/v1/images", "images", "The images of the platform's registry", list)
        .delete("/api/v1/images", "image_remove", "Forget an image's name", remove)
        .get("/api/v1/images/inspect", "image_inspect", "What an image is made of", inspect)
        .post("/api/v1/images/gc", "images_collect", "Remove what no name and no machine needs", collect)
        .post("/api/v1/images/import", "image_import", "Keep an OCI or docker archive under a name", import)
}

fn summary(named: &NamedImage, image: &Image) -> ImageSummary {
    ImageSummary {
        name: format!("{}:{}", named.repository, named.tag),
        digest: named.manifest.to_string(),
        bytes: image.config.total_size,
        layers: u32::try_from(image.diff_ids.len()).unwrap_or(u32::MAX),
    }
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<ImageSummary>>> {
    auth.may(Action::Read, Target::Nodes)?;
    let mut images = Vec::new();
    for named in api.control.images.images() {
        let image = api.control.image_read(named.manifest).await?;
        images.push(summary(&named, &image));
    }
    Ok(Json(images))
}

#[derive(Deserialize, ToSchema)]
struct Named {
    /// Such as `my-app/web:v2`.
    name: String,
}

/// Images belong to the app that their repository begins with.
async fn may(api: &Api, auth: &Auth, name: &str, action: Action) -> ApiResult<()> {
    let reference: ImageReference =
        name.parse().map_err(|error| ApiError::invalid(format!("image name {name:?}: {error}")))?;
    let app = reference.repository.app();
    let app: AppName = app.parse().map_err(|error| ApiError::invalid(format!("image name {name:?}: {error}")))?;
    auth.on("image", name);
    auth.app(api, app.as_str(), action).await.map(drop)
}

async fn inspect(State(api): State<Api>, auth: Auth, Params(query): Params<Named>) -> ApiResult<Json<ImageDetails>> {
    may(&api, &auth, &query.name, Action::Read).await?;
    let resolved = api.control.image_resolve(&query.name).await?;
    let image = api.control.image_read(resolved.digest).await?;
    let config = image.config;
    Ok(Json(ImageDetails {
        name: query.name,
        digest: image.digest.to_string(),
        bytes: config.total_size,
        layers: image.diff_ids.iter().map(ToString::to_string).collect(),
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: config.working_dir,
        user: config.user,
        exposed_ports: config.exposed_ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)).collect(),
        labels: config.labels,
    }))
}

async fn remove(State(api): State<Api>, auth: Auth, Params(query): Params<Named>) -> ApiResult<NoContent> {
    may(&api, &auth, &query.name, Action::Change).await?;
    api.control.image_remove(&query.name).await?;
    Ok(NoContent)
}

async fn collect(State(api): State<Api>, auth: Auth) -> ApiResult<Json<CollectReply>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let freed = api.control.image_collect().await?;
    Ok(Json(CollectReply { blobs_removed: freed.blobs, bytes_freed: freed.bytes }))
}

async fn import(
    State(api): State<Api>,
    auth: Auth,
    Params(query): Params<Named>,
    Upload(body): Upload,
) -> ApiResult<Json<ImageSummary>> {
    may(&api, &auth, &query.name, Action::Change).await?;
    let (sender, receiver) = mpsc::channel(8);
    let mut chunks = body.into_data_stream();
    let sending = tokio::spawn(async move {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| std::io::Error::other(error.to_string()));
            if sender.send(chunk).await.is_err() {
                // The import has seen enough; the rest of the upload is read and dropped.
                while let Some(Ok(_)) = chunks.next().await {}
                return;
            }
        }
    });
    let imported = api.control.image_import(&query.name, ChunkReader { chunks: receiver, current: Bytes::new() }).await;
    // Answering while the client still sends would break its connection before it reads the answer.
    sending.await.ok();
    let (named, image) = imported?;
    Ok(Json(summary(&named, &image)))
}

/// A body as a blocking reader.
struct ChunkReader {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}
