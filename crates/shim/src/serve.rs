//! The shim's event loop while its machine lives: carries messages between agents and the guest,
//! keeps the main process's output, and learns how the machine ends.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_guest_protocol::guest::{FromGuest, ToGuest};
use atoll_guest_protocol::process::{Process, StreamControl, StreamEvent};
use atoll_guest_protocol::shim::{Answer, Ask, ExitRecord, Failure, FromShim, Launch, Phase, ToShim, layout};
use atoll_guest_protocol::{Channel, Connection, Frame, FrameError, MAIN_STREAM, Versions, frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitOptions, WaitStatus, pidfd_send_signal, waitpid};

use crate::agents::{AgentId, Agents, Incoming};
use crate::cgroup::{Cgroup, CgroupError};
use crate::failure;
use crate::folder::{self, FolderError};
use crate::launch::{FirstProcess, Started};
use crate::log::Log;

/// Longest time from the guest's execution to the main process's.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// An agent that sends this much more than the guest takes is let go.
const GUEST_BACKLOG_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot wait for events")]
    Poll(#[source] rustix::io::Errno),
    #[error("cannot wait for the machine's first process")]
    Wait(#[source] rustix::io::Errno),
    #[error("cannot tell the guest what to run")]
    Configure(#[source] FrameError),
    #[error("cannot record how the machine ended")]
    Record(#[from] FolderError),
}

/// Who asked the guest for something: the agent and the number it uses.
#[derive(Clone, Copy, Debug)]
struct Asker {
    agent: AgentId,
    number: u32,
}

struct Shim<'a> {
    boot_id: String,
    machine: FirstProcess,
    executed_us: u64,
    guest: Connection<UnixStream>,
    /// The guest closed its channel, or sent what is not the protocol.
    guest_gone: bool,
    cgroup: &'a Cgroup,
    agents: &'a mut Agents,
    log: Log,
    phase: Phase,
    /// Streams and requests of the guest's numbering.
    streams: BTreeMap<u32, Asker>,
    requests: BTreeMap<u32, Asker>,
    last_number: u32,
    main_exit: Option<(i32, Option<i32>)>,
    refused: Option<String>,
    /// An agent asked to kill the machine: its end needs no other explanation.
    killed: bool,
}

/// Serves until the machine has ended. Its end is recorded then.
pub fn serve(
    here: &Path,
    launch: Launch,
    started: Started,
    cgroup: &Cgroup,
    listener: &UnixListener,
    agents: &mut Agents,
) -> Result<Phase, ServeError> {
    let Launch { boot_id, main, .. } = launch;
    let Started { process: machine, channel, executed_us } = started;
    let mut shim = Shim {
        boot_id,
        guest: Connection::new(channel),
        machine,
        executed_us,
        guest_gone: false,
        cgroup,
        agents,
        log: Log::open(here),
        phase: Phase::Starting,
        streams: BTreeMap::new(),
        requests: BTreeMap::new(),
        last_number: MAIN_STREAM,
        main_exit: None,
        refused: None,
        killed: false,
    };
    shim.configure(main)?;
    let status = shim.until_end(listener)?;
    shim.end(here, status)
}

impl Shim<'_> {
    fn configure(&mut self, main: Process) -> Result<(), ServeError> {
        self.guest.send(&ToGuest::Hello(Versions::OURS)).map_err(ServeError::Configure)?;
        self.guest.send(&ToGuest::Configure { main }).map_err(ServeError::Configure)
    }

    fn until_end(&mut self, listener: &UnixListener) -> Result<WaitStatus, ServeError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            self.agents.flush();
            if self.guest.flush().is_err() {
                self.guest_gone = true;
            }
            let late = self.phase == Phase::Starting && Instant::now() > deadline;
            if late || self.guest_gone {
                self.kill();
            }
            let ready = self.poll(listener)?;
            if ready.guest {
                self.hear_guest();
            }
            if ready.listener {
                self.accept(listener);
            }
            for agent in ready.agents {
                self.hear_agent(agent);
            }
            if ready.ended
                && let Some(status) = self.reap()?
            {
                // What the guest sent before it ended is still in the channel.
                while !self.guest_gone {
                    self.hear_guest();
                }
                return Ok(status);
            }
        }
    }

    fn reap(&mut self) -> Result<Option<WaitStatus>, ServeError> {
        let waited = waitpid(Some(self.machine.pid), WaitOptions::NOHANG).map_err(ServeError::Wait)?;
        Ok(waited.map(|(_, status)| status))
    }

    fn poll(&self, listener: &UnixListener) -> Result<Ready, ServeError> {
        let watch = |connection: &Connection<UnixStream>| {
            if connection.backlog() > 0 { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
        };
        let mut fds = vec![PollFd::new(listener, PollFlags::IN), PollFd::new(&self.machine.handle, PollFlags::IN)];
        let mut agents = Vec::new();
        for (id, connection) in self.agents.connections() {
            agents.push(id);
            fds.push(PollFd::from_borrowed_fd(connection.stream().as_fd(), watch(connection)));
        }
        // A channel that has ended would be ready for ever.
        if !self.guest_gone {
            fds.push(PollFd::from_borrowed_fd(self.guest.stream().as_fd(), watch(&self.guest)));
        }
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        match poll(&mut fds, (self.phase == Phase::Starting).then_some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ServeError::Poll(error)),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().difference(PollFlags::OUT).is_empty());
        Ok(Ready {
            listener: ready.next().unwrap_or(false),
            ended: ready.next().unwrap_or(false),
            agents: agents.into_iter().zip(ready.by_ref()).filter(|(_, ready)| *ready).map(|(id, _)| id).collect(),
            guest: ready.next().unwrap_or(false),
        })
    }

    fn accept(&mut self, listener: &UnixListener) {
        // An agent that left before it was accepted is no loss.
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.agents.add(stream, &self.phase);
        }
    }

    fn hear_guest(&mut self) {
        let open = self.guest.fill().unwrap_or(false);
        loop {
            match self.guest.next_frame() {
                Ok(Some(Frame::Data { channel, stream: MAIN_STREAM, bytes })) => {
                    self.log.push(channel, &bytes, folder::now_ms());
                }
                Ok(Some(Frame::Data { channel, stream, bytes })) => {
                    if let Some(asker) = self.streams.get(&stream) {
                        self.agents.send_data(asker.agent, channel, asker.number, &bytes);
                    }
                }
                Ok(Some(Frame::Control(body))) => match frame::parse(&body) {
                    Ok(message) => self.heed_guest(message),
                    Err(_) => self.guest_gone = true,
                },
                Ok(None) => break,
                Err(_) => {
                    self.guest_gone = true;
                    break;
                }
            }
        }
        self.guest_gone |= !open;
    }

    fn heed_guest(&mut self, message: FromGuest) {
        match message {
            FromGuest::Hello(theirs) => self.guest_gone |= Versions::OURS.agree(theirs).is_err(),
            FromGuest::Stream { stream: MAIN_STREAM, event } => self.heed_main(event),
            FromGuest::Stream { stream, event } => {
                let Some(asker) = self.streams.get(&stream).copied() else { return };
                if matches!(event, StreamEvent::Exit { .. } | StreamEvent::Refused { .. }) {
                    self.streams.remove(&stream);
                }
                self.agents.send(asker.agent, &FromShim::Stream { stream: asker.number, event });
            }
            FromGuest::Processes { request, processes } => {
                if let Some(asker) = self.requests.remove(&request) {
                    self.reply(asker.agent, asker.number, Answer::Processes { processes });
                }
            }
            FromGuest::Unknown => {}
        }
    }

    fn heed_main(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Started { .. } => {
                let pid = self.machine.pid.as_raw_nonzero().get().unsigned_abs();
                let executed_us = self.executed_us;
                self.phase = Phase::Running { boot_id: self.boot_id.clone(), pid, executed_us };
                self.agents.broadcast(&FromShim::Machine(self.phase.clone()));
            }
            StreamEvent::Refused { reason } => self.refused = Some(reason),
            StreamEvent::Exit { code, signal } => self.main_exit = Some((code, signal)),
            StreamEvent::Credit { .. } | StreamEvent::Unknown => {}
        }
    }

    fn hear_agent(&mut self, agent: AgentId) {
        for incoming in self.agents.receive(agent) {
            match incoming {
                Incoming::Message(ToShim::Stream { stream, control }) => self.pass_on(agent, stream, control),
                Incoming::Message(ToShim::Request { request, ask }) => self.answer(agent, request, ask),
                // A launch is taken once, before this loop.
                Incoming::Message(ToShim::Launch(_) | ToShim::Hello(_) | ToShim::Unknown) => {}
                Incoming::Stdin { stream, bytes } => {
                    if let Some(number) = self.stream_of(agent, stream) {
                        self.guest.send_data(Channel::Stdin, number, &bytes);
                    }
                }
            }
        }
        if self.guest.backlog() > GUEST_BACKLOG_MAX {
            self.agents.drop_agent(agent);
        }
        if !self.agents.contains(agent) {
            self.forget(agent);
        }
    }

    /// Nobody listens to what a lost agent ran.
    fn forget(&mut self, agent: AgentId) {
        self.requests.retain(|_, asker| asker.agent != agent);
        let orphans: Vec<u32> =
            self.streams.iter().filter(|(_, asker)| asker.agent == agent).map(|(number, _)| *number).collect();
        for number in orphans {
            self.streams.remove(&number);
            self.tell_guest(&ToGuest::Stream { stream: number, control: StreamControl::Abandon });
        }
    }

    fn pass_on(&mut self, agent: AgentId, stream: u32, control: StreamControl) {
        let is_signal = matches!(control, StreamControl::Signal { .. });
        let number = match (stream, &control) {
            (MAIN_STREAM, _) => is_signal.then_some(MAIN_STREAM),
            (_, StreamControl::Start(_)) => {
                let number = self.next_number();
                self.streams.insert(number, Asker { agent, number: stream });
                Some(number)
            }
            _ => self.stream_of(agent, stream),
        };
        if let Some(number) = number {
            self.tell_guest(&ToGuest::Stream { stream: number, control });
        }
    }

    fn stream_of(&self, agent: AgentId, stream: u32) -> Option<u32> {
        let of_agent = |asker: &Asker| asker.agent == agent && asker.number == stream;
        self.streams.iter().find(|(_, asker)| of_agent(asker)).map(|(number, _)| *number)
    }

    fn next_number(&mut self) -> u32 {
        self.last_number = self.last_number.checked_add(1).unwrap_or(MAIN_STREAM + 1);
        self.last_number
    }

    fn answer(&mut self, agent: AgentId, request: u32, ask: Ask) {
        let done = |outcome: Result<(), CgroupError>| match outcome {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed { reason: failure::cgroup(error).reason },
        };
        let answer = match ask {
            Ask::Kill => {
                self.killed = true;
                self.kill();
                Answer::Done
            }
            Ask::Pause => done(self.cgroup.freeze()),
            Ask::Resume => done(self.cgroup.thaw()),
            Ask::Stats => match self.cgroup.stats() {
                Ok(stats) => Answer::Stats(stats),
                Err(error) => Answer::Failed { reason: failure::cgroup(error).reason },
            },
            Ask::Processes => {
                let number = self.next_number();
                self.requests.insert(number, Asker { agent, number: request });
                self.tell_guest(&ToGuest::Processes { request: number });
                return;
            }
            Ask::Unknown => Answer::Failed { reason: "this shim is older and does not know how".to_owned() },
        };
        self.reply(agent, request, answer);
    }

    fn reply(&mut self, agent: AgentId, request: u32, answer: Answer) {
        self.agents.send(agent, &FromShim::Reply { request, answer });
    }

    fn tell_guest(&mut self, message: &ToGuest) {
        // Messages of this size always fit a frame; what agents sent was bounded by the same limit.
        if self.guest.send(message).is_err() {
            self.guest_gone = true;
        }
    }

    /// Kills the first process, with which all others of its namespace die, also when frozen.
    fn kill(&self) {
        // It may have ended already, and a group that is not frozen needs no thaw.
        let _ = pidfd_send_signal(&self.machine.handle, Signal::KILL);
        drop(self.cgroup.thaw());
    }

    /// Records the end.
    fn end(mut self, here: &Path, status: WaitStatus) -> Result<Phase, ServeError> {
        let now = folder::now_ms();
        self.log.finish(now);
        if self.phase == Phase::Starting {
            return Ok(Phase::Failed(match self.refused.take() {
                Some(reason) => Failure { reason, by_configuration: true },
                None => Failure {
                    reason: format!("the guest ended before the main process ran ({status:?})"),
                    by_configuration: false,
                },
            }));
        }
        // Unknown counts as no: the group is the shim's own and readable until it is removed.
        let oom_killed = self.cgroup.oom_killed().unwrap_or(false);
        let (code, signal, error) = match self.main_exit {
            Some((code, signal)) => (code, signal, None),
            None => {
                let signal = status.terminating_signal();
                let code = signal.map_or(status.exit_status().unwrap_or(1), |signal| 128 + signal);
                let explained = self.killed || oom_killed;
                (code, signal, (!explained).then(|| "the machine's first process ended by itself".to_owned()))
            }
        };
        let record = ExitRecord { boot_id: self.boot_id, code, signal, oom_killed, at_ms: now, error };
        folder::write_record(here, layout::EXIT, &record, true)?;
        Ok(Phase::Ended(record))
    }
}

struct Ready {
    listener: bool,
    ended: bool,
    agents: Vec<AgentId>,
    guest: bool,
}
