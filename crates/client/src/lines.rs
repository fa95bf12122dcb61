//! Streams of JSON lines: progress of deploys, logs.

use std::marker::PhantomData;

use bytes::BytesMut;
use serde::de::DeserializeOwned;

use crate::ClientError;

/// Longest accepted line; a longer one means that the other side is not what we think.
const MAX_LINE: usize = 1 << 20;

/// A stream of `T`, one JSON object a line.
pub struct Lines<T> {
    response: reqwest::Response,
    buffer: BytesMut,
    item: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { response, buffer: BytesMut::new(), item: PhantomData }
    }

    /// The next item; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                // Empty lines keep the connection alive.
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|source| ClientError::Unreadable {
                    url: self.response.url().to_string(),
                    source: source.into(),
                });
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Broken("a line of the stream is too long".into()));
            }
            match self.response.chunk().await.map_err(|error| ClientError::Broken(error.into()))? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
