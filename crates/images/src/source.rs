//! Where blobs come from: another store by way of an RPC, a registry, or a folder.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use thiserror::Error;

use crate::{Digest, ImageStore, StoreError, manifest::Descriptor, store::BlobWriter, task::blocking};

/// How often a broken transfer is taken up again without any progress.
const FRUITLESS_TRIES: u32 = 4;
/// Pause before the first new try; it doubles each time.
const FIRST_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// The longest silence of a transfer.
pub(crate) const STALL: std::time::Duration = std::time::Duration::from_secs(60);
/// Bytes gathered before the disk is asked.
const WRITE_SIZE: usize = 256 << 10;

/// A place that gives blobs by digest.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Opens a blob from byte `offset` on. The receiver verifies, a source need not.
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError>;
}

/// A blob on its way.
pub struct BlobStream {
    /// Bytes of the whole blob, also when it was opened further on; `None` if the source cannot say.
    pub size: Option<u64>,
    pub bytes: BoxStream<'static, Result<Bytes, SourceError>>,
}

/// Why a source gives no blob, or no more of it.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("there is no {what} at {place}")]
    Missing { what: String, place: String },
    #[error("{place} does not allow it: {reason}")]
    Denied { place: String, reason: String },
    /// Trying again would bring the same.
    #[error("{place} gave a wrong answer: {reason}")]
    Wrong { place: String, reason: String },
    /// Trying again may help.
    #[error("the transfer from {place} broke")]
    Broken { place: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl SourceError {
    /// Whether another try may bring what this one did not.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

/// Why a blob was not fetched. Nothing of it is left.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("cannot fetch {digest}")]
    Source { digest: Digest, source: SourceError },
    #[error("cannot fetch {digest}: the transfer broke {tries} times without bringing anything")]
    Broken { digest: Digest, tries: u32, source: SourceError },
    #[error("cannot keep {digest}")]
    Store { digest: Digest, source: StoreError },
}

/// What of a blob is known before it comes.
pub(crate) struct Wanted {
    pub digest: Digest,
    /// Known from a descriptor; a manifest is asked for by its digest alone.
    pub size: Option<u64>,
    pub limit: u64,
}

impl Wanted {
    pub(crate) fn described(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest, size: Some(descriptor.size), limit: descriptor.size }
    }

    /// Refuses a wrong size before a byte of it came.
    fn check(&self, announced: Option<u64>) -> Result<(), StoreError> {
        match (self.size, announced) {
            (Some(expected), Some(found)) if expected != found => Err(StoreError::WrongSize { expected, found }),
            (None, Some(found)) if found > self.limit => Err(StoreError::TooLarge { limit: self.limit }),
            _ => Ok(()),
        }
    }
}

/// Brings a blob into the store unless it is there. A broken transfer goes on where it broke.
pub(crate) async fn fetch(store: &ImageStore, source: &dyn BlobSource, wanted: &Wanted) -> Result<(), FetchError> {
    let digest = wanted.digest;
    let keep = |source| FetchError::Store { digest, source };
    let turn = store.fetching().turn(digest).await.map_err(keep)?;
    let (own, limit) = (store.clone(), wanted.limit);
    let begun = blocking(move || match own.confirm(&digest)? {
        Some(_) => Ok(None),
        None => own.writer(limit).map(Some),
    });
    let Some(writer) = begun.await.map_err(keep)? else {
        return Ok(());
    };
    let writer = receive(source, wanted, writer).await?;
    let size = wanted.size;
    // The turn goes along: until the blob has its name, the next one must not begin anew.
    blocking(move || {
        let _turn = turn;
        writer.stage(Some((&digest, size)))?.commit()
    })
    .await
    .map_err(keep)?;
    Ok(())
}

async fn receive(source: &dyn BlobSource, wanted: &Wanted, mut writer: BlobWriter) -> Result<BlobWriter, FetchError> {
    let digest = wanted.digest;
    let mut size = wanted.size;
    let mut fruitless = 0;
    loop {
        let before = writer.size();
        // It broke after the last byte; from there on no source has anything to open.
        if before > 0 && size == Some(before) {
            return Ok(writer);
        }
        let error = match source.open(&digest, before).await {
            Ok(stream) => {
                wanted.check(stream.size).map_err(|source| FetchError::Store { digest, source })?;
                size = size.or(stream.size);
                let broken =
                    |reason: String| SourceError::Broken { place: "the source".to_owned(), source: reason.into() };
                let appended = append(writer, stream.bytes).await;
                let (returned, end) = appended.map_err(|source| FetchError::Store { digest, source })?;
                writer = returned;
                match end {
                    End::Complete if size.is_none_or(|size| writer.size() >= size) => return Ok(writer),
                    End::Complete => broken(format!("it ended after {} bytes, too early", writer.size())),
                    End::Broken(error) => error,
                    End::Stalled => broken(format!("nothing came for {} s", STALL.as_secs())),
                }
            }
            Err(error) => error,
        };
        if !error.is_transient() {
            return Err(FetchError::Source { digest, source: error });
        }
        fruitless = if writer.size() > before { 0 } else { fruitless + 1 };
        if fruitless == FRUITLESS_TRIES {
            return Err(FetchError::Broken { digest, tries: fruitless, source: error });
        }
        tracing::debug!(%digest, offset = writer.size(), %error, "a blob's transfer broke, taking it up again");
        tokio::time::sleep(FIRST_PAUSE * 2u32.pow(fruitless)).await;
    }
}

/// How a stream ended.
#[derive(Debug)]
pub(crate) enum End<E> {
    Complete,
    Broken(E),
    /// Nothing came for [`STALL`].
    Stalled,
}

/// Appends a stream to a writer, on threads that may block. Gives the writer back with all that came
/// before the stream ended; a writer that could not write is gone.
pub(crate) async fn append<E>(
    mut writer: BlobWriter,
    mut stream: BoxStream<'_, Result<Bytes, E>>,
) -> Result<(BlobWriter, End<E>), StoreError> {
    let mut gathered = Vec::new();
    let mut gathered_bytes = 0;
    loop {
        let end = match tokio::time::timeout(STALL, stream.next()).await {
            Ok(Some(Ok(bytes))) => {
                gathered_bytes += bytes.len();
                gathered.push(bytes);
                None
            }
            Ok(Some(Err(error))) => Some(End::Broken(error)),
            Ok(None) => Some(End::Complete),
            Err(_) => Some(End::Stalled),
        };
        if gathered_bytes >= WRITE_SIZE || end.is_some() {
            let pieces = std::mem::take(&mut gathered);
            gathered_bytes = 0;
            let write = move || {
                pieces.iter().try_for_each(|piece| writer.write(piece))?;
                Ok::<_, StoreError>(writer)
            };
            writer = blocking(write).await?;
        }
        if let Some(end) = end {
            return Ok((writer, end));
        }
    }
}

#[async_trait]
impl BlobSource for ImageStore {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let place = || self.root().display().to_string();
        let (store, wanted) = (self.clone(), *digest);
        let opened = blocking(move || {
            let (mut file, size) = store.open_blob(&wanted)?;
            io_seek(&mut file, offset).map_err(StoreError::io("read", store.blob_path(&wanted)))?;
            Ok::<_, StoreError>((file, size))
        });
        match opened.await {
            Ok((file, size)) => {
                let broken = place();
                let bytes = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(file), WRITE_SIZE)
                    .map(move |piece| {
                        piece.map_err(|source| SourceError::Broken { place: broken.clone(), source: source.into() })
                    });
                Ok(BlobStream { size: Some(size), bytes: bytes.boxed() })
            }
            Err(StoreError::Missing { digest }) => {
                Err(SourceError::Missing { what: digest.to_string(), place: place() })
            }
            Err(error) => Err(SourceError::Broken { place: place(), source: error.into() }),
        }
    }
}

fn io_seek(file: &mut std::fs::File, offset: u64) -> std::io::Result<u64> {
    std::io::Seek::seek(file, std::io::SeekFrom::Start(offset))
}
