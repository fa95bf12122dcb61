//! Blobs: downloads with ranges; uploads whole, in chunks, or mounted from another repository.

use std::{io::SeekFrom, sync::Arc};

use axum::{body::Body, response::Response};
use futures_util::{StreamExt, TryStreamExt};
use http::{StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{
    Action, Asked, CONTENT_DIGEST, Registry, UPLOAD_ID, empty,
    error::ApiError,
    range::{self, Wanted},
    respond,
};
use crate::{
    Digest, Repository, StoreError,
    source::{End, STALL, append},
    store::BlobWriter,
    task::blocking,
};

const READ_SIZE: usize = 128 << 10;

impl Registry {
    pub(super) async fn get_blob(
        &self,
        repository: &Repository,
        digest: Digest,
        asked: &Asked,
    ) -> Result<Response, ApiError> {
        let size = self.blob_of(repository, digest).await?.ok_or_else(ApiError::blob_unknown)?;
        let mut headers = vec![
            (CONTENT_DIGEST, digest.to_string()),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, format!("\"{digest}\"")),
        ];
        let range = asked.headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let (status, start, length) = match range::wanted(range, size) {
            _ if asked.is_head => (StatusCode::OK, 0, size),
            Wanted::Whole => (StatusCode::OK, 0, size),
            Wanted::Part { start, length } => {
                headers.push((header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + length - 1)));
                (StatusCode::PARTIAL_CONTENT, start, length)
            }
            Wanted::Outside => return Err(ApiError::range(size)),
        };
        headers.push((header::CONTENT_LENGTH, length.to_string()));
        if asked.is_head {
            return empty(status, &headers);
        }
        let store = self.store.clone();
        let (file, _) = blocking(move || store.open_blob(&digest)).await?;
        let mut file = tokio::fs::File::from_std(file);
        let unreadable = StoreError::io("read", self.store.blob_path(&digest));
        file.seek(SeekFrom::Start(start)).await.map_err(unreadable)?;
        respond(status, &headers, Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_SIZE)))
    }

    pub(super) async fn start_upload(
        self: &Arc<Self>,
        repository: Repository,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, ApiError> {
        if let Some(digest) = asked.query.digest("mount")?
            && self.mount(&repository, digest, asked).await?
        {
            return created(&repository, digest);
        }
        let (store, limit) = (self.store.clone(), self.limits.blob);
        let writer = blocking(move || store.writer(limit)).await?;
        let id = self.uploads.begin(repository.clone(), writer)?;
        match asked.query.digest("digest")? {
            Some(_) => self.finish_upload(&repository, &id, asked, body).await,
            None => accepted(&repository, &id, 0),
        }
    }

    /// Lets `repository` have a blob of another one, if the same client may read it there.
    async fn mount(&self, repository: &Repository, digest: Digest, asked: &Asked) -> Result<bool, ApiError> {
        let Some(Ok(from)) = asked.query.get("from").map(str::parse::<Repository>) else { return Ok(false) };
        if self.authorize(Action::Pull, Some(&from), asked.credential.as_ref()).await.is_err() {
            // The client uploads instead; that the blob exists is not for it to know.
            return Ok(false);
        }
        let is_there = self.blob_of(&from, digest).await?.is_some();
        if is_there {
            self.uploads.finished(repository, digest);
        }
        Ok(is_there)
    }

    pub(super) async fn append_upload(
        self: &Arc<Self>,
        repository: &Repository,
        id: &str,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, ApiError> {
        let size = self.receive(repository, id, asked, body).await?;
        accepted(repository, id, size)
    }

    pub(super) async fn finish_upload(
        self: &Arc<Self>,
        repository: &Repository,
        id: &str,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, ApiError> {
        let missing = || ApiError::digest_invalid("say ?digest=sha256:… of the whole blob");
        let digest = asked.query.digest("digest")?.ok_or_else(missing)?;
        self.receive(repository, id, asked, body).await?;
        let writer = self.uploads.take(repository, id)?;
        // Whatever comes of it, this upload is over; a wrong digest does not become right.
        self.uploads.remove(repository, id)?;
        blocking(move || writer.stage(Some((&digest, None)))?.commit()).await?;
        self.uploads.finished(repository, digest);
        created(repository, digest)
    }

    /// Appends a body to an upload and says how large it is now. In a task of its own: when the
    /// client goes away, what came so far stays, and the client may come back for the rest.
    async fn receive(
        self: &Arc<Self>,
        repository: &Repository,
        id: &str,
        asked: &Asked,
        body: Body,
    ) -> Result<u64, ApiError> {
        let writer = self.uploads.take(repository, id)?;
        let reached = writer.size();
        let chunk =
            asked.headers.get(header::CONTENT_RANGE).map(|value| value.to_str().ok().and_then(range::chunk_start));
        if chunk.is_some_and(|start| start != Some(reached)) {
            self.uploads.put_back(id, writer);
            return Err(ApiError::upload_range(range::reached(reached)));
        }
        let (registry, own_id) = (Arc::clone(self), id.to_owned());
        let task = tokio::spawn(async move { registry.receive_body(&own_id, writer, body).await });
        match task.await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Stopping.into()),
        }
    }

    async fn receive_body(&self, id: &str, writer: BlobWriter, body: Body) -> Result<u64, ApiError> {
        let stream = body.into_data_stream().map_err(|error| error.to_string()).boxed();
        let (writer, end) = append(writer, stream).await?;
        let size = writer.size();
        self.uploads.put_back(id, writer);
        match end {
            End::Complete => Ok(size),
            End::Broken(reason) => Err(ApiError::upload_broken(format!("the transfer broke: {reason}"))),
            End::Stalled => Err(ApiError::upload_broken(format!("nothing came for {} s", STALL.as_secs()))),
        }
    }

    pub(super) fn upload_status(&self, repository: &Repository, id: &str) -> Result<Response, ApiError> {
        let size = self.uploads.size(repository, id)?;
        empty(StatusCode::NO_CONTENT, &upload_headers(repository, id, size))
    }

    pub(super) fn cancel_upload(&self, repository: &Repository, id: &str) -> Result<Response, ApiError> {
        self.uploads.remove(repository, id)?;
        empty(StatusCode::NO_CONTENT, &[])
    }
}

fn upload_headers(repository: &Repository, id: &str, size: u64) -> Vec<(header::HeaderName, String)> {
    vec![
        (header::LOCATION, format!("/v2/{repository}/blobs/uploads/{id}")),
        (header::RANGE, range::reached(size)),
        (UPLOAD_ID, id.to_owned()),
    ]
}

fn accepted(repository: &Repository, id: &str, size: u64) -> Result<Response, ApiError> {
    empty(StatusCode::ACCEPTED, &upload_headers(repository, id, size))
}

fn created(repository: &Repository, digest: Digest) -> Result<Response, ApiError> {
    let location = format!("/v2/{repository}/blobs/{digest}");
    empty(StatusCode::CREATED, &[(header::LOCATION, location), (CONTENT_DIGEST, digest.to_string())])
}
