//! Carries the catalogue's messages in gRPC frames: the service that any owner and the hub serve,
//! and the connection of those who watch.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use atoll_catalogue::protocol::Positions;
use atoll_catalogue::protocol::hub::SessionId;
use atoll_catalogue::protocol::message::{Ack, LeaseGrant, Part};
use atoll_catalogue::protocol::series::Session;
use atoll_catalogue::watch::{BoxError, CHANNEL_MESSAGES, Source, Streams, serve_watch};
use atoll_model::NodeName;
use atoll_model::row::Reader;
use atoll_rpc::identity::Role;
use atoll_rpc::proto::catalogue::WatchFrame;
use atoll_rpc::proto::catalogue::catalogue_client::CatalogueClient;
use atoll_rpc::proto::catalogue::catalogue_server::{Catalogue, CatalogueServer};
use atoll_rpc::server::require_role;

/// Frames hold up to a page of rows.
const MAX_FRAME: usize = 16 << 20;

/// Serves watches of `source` to the roles named.
pub struct WatchService<S> {
    source: Arc<S>,
    allowed: &'static [Role],
}

impl<S: Source + 'static> WatchService<S> {
    pub fn server(source: S, allowed: &'static [Role]) -> CatalogueServer<Self> {
        CatalogueServer::new(Self { source: Arc::new(source), allowed }).max_decoding_message_size(MAX_FRAME)
    }
}

#[tonic::async_trait]
impl<S: Source + 'static> Catalogue for WatchService<S> {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchFrame, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<WatchFrame>>) -> Result<Response<Self::WatchStream>, Status> {
        let identity = require_role(&request, self.allowed)?;
        let (watcher, leased) = (identity.node, identity.role != Role::Net);
        let incoming = request.into_inner().map_ok(|frame| frame.body);
        let (outgoing, messages) = mpsc::channel(CHANNEL_MESSAGES);
        let source = self.source.clone();
        tokio::spawn(async move {
            let ended = match leased {
                true => serve_watch(&*source, watcher.clone(), incoming, outgoing).await,
                false => serve_watch(&Unleased(&*source), watcher.clone(), incoming, outgoing).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%watcher, %error, "a watch ended");
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(|body| Ok(WatchFrame { body })))))
    }
}

/// Rows for net processes, for whom no barrier waits: only edges decide who gets a request.
struct Unleased<'a, S>(&'a S);

impl<S: Source> Source for Unleased<'_, S> {
    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed()
    }

    fn next_part(&self, session: &mut Session) -> Option<Part> {
        self.0.next_part(session)
    }

    fn opened(&self, watcher: &NodeName, session: SessionId, positions: &Positions) {
        self.0.reader_opened(watcher, Reader::Net, session, positions);
    }

    fn acknowledged(&self, watcher: &NodeName, session: SessionId, ack: Ack) -> Option<LeaseGrant> {
        self.0.reader_acknowledged(watcher, Reader::Net, session, &ack);
        None
    }

    fn ended(&self, _: &NodeName, _: SessionId) {}
}

/// Opens a watch on a peer.
pub async fn open_watch(channel: Channel) -> Result<Streams, BoxError> {
    let mut client = CatalogueClient::new(channel).max_decoding_message_size(MAX_FRAME);
    let (outgoing, requests) = mpsc::channel(CHANNEL_MESSAGES);
    let frames = ReceiverStream::new(requests).map(|body| WatchFrame { body });
    let replies = client.watch(frames).await?.into_inner();
    let incoming = replies.map_ok(|frame| frame.body).map_err(BoxError::from);
    Ok(Streams { incoming: Box::pin(incoming), outgoing })
}
