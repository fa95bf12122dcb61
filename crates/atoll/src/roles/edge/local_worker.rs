//! The worker of the edge's own node, over its unix socket.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::Channel;
use tonic::{Code, Request};

use atoll_model::{MachineId, MachineVersion};
use atoll_proxy::surroundings::{IdleError, MachineLoad, WakeError, Waker, Woken};
use atoll_rpc::proto::worker::local_client::LocalClient;
use atoll_rpc::proto::worker::{self as proto, IdleRequest, LoadReport, WakeRequest};

/// Pause before a broken load report is begun again.
const REPORT_PAUSE: Duration = Duration::from_millis(500);
/// Stopping takes as long as the machine's own stop timeout, five minutes at most.
const IDLE_LIMIT: Duration = Duration::from_secs(310);

pub struct LocalWorker {
    client: LocalClient<Channel>,
    loads: watch::Sender<Vec<MachineLoad>>,
}

impl LocalWorker {
    pub fn new(channel: Channel) -> Self {
        let client = LocalClient::new(channel);
        let loads = watch::Sender::new(Vec::new());
        tokio::spawn(report_forever(client.clone(), loads.subscribe()));
        Self { client, loads }
    }
}

/// Keeps one report stream open to the worker, whichever worker that is now.
async fn report_forever(mut client: LocalClient<Channel>, loads: watch::Receiver<Vec<MachineLoad>>) {
    loop {
        // A new stream begins with the present load: the worker may be a new one.
        let reports = WatchStream::new(loads.clone()).map(|loads| LoadReport {
            machines: loads
                .into_iter()
                .map(|load| proto::MachineLoad {
                    machine: load.machine.to_string(),
                    loads: load.loads,
                    closed: load.closed,
                })
                .collect(),
        });
        if let Err(status) = client.report_load(reports).await {
            tracing::debug!(%status, "the worker takes no load report now");
        }
        if loads.has_changed().is_err() {
            return;
        }
        tokio::time::sleep(REPORT_PAUSE).await;
    }
}

#[async_trait]
impl Waker for LocalWorker {
    async fn wake(&self, machine: MachineId, port: u16, limit: Duration) -> Result<Woken, WakeError> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let mut request = Request::new(WakeRequest { machine: machine.to_string(), port: port.into(), timeout_ms });
        request.set_timeout(limit + Duration::from_secs(2));
        match self.client.clone().wake(request).await {
            Ok(reply) => Ok(Woken { started: reply.into_inner().started }),
            Err(status) => Err(match status.code() {
                Code::NotFound => WakeError::NotFound(machine),
                Code::FailedPrecondition => WakeError::NotStartable { machine, state: status.message().to_owned() },
                Code::DeadlineExceeded => WakeError::TimedOut(machine),
                Code::Unavailable | Code::Cancelled | Code::Unknown => {
                    WakeError::Unavailable(status.message().to_owned())
                }
                _ => WakeError::Failed { machine, reason: status.message().to_owned() },
            }),
        }
    }

    async fn idle(&self, machine: MachineId, version: MachineVersion, suspend: bool) -> Result<(), IdleError> {
        let mut request =
            Request::new(IdleRequest { machine: machine.to_string(), version: version.to_string(), suspend });
        request.set_timeout(IDLE_LIMIT);
        let stopped = self.client.clone().idle(request).await;
        stopped.map(drop).map_err(|status| IdleError { machine, reason: status.message().to_owned() })
    }

    fn report_load(&self, loads: Vec<MachineLoad>) {
        self.loads.send_replace(loads);
    }
}
