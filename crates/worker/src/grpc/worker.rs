//! The face for control.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use atoll_model::{AppName, MachineId};
use atoll_rpc::contract::ProcessRow;
use atoll_rpc::proto::worker::change_request::Change;
use atoll_rpc::proto::worker::lease_request::Action;
use atoll_rpc::proto::worker::worker_server::{Worker, WorkerServer};
use atoll_rpc::proto::worker::{
    ChangeReply, ChangeRequest, CreateRequest, ExecFrame, LeaseReply, LeaseRequest, LimitsRequest, ListReply,
    ListRequest, LogLine, LogsRequest, MachineReply, MachineRequest, MetadataRequest, NodeReply, NodeRequest,
    PrepareImageReply, PrepareImageRequest, ProcessesReply, UpdateRequest, WaitReply, WaitRequest, exec_frame,
};

use super::convert::{
    clamp, exec_input, exec_output, from_json, optional_ms, parse, parse_optional, to_json, wait_for,
};
use crate::calls::{CreateMachine, ExecCommand, LeaseAsk, SetMetadata, StopOptions, UpdateMachine};
use crate::{Acquire, Agent, Caller, LogQuery};

/// [`Agent`] as the `Worker` service.
#[derive(Clone)]
pub struct WorkerService {
    agent: Agent,
}

impl WorkerService {
    pub fn new(agent: Agent) -> Self {
        Self { agent }
    }

    pub fn into_server(self) -> WorkerServer<Self> {
        WorkerServer::new(self)
    }

    fn machine(&self, machine: MachineId) -> Result<Response<MachineReply>, Status> {
        let view = self.agent.get(machine)?;
        Ok(Response::new(MachineReply { machine_json: to_json(&view)? }))
    }
}

fn stop_options(signal: &str, timeout_ms: u64) -> StopOptions {
    StopOptions { signal: (!signal.is_empty()).then(|| signal.to_owned()), timeout: optional_ms(timeout_ms) }
}

#[tonic::async_trait]
impl Worker for WorkerService {
    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<MachineReply>, Status> {
        let request = request.into_inner();
        let create = CreateMachine {
            bundle: from_json("bundle", &request.bundle_json)?,
            lease_ttl_seconds: request.lease_ttl,
            lease_owner: request.lease_owner,
        };
        let view = self.agent.create(create).await?;
        Ok(Response::new(MachineReply { machine_json: to_json(&view)? }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<MachineReply>, Status> {
        let request = request.into_inner();
        let update = UpdateMachine {
            bundle: from_json("bundle", &request.bundle_json)?,
            expected_version: parse_optional("expected_version", &request.expected_version)?,
            lease_nonce: request.lease_nonce,
        };
        let view = self.agent.update(update, &Caller::default().source).await?;
        Ok(Response::new(MachineReply { machine_json: to_json(&view)? }))
    }

    async fn get(&self, request: Request<MachineRequest>) -> Result<Response<MachineReply>, Status> {
        self.machine(parse("machine", &request.get_ref().machine)?)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let app: Option<AppName> = parse_optional("app", &request.get_ref().app)?;
        let machines_json = self.agent.list(app.as_ref()).iter().map(to_json).collect::<Result<_, _>>()?;
        Ok(Response::new(ListReply { machines_json }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        let machine: MachineId = parse("machine", &request.machine)?;
        let mut caller = Caller { lease_nonce: request.lease_nonce, ..Caller::default() };
        if !request.source.is_empty() {
            caller.source = request.source;
        }
        let change = request.change.ok_or_else(|| Status::invalid_argument("change: is required"))?;
        let agent = &self.agent;
        let previous = match change {
            Change::Start(_) => agent.start(machine, &caller).await?,
            Change::Stop(stop) => agent.stop(machine, stop_options(&stop.signal, stop.timeout_ms), &caller).await?,
            Change::Suspend(_) => agent.suspend(machine, &caller).await?,
            Change::Restart(restart) => {
                let options = stop_options(&restart.signal, restart.timeout_ms);
                agent.restart(machine, options, restart.force, &caller).await?
            }
            Change::Destroy(destroy) => agent.destroy(machine, destroy.force, &caller).await?,
            Change::Cordon(cordon) => agent.cordon(machine, cordon.cordoned, &caller).await?,
            Change::Signal(signal) => {
                agent.signal(machine, signal.signal).await?;
                agent.get(machine)?.state
            }
        };
        let machine_json = to_json(&agent.get(machine)?)?;
        Ok(Response::new(ChangeReply { previous_state: previous.to_string(), machine_json }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitReply>, Status> {
        let request = request.into_inner();
        let machine = parse("machine", &request.machine)?;
        let waited = self.agent.wait(machine, wait_for(&request)?).await?;
        Ok(Response::new(WaitReply {
            state: waited.state.to_string(),
            version: waited.version.to_string(),
            event: waited.event.map(|event| event.to_string()).unwrap_or_default(),
        }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseReply>, Status> {
        let request = request.into_inner();
        let machine = parse("machine", &request.machine)?;
        let ask = match request.action() {
            Action::Get => LeaseAsk::Get,
            Action::Acquire => LeaseAsk::Acquire(Acquire {
                nonce: request.nonce,
                ttl_seconds: request.ttl_seconds,
                owner: request.owner,
                description: request.description,
            }),
            Action::Release => LeaseAsk::Release { nonce: request.nonce },
        };
        let lease = self.agent.lease(machine, ask).await?;
        Ok(Response::new(LeaseReply { lease_json: to_json(&lease)? }))
    }

    async fn set_metadata(&self, request: Request<MetadataRequest>) -> Result<Response<MachineReply>, Status> {
        let request = request.into_inner();
        let machine = parse("machine", &request.machine)?;
        let change = SetMetadata {
            entries: request.entries.into_iter().collect(),
            replace_all: request.replace_all,
            expected_version: parse_optional("expected_version", &request.expected_version)?,
        };
        let view = self.agent.set_metadata(machine, change).await?;
        Ok(Response::new(MachineReply { machine_json: to_json(&view)? }))
    }

    async fn set_limits(&self, request: Request<LimitsRequest>) -> Result<Response<MachineReply>, Status> {
        let request = request.into_inner();
        let limits = from_json("limits", &request.limits_json)?;
        let view = self.agent.set_limits(parse("machine", &request.machine)?, limits).await?;
        Ok(Response::new(MachineReply { machine_json: to_json(&view)? }))
    }

    type ExecStream = BoxStream<'static, Result<ExecFrame, Status>>;

    async fn exec(&self, request: Request<Streaming<ExecFrame>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.and_then(|frame| frame.frame);
        let Some(exec_frame::Frame::Start(start)) = first else {
            return Err(Status::invalid_argument("the first frame must say what to run"));
        };
        let command = ExecCommand {
            command: start.command,
            env: start.env.into_iter().collect::<BTreeMap<_, _>>(),
            terminal: start.tty.then(|| (clamp(start.rows), clamp(start.columns))),
        };
        let streams = self.agent.exec(parse("machine", &start.machine)?, command).await?;
        let input = streams.input;
        // Ends with the caller's stream or with the command, whichever is first.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    frame = frames.message() => {
                        let Ok(Some(frame)) = frame else { return };
                        if let Some(frame) = exec_input(frame)
                            && input.send(frame).await.is_err()
                        {
                            return;
                        }
                    }
                    () = input.closed() => return,
                }
            }
        });
        let output = ReceiverStream::new(streams.output).map(|output| Ok(exec_output(output)));
        Ok(Response::new(output.boxed()))
    }

    async fn processes(&self, request: Request<MachineRequest>) -> Result<Response<ProcessesReply>, Status> {
        let machine = parse("machine", &request.get_ref().machine)?;
        let processes = self.agent.processes(machine).await?;
        let rows: Vec<_> = processes
            .into_iter()
            .map(|process| ProcessRow {
                pid: process.pid,
                rtime: process.running_for,
                // The driver does not tell kernel time apart.
                stime: 0,
                command: process.command,
                directory: process.directory,
                cpu: process.cpu,
                rss: process.rss,
            })
            .collect();
        Ok(Response::new(ProcessesReply { processes_json: to_json(&rows)? }))
    }

    type LogsStream = BoxStream<'static, Result<LogLine, Status>>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let query = LogQuery {
            machine: parse_optional("machine", &request.machine)?,
            app: parse_optional("app", &request.app)?,
            after_ms: request.after_ms,
            tail: request.tail as usize,
            follow: request.follow,
        };
        if let Some(machine) = query.machine {
            self.agent.get(machine)?;
        }
        let region = self.agent.node().region.to_string();
        let lines = ReceiverStream::new(self.agent.logs(query)).map(move |entry| {
            let entry = entry?;
            Ok(LogLine {
                app: entry.app.to_string(),
                machine: entry.machine.to_string(),
                timestamp_ms: entry.timestamp_ms,
                stream: entry.stream,
                text: entry.text,
                region: region.clone(),
            })
        });
        Ok(Response::new(lines.boxed()))
    }

    async fn prepare_image(
        &self,
        request: Request<PrepareImageRequest>,
    ) -> Result<Response<PrepareImageReply>, Status> {
        let bytes_fetched = self.agent.prepare_image(&request.get_ref().digest).await?;
        Ok(Response::new(PrepareImageReply { bytes_fetched }))
    }

    async fn node(&self, _request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        Ok(Response::new(NodeReply { node_json: to_json(&self.agent.node())? }))
    }
}
