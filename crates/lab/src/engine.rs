//! The one task that owns a lab's state: hosts, paths, the relay and steering. Everybody else sends it
//! verbs and reads the status it publishes.
//!
//! A host goes `down -> up <-> paused -> down`; dying by itself is noticed at the next tick.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use tokio::process::Child;

use crate::address::Port;
use crate::bgp::daemon::{Daemon, Home};
use crate::cgroup::Group;
use crate::disturbance::{self, Flaps};
use crate::error::{Attempt, LabError};
use crate::host::body::Body;
use crate::host::setup::Furniture;
use crate::network;
use crate::path::{Path, Paths};
use crate::relay::process::Relay;
use crate::relay::wire::{Order, Report};
use crate::steer;
use crate::verb::{HostState, HostStatus, Status, Verb};
use crate::vm::files::FILES_VARIABLE;
use crate::vm::machine::Machine;
use crate::world::{Kind, Role, Routing, World};

/// How long after a change clients still go where they went; about what BGP with BFD takes.
pub const STEER_AFTER: Duration = Duration::from_millis(200);

/// How often dead hosts are looked for.
const TICK: Duration = Duration::from_millis(100);

/// A verb with the place for its answer.
pub type Message = (Verb, oneshot::Sender<Result<Status, LabError>>);

/// What the engine needs to know of the machine.
#[derive(Debug, Clone)]
pub struct Site {
    pub id: String,
    pub program: PathBuf,
    pub folder: PathBuf,
    pub group: Group,
    /// Unpacked packages for virtual machines.
    pub vm_packages: Option<PathBuf>,
    /// What guests have of this machine's files.
    pub vm_files: Vec<PathBuf>,
}

struct Host {
    status: HostStatus,
    body: Option<Body>,
    group: Group,
    /// The last edge set in its routes; none is never set.
    steered: Option<Option<Port>>,
    /// Its BGP daemon, if the lab runs one there.
    daemon: Option<Daemon>,
    /// Threads that compute for nothing.
    burden: Option<Child>,
}

pub struct Engine {
    site: Site,
    world: World,
    routing: Option<Routing>,
    paths: Paths,
    flaps: Flaps,
    relay: Relay,
    report: Report,
    hosts: Vec<Host>,
    steer_at: Option<Instant>,
    publish: watch::Sender<Status>,
}

impl Engine {
    /// Boots every host and connects them.
    pub async fn start(
        site: Site,
        world: World,
        mut relay: Relay,
        publish: watch::Sender<Status>,
    ) -> Result<Self, LabError> {
        let report = relay.order(&Order::Report).await?;
        let paths = world.paths();
        let hosts = world.ports().map(|(port, _)| Host::new(&site, &world, port)).collect();
        let routing = world.routing();
        let flaps = Flaps::default();
        let mut engine = Self { site, world, routing, paths, flaps, relay, report, hosts, steer_at: None, publish };
        let ports: Vec<Port> = engine.world.ports().map(|(port, _)| port).collect();
        for port in ports {
            engine.boot(port).await?;
        }
        let pairs: Vec<_> = engine.paths.pairs().collect();
        engine.send_paths(pairs).await?;
        engine.steer().await;
        engine.publish();
        Ok(engine)
    }

    /// Serves verbs until nobody can send any more.
    pub async fn run(mut self, mut verbs: mpsc::Receiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let steering = sleep_until(self.steer_at);
            let flapping = sleep_until(self.flaps.next());
            tokio::select! {
                message = verbs.recv() => {
                    let Some((verb, answer)) = message else { break };
                    let result = self.perform(verb).await;
                    self.publish();
                    // The one who asked may have gone.
                    drop(answer.send(result.map(|()| self.status())));
                }
                () = steering => {
                    self.steer_at = None;
                    self.steer().await;
                    self.publish();
                }
                () = flapping => self.flap().await,
                _ = tick.tick() => self.notice_deaths().await,
            }
        }
    }

    async fn perform(&mut self, verb: Verb) -> Result<(), LabError> {
        match verb {
            Verb::Cut { a, b, one_way } => {
                let pairs = self.between(&a, &b, one_way)?;
                self.disturb(pairs, Paths::cut).await
            }
            Verb::Isolate { host } => {
                let pairs = self.around(self.port(&host)?);
                self.disturb(pairs, Paths::cut).await
            }
            Verb::Slow { a, b, extra_ms, one_way } => {
                let extra = Duration::try_from_secs_f64(extra_ms / 1e3)
                    .ok()
                    .filter(|extra| *extra <= Duration::from_secs(60))
                    .ok_or_else(|| LabError::Invalid(format!("{extra_ms} ms: from 0 to 60000 is possible")))?;
                let pairs = self.between(&a, &b, one_way)?;
                self.disturb(pairs, |paths, from, to| paths.slow(from, to, extra)).await
            }
            Verb::Lose { a, b, percent, one_way } => {
                if !(0.0..=100.0).contains(&percent) {
                    return Err(LabError::Invalid(format!("{percent} percent: from 0 to 100 is possible")));
                }
                let pairs = self.between(&a, &b, one_way)?;
                self.disturb(pairs, |paths, from, to| paths.lose(from, to, percent / 100.0)).await
            }
            Verb::Heal { a, b } => {
                let pairs = match (a, b) {
                    (Some(a), Some(b)) => self.between(&a, &b, false)?,
                    (Some(host), None) | (None, Some(host)) => self.around(self.port(&host)?),
                    (None, None) => self.paths.pairs().collect(),
                };
                self.flaps.end(&pairs);
                self.disturb(pairs, Paths::heal).await
            }
            Verb::Flap { a, b, every } => {
                let pairs = self.between(&a, &b, false)?;
                let (a, b) = (self.port(&a)?, self.port(&b)?);
                self.flaps.begin(a, b, every, Instant::now())?;
                self.disturb(pairs, Paths::cut).await
            }
            Verb::Overload { host, threads } => self.overload(&host, threads),
            Verb::SetPath { a, b, path, one_way } => {
                check_path(path)?;
                let pairs = self.between(&a, &b, one_way)?;
                self.disturb(pairs, |paths, from, to| paths.set(from, to, path)).await
            }
            Verb::Kill { host } => {
                let port = self.port(&host)?;
                self.kill(port).await
            }
            Verb::Boot { host } => {
                let port = self.port(&host)?;
                self.boot(port).await
            }
            Verb::Pause { host } => self.freeze(&host, true).await,
            Verb::Resume { host } => self.freeze(&host, false).await,
            Verb::Withdraw { host } => self.withdraw(&host, true).await,
            Verb::Announce { host } => self.withdraw(&host, false).await,
            Verb::Status => {
                self.report = self.relay.order(&Order::Report).await?;
                Ok(())
            }
        }
    }

    fn port(&self, name: &str) -> Result<Port, LabError> {
        self.world.port(name).ok_or_else(|| LabError::UnknownHost(name.to_owned()))
    }

    fn between(&self, a: &str, b: &str, one_way: bool) -> Result<Vec<(Port, Port)>, LabError> {
        let (a, b) = (self.port(a)?, self.port(b)?);
        if a == b {
            return Err(LabError::Invalid("a host has no link with itself".to_owned()));
        }
        Ok(if one_way { vec![(a, b)] } else { vec![(a, b), (b, a)] })
    }

    fn around(&self, port: Port) -> Vec<(Port, Port)> {
        self.paths.pairs().filter(|(from, to)| *from == port || *to == port).collect()
    }

    /// Changes what some pairs do, in the relay too.
    async fn disturb(
        &mut self,
        pairs: Vec<(Port, Port)>,
        change: impl Fn(&mut Paths, Port, Port),
    ) -> Result<(), LabError> {
        for (from, to) in &pairs {
            change(&mut self.paths, *from, *to);
        }
        self.send_paths(pairs).await?;
        self.steer_soon();
        Ok(())
    }

    async fn send_paths(&mut self, pairs: Vec<(Port, Port)>) -> Result<(), LabError> {
        let paths = pairs.into_iter().map(|(from, to)| (from, to, self.paths.effective(from, to))).collect();
        self.report = self.relay.order(&Order::Paths { paths }).await?;
        Ok(())
    }

    async fn boot(&mut self, port: Port) -> Result<(), LabError> {
        let host = &self.hosts[port.0];
        if host.body.is_some() {
            return Err(host.wrong_state());
        }
        let folder = host_folder(&self.site.folder, &host.status.name);
        for part in [&host.status.disk, &host.status.logs] {
            fs::create_dir_all(part).attempting(|| format!("make {}", part.display()))?;
        }
        let hosts_file = folder.join("hosts");
        fs::write(&hosts_file, hosts_text(&self.world)).attempting(|| format!("write {}", hosts_file.display()))?;
        host.group.create().attempting(|| format!("make the control group of {}", host.status.name))?;
        // Another name each time: a boot that failed may have left its interface.
        let interface = network::relay_interface(port, host.status.boots + 1);
        let kind = host.status.kind;
        self.hosts[port.0].status.boots += 1;
        let body = match kind {
            Kind::Namespace => self.boot_namespaces(port, &interface, &folder, hosts_file).await?,
            Kind::Vm => self.boot_guest(port, &interface, &folder, hosts_file).await?,
        };
        network::configure(&self.world, body.network(&self.site.program), port).await?;
        self.report = self.relay.order(&Order::Attach { port, interface }).await?;

        let daemon = self.start_daemon(port, &body)?;
        let host = &mut self.hosts[port.0];
        host.status.state = HostState::Up;
        host.status.pid = Some(body.first.as_raw_nonzero().get());
        host.body = Some(body);
        host.daemon = daemon;
        self.steer_soon();
        Ok(())
    }

    /// Starts the BGP daemon of a host that has booted, if it is to have one.
    fn start_daemon(&self, port: Port, body: &Body) -> Result<Option<Daemon>, LabError> {
        let Some(speaker) = self.routing.as_ref().and_then(|routing| routing.speakers.get(&port)) else {
            return Ok(None);
        };
        let status = &self.hosts[port.0].status;
        let home = Home {
            program: &self.site.program,
            first: body.first,
            group: &status.group,
            folder: host_folder(&self.site.folder, &status.name).join("bgp"),
            logs: &status.logs,
        };
        Daemon::start(&home, port, speaker, self.world.bfd).map(Some)
    }

    async fn boot_namespaces(
        &self,
        port: Port,
        interface: &str,
        folder: &FilePath,
        hosts_file: PathBuf,
    ) -> Result<Body, LabError> {
        let status = &self.hosts[port.0].status;
        let furniture = Furniture { name: status.name.clone(), group: status.group.clone(), hosts_file };
        let body = Body::boot(&self.site.program, &furniture, &folder.join("boot.log")).await?;
        network::plug_in(self.relay.pid, body.first, port, interface).await?;
        Ok(body)
    }

    async fn boot_guest(
        &self,
        port: Port,
        interface: &str,
        folder: &FilePath,
        hosts_file: PathBuf,
    ) -> Result<Body, LabError> {
        let status = &self.hosts[port.0].status;
        let Some(packages) = self.site.vm_packages.clone() else {
            let name = &status.name;
            let why = format!("host {name} is a VM: name a folder made by worlds/fetch-vm.sh in {FILES_VARIABLE}");
            return Err(LabError::Invalid(why));
        };
        let machine = Machine {
            name: status.name.clone(),
            group: status.group.clone(),
            folder: vm_folder(status),
            packages,
            program: self.site.program.clone(),
            files: self.site.vm_files.clone(),
            disk: status.disk.clone(),
            hosts_file,
            relay: self.relay.pid.as_raw_nonzero().get(),
            interface: interface.to_owned(),
            mac: port.mac_text(),
        };
        network::plug_in_guest(self.relay.pid, interface).await?;
        Body::boot_guest(&self.site.program, &machine, &folder.join("boot.log")).await
    }

    async fn kill(&mut self, port: Port) -> Result<(), LabError> {
        let host = &mut self.hosts[port.0];
        let Some(body) = host.body.take() else { return Err(host.wrong_state()) };
        let thawed = &host.group;
        let mut thaw = Ok(());
        let killed = body.kill(|| thaw = thawed.freeze(false)).await;
        self.bury(port).await?;
        thaw.attempting(|| "thaw the killed host".to_owned())?;
        killed
    }

    /// Forgets a host whose processes are gone.
    async fn bury(&mut self, port: Port) -> Result<(), LabError> {
        let host = &mut self.hosts[port.0];
        let name = host.status.name.clone();
        host.body = None;
        host.steered = None;
        host.daemon = None;
        host.burden = None;
        host.status.overload = 0;
        host.status.withdrawn &= self.routing.is_none();
        host.status.state = HostState::Down;
        host.status.pid = None;
        host.status.steered_to = None;
        let (group, boots) = (host.group.clone(), host.status.boots);
        self.steer_soon();
        self.report = self.relay.order(&Order::Detach { port }).await?;
        network::unplug(self.relay.pid, &network::relay_interface(port, boots)).await?;
        let destroyed = tokio::task::spawn_blocking(move || group.destroy(Duration::from_secs(10))).await;
        destroyed
            .map_err(std::io::Error::other)
            .and_then(|result| result)
            .attempting(|| format!("remove the control group of {name}"))
    }

    async fn notice_deaths(&mut self) {
        for port in (0..self.hosts.len()).map(Port) {
            let host = &mut self.hosts[port.0];
            if host.daemon.as_mut().is_some_and(Daemon::is_dead) {
                host.daemon = None;
                tracing::warn!(host = host.status.name, "its BGP daemon ended; bird.log says why");
            }
            if !host.body.as_mut().is_some_and(Body::is_dead) {
                continue;
            }
            tracing::info!(host = host.status.name, "died");
            if let Err(error) = self.bury(port).await {
                tracing::warn!(error = crate::error::chain(&error), "a dead host was not buried whole");
            }
            self.publish();
        }
    }

    async fn freeze(&mut self, name: &str, frozen: bool) -> Result<(), LabError> {
        let port = self.port(name)?;
        let host = &mut self.hosts[port.0];
        let (from, to) = if frozen { (HostState::Up, HostState::Paused) } else { (HostState::Paused, HostState::Up) };
        if host.status.state != from {
            return Err(host.wrong_state());
        }
        host.group.freeze(frozen).attempting(|| format!("freeze or thaw {name}"))?;
        host.status.state = to;
        self.steer_soon();
        Ok(())
    }

    /// Cuts or heals the links whose turn it is.
    async fn flap(&mut self) {
        for (a, b, cut) in self.flaps.due(Instant::now()) {
            let change = if cut { Paths::cut } else { Paths::heal };
            if let Err(error) = self.disturb(vec![(a, b), (b, a)], change).await {
                tracing::warn!(error = crate::error::chain(&error), "a link did not flap");
            }
        }
    }

    fn overload(&mut self, name: &str, threads: usize) -> Result<(), LabError> {
        let port = self.port(name)?;
        let host = &mut self.hosts[port.0];
        let (HostState::Up, Some(body), Kind::Namespace) = (host.status.state, &host.body, host.status.kind) else {
            return Err(host.wrong_state());
        };
        host.burden = match threads {
            0 => None,
            _ => Some(disturbance::burden(&self.site.program, body.first, &host.status.group, threads)?),
        };
        host.status.overload = threads;
        Ok(())
    }

    async fn withdraw(&mut self, name: &str, withdrawn: bool) -> Result<(), LabError> {
        let port = self.port(name)?;
        let host = &mut self.hosts[port.0];
        if self.routing.is_some() {
            let Some(daemon) = host.daemon.as_ref().filter(|_| host.status.role == Role::Node) else {
                let why = format!("the lab does not announce for {name}: clients are led by BGP");
                return Err(LabError::Invalid(why));
            };
            daemon.announce(!withdrawn).await?;
            host.status.withdrawn = withdrawn;
            return Ok(());
        }
        let status = &mut host.status;
        if status.role != Role::Node {
            return Err(LabError::Invalid(format!("{name} is no node: clients are never steered to it")));
        }
        status.withdrawn = withdrawn;
        self.steer_soon();
        Ok(())
    }

    fn steer_soon(&mut self) {
        if self.routing.is_some() {
            return;
        }
        self.steer_at.get_or_insert_with(|| Instant::now() + STEER_AFTER);
    }

    /// Brings every client's route to the service address in line with the world as it is.
    async fn steer(&mut self) {
        if self.routing.is_some() {
            return;
        }
        let edges: BTreeSet<Port> = (self.hosts.iter().enumerate())
            .filter(|(_, host)| host.status.role == Role::Node && !host.status.withdrawn)
            .filter(|(_, host)| host.status.state == HostState::Up)
            .map(|(index, _)| Port(index))
            .collect();
        for client in 0..self.hosts.len() {
            let host = &self.hosts[client];
            let Some(body) = host.body.as_ref().filter(|_| host.status.role == Role::Client) else { continue };
            let edge = steer::nearest(Port(client), edges.iter().copied(), &self.paths);
            if host.steered == Some(edge) {
                continue;
            }
            let name = edge.map(|edge| self.hosts[edge.0].status.name.clone());
            tracing::info!(
                client = host.status.name,
                edge = name.as_deref().unwrap_or("none"),
                "lab steering, not BGP"
            );
            match network::steer(body.network(&self.site.program), edge.map(Port::ipv4)).await {
                Ok(()) => {
                    let host = &mut self.hosts[client];
                    host.steered = Some(edge);
                    host.status.steered_to = name;
                }
                // The next tick buries the host if it died; otherwise the next round tries again.
                Err(error) => {
                    tracing::warn!(error = crate::error::chain(&error), "a client was not steered");
                    self.steer_soon();
                }
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            id: self.site.id.clone(),
            hosts: self.hosts.iter().map(|host| host.status.clone()).collect(),
            relay: self.report.clone(),
        }
    }

    fn publish(&self) {
        self.publish.send_replace(self.status());
    }
}

impl Host {
    fn new(site: &Site, world: &World, port: Port) -> Self {
        let spec = &world.hosts[port.0];
        let folder = host_folder(&site.folder, &spec.name);
        let status = HostStatus {
            name: spec.name.clone(),
            city: spec.city.clone(),
            role: spec.role,
            kind: spec.kind,
            state: HostState::Down,
            pid: None,
            boots: 0,
            ipv4: port.ipv4(),
            ipv6: port.ipv6(),
            group: PathBuf::from(format!("atl-{}", site.id)).join(&spec.name),
            disk: folder.join("disk"),
            logs: folder.join("log"),
            system: spec.system,
            overload: 0,
            withdrawn: false,
            steered_to: None,
        };
        Self { group: site.group.child(&spec.name), status, body: None, steered: None, daemon: None, burden: None }
    }

    fn wrong_state(&self) -> LabError {
        LabError::WrongState { host: self.status.name.clone(), state: self.status.state.as_str() }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn check_path(path: Option<Path>) -> Result<(), LabError> {
    match path {
        Some(path) if !(0.0..=1.0).contains(&path.loss) => {
            Err(LabError::Invalid(format!("loss {}: from 0 to 1 is possible", path.loss)))
        }
        Some(path) if path.rate == Some(0) => Err(LabError::Invalid("a rate of 0 is a cut".to_owned())),
        _ => Ok(()),
    }
}

/// Where a virtual machine of this host lives.
pub fn vm_folder(status: &HostStatus) -> PathBuf {
    status.disk.with_file_name("vm")
}

fn host_folder(lab: &FilePath, name: &str) -> PathBuf {
    lab.join("hosts").join(name)
}

/// The `/etc/hosts` of every host.
fn hosts_text(world: &World) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (port, host) in world.ports() {
        text.push_str(&format!("{} {}\n{} {}\n", port.ipv4(), host.name, port.ipv6(), host.name));
    }
    text
}
