//! One request to one machine of this node: through the gate, awake, connected, answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::MachineState;
use atoll_model::row::MachineRow;
use atoll_model::service::{LoadKind, Service};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::machine::{Admission, Machine, Permit, WakePart};
use super::pool::{Pool, PoolKey, Sender};
use crate::body::{AtEnd, ClientBody, RequestBody};
use crate::core::Core;
use crate::errors::Cause;
use crate::headers;

/// Which machine, and on which terms.
pub(crate) struct Exchange<'a> {
    pub core: &'a Arc<Core>,
    pub row: &'a Arc<MachineRow>,
    pub service: usize,
    pub terms: Terms,
}

/// How patiently one attempt is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// No other machine is left: one that refuses connections is started, if it may be.
    pub last_resort: bool,
    /// Until when the machine must be awake and entered; the answer may take longer.
    pub deadline: Instant,
}

/// What came back.
pub(crate) enum Answer {
    Response(Response<ClientBody>),
    /// The machine switched protocols.
    Tunnel(Tunnel),
}

impl Answer {
    /// How long this request waited for the machine to start; `None`: it ran.
    pub fn woken(&self) -> Option<Duration> {
        let extensions = match self {
            Self::Response(response) => response.extensions(),
            Self::Tunnel(tunnel) => tunnel.head.extensions(),
        };
        extensions.get::<Woken>().map(|woken| woken.waited)
    }
}

pub(crate) struct Tunnel {
    /// Status 101, with the machine's headers.
    pub head: Response<()>,
    pub machine: OnUpgrade,
    /// Keeps the machine busy while the tunnel lives; `None` when another node counts it.
    pub permit: Option<Permit>,
}

/// An attempt that brought no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Setback {
    pub cause: Cause,
    pub reached: Reached,
}

/// Whether the machine may have seen any of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reached {
    No,
    Perhaps,
}

impl Setback {
    pub fn untouched(cause: Cause) -> Self {
        Self { cause, reached: Reached::No }
    }

    pub fn perhaps(cause: Cause) -> Self {
        Self { cause, reached: Reached::Perhaps }
    }
}

/// Connections on which one request is tried: a reused one may have ended, a new one should not.
const SENDS: usize = 2;

/// Sends `request`, whose headers are ready for the machine, and returns when the answer begins.
/// `upgrade`: it asks to switch protocols.
pub(crate) async fn serve(
    exchange: &Exchange<'_>,
    upgrade: bool,
    mut request: Request<RequestBody>,
) -> Result<Answer, Setback> {
    let core = exchange.core;
    let mut visit = Visit::begin(exchange).await?;
    if !upgrade && speaks_h2(visit.service) {
        let stream = visit.connect().await?;
        let response = send_h2(core, stream, request).await?;
        return Ok(answer(response, visit.permit, visit.woken, None));
    }
    let key = PoolKey { machine: exchange.row.id, version: exchange.row.version, port: visit.service.internal_port };
    // A reused connection may be half dead without our knowing: only requests that may be repeated
    // take one. With `connections` as the limit's unit each request has its own anyway.
    let pooled = visit.service.limits().kind == LoadKind::Requests && !upgrade;
    let reuse = pooled && request.method().is_idempotent();
    let mut reusable = if reuse { core.pool.take(&key, Instant::now()) } else { None };
    for _ in 0..SENDS {
        let mut sender = match reusable.take() {
            Some(sender) => sender,
            None => handshake(visit.connect().await?).await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let give_back = pooled.then(|| GiveBack { pool: core.pool.clone(), key, sender });
                return Ok(answer(response, visit.permit, visit.woken, give_back));
            }
            Err(mut error) => match error.take_message() {
                // Nothing of it was written: the connection had ended before.
                Some(unsent) => request = unsent,
                None => return Err(Setback::perhaps(Cause::Broken)),
            },
        }
    }
    Err(Setback::untouched(Cause::ConnectReset))
}

/// A plain connection to the machine's service.
pub(crate) async fn open(exchange: &Exchange<'_>) -> Result<(TcpStream, Permit), Setback> {
    let mut visit = Visit::begin(exchange).await?;
    let stream = visit.connect().await?;
    Ok((stream, visit.permit))
}

/// Being inside a machine: counted, and the machine awake as far as is known.
struct Visit<'a> {
    exchange: &'a Exchange<'a>,
    service: &'a Service,
    machine: Arc<Machine>,
    permit: Permit,
    /// How long it took until the worker had seen the port accept; `None`: it was not asked.
    woken: Option<Woken>,
}

/// Attached to an answer for which the machine had to be woken, however many waited for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Woken {
    pub waited: Duration,
}

impl<'a> Visit<'a> {
    async fn begin(exchange: &'a Exchange<'a>) -> Result<Self, Setback> {
        let row = exchange.row;
        let service_row = row.services.get(exchange.service).ok_or(Setback::untouched(Cause::NotHere))?;
        let service = &service_row.service;
        let machine = exchange.core.edge.machines.enter(row);
        let permit = enter(&machine, exchange.service, service.limits().hard, exchange.terms.deadline).await?;
        let running = machine.running(row, Instant::now()).unwrap_or(row.state == MachineState::Started);
        let mut visit = Self { exchange, service, machine, permit, woken: None };
        if !running {
            if !service.starts_on_request() {
                return Err(Setback::untouched(Cause::NotRunning));
            }
            visit.wake().await?;
        }
        Ok(visit)
    }

    /// A new connection. If the machine refuses it, was not woken just now and is the last one left,
    /// it may have died unseen: then it is woken.
    async fn connect(&mut self) -> Result<TcpStream, Setback> {
        let address = SocketAddr::from((self.exchange.row.private_ipv4, self.service.internal_port));
        let limit = self.exchange.core.edge.config.timeouts.connect;
        let error = match dial(address, limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        self.machine.doubt();
        if self.woken.is_some() || !self.exchange.terms.last_resort || !self.service.starts_on_request() {
            return Err(Setback::untouched(Cause::of_connect(&error)));
        }
        self.wake().await?;
        dial(address, limit).await.map_err(|error| Setback::untouched(Cause::of_connect(&error)))
    }

    async fn wake(&mut self) -> Result<(), Setback> {
        let Exchange { core, row, terms, .. } = *self.exchange;
        let patience = core.edge.config.timeouts.wake_patience;
        let until = match terms.last_resort {
            true => terms.deadline,
            false => terms.deadline.min(Instant::now() + patience),
        };
        let began = Instant::now();
        wake(core, &self.machine, row, self.service.internal_port, until).await?;
        self.woken = Some(Woken { waited: began.elapsed() });
        Ok(())
    }
}

async fn enter(
    machine: &Arc<Machine>,
    service: usize,
    hard_limit: Option<u32>,
    deadline: Instant,
) -> Result<Permit, Setback> {
    loop {
        match machine.admit(service, hard_limit) {
            Admission::Granted(permit) => return Ok(permit),
            Admission::Closed => return Err(Setback::untouched(Cause::Cordoned)),
            Admission::AtHardLimit => return Err(Setback::untouched(Cause::HardLimit)),
            Admission::Stopping => tokio::time::timeout_at(deadline.into(), machine.reopened())
                .await
                .map_err(|_| Setback::untouched(Cause::NotRunning))?,
        }
    }
}

/// Has the machine started by the worker; all who ask meanwhile share one call and its outcome.
async fn wake(
    core: &Arc<Core>,
    machine: &Arc<Machine>,
    row: &Arc<MachineRow>,
    port: u16,
    deadline: Instant,
) -> Result<(), Setback> {
    let mut outcome = match machine.join_wake() {
        WakePart::Follow(outcome) => outcome,
        WakePart::Lead(sender, receiver) => {
            // On its own: the machine is worth waking even when this client goes away.
            tokio::spawn(lead_wake(core.clone(), machine.clone(), row.clone(), port, sender));
            receiver
        }
    };
    let waited = tokio::time::timeout_at(deadline.into(), outcome.wait_for(Option::is_some)).await;
    match waited {
        Ok(Ok(outcome)) => match &*outcome {
            Some(Err(error)) => Err(Setback::untouched(Cause::from(error))),
            _ => Ok(()),
        },
        Ok(Err(_)) => Err(Setback::untouched(Cause::WakeFailed)),
        Err(_) => Err(Setback::untouched(Cause::WakeTimedOut)),
    }
}

async fn lead_wake(
    core: Arc<Core>,
    machine: Arc<Machine>,
    row: Arc<MachineRow>,
    port: u16,
    sender: tokio::sync::watch::Sender<super::machine::WakeOutcome>,
) {
    let edge = &core.edge;
    let limit = edge.config.timeouts.wake;
    edge.counters.wakes.one();
    let began = Instant::now();
    let result = edge.surroundings.worker.wake(row.id, port, limit).await;
    match &result {
        Ok(woken) => {
            machine.believe(&row, true, Instant::now());
            if woken.started {
                edge.counters.wake_time.observe(began.elapsed());
            }
        }
        Err(error) => {
            edge.counters.wake_failures.one();
            tracing::warn!(machine = %row.id, app = %row.app, code = Cause::from(error).code(), %error, "could not wake a machine");
        }
    }
    sender.send_replace(Some(result));
}

async fn handshake(stream: TcpStream) -> Result<Sender, Setback> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|_| Setback::untouched(Cause::ConnectFailed))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            // Whoever waits for an answer on it is told by itself.
            tracing::debug!(%error, "a connection to a machine broke");
        }
    });
    Ok(sender)
}

/// Whether the machine wants HTTP/2 without TLS.
fn speaks_h2(service: &Service) -> bool {
    service.ports.iter().filter_map(|port| port.http_options.as_ref()).any(|options| options.h2_backend == Some(true))
}

/// One request over an HTTP/2 connection of its own.
async fn send_h2(
    core: &Arc<Core>,
    stream: TcpStream,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Setback> {
    let uri = headers::absolute(request.uri(), request.headers()).ok_or(Setback::untouched(Cause::Broken))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(u32::try_from(core.edge.config.limits.header_bytes).unwrap_or(u32::MAX))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Setback::untouched(Cause::H2Handshake))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection to a machine broke");
        }
    });
    sender.send_request(request).await.map_err(|_| Setback::perhaps(Cause::Broken))
}

/// Connects within `limit`; small writes go out at once.
pub(crate) async fn dial(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn answer(
    mut response: Response<Incoming>,
    permit: Permit,
    woken: Option<Woken>,
    give_back: Option<GiveBack>,
) -> Answer {
    // A machine must not be taken for an edge.
    headers::strip_internal(response.headers_mut());
    if let Some(woken) = woken {
        response.extensions_mut().insert(woken);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let machine = hyper::upgrade::on(&mut response);
        return Answer::Tunnel(Tunnel { head: response.map(drop), machine, permit: Some(permit) });
    }
    headers::strip_hop_by_hop(response.headers_mut());
    Answer::Response(response.map(|body| ClientBody::passed(body, Box::new(InMachine { _permit: permit, give_back }))))
}

/// Lives as long as the answer flows.
struct InMachine {
    _permit: Permit,
    give_back: Option<GiveBack>,
}

struct GiveBack {
    pool: Arc<Pool<PoolKey>>,
    key: PoolKey,
    sender: Sender,
}

impl AtEnd for InMachine {
    fn passed(&mut self, _: usize) {}

    fn complete(&mut self) {
        if let Some(GiveBack { pool, key, sender }) = self.give_back.take() {
            pool.put(key, sender, Instant::now());
        }
    }
}
