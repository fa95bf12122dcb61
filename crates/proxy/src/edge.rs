//! Starting an edge, and ending it without losing a request.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_model::reach::Reachability;
use atoll_model::row::NodeState;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::backhaul::{Peers, run_probes, serve_peer};
use crate::body::ReplayBudget;
use crate::config::EdgeConfig;
use crate::core::{Core, Edge, Shutdown};
use crate::counters::Counters;
use crate::departure::{self, Departure};
use crate::front::{Certificates, Gate, accept, serve_http, serve_https, serve_private, serve_tcp};
use crate::node::{Machines, Pool, run_idle, run_reports};
use crate::surroundings::Surroundings;

/// Longest time in which idle connections stay open after a drain began.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How often each core closes what it no longer needs and opens what it may need.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Sockets that listen already; their owner keeps them, so that connections wait in them between one
/// edge process and the next.
#[derive(Default, Debug)]
pub struct Listeners {
    pub http: Vec<Listener>,
    pub https: Vec<Listener>,
    /// Connections to addresses that belong to one app each, with or without HTTP.
    pub tcp: Vec<Listener>,
    /// Connections of machines and users' devices to private (Flycast) addresses, whatever port they call. Who
    /// leads them here keeps their sources, and where they were going.
    pub private: Vec<StdListener>,
    /// Other edges, with mutual TLS.
    pub backhaul: Vec<StdListener>,
}

#[derive(Debug)]
pub struct Listener {
    pub socket: StdListener,
    /// The service port this socket stands for, whatever port it listens on: 80, 443.
    pub external_port: u16,
}

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("setting up TLS for clients")]
    Tls(#[source] rustls::Error),
    #[error("sharing a listening socket among the cores")]
    Socket(#[source] io::Error),
    #[error("starting the runtime of a core")]
    Runtime(#[source] io::Error),
}

/// A running edge. Dropping it ends the edge at once; see [`EdgeHandle::drain`] for the gentle way.
pub struct EdgeHandle {
    edge: Arc<Edge>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Starts an edge on threads of its own.
pub fn start(config: EdgeConfig, surroundings: Surroundings, listeners: Listeners) -> Result<EdgeHandle, StartError> {
    let certificates =
        Arc::new(Certificates::new(surroundings.routes.clone(), &config.app_domain).map_err(StartError::Tls)?);
    let edge = Arc::new(Edge {
        replay: ReplayBudget::new(config.limits.replay_bytes_total),
        config,
        surroundings,
        counters: Arc::default(),
        reachability: Arc::new(ArcSwap::from_pointee(Reachability::default())),
        machines: Machines::new(),
        shutdown: Shutdown::default(),
        departure: Departure::default(),
        tasks: TaskTracker::new(),
    });
    let mut handle = EdgeHandle { edge: edge.clone(), threads: Vec::new() };
    for index in 0..edge.config.cores.max(1) {
        let runtime = new_runtime()?;
        let core = Arc::new(Core {
            edge: edge.clone(),
            pool: Pool::new(edge.config.limits.idle_connections_per_machine, edge.config.timeouts.pool_idle),
            api: Pool::new(edge.config.limits.idle_connections_to_control, edge.config.timeouts.api_idle),
            api_places: Arc::new(Semaphore::new(edge.config.limits.connections_to_control)),
            peers: Peers::default(),
        });
        begin_core(&runtime, &core, &listeners, &certificates)?;
        handle.run(format!("edge-{index}"), runtime)?;
    }
    let upkeep = new_runtime()?;
    upkeep.spawn(run_idle(edge.clone()));
    upkeep.spawn(run_reports(edge.clone()));
    upkeep.spawn(departure::follow(edge.clone()));
    if let Some(tls) = &edge.surroundings.backhaul {
        upkeep.spawn(run_probes(edge.clone(), tls.clone()));
    }
    handle.run("edge-upkeep".to_owned(), upkeep)?;
    Ok(handle)
}

fn new_runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)
}

fn begin_core(
    runtime: &Runtime,
    core: &Arc<Core>,
    listeners: &Listeners,
    certificates: &Arc<Certificates>,
) -> Result<(), StartError> {
    let _context = runtime.enter();
    let gate = Gate::new(core.edge.config.limits.connections_per_core);
    for Listener { socket, external_port } in &listeners.http {
        let port = *external_port;
        runtime.spawn(accept(core.clone(), share(socket)?, gate.clone(), move |core, stream, peer| {
            serve_http(core, stream, peer, port)
        }));
    }
    for Listener { socket, external_port } in &listeners.https {
        let (port, certificates) = (*external_port, certificates.clone());
        runtime.spawn(accept(core.clone(), share(socket)?, gate.clone(), move |core, stream, peer| {
            serve_https(core, stream, peer, port, certificates.clone())
        }));
    }
    for Listener { socket, external_port } in &listeners.tcp {
        let (port, certificates) = (*external_port, certificates.clone());
        runtime.spawn(accept(core.clone(), share(socket)?, gate.clone(), move |core, stream, peer| {
            serve_tcp(core, stream, peer, port, certificates.clone())
        }));
    }
    // Machines have their own bound: they must not be able to shut users out.
    let private = Gate::new(core.edge.config.limits.connections_per_core);
    for socket in &listeners.private {
        let certificates = certificates.clone();
        runtime.spawn(accept(core.clone(), share(socket)?, private.clone(), move |core, stream, peer| {
            serve_private(core, stream, peer, certificates.clone())
        }));
    }
    if let Some(tls) = &core.edge.surroundings.backhaul {
        // Other edges have their own bound: clients must not be able to shut them out.
        let gate = Gate::new(core.edge.config.limits.connections_per_core);
        for socket in &listeners.backhaul {
            let tls = tls.clone();
            runtime.spawn(accept(core.clone(), share(socket)?, gate.clone(), move |core, stream, _| {
                serve_peer(core, stream, tls.clone())
            }));
        }
    }
    runtime.spawn(keep_tidy(core.clone()));
    Ok(())
}

/// A second handle on the same queue of connections.
fn share(socket: &StdListener) -> Result<TcpListener, StartError> {
    let socket = socket.try_clone().map_err(StartError::Socket)?;
    socket.set_nonblocking(true).map_err(StartError::Socket)?;
    TcpListener::from_std(socket).map_err(StartError::Socket)
}

async fn keep_tidy(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(TIDY_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.pool.sweep(Instant::now());
        core.api.sweep(Instant::now());
        let snapshot = core.edge.surroundings.routes.snapshot();
        core.peers.retain(|node| snapshot.node(node).is_some_and(|row| row.state != NodeState::Revoked));
        core.peers.warm(&core.edge).await;
    }
}

impl EdgeHandle {
    fn run(&mut self, name: String, runtime: Runtime) -> Result<(), StartError> {
        let end = self.edge.shutdown.end.clone();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                runtime.block_on(end.cancelled_owned());
                // Tasks that still run are dropped with the runtime, at their next await.
            })
            .map_err(StartError::Runtime)?;
        self.threads.push(thread);
        Ok(())
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.edge.counters.clone()
    }

    /// Round trips to other nodes, as measured by this edge.
    pub fn reachability(&self) -> Arc<ArcSwap<Reachability>> {
        self.edge.reachability.clone()
    }

    /// Connections and tunnels that are open now.
    pub fn open_connections(&self) -> usize {
        self.edge.tasks.len()
    }

    /// Asks the same as [`EdgeHandle::open_connections`], for as long as the caller likes.
    pub fn connection_count(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let tasks = self.edge.tasks.clone();
        move || tasks.len()
    }

    /// Accepts nothing more, lets open requests finish, and ends when all have or `limit` is over.
    /// Returns the number of connections that had to be cut.
    pub async fn drain(mut self, limit: Duration) -> usize {
        let tasks = &self.edge.tasks;
        let deadline = tokio::time::Instant::now() + limit;
        self.edge.shutdown.drain.cancel();
        tasks.close();
        // An idle client may be about to send: its next answer tells it to go. Who stays idle is closed.
        let grace = tokio::time::Instant::now() + (limit / 2).min(IDLE_GRACE);
        if tokio::time::timeout_at(grace, tasks.wait()).await.is_err() {
            self.edge.shutdown.close_idle.cancel();
            // What is left then is counted below.
            drop(tokio::time::timeout_at(deadline, tasks.wait()).await);
        }
        let cut = tasks.len();
        self.edge.shutdown.end.cancel();
        let threads = std::mem::take(&mut self.threads);
        let joining = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a core of the edge panicked");
                }
            }
        });
        if let Err(error) = joining.await {
            tracing::error!(%error, "waiting for the cores of the edge failed");
        }
        cut
    }
}

impl Drop for EdgeHandle {
    fn drop(&mut self) {
        self.edge.shutdown.drain.cancel();
        self.edge.shutdown.close_idle.cancel();
        self.edge.shutdown.end.cancel();
    }
}
