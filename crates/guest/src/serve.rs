//! The guest's event loop: the channel to the host, the running commands, and ended children.

use std::collections::BTreeMap;
use std::io::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use atoll_guest_protocol::guest::{FromGuest, ToGuest};
use atoll_guest_protocol::process::{Process, StreamControl, StreamEvent};
use atoll_guest_protocol::{Channel, Connection, Frame, FrameError, Incompatible, MAIN_STREAM, Versions, frame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, wait};

use crate::commands::{Command, Ended};
use crate::{processes, spawn};

/// Above this many unsent bytes, output stays in its pipes.
const BACKLOG_MAX: usize = 256 * 1024;
/// Most commands at once beside the main process.
const COMMANDS_MAX: usize = 64;

/// Why the guest ended before its main process did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot prepare the process")]
    Prepare(#[source] rustix::io::Errno),
    #[error("the channel to the host failed")]
    Channel(#[source] Error),
    #[error("the host closed the channel")]
    Closed,
    #[error("the host sent what is not the protocol")]
    Protocol(#[from] FrameError),
    #[error("the host speaks another protocol")]
    Incompatible(#[from] Incompatible),
    #[error("cannot wait for events")]
    Poll(#[source] rustix::io::Errno),
}

struct Guest {
    channel: Connection<UnixStream>,
    commands: BTreeMap<u32, Command>,
    /// The main process's end, once all its output was queued.
    main_ended: bool,
}

/// Serves until the main process has ended and that was reported.
pub fn serve(channel: UnixStream) -> Result<(), ServeError> {
    let children = spawn::child_signals().map_err(ServeError::Channel)?;
    let mut guest = Guest { channel: Connection::new(channel), commands: BTreeMap::new(), main_ended: false };
    guest.channel.send(&FromGuest::Hello(Versions::OURS))?;
    while !(guest.main_ended && guest.channel.backlog() == 0) {
        guest.channel.flush().map_err(ServeError::Channel)?;
        if guest.main_ended && guest.channel.backlog() == 0 {
            break;
        }
        let ready = guest.wait(&children)?;
        if ready.host && !guest.receive()? {
            return Err(ServeError::Closed);
        }
        if ready.children {
            guest.reap(&children);
        }
        guest.carry()?;
    }
    Ok(())
}

struct Ready {
    host: bool,
    children: bool,
}

impl Guest {
    fn wait(&self, children: &OwnedFd) -> Result<Ready, ServeError> {
        let mut events = PollFlags::IN;
        if self.channel.backlog() > 0 {
            events |= PollFlags::OUT;
        }
        let mut fds =
            vec![PollFd::from_borrowed_fd(self.channel.stream().as_fd(), events), PollFd::new(children, PollFlags::IN)];
        let takes_output = self.channel.backlog() < BACKLOG_MAX;
        for command in self.commands.values() {
            fds.extend(command.wants_write().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
            if takes_output {
                fds.extend(command.wants_read().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ServeError::Poll(error)),
        }
        let readable = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok(Ready { host: readable(&fds[0]), children: readable(&fds[1]) })
    }

    /// Takes what the host sent; `false` when it is gone.
    fn receive(&mut self) -> Result<bool, ServeError> {
        let open = self.channel.fill().map_err(ServeError::Channel)?;
        while let Some(frame) = self.channel.next_frame()? {
            match frame {
                Frame::Control(body) => self.obey(frame::parse(&body)?)?,
                Frame::Data { channel: Channel::Stdin, stream, bytes } => {
                    // Input for a process that just ended is for nobody.
                    if let Some(command) = self.commands.get_mut(&stream)
                        && command.push_input(&bytes).is_err()
                    {
                        command.abandon();
                    }
                }
                // Output flows the other way only.
                Frame::Data { .. } => {}
            }
        }
        Ok(open)
    }

    fn obey(&mut self, message: ToGuest) -> Result<(), ServeError> {
        match message {
            ToGuest::Hello(theirs) => {
                Versions::OURS.agree(theirs)?;
            }
            ToGuest::Configure { main } => {
                self.start(MAIN_STREAM, &main)?;
                // A machine without a main process has nothing to do but say so.
                self.main_ended = !self.commands.contains_key(&MAIN_STREAM);
            }
            ToGuest::Stream { stream, control: StreamControl::Start(process) } => self.start(stream, &process)?,
            ToGuest::Stream { stream, control } => self.control(stream, control),
            ToGuest::Processes { request } => {
                self.channel.send(&FromGuest::Processes { request, processes: processes::list() })?;
            }
            ToGuest::Unknown => {}
        }
        Ok(())
    }

    fn start(&mut self, stream: u32, process: &Process) -> Result<(), ServeError> {
        let is_main = stream == MAIN_STREAM;
        let outcome = if self.commands.contains_key(&stream) {
            Err("a process of this number is running".to_owned())
        } else if self.commands.len() > COMMANDS_MAX {
            Err(format!("{COMMANDS_MAX} commands are running, which is the most"))
        } else {
            spawn::spawn(process, !is_main)
        };
        let event = match outcome {
            Ok(spawned) => {
                let event = StreamEvent::Started { pid: spawned.pid.as_raw_nonzero().get().unsigned_abs() };
                self.commands.insert(stream, Command::new(spawned, !is_main));
                event
            }
            Err(reason) => StreamEvent::Refused { reason },
        };
        self.channel.send(&FromGuest::Stream { stream, event })?;
        Ok(())
    }

    fn control(&mut self, stream: u32, control: StreamControl) {
        let Some(command) = self.commands.get_mut(&stream) else { return };
        match control {
            StreamControl::CloseStdin => command.close_input(),
            StreamControl::Credit { bytes } => command.add_credit(bytes as usize),
            // A signal that does not exist or a process that just ended: nothing to tell.
            StreamControl::Signal { signal } => drop(command.signal(signal)),
            StreamControl::Resize(size) => command.resize(size),
            StreamControl::Abandon => command.abandon(),
            StreamControl::Start(_) | StreamControl::Unknown => {}
        }
    }

    /// Reaps every ended child: commands, and orphans that fell to the first process.
    fn reap(&mut self, children: &OwnedFd) {
        // Children are found by waiting; the descriptor is read only to make it quiet again.
        let mut record = [0; 128];
        while rustix::io::read(children, &mut record).is_ok_and(|count| count > 0) {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal();
            let code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(0);
            self.note_end(pid, Ended { code, signal });
        }
    }

    fn note_end(&mut self, pid: Pid, ended: Ended) {
        let command = self.commands.values_mut().find(|command| command.pid == pid && command.ended.is_none());
        if let Some(command) = command {
            command.ended = Some(ended);
        }
    }

    /// Moves input and output on, and reports the ends of processes whose output is all under way.
    fn carry(&mut self) -> Result<(), ServeError> {
        let Self { channel, commands, .. } = self;
        for (&stream, command) in commands.iter_mut() {
            let written = command.write_input();
            if written > 0 {
                let event = StreamEvent::Credit { bytes: written as u32 };
                channel.send(&FromGuest::Stream { stream, event })?;
            }
            while channel.backlog() < BACKLOG_MAX {
                command.read_output(|source, bytes| channel.send_data(source, stream, bytes));
                if !command.can_drain() || command.finished().is_some() {
                    break;
                }
            }
        }
        let finished: Vec<(u32, Ended)> =
            commands.iter().filter_map(|(stream, command)| Some((*stream, command.finished()?))).collect();
        for (stream, Ended { code, signal }) in finished {
            self.commands.remove(&stream);
            self.channel.send(&FromGuest::Stream { stream, event: StreamEvent::Exit { code, signal } })?;
            self.main_ended |= stream == MAIN_STREAM;
        }
        Ok(())
    }
}
