//! Node-to-node calls over real sockets: who is let in, who is not, and when that changes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use atoll_rpc::authorities::Authorities;
use atoll_rpc::ca::{Authority, signing_request};
use atoll_rpc::channel::{Dialer, connect, connect_anonymously};
use atoll_rpc::identity::{Expected, Identity, Role};
use atoll_rpc::proto::control::nodes_client::NodesClient;
use atoll_rpc::proto::control::nodes_server::{Nodes, NodesServer};
use atoll_rpc::proto::control::{
    BlobChunk, BlobRequest, EnterNetworkReply, EnterNetworkRequest, RenewReply, RenewRequest,
};
use atoll_rpc::server::{accept, accept_apart, require_role};
use atoll_rpc::tls::{ALPN_API, IdentityMaterial, LiveIdentity};
use atoll_rpc::trust::Anchor;

const HOUR: u64 = 3600;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct World {
    authority: Authority,
    platform: String,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(platform: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), platform, now() - 24 * HOUR).unwrap();
        Self { authority, platform: platform.into(), _dir: dir }
    }

    fn material(&self, role: Role, node: &str, issued_at: u64) -> IdentityMaterial {
        let (key_pem, request) = signing_request().unwrap();
        let identity = Identity { platform: self.platform.clone(), role, node: node.parse().unwrap() };
        IdentityMaterial {
            key_pem,
            chain_pem: self.authority.issue_node(&request, &identity, issued_at).unwrap(),
            roots_pem: self.authority.root_pem().to_owned(),
        }
    }

    fn live(&self, role: Role, node: &str) -> Arc<LiveIdentity> {
        LiveIdentity::new(&self.material(role, node, now()), now()).unwrap()
    }
}

/// Answers each renewal with the caller's identity instead of a certificate.
struct Echo;

#[tonic::async_trait]
impl Nodes for Echo {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let identity = require_role(&request, &[Role::Worker, Role::Edge])?;
        Ok(Response::new(RenewReply { chain: identity.to_string(), roots: String::new() }))
    }

    async fn enter_network(&self, _: Request<EnterNetworkRequest>) -> Result<Response<EnterNetworkReply>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    type BlobStream = tokio_stream::Empty<Result<BlobChunk, Status>>;

    async fn blob(&self, _: Request<BlobRequest>) -> Result<Response<Self::BlobStream>, Status> {
        Err(Status::not_found("no blobs here"))
    }
}

async fn serve(live: &Arc<LiveIdentity>, anonymous_allowed: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = accept(listener, live.server_config(anonymous_allowed).unwrap(), live.trust().clone());
    tokio::spawn(tonic::transport::Server::builder().add_service(NodesServer::new(Echo)).serve_with_incoming(incoming));
    address
}

async fn call(client: &Arc<LiveIdentity>, address: SocketAddr, expected: Expected) -> Result<String, Status> {
    let channel = connect(client, address.to_string(), expected).unwrap();
    NodesClient::new(channel).renew(RenewRequest::default()).await.map(|reply| reply.into_inner().chain)
}

const CONTROL: Expected = Expected::Role(Role::Control);

#[tokio::test]
async fn a_node_is_known_by_its_identity() {
    let world = World::new("0a");
    let address = serve(&world.live(Role::Control, "ams1"), false).await;
    let identity = call(&world.live(Role::Worker, "nrt1"), address, CONTROL).await.unwrap();
    assert_eq!(identity, "spiffe://0a/worker/nrt1");
}

#[tokio::test]
async fn requests_that_edges_hand_on_come_through_the_same_socket_apart() {
    let world = World::new("0a");
    let control = world.live(Role::Control, "ams1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = control.server_config(true).unwrap();
    let (others, mut apart) = accept_apart(listener, &tls, control.trust().clone(), ALPN_API);
    let server = tonic::transport::Server::builder().add_service(NodesServer::new(Echo));
    tokio::spawn(server.serve_with_incoming(others));

    let edge = world.live(Role::Edge, "nrt1");
    let dialer = Dialer::new(&edge, address.to_string(), CONTROL, ALPN_API).unwrap();
    dialer.dial().await.unwrap();
    let taken = apart.recv().await.unwrap();
    assert_eq!(taken.peer().identity.as_ref(), Some(edge.identity()));
    assert_eq!(call(&edge, address, CONTROL).await.unwrap(), "spiffe://0a/edge/nrt1");

    let elsewhere = serve(&control, true).await;
    let dialer = Dialer::new(&edge, elsewhere.to_string(), CONTROL, ALPN_API).unwrap();
    assert!(dialer.dial().await.is_err(), "who does not speak it is not spoken to");
}

#[tokio::test]
async fn a_role_that_may_not_call_is_told_so() {
    let world = World::new("0a");
    let address = serve(&world.live(Role::Control, "ams1"), false).await;
    let refusal = call(&world.live(Role::Control, "other"), address, CONTROL).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn another_platform_is_refused_both_ways() {
    let (ours, theirs) = (World::new("0a"), World::new("0b"));
    let address = serve(&ours.live(Role::Control, "ams1"), false).await;
    assert!(call(&theirs.live(Role::Worker, "ams1"), address, CONTROL).await.is_err());
    let foreign = serve(&theirs.live(Role::Control, "ams1"), true).await;
    assert!(call(&ours.live(Role::Worker, "ams1"), foreign, CONTROL).await.is_err());
}

#[tokio::test]
async fn reaching_the_wrong_process_fails() {
    let world = World::new("0a");
    let address = serve(&world.live(Role::Control, "ams1"), false).await;
    let expected = Expected::Exactly(Role::Control, "nrt1".parse().unwrap());
    assert!(call(&world.live(Role::Worker, "nrt1"), address, expected).await.is_err());
    assert!(call(&world.live(Role::Worker, "nrt1"), address, Expected::Role(Role::Edge)).await.is_err());
}

#[tokio::test]
async fn expired_peers_are_refused_while_control_is_alive_and_excused_while_it_is_dead() {
    let world = World::new("0a");
    let expired = world.material(Role::Worker, "nrt1", now() - 2 * HOUR);
    let expired = LiveIdentity::new(&expired, now()).unwrap();

    let address = serve(&world.live(Role::Control, "ams1"), false).await;
    assert!(call(&expired, address, CONTROL).await.is_err());

    let long_silent = LiveIdentity::new(&world.material(Role::Control, "ams1", now()), now() - 2 * HOUR).unwrap();
    let address = serve(&long_silent, false).await;
    assert!(call(&expired, address, CONTROL).await.is_ok());
    // It is heard again just now: whoever could not renew may do so.
    long_silent.trust().authority_heard(now());
    assert!(call(&expired, address, CONTROL).await.is_ok());
}

#[tokio::test]
async fn revocation_closes_open_connections_and_refuses_new_ones() {
    let world = World::new("0a");
    let control = world.live(Role::Control, "ams1");
    let address = serve(&control, false).await;
    let worker = world.live(Role::Worker, "nrt1");
    let bystander = world.live(Role::Worker, "ord1");

    let open = connect(&worker, address.to_string(), CONTROL).unwrap();
    let mut open = NodesClient::new(open);
    open.renew(RenewRequest::default()).await.unwrap();

    control.trust().set_revoked(HashSet::from(["nrt1".parse().unwrap()]));
    let refused = tokio::time::timeout(Duration::from_secs(5), open.renew(RenewRequest::default())).await;
    assert!(matches!(refused, Ok(Err(_))), "the open connection was still served");
    assert!(call(&worker, address, CONTROL).await.is_err());
    assert!(call(&bystander, address, CONTROL).await.is_ok());
}

#[tokio::test]
async fn a_renewed_certificate_is_offered_on_the_next_connection() {
    let world = World::new("0a");
    let address = serve(&world.live(Role::Control, "ams1"), false).await;
    let stale = world.material(Role::Worker, "nrt1", now() - 2 * HOUR);
    let live = LiveIdentity::new(&stale, now()).unwrap();
    assert!(call(&live, address, CONTROL).await.is_err());
    assert!(live.renew_at() < now());
    live.replace(&world.material(Role::Worker, "nrt1", now())).unwrap();
    assert!(call(&live, address, CONTROL).await.is_ok());
    assert!(live.renew_at() > now());
}

#[tokio::test]
async fn joining_trusts_only_the_pinned_platform() {
    let (ours, theirs) = (World::new("0a"), World::new("0b"));
    let address = serve(&ours.live(Role::Control, "ams1"), true).await.to_string();
    let pinned = |world: &World| Anchor::Fingerprint(world.authority.root_fingerprint());
    let channel = connect_anonymously(&address, pinned(&ours)).await.unwrap();
    let anonymous = NodesClient::new(channel).renew(RenewRequest::default()).await.unwrap_err();
    assert_eq!(anonymous.code(), tonic::Code::Unauthenticated);

    assert!(connect_anonymously(&address, pinned(&theirs)).await.is_err());
    let worker = serve(&ours.live(Role::Worker, "ams1"), true).await.to_string();
    assert!(connect_anonymously(&worker, pinned(&ours)).await.is_err());
}

/// A platform whose root was replaced, and what a process was given in each phase.
struct Rotated {
    /// Before, announced, overlapping, settled.
    phases: Vec<IdentityMaterial>,
    tokens: Vec<Anchor>,
    control: Vec<Arc<LiveIdentity>>,
    _dir: tempfile::TempDir,
}

impl Rotated {
    fn new(old_key_lost: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let began = now() - 8 * HOUR;
        let authorities = Authorities::open(dir.path(), "0a", Duration::from_secs(HOUR), began).unwrap();
        if old_key_lost {
            std::fs::remove_file(dir.path().join("root.key")).unwrap();
        }
        let issue = |role| {
            let (key_pem, request) = signing_request().unwrap();
            let identity = Identity { platform: "0a".into(), role, node: "ams1".parse().unwrap() };
            let issued = authorities.issue_node(&request, &identity, now()).unwrap();
            IdentityMaterial { key_pem, chain_pem: issued.chain_pem, roots_pem: issued.roots_pem }
        };
        let mut rotated = Self { phases: Vec::new(), tokens: Vec::new(), control: Vec::new(), _dir: dir };
        for phase in 0..4 {
            let later = began + 2 * phase * HOUR;
            match phase {
                0 => {}
                1 => authorities.begin(old_key_lost, later).unwrap(),
                _ => assert!(authorities.step(later, later - 1).unwrap()),
            }
            rotated.phases.push(issue(Role::Worker));
            rotated.tokens.push(Anchor::Fingerprint(authorities.root_fingerprint()));
            rotated.control.push(LiveIdentity::new(&issue(Role::Control), now()).unwrap());
        }
        rotated
    }

    fn worker(&self, phase: usize) -> Arc<LiveIdentity> {
        LiveIdentity::new(&self.phases[phase], now()).unwrap()
    }
}

#[tokio::test]
async fn while_a_root_is_replaced_processes_of_neighbouring_phases_know_each_other() {
    for old_key_lost in [false, true] {
        let rotated = Rotated::new(old_key_lost);
        for (phase, control) in rotated.control.iter().enumerate() {
            let address = serve(control, false).await;
            for neighbour in [phase.saturating_sub(1), phase, (phase + 1).min(3)] {
                call(&rotated.worker(neighbour), address, CONTROL).await.unwrap();
            }
        }
        // The old root leads to the new one, but what was signed under it counts no longer.
        let settled = serve(&rotated.control[3], true).await;
        assert!(call(&rotated.worker(0), settled, CONTROL).await.is_err());
        let roots = rotated.phases[0].roots().unwrap();
        let asked = connect_anonymously(&settled.to_string(), Anchor::Roots(roots)).await;
        assert_eq!(asked.is_ok(), !old_key_lost);
    }
}

#[tokio::test]
async fn join_tokens_of_the_phase_before_work_on() {
    let rotated = Rotated::new(false);
    for (phase, control) in rotated.control.iter().enumerate() {
        let address = serve(control, true).await.to_string();
        connect_anonymously(&address, rotated.tokens[phase].clone()).await.unwrap();
        connect_anonymously(&address, rotated.tokens[phase.saturating_sub(1)].clone()).await.unwrap();
    }
    let address = serve(&rotated.control[3], true).await.to_string();
    let refused = connect_anonymously(&address, rotated.tokens[0].clone()).await.unwrap_err();
    let said = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("make a new token"), "{said}");
}

#[test]
fn identity_material_survives_its_file() {
    let world = World::new("0a");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    world.material(Role::Edge, "ams1", now()).save(&path).unwrap();
    let live = LiveIdentity::new(&IdentityMaterial::load(&path).unwrap(), now()).unwrap();
    assert_eq!(live.identity().role, Role::Edge);

    std::fs::write(&path, "garbage").unwrap();
    assert!(IdentityMaterial::load(&path).is_err());
}
