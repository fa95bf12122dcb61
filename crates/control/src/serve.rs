//! What control serves to nodes over gRPC: joining, renewals, blobs.

use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use atoll_images::Digest;
use atoll_rpc::identity::Role;
use atoll_rpc::proto::control::enrolment_server::Enrolment;
use atoll_rpc::proto::control::nodes_server::Nodes;
use atoll_rpc::proto::control::{
    BlobChunk, BlobRequest, EnterNetworkReply, EnterNetworkRequest, JoinReply, JoinRequest, RenewReply, RenewRequest,
    StandingReply, StandingRequest,
};
use atoll_rpc::server::require_role;
use atoll_rpc::stream::Peer;
use atoll_signals::with_causes;

use crate::{Control, ControlError, Kind};

const CHUNK: usize = 256 * 1024;

/// The services over one control.
#[derive(Clone)]
pub struct ControlServices(pub Arc<Control>);

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Self {
        if error.kind == Kind::Internal {
            tracing::error!(error = with_causes(&error), "a node's call failed");
        }
        let message = error.message;
        match error.kind {
            Kind::Invalid => Self::invalid_argument(message),
            Kind::Unauthenticated => Self::unauthenticated(message),
            Kind::Forbidden => Self::permission_denied(message),
            Kind::NotFound => Self::not_found(message),
            Kind::Conflict | Kind::NameTaken => Self::already_exists(message),
            Kind::Precondition => Self::failed_precondition(message),
            Kind::Capacity | Kind::DiskFull => Self::resource_exhausted(message),
            Kind::TimedOut => Self::deadline_exceeded(message),
            Kind::Unavailable => Self::unavailable(message),
            Kind::Internal => Self::internal(message),
        }
    }
}

#[tonic::async_trait]
impl Enrolment for ControlServices {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("no peer address"))?;
        let seen_from = peer.address.ip();
        Ok(Response::new(self.0.node_join(request.get_ref(), seen_from).await?))
    }

    async fn standing(&self, request: Request<StandingRequest>) -> Result<Response<StandingReply>, Status> {
        let StandingRequest { node, epoch } = request.into_inner();
        let node = node.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        Ok(Response::new(StandingReply { given_up: self.0.node_is_given_up(&node, epoch).await? }))
    }
}

#[tonic::async_trait]
impl Nodes for ControlServices {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        // Exactly what the caller has proven to be, and nothing else.
        let identity = require_role(&request, &[Role::Worker, Role::Edge, Role::Net])?;
        let issued = self
            .0
            .authority
            .issue_node(&request.get_ref().csr, &identity, self.0.now_ms() / 1000)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(RenewReply { chain: issued.chain_pem, roots: issued.roots_pem }))
    }

    async fn enter_network(
        &self,
        request: Request<EnterNetworkRequest>,
    ) -> Result<Response<EnterNetworkReply>, Status> {
        let node = require_role(&request, &[Role::Net])?.node;
        self.0.node_enter_network(&node, request.get_ref()).await?;
        Ok(Response::new(EnterNetworkReply {}))
    }

    type BlobStream = Pin<Box<ReceiverStream<Result<BlobChunk, Status>>>>;

    async fn blob(&self, request: Request<BlobRequest>) -> Result<Response<Self::BlobStream>, Status> {
        require_role(&request, &[Role::Worker])?;
        let BlobRequest { digest, offset } = request.into_inner();
        let digest: Digest = digest.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let store = self.0.images.clone();
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let (mut file, size) = match store.open_blob(&digest) {
                Ok(found) => found,
                Err(error) => {
                    // The worker that asked may have gone.
                    sender.blocking_send(Err(Status::not_found(error.to_string()))).ok();
                    return;
                }
            };
            let mut failed = file.seek(SeekFrom::Start(offset.min(size))).err();
            let mut first = Some(size);
            while failed.is_none() {
                let mut data = vec![0; CHUNK];
                match file.read(&mut data) {
                    Ok(0) if first.is_none() => return,
                    Ok(read) => {
                        data.truncate(read);
                        let chunk = BlobChunk { size: first.take().unwrap_or(0), data: Bytes::from(data) };
                        if sender.blocking_send(Ok(chunk)).is_err() {
                            return;
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                sender.blocking_send(Err(Status::data_loss(format!("cannot read the blob: {error}")))).ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
