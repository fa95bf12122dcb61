//! The gRPC faces over a real connection.

use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Server};

use atoll_model::MachineState;
use atoll_rpc::contract::{LaunchBundle, MachineView, NodeView, ProcessRow};
use atoll_rpc::proto::worker::change_request::Change;
use atoll_rpc::proto::worker::local_client::LocalClient;
use atoll_rpc::proto::worker::worker_client::WorkerClient;
use atoll_rpc::proto::worker::{
    ChangeRequest, CreateRequest, Destroy, ExecFrame, ExecStart, IdleRequest, LeaseRequest, ListRequest, LoadReport,
    LogsRequest, MachineLoad, MachineRequest, MetadataRequest, NodeRequest, PrepareImageRequest, Start, UpdateRequest,
    WaitRequest, WakeRequest, exec_frame,
};

use super::{IMAGE, PROGRAMS, stage};
use crate::fake::World;
use crate::grpc::{LocalService, WorkerService};
use crate::suite::{Stage, id, version};

async fn connect(stage: &Stage) -> (WorkerClient<Channel>, LocalClient<Channel>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder()
        .add_service(WorkerService::new(stage.agent.clone()).into_server())
        .add_service(LocalService::new(stage.agent.clone()).into_server());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    (WorkerClient::new(channel.clone()), LocalClient::new(channel))
}

fn machine() -> MachineRequest {
    MachineRequest { machine: id(1).to_string() }
}

fn bundle_json(bundle: &LaunchBundle) -> bytes::Bytes {
    serde_json::to_vec(bundle).unwrap().into()
}

fn view(json: &[u8]) -> MachineView {
    serde_json::from_slice(json).unwrap()
}

fn change(change: Change, nonce: &str) -> ChangeRequest {
    ChangeRequest { machine: id(1).to_string(), change: Some(change), lease_nonce: nonce.into(), source: String::new() }
}

fn wait(state: &str) -> WaitRequest {
    WaitRequest { machine: id(1).to_string(), states: vec![state.into()], timeout_ms: 20_000, ..WaitRequest::default() }
}

#[tokio::test]
async fn control_creates_changes_and_reads_a_machine() {
    let world = World::new();
    let stage = stage(&world).await;
    let (mut worker, _) = connect(&stage).await;
    let bundle = stage.bundle(1, PROGRAMS.sleep, json!({}));
    let create =
        CreateRequest { bundle_json: bundle_json(&bundle), lease_ttl: 60, lease_owner: "a@example.org".into() };
    let created = view(&worker.create(create).await.unwrap().into_inner().machine_json);
    let nonce = created.lease.unwrap().nonce;
    let waited = worker.wait(wait("started")).await.unwrap().into_inner();
    assert_eq!((waited.state.as_str(), waited.version), ("started", version(1).to_string()));

    let stop = Change::Stop(Default::default());
    let refused = worker.change(change(stop.clone(), "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("lease currently held by a@example.org"));
    let stopped = worker.change(change(stop, &nonce)).await.unwrap().into_inner();
    assert_eq!(stopped.previous_state, "started");
    worker.wait(wait("settled")).await.unwrap();
    worker.change(change(Change::Start(Start {}), &nonce)).await.unwrap();
    worker.wait(wait("started")).await.unwrap();

    let metadata = MetadataRequest {
        machine: id(1).to_string(),
        entries: [("role".to_owned(), "web".to_owned())].into(),
        ..MetadataRequest::default()
    };
    assert_eq!(
        view(&worker.set_metadata(metadata).await.unwrap().into_inner().machine_json).config.metadata["role"],
        "web"
    );
    let processes = worker.processes(machine()).await.unwrap().into_inner().processes_json;
    assert_eq!(serde_json::from_slice::<Vec<ProcessRow>>(&processes).unwrap()[0].command, "sleep");

    let mut second = bundle.clone();
    second.version = version(2);
    let update = UpdateRequest {
        bundle_json: bundle_json(&second),
        expected_version: version(1).to_string(),
        lease_nonce: nonce.clone(),
    };
    worker.update(update).await.unwrap();
    let waited = WaitRequest { version: version(2).to_string(), ..wait("started") };
    worker.wait(waited).await.unwrap();

    let release = LeaseRequest { machine: id(1).to_string(), action: 2, nonce, ..LeaseRequest::default() };
    worker.lease(release.clone()).await.unwrap();
    assert_eq!(worker.lease(release).await.unwrap_err().message(), "lease not found");
    let destroy = Change::Destroy(Destroy { force: false });
    assert_eq!(worker.change(change(destroy, "")).await.unwrap_err().code(), Code::FailedPrecondition);
    worker.change(change(Change::Destroy(Destroy { force: true }), "")).await.unwrap();
    worker.wait(wait("destroyed")).await.unwrap();
    assert_eq!(worker.list(ListRequest { app: "web".into() }).await.unwrap().into_inner().machines_json.len(), 1);
    assert!(worker.list(ListRequest { app: "other".into() }).await.unwrap().into_inner().machines_json.is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_or_found_is_named() {
    let world = World::new();
    let stage = stage(&world).await;
    let (mut worker, mut local) = connect(&stage).await;
    let unknown = worker.get(machine()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().starts_with("machine not found"));
    let garbled = worker.get(MachineRequest { machine: "X".into() }).await.unwrap_err();
    assert_eq!(garbled.code(), Code::InvalidArgument);
    assert!(garbled.message().starts_with("machine: \"X\" is not a valid machine id"));
    let bundle = CreateRequest { bundle_json: "{".into(), ..CreateRequest::default() };
    assert!(worker.create(bundle).await.unwrap_err().message().starts_with("bundle:"));
    assert_eq!(worker.wait(wait("happy")).await.unwrap_err().code(), Code::InvalidArgument);
    let wake = WakeRequest { machine: id(1).to_string(), port: 70_000, timeout_ms: 0 };
    assert_eq!(local.wake(wake).await.unwrap_err().code(), Code::InvalidArgument);
    let missing = PrepareImageRequest { digest: "sha256:missing".into() };
    world.missing_images.lock().unwrap().push("sha256:missing".into());
    assert!(worker.prepare_image(missing).await.unwrap_err().message().contains("is nowhere"));
    let there = worker.prepare_image(PrepareImageRequest { digest: IMAGE.into() }).await.unwrap().into_inner();
    assert_eq!(there.bytes_fetched, 3);
    let node = worker.node(NodeRequest {}).await.unwrap().into_inner().node_json;
    assert_eq!(serde_json::from_slice::<NodeView>(&node).unwrap().memory_mb, 4096);
}

#[tokio::test]
async fn commands_and_logs_are_streams() {
    let world = World::new();
    let stage = stage(&world).await;
    let (mut worker, _) = connect(&stage).await;
    stage.create(stage.bundle(1, PROGRAMS.sleep, json!({}))).await;
    stage.reach(1, MachineState::Started).await;
    let start = ExecStart { machine: id(1).to_string(), command: vec!["print".into()], ..ExecStart::default() };
    let frames = tokio_stream::once(ExecFrame { frame: Some(exec_frame::Frame::Start(start)) });
    let answers: Vec<_> = worker.exec(frames).await.unwrap().into_inner().collect().await;
    let frames: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().frame.unwrap()).collect();
    assert!(
        matches!(&frames[0], exec_frame::Frame::Stdout(bytes) if bytes.as_ref() == b"print swordfish"),
        "{frames:?}"
    );
    assert!(matches!(&frames[1], exec_frame::Frame::Exit(exit) if exit.code == 7));

    let logs = LogsRequest { app: "web".into(), ..LogsRequest::default() };
    let lines: Vec<_> = worker.logs(logs).await.unwrap().into_inner().collect().await;
    let line = lines.last().unwrap().as_ref().unwrap();
    assert_eq!((line.stream.as_str(), line.text.as_str(), line.region.as_str()), ("atoll", "Machine started", "ams"));
}

#[tokio::test]
async fn the_edge_wakes_reports_and_idles() {
    let world = World::new();
    let stage = stage(&world).await;
    let (_, mut local) = connect(&stage).await;
    let mut bundle = stage.bundle(1, PROGRAMS.serve, stage.service());
    bundle.skip_launch = true;
    stage.create(bundle).await;
    stage.reach(1, MachineState::Stopped).await;
    let wake = WakeRequest { machine: id(1).to_string(), port: 8080, timeout_ms: 20_000 };
    assert!(local.wake(wake.clone()).await.unwrap().into_inner().started);
    assert!(!local.wake(wake).await.unwrap().into_inner().started);
    let load = MachineLoad { machine: id(1).to_string(), loads: vec![30], closed: false };
    local.report_load(tokio_stream::once(LoadReport { machines: vec![load] })).await.unwrap();
    let idle = IdleRequest { machine: id(1).to_string(), version: version(1).to_string(), suspend: false };
    local.idle(idle).await.unwrap();
    stage.reach(1, MachineState::Stopped).await;
}
