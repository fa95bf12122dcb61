//! The agent as its callers see it: finds the machine, asks its task, reads its snapshot.

mod create;
mod registry;
mod start;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use atoll_driver::{ExecSpec, ExecStreams, ProcessInfo, Running};
use atoll_model::machine::Lease;
use atoll_model::policy::NetworkLimits;
use atoll_model::{AppName, MachineId, MachineState, MachineVersion};
use atoll_rpc::contract::{MachineView, NodeView};
use atoll_signals::with_causes;

use crate::calls::{ExecCommand, LeaseAsk, SetMetadata, StopOptions, UpdateMachine, Usage};
use crate::error::WorkerError;
use crate::lease;
use crate::logs::{Follower, LogEntry, LogQuery};
use crate::machine::effects::{self, seal_context};
use crate::machine::{Answer, Ask, Context, Handle, Sealed, events};

pub use registry::Registry;
pub use start::Worker;

/// How often new log lines are looked for.
const LOG_POLL: Duration = Duration::from_millis(150);
/// Lines on their way to one reader of logs.
const LOG_QUEUE: usize = 256;
/// Most lines that a `tail` may ask for.
const TAIL_MAX: usize = 10_000;

/// The way to all machines of this node. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    context: Arc<Context>,
}

/// Who asks, for leases and events.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Empty: none.
    pub lease_nonce: String,
    /// `user` or `flyd`.
    pub source: String,
}

impl Default for Caller {
    fn default() -> Self {
        Self { lease_nonce: String::new(), source: events::BY_USER.to_owned() }
    }
}

impl Agent {
    pub fn get(&self, machine: MachineId) -> Result<MachineView, WorkerError> {
        Ok(self.present_view(&self.handle(machine)?))
    }

    /// All machines, or those of one app; destroyed ones that are still remembered included.
    pub fn list(&self, app: Option<&AppName>) -> Vec<MachineView> {
        let machines = self.context.registry.all();
        let mut views: Vec<_> = machines.iter().map(|handle| self.present_view(handle)).collect();
        views.retain(|view| app.is_none_or(|app| view.app == *app));
        views.sort_by_key(|view| view.id);
        views
    }

    pub fn node(&self) -> NodeView {
        let config = &self.context.config;
        NodeView {
            name: config.node.clone(),
            region: config.region,
            epoch: config.epoch,
            cpus: config.cpus,
            memory_mb: config.memory_mb,
            memory_promised_mb: self.context.registry.promised_mb(),
            machines: u32::try_from(self.context.registry.live_machines()).unwrap_or(u32::MAX),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Swaps in a new version; the machine keeps its run state. Repeating a call is harmless.
    pub async fn update(&self, update: UpdateMachine, source: &str) -> Result<MachineView, WorkerError> {
        let UpdateMachine { bundle, expected_version, lease_nonce } = update;
        let machine = bundle.machine;
        let handle = self.handle(machine)?;
        let guest = create::judge(&bundle)?;
        let sealed = self.seal(&bundle)?;
        let admitted = self.context.deps.networks.admit(bundle.network).await;
        admitted.map_err(|error| WorkerError::Precondition(with_causes(&error)))?;
        let before = self.context.registry.resize(machine, &guest)?;
        let bundle = Box::new(Sealed::without_secrets(bundle));
        match handle.ask(Ask::Update { bundle, sealed, expected_version }, &lease_nonce, source).await {
            Ok(Answer::Updated(view)) => Ok(*view),
            Ok(_) => Ok(self.present_view(&handle)),
            Err(error) => {
                self.context.registry.resize_back(machine, before);
                Err(error)
            }
        }
    }

    pub async fn start(&self, machine: MachineId, caller: &Caller) -> Result<MachineState, WorkerError> {
        self.change(machine, Ask::Start, caller).await
    }

    pub async fn stop(
        &self,
        machine: MachineId,
        options: StopOptions,
        caller: &Caller,
    ) -> Result<MachineState, WorkerError> {
        self.change(machine, Ask::Stop(options), caller).await
    }

    pub async fn suspend(&self, machine: MachineId, caller: &Caller) -> Result<MachineState, WorkerError> {
        self.change(machine, Ask::Suspend, caller).await
    }

    pub async fn restart(
        &self,
        machine: MachineId,
        options: StopOptions,
        force: bool,
        caller: &Caller,
    ) -> Result<MachineState, WorkerError> {
        self.change(machine, Ask::Restart { options, force }, caller).await
    }

    pub async fn destroy(&self, machine: MachineId, force: bool, caller: &Caller) -> Result<MachineState, WorkerError> {
        self.change(machine, Ask::Destroy { force }, caller).await
    }

    pub async fn cordon(
        &self,
        machine: MachineId,
        cordoned: bool,
        caller: &Caller,
    ) -> Result<MachineState, WorkerError> {
        self.change(machine, Ask::Cordon(cordoned), caller).await
    }

    /// Sends a signal to the main process; needs no lease.
    pub async fn signal(&self, machine: MachineId, signal: i32) -> Result<(), WorkerError> {
        let (running, ..) = self.process(machine).await?;
        let sent = running.signal(signal).await;
        sent.map_err(|source| WorkerError::Driver { machine, action: "be sent the signal", source })
    }

    pub async fn lease(&self, machine: MachineId, ask: LeaseAsk) -> Result<Lease, WorkerError> {
        match self.handle(machine)?.ask(Ask::Lease(ask), "", events::BY_USER).await? {
            Answer::Lease(lease) => Ok(lease),
            _ => Err(WorkerError::NoLease),
        }
    }

    pub async fn set_metadata(&self, machine: MachineId, change: SetMetadata) -> Result<MachineView, WorkerError> {
        let handle = self.handle(machine)?;
        handle.ask(Ask::Metadata(change), "", events::BY_USER).await?;
        Ok(handle.snapshot().view.clone())
    }

    /// Holds the machine to other network policies than before, from now on; needs no lease. Refused while it is
    /// being started.
    pub async fn set_limits(&self, machine: MachineId, limits: NetworkLimits) -> Result<MachineView, WorkerError> {
        let handle = self.handle(machine)?;
        handle.ask(Ask::Limits(limits), "", events::BY_NODE).await?;
        Ok(handle.snapshot().view.clone())
    }

    /// Runs a command beside the main process, with its environment, user and folder; needs no lease.
    pub async fn exec(&self, machine: MachineId, exec: ExecCommand) -> Result<ExecStreams, WorkerError> {
        if exec.command.first().is_none_or(String::is_empty) {
            return Err(WorkerError::Invalid("exec needs a command".into()));
        }
        let (running, sealed, slot) = self.process(machine).await?;
        let main = effects::main_process(&self.context, &sealed, slot).await;
        let mut process = main.map_err(|error| WorkerError::Precondition(with_causes(&error)))?;
        process.args = exec.command;
        process.env.extend(exec.env);
        process.tty = exec.terminal.is_some();
        let spec = ExecSpec { process, terminal: exec.terminal };
        running.exec(spec).await.map_err(|source| WorkerError::Driver { machine, action: "run the command", source })
    }

    pub async fn processes(&self, machine: MachineId) -> Result<Vec<ProcessInfo>, WorkerError> {
        let (running, ..) = self.process(machine).await?;
        let processes = running.processes().await;
        processes.map_err(|source| WorkerError::Driver { machine, action: "list its processes", source })
    }

    /// Fetches and unpacks an image ahead of time; gives the bytes it took.
    pub async fn prepare_image(&self, digest: &str) -> Result<u64, WorkerError> {
        let image = self.context.deps.images.ensure("", digest).await;
        image
            .map(|image| image.bytes_fetched)
            .map_err(|source| WorkerError::Image { digest: digest.to_owned(), source })
    }

    /// Stops or suspends a machine that its own edge has judged idle, unless it is another version by now.
    pub async fn idle(&self, machine: MachineId, version: MachineVersion, suspend: bool) -> Result<(), WorkerError> {
        self.handle(machine)?.ask(Ask::Idle { version, suspend }, "", events::BY_NODE).await.map(|_| ())
    }

    /// Takes the use of machines as their edge sees it. Machines not named have none.
    pub fn report_usage(&self, usage: Vec<(MachineId, Usage)>) {
        let mut usage: HashMap<_, _> = usage.into_iter().collect();
        for handle in self.context.registry.all() {
            handle.tell(Ask::Usage(usage.remove(&handle.id).unwrap_or_default()));
        }
    }

    /// Lines of a machine's or an app's logs, oldest first. The stream ends at the last line, or
    /// follows until it is dropped.
    pub fn logs(&self, query: LogQuery) -> mpsc::Receiver<Result<LogEntry, WorkerError>> {
        let (lines, reader) = mpsc::channel(LOG_QUEUE);
        tokio::spawn(stream_logs(self.clone(), query, lines));
        reader
    }

    /// Ends all tasks of this agent; machines go on running.
    pub fn close(&self) {
        self.context.registry.close();
    }

    fn handle(&self, machine: MachineId) -> Result<Handle, WorkerError> {
        self.context.registry.get(machine)
    }

    /// What runs, for use outside of the machine's task: a driver that hangs must not hold it up.
    async fn process(&self, machine: MachineId) -> Result<(Arc<dyn Running>, Sealed, u32), WorkerError> {
        match self.handle(machine)?.ask(Ask::Process, "", events::BY_USER).await? {
            Answer::Process(running, sealed, slot) => Ok((running, sealed, slot)),
            _ => Err(WorkerError::NotFound { machine }),
        }
    }

    /// A lease expires without anybody being told.
    fn present_view(&self, handle: &Handle) -> MachineView {
        let mut view = handle.snapshot().view.clone();
        view.lease = lease::live(view.lease.as_ref(), self.context.now_ms()).cloned();
        view
    }

    async fn change(&self, machine: MachineId, ask: Ask, caller: &Caller) -> Result<MachineState, WorkerError> {
        let handle = self.handle(machine)?;
        match handle.ask(ask, &caller.lease_nonce, &caller.source).await? {
            Answer::Changed(previous) => Ok(previous),
            _ => Ok(handle.snapshot().view.state),
        }
    }

    fn seal(&self, bundle: &atoll_rpc::contract::LaunchBundle) -> Result<Vec<u8>, WorkerError> {
        // A bundle holds only maps with text keys, so it always has a JSON form.
        let plain = serde_json::to_vec(bundle).unwrap_or_default();
        let machine = bundle.machine;
        self.context
            .deps
            .seal
            .seal(&seal_context(machine), &plain)
            .map_err(|source| WorkerError::Seal { machine, source })
    }
}

async fn stream_logs(agent: Agent, query: LogQuery, lines: mpsc::Sender<Result<LogEntry, WorkerError>>) {
    let mut followers: Vec<(MachineId, AppName, Follower)> = Vec::new();
    let mut first = true;
    loop {
        // Machines that came since are followed too.
        for view in agent.list(query.app.as_ref()) {
            let wanted = query.machine.is_none_or(|machine| machine == view.id);
            if wanted && !followers.iter().any(|(machine, ..)| *machine == view.id) {
                let dir = agent.context.machine_dir(view.id);
                followers.push((view.id, view.app, Follower::new(&dir)));
            }
        }
        let read = tokio::task::spawn_blocking(move || {
            let entries = read_all(&mut followers);
            (followers, entries)
        });
        let Ok((back, entries)) = read.await else { return };
        followers = back;
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                // The reader may be gone; either way this stream is over.
                let _ = lines.send(Err(error)).await;
                return;
            }
        };
        if first {
            entries.retain(|entry| entry.timestamp_ms > query.after_ms);
            if query.tail > 0 {
                let surplus = entries.len().saturating_sub(query.tail.min(TAIL_MAX));
                entries.drain(..surplus);
            }
        }
        for entry in entries {
            if lines.send(Ok(entry)).await.is_err() {
                return;
            }
        }
        if !query.follow || lines.is_closed() {
            return;
        }
        first = false;
        tokio::time::sleep(LOG_POLL).await;
    }
}

fn read_all(followers: &mut [(MachineId, AppName, Follower)]) -> Result<Vec<LogEntry>, WorkerError> {
    let mut entries = Vec::new();
    for (machine, app, follower) in followers {
        let lines = follower.read().map_err(|source| WorkerError::Logs { machine: *machine, source })?;
        entries.extend(lines.into_iter().map(|line| LogEntry {
            machine: *machine,
            app: app.clone(),
            timestamp_ms: line.ts_ms,
            stream: line.stream,
            text: line.line,
        }));
    }
    entries.sort_by_key(|entry| entry.timestamp_ms);
    Ok(entries)
}
