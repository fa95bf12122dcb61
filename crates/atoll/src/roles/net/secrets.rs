//! New secrets with other servers, agreed on over connections that both prove themselves on: as leader this
//! server asks ([`Leading`]), as follower it answers ([`MeshService`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use atoll_mesh::PublicKey;
use atoll_model::reach::Reachability;
use atoll_net::peers::{Peer, Wanted};
use atoll_net::secrets::held::{Secrets, SecretsError};
use atoll_net::secrets::{Ask, End, HALF_BYTES, Half, Secret, SecretId, Used, derive};
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::proto::mesh::mesh_client::MeshClient;
use atoll_rpc::proto::mesh::mesh_server::{Mesh, MeshServer};
use atoll_rpc::proto::mesh::{OfferSecretReply, OfferSecretRequest, SecretHalf, UseSecretReply, UseSecretRequest};
use atoll_rpc::server::require_role;
use atoll_rpc::tls::LiveIdentity;
use atoll_signals::with_causes;

/// How often a leader looks whether a pair needs something.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pairs that are asked at once.
const AT_ONCE: usize = 8;
/// One question, its connection included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// After a failure: doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What both sides of an agreement work with.
#[derive(Clone)]
pub struct Agreement {
    pub own: End,
    pub secrets: Arc<Secrets>,
    pub peers: Arc<ArcSwap<Wanted>>,
    pub live: Arc<LiveIdentity>,
}

impl Agreement {
    fn half(&self) -> Half {
        Half { random: Zeroizing::new(rand::random()), certificate_until: self.live.expires_at() }
    }

    fn derive(&self, id: SecretId, leader: (&End, &Half), follower: (&End, &Half)) -> Secret {
        derive(&self.live.identity().platform, id, leader, follower)
    }

    /// Beside the async threads, as it writes to disk.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Secrets) -> Result<T, SecretsError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let secrets = self.secrets.clone();
        Ok(tokio::task::spawn_blocking(move || change(&secrets)).await??)
    }
}

/// This server's part in the pairs that it leads.
pub struct Leading {
    pub agreement: Agreement,
    pub reach: Arc<ArcSwap<Reachability>>,
}

/// When to ask a peer again that failed, and the pause before that.
struct Later {
    at: Instant,
    pause: Duration,
}

impl Leading {
    /// Runs until the process ends.
    pub async fn run(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut asking: JoinSet<(PublicKey, anyhow::Result<()>)> = JoinSet::new();
        let mut asked = std::collections::HashSet::new();
        let mut later: HashMap<PublicKey, Later> = HashMap::new();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Some(ended) = asking.join_next() => {
                    // A task that panicked has said so; its pair is asked again after the next start.
                    let Ok((peer, result)) = ended else { continue };
                    asked.remove(&peer);
                    match result {
                        Ok(()) => drop(later.remove(&peer)),
                        Err(error) => {
                            let pause = later.get(&peer).map_or(FIRST_PAUSE, |later| (later.pause * 2).min(LONGEST_PAUSE));
                            later.insert(peer, Later { at: Instant::now() + pause, pause });
                            tracing::info!(
                                %peer,
                                error = with_causes(error.as_ref()),
                                "no new shared secret with a server for now; the one in use stays"
                            );
                        }
                    }
                }
            }
            let peers = self.agreement.peers.load_full();
            later.retain(|peer, _| peers.peers.contains_key(peer));
            let now = Instant::now();
            let due = peers.peers.iter().filter(|(key, _)| self.agreement.own.key < **key);
            let due =
                due.filter(|(key, _)| !asked.contains(*key) && later.get(key).is_none_or(|later| later.at <= now));
            let due: Vec<_> =
                due.filter_map(|(key, peer)| Some((*key, peer.clone(), self.next(*key, peer)?))).collect();
            for (key, peer, ask) in due {
                if asking.len() >= AT_ONCE {
                    break;
                }
                asked.insert(key);
                let agreement = self.agreement.clone();
                asking.spawn(async move { (key, agreement.ask(key, &peer, ask).await) });
            }
        }
    }

    fn next(&self, key: PublicKey, peer: &Peer) -> Option<Ask> {
        let reached = self.reach.load().paths.get(&peer.node).is_none_or(|path| path.reachable);
        self.agreement.secrets.next(key, self.agreement.live.expires_at(), reached)
    }
}

impl Agreement {
    /// Asks the follower, beside the mesh: so it can mend the mesh.
    async fn ask(&self, key: PublicKey, peer: &Peer, ask: Ask) -> anyhow::Result<()> {
        let at = peer.rpc.context("its version has no shared secrets")?;
        let channel = connect(&self.live, at.to_string(), Expected::Exactly(Role::Net, peer.node.clone()))?;
        let client = MeshClient::new(channel);
        let asking = async {
            match ask {
                Ask::Offer => self.offer(client, key, peer).await,
                Ask::Use(id) => self.order_use(client, key, id).await,
            }
        };
        let asked = tokio::time::timeout(ANSWER_WITHIN, asking).await;
        asked.unwrap_or_else(|_| anyhow::bail!("no answer within {ANSWER_WITHIN:?}")).with_context(|| at.to_string())
    }

    async fn offer(
        &self,
        mut client: MeshClient<tonic::transport::Channel>,
        key: PublicKey,
        peer: &Peer,
    ) -> anyhow::Result<()> {
        let id = SecretId(rand::random());
        let ours = self.half();
        let request = OfferSecretRequest { id: id.0.to_vec().into(), half: Some(sent(&ours)) };
        let reply = client.offer_secret(request).await?.into_inner();
        let theirs = received(reply.half).context("it gave no half of a secret")?;
        let follower = End { node: peer.node.clone(), key };
        let secret = self.derive(id, (&self.own, &ours), (&follower, &theirs));
        self.change(move |secrets| secrets.agree(key, secret)).await?;
        self.order_use(client, key, id).await
    }

    async fn order_use(
        &self,
        mut client: MeshClient<tonic::transport::Channel>,
        key: PublicKey,
        id: SecretId,
    ) -> anyhow::Result<()> {
        let reply = client.use_secret(UseSecretRequest { id: id.0.to_vec().into() }).await?.into_inner();
        if !reply.known {
            self.secrets.disowned(key, id);
        } else if self.change(move |secrets| secrets.take_into_use(key, id)).await? == Used::Now {
            tracing::debug!(peer = %key, "a new shared secret");
        }
        Ok(())
    }
}

/// This server's part in the pairs that others lead.
pub struct MeshService(Agreement);

impl MeshService {
    pub fn server(agreement: Agreement) -> MeshServer<Self> {
        MeshServer::new(Self(agreement))
    }

    /// The server that asks, which must lead the pair.
    fn leader<T>(&self, request: &Request<T>) -> Result<End, Status> {
        let identity = require_role(request, &[Role::Net])?;
        let peers = self.0.peers.load();
        let known = peers.peers.iter().find(|(_, peer)| peer.node == identity.node);
        let (key, _) = known.ok_or_else(|| {
            Status::failed_precondition(format!("{} is not in the mesh as {} knows it", identity.node, self.0.own.node))
        })?;
        if *key < self.0.own.key {
            Ok(End { node: identity.node, key: *key })
        } else {
            Err(Status::failed_precondition(format!("{} has the greater key and does not lead", identity.node)))
        }
    }
}

#[tonic::async_trait]
impl Mesh for MeshService {
    async fn offer_secret(&self, request: Request<OfferSecretRequest>) -> Result<Response<OfferSecretReply>, Status> {
        let leader = self.leader(&request)?;
        let request = request.into_inner();
        let id = secret_id(&request.id)?;
        let theirs = received(request.half).ok_or_else(|| Status::invalid_argument("a half has 32 random bytes"))?;
        let ours = self.0.half();
        let secret = self.0.derive(id, (&leader, &theirs), (&self.0.own, &ours));
        self.0.change(move |secrets| secrets.agree(leader.key, secret)).await.map_err(refused)?;
        Ok(Response::new(OfferSecretReply { half: Some(sent(&ours)) }))
    }

    async fn use_secret(&self, request: Request<UseSecretRequest>) -> Result<Response<UseSecretReply>, Status> {
        let leader = self.leader(&request)?;
        let id = secret_id(&request.get_ref().id)?;
        let used = self.0.change(move |secrets| secrets.take_into_use(leader.key, id)).await.map_err(refused)?;
        Ok(Response::new(UseSecretReply { known: used != Used::Unknown }))
    }
}

fn refused(error: anyhow::Error) -> Status {
    tracing::error!(error = format!("{error:#}"), "a shared secret was not changed");
    Status::internal(with_causes(error.as_ref()).to_string())
}

fn secret_id(bytes: &[u8]) -> Result<SecretId, Status> {
    bytes.try_into().map(SecretId).map_err(|_| Status::invalid_argument("the id of a secret has 16 bytes"))
}

fn sent(half: &Half) -> SecretHalf {
    SecretHalf { random: half.random.to_vec().into(), certificate_until: half.certificate_until }
}

fn received(half: Option<SecretHalf>) -> Option<Half> {
    let half = half?;
    let random: [u8; HALF_BYTES] = half.random.as_ref().try_into().ok()?;
    Some(Half { random: Zeroizing::new(random), certificate_until: half.certificate_until })
}
