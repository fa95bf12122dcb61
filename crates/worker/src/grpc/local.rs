//! The face for the node's own edge.

use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};

use atoll_model::MachineId;
use atoll_rpc::proto::worker::local_server::{Local, LocalServer};
use atoll_rpc::proto::worker::{IdleReply, IdleRequest, LoadAck, LoadReport, WakeReply, WakeRequest};

use super::convert::{optional_ms, parse};
use crate::{Agent, Usage};

/// Time a wake may take when the edge names none.
const DEFAULT_WAKE: Duration = Duration::from_secs(30);

/// [`Agent`] as the `Local` service.
#[derive(Clone)]
pub struct LocalService {
    agent: Agent,
}

impl LocalService {
    pub fn new(agent: Agent) -> Self {
        Self { agent }
    }

    pub fn into_server(self) -> LocalServer<Self> {
        LocalServer::new(self)
    }
}

#[tonic::async_trait]
impl Local for LocalService {
    async fn wake(&self, request: Request<WakeRequest>) -> Result<Response<WakeReply>, Status> {
        let request = request.into_inner();
        let machine: MachineId = parse("machine", &request.machine)?;
        let port = u16::try_from(request.port).map_err(|_| Status::invalid_argument("port: must be 1 to 65535"))?;
        let limit = optional_ms(request.timeout_ms).unwrap_or(DEFAULT_WAKE);
        let started = self.agent.wake(machine, port, limit).await?;
        Ok(Response::new(WakeReply { started }))
    }

    async fn idle(&self, request: Request<IdleRequest>) -> Result<Response<IdleReply>, Status> {
        let request = request.into_inner();
        let machine = parse("machine", &request.machine)?;
        let version = parse("version", &request.version)?;
        self.agent.idle(machine, version, request.suspend).await?;
        Ok(Response::new(IdleReply {}))
    }

    async fn report_load(&self, request: Request<Streaming<LoadReport>>) -> Result<Response<LoadAck>, Status> {
        let mut reports = request.into_inner();
        while let Some(report) = reports.message().await? {
            // A machine whose id cannot be read is left out; the others stand.
            let usage = report.machines.into_iter().filter_map(|load| {
                Some((load.machine.parse().ok()?, Usage { loads: load.loads, closed: load.closed }))
            });
            self.agent.report_usage(usage.collect());
        }
        Ok(Response::new(LoadAck {}))
    }
}
