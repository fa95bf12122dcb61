//! How tickets travel: each server asks every other for one, over a connection on which both prove who they
//! are, and asks again long before it ends.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use atoll_mesh::PublicKey;
use atoll_net::peers::{Peer, Wanted};
use atoll_resume::{Grant, Party, Secret, Ticket, TicketId};
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::proto::mesh::resumption_client::ResumptionClient;
use atoll_rpc::proto::mesh::resumption_server::{Resumption as Service, ResumptionServer};
use atoll_rpc::proto::mesh::{TicketReply, TicketRequest};
use atoll_rpc::server::require_role;
use atoll_rpc::tls::LiveIdentity;

use super::Resumption;

/// How often it is looked whom to ask, and what is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A ticket serves for ten minutes; one that its giver forgot by a restart is worth nothing any longer.
const RENEW_AFTER: Duration = Duration::from_secs(240);
/// After a refusal: the other may be older, or of a kind that resumes nothing.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Servers that are asked at once.
const AT_ONCE: usize = 8;
/// One question, its connection included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What asks the others for tickets, and looks after those that there are.
#[derive(Clone)]
pub struct Asking {
    pub resumption: Arc<Resumption>,
    pub peers: Arc<ArcSwap<Wanted>>,
    pub live: Arc<LiveIdentity>,
}

impl Asking {
    /// Runs until the process ends.
    pub async fn run(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut running: JoinSet<(PublicKey, anyhow::Result<()>)> = JoinSet::new();
        let mut asked: HashSet<PublicKey> = HashSet::new();
        let mut next: HashMap<PublicKey, Instant> = HashMap::new();
        loop {
            tokio::select! {
                _ = look.tick() => self.tend().await,
                Some(ended) = running.join_next() => {
                    // A task that panicked has said so; its server is not asked again.
                    let Ok((peer, result)) = ended else { continue };
                    asked.remove(&peer);
                    let pause = match result {
                        Ok(()) => RENEW_AFTER,
                        Err(error) => {
                            tracing::debug!(%peer, error = format!("{error:#}"), "a server gave no ticket");
                            RETRY_AFTER
                        }
                    };
                    next.insert(peer, Instant::now() + pause);
                }
            }
            let peers = self.peers.load_full();
            next.retain(|peer, _| peers.peers.contains_key(peer));
            let now = Instant::now();
            for (key, peer) in &peers.peers {
                if running.len() >= AT_ONCE {
                    break;
                }
                let (Some(rpc), true) = (peer.rpc, next.get(key).is_none_or(|next| *next <= now)) else { continue };
                if asked.insert(*key) {
                    let (asking, key, peer) = (self.clone(), *key, peer.clone());
                    running.spawn(async move { (key, asking.ask(key, &peer, rpc).await) });
                }
            }
        }
    }

    async fn tend(&self) {
        let (resumption, peers) = (self.resumption.clone(), self.peers.load_full());
        if let Err(error) = tokio::task::spawn_blocking(move || resumption.tend(&peers)).await {
            tracing::error!(%error, "tickets are not looked after");
        }
    }

    async fn ask(&self, key: PublicKey, peer: &Peer, rpc: SocketAddr) -> anyhow::Result<()> {
        // The life of a ticket counts from before it was given.
        let asked = (self.resumption.clock)();
        let channel = connect(&self.live, rpc.to_string(), Expected::Exactly(Role::Net, peer.node.clone()))?;
        let mut client = ResumptionClient::new(channel);
        let reply = tokio::time::timeout(ANSWER_WITHIN, client.ticket(TicketRequest {})).await;
        let TicketReply { id, secret, port } =
            reply.with_context(|| format!("no answer within {ANSWER_WITHIN:?}"))??.into_inner();
        let id = TicketId(id.as_ref().try_into().context("a ticket's id has 16 bytes")?);
        let secret = Secret::new(secret.as_ref().try_into().context("a ticket's secret has 32 bytes")?);
        let port = u16::try_from(port).context("there is no such port")?;
        let responder = Party { node: peer.node.clone(), mesh_key: key.0 };
        let address = SocketAddr::new(peer.endpoint.ip(), port);
        self.resumption.keep(Ticket::new(Grant { id, secret }, responder, address, asked));
        Ok(())
    }
}

/// What gives tickets to the others.
pub struct TicketService {
    resumption: Arc<Resumption>,
    peers: Arc<ArcSwap<Wanted>>,
}

impl TicketService {
    pub fn server(resumption: Arc<Resumption>, peers: Arc<ArcSwap<Wanted>>) -> ResumptionServer<Self> {
        ResumptionServer::new(Self { resumption, peers })
    }
}

#[tonic::async_trait]
impl Service for TicketService {
    async fn ticket(&self, request: Request<TicketRequest>) -> Result<Response<TicketReply>, Status> {
        let identity = require_role(&request, &[Role::Net])?;
        let peers = self.peers.load();
        let known = peers.peers.iter().find(|(_, peer)| peer.node == identity.node);
        let (key, _) = known
            .ok_or_else(|| Status::failed_precondition(format!("{} is not known in the mesh yet", identity.node)))?;
        let Grant { id, secret } = self.resumption.issue(&Party { node: identity.node, mesh_key: key.0 });
        Ok(Response::new(TicketReply {
            id: id.0.to_vec().into(),
            secret: secret.expose().to_vec().into(),
            port: u32::from(self.resumption.port),
        }))
    }
}
