//! The node's images, as the agent uses them: by digest, fetched from control's store, and collected.

mod collect;
mod needs;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use tonic::transport::Channel;

use atoll_images::task::blocking;
use atoll_images::{
    BlobSource, BlobStream, Digest, EnsureError, ImageStore, InvalidReference, Repository, SourceError, StoreError,
    UnpackLimits, ensure_image,
};
use atoll_rpc::proto::control::BlobRequest;
use atoll_rpc::proto::control::nodes_client::NodesClient;
use atoll_worker::seams::{ImageError, ImageProcess, ImageProvider, PreparedImage};

pub use collect::{Policy, Tally};
use collect::{USED, free_percent, note_use, pass};
use needs::Needs;

/// How often is looked for what may go.
const EVERY: Duration = Duration::from_secs(600);

/// Images by digest: what is here needs nobody; the rest comes from control's store. Clones share it.
#[derive(Clone)]
pub struct NodeImages {
    store: ImageStore,
    /// What was used here, and when.
    list: Arc<Repository>,
    source: Arc<ControlBlobs>,
    needs: Arc<Needs>,
    tally: Arc<Tally>,
}

impl NodeImages {
    pub fn new(store: ImageStore, control: Channel) -> Result<Self, InvalidReference> {
        Ok(Self {
            store,
            list: Arc::new(USED.parse()?),
            source: Arc::new(ControlBlobs(NodesClient::new(control))),
            needs: Arc::default(),
            tally: Arc::default(),
        })
    }

    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// Removes what no machine needs, again and again, until the process ends.
    pub async fn collect_forever(self, policy: Policy) {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(collection) = self.needs.begin_collection() else { continue };
            let (store, list, tally) = (self.store.clone(), self.list.clone(), self.tally.clone());
            let collected = blocking(move || {
                for image in &collection.released {
                    match note_use(&store, &list, *image) {
                        // It could never be fetched.
                        Ok(()) | Err(StoreError::Missing { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                let free = || free_percent(store.root());
                pass(&store, &collection.spared, policy, SystemTime::now(), free, &tally)
            });
            if let Err(error) = collected.await {
                self.tally.failed();
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "cannot remove unused images now");
            }
        }
    }

    /// An image of no machine was used: its age begins anew.
    async fn used(&self, image: Digest) {
        if self.needs.is_pinned(&image) {
            return;
        }
        let (store, list) = (self.store.clone(), self.list.clone());
        if let Err(error) = blocking(move || note_use(&store, &list, image)).await {
            tracing::warn!(%image, %error, "cannot note that an image was used: it may go early");
        }
    }
}

#[async_trait]
impl ImageProvider for NodeImages {
    async fn ensure(&self, reference: &str, digest: &str) -> Result<PreparedImage, ImageError> {
        let wanted: Digest = digest.parse().map_err(|error| ImageError {
            reason: format!("the image {reference} has no usable digest {digest:?}"),
            source: Some(Box::new(error)),
        })?;
        let _in_hand = self.needs.hold(wanted).await;
        let before = self.store.size_of(&wanted).ok().flatten().is_some();
        let unpacked = ensure_image(&self.store, &*self.source, wanted, &UnpackLimits::default()).await;
        let unpacked = unpacked.map_err(|error: EnsureError| ImageError {
            reason: format!("the image {reference} cannot be made ready"),
            source: Some(Box::new(error)),
        })?;
        self.used(wanted).await;
        let config = unpacked.config;
        Ok(PreparedImage {
            layers: unpacked.layers,
            bytes_fetched: if before { 0 } else { config.total_size },
            config: ImageProcess {
                entrypoint: config.entrypoint,
                cmd: config.cmd,
                env: config.env.into_iter().collect(),
                working_dir: config.working_dir,
                user: config.user,
            },
        })
    }

    fn pin(&self, digests: Vec<String>) {
        let parsed: Result<HashSet<Digest>, _> = digests.iter().map(|digest| digest.parse()).collect();
        match parsed {
            Ok(digests) => self.needs.pin(digests),
            // Those before stay pinned, and what is new was used just now.
            Err(error) => tracing::error!(%error, "a machine's image has no usable digest"),
        }
    }
}

/// Control's image store, over its node service.
struct ControlBlobs(NodesClient<Channel>);

#[async_trait]
impl BlobSource for ControlBlobs {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let place = || "control".to_owned();
        let broken = |status: tonic::Status| match status.code() {
            tonic::Code::NotFound => SourceError::Missing { what: digest.to_string(), place: place() },
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
                SourceError::Denied { place: place(), reason: status.message().to_owned() }
            }
            _ => SourceError::Broken { place: place(), source: Box::new(status) },
        };
        let request = BlobRequest { digest: digest.to_string(), offset };
        let mut chunks = self.0.clone().blob(request).await.map_err(broken)?.into_inner();
        let first = chunks
            .message()
            .await
            .map_err(broken)?
            .ok_or_else(|| SourceError::Broken { place: place(), source: "the answer was empty".into() })?;
        let size = first.size;
        let rest = chunks.map(|chunk| {
            chunk
                .map(|chunk| chunk.data)
                .map_err(|status| SourceError::Broken { place: "control".to_owned(), source: Box::new(status) })
        });
        let bytes = futures_util::stream::once(async move { Ok(first.data) }).chain(rest).boxed();
        Ok(BlobStream { size: Some(size), bytes })
    }
}
