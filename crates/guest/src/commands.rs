//! One started process and its input and output under way. Knows descriptors, not the channel: the
//! caller asks it to read and write and passes on what comes out.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_guest_protocol::frame::MAX_DATA;
use atoll_guest_protocol::process::Terminal;
use atoll_guest_protocol::{Channel, WINDOW};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::spawn::{self, Spawned};

/// End of transmission: what a terminal's line takes as the end of input.
const END_OF_INPUT: u8 = 4;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub signal: Option<i32>,
}

/// A started process.
#[derive(Debug)]
pub struct Command {
    pub pid: Pid,
    stdin: Option<OwnedFd>,
    /// Sent by the host, not yet taken by the process; at most [`WINDOW`] bytes.
    input: Vec<u8>,
    close_stdin: bool,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// Bytes of output the host will still take; none: as many as there are.
    window: Option<usize>,
    pub ended: Option<Ended>,
}

/// More input than the host was allowed to send.
#[derive(Debug)]
pub struct WindowExceeded;

impl Command {
    /// `windowed`: output waits for the host's credit.
    pub fn new(spawned: Spawned, windowed: bool) -> Self {
        let Spawned { pid, stdin, stdout, stderr, terminal } = spawned;
        Self {
            pid,
            stdin,
            input: Vec::new(),
            close_stdin: false,
            stdout: Some(stdout),
            stderr,
            terminal,
            window: windowed.then_some(WINDOW),
            ended: None,
        }
    }

    /// Takes bytes for standard input.
    pub fn push_input(&mut self, bytes: &[u8]) -> Result<(), WindowExceeded> {
        if self.input.len() + bytes.len() > WINDOW {
            return Err(WindowExceeded);
        }
        self.input.extend_from_slice(bytes);
        Ok(())
    }

    /// Standard input ends after what was pushed. A terminal stays open, as its other direction is
    /// the same descriptor: it gets an end-of-input character.
    pub fn close_input(&mut self) {
        if self.terminal.is_some() && !self.close_stdin {
            self.input.push(END_OF_INPUT);
        }
        self.close_stdin = true;
    }

    /// The descriptor to watch for writing, when input waits.
    pub fn wants_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.input.is_empty()).map(AsFd::as_fd)
    }

    /// Writes what the process takes now; returns how many bytes, for the host's credit.
    pub fn write_input(&mut self) -> usize {
        let mut written = 0;
        while let Some(stdin) = self.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            match rustix::io::write(stdin, &self.input) {
                Ok(count) => {
                    self.input.drain(..count);
                    written += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The process closed its input: the rest goes nowhere, and the host may go on.
                Err(_) => {
                    written += self.input.len();
                    self.input.clear();
                    self.stdin = None;
                }
            }
        }
        if self.input.is_empty() && self.close_stdin {
            self.stdin = None;
        }
        written
    }

    /// The host took bytes of output.
    pub fn add_credit(&mut self, bytes: usize) {
        if let Some(window) = &mut self.window {
            *window = window.saturating_add(bytes).min(WINDOW);
        }
    }

    /// The descriptors to watch for output; none while the host takes no more.
    pub fn wants_read(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = self.window != Some(0);
        self.stdout.iter().chain(&self.stderr).filter(move |_| open).map(AsFd::as_fd)
    }

    /// Reads once from each of its outputs what is there and the window allows. After the process
    /// has ended, an output with nothing left is closed even if others still hold it.
    pub fn read_output(&mut self, mut emit: impl FnMut(Channel, &[u8])) {
        let ended = self.ended.is_some();
        for (channel, source) in [(Channel::Stdout, &mut self.stdout), (Channel::Stderr, &mut self.stderr)] {
            let Some(fd) = source else { continue };
            let room = self.window.unwrap_or(MAX_DATA).min(MAX_DATA);
            if room == 0 {
                continue;
            }
            let mut chunk = [0; MAX_DATA];
            match rustix::io::read(fd, &mut chunk[..room]) {
                // A terminal whose last process is gone fails instead of ending.
                Ok(0) | Err(Errno::IO) => *source = None,
                Ok(count) => {
                    if let Some(window) = &mut self.window {
                        *window -= count;
                    }
                    emit(channel, &chunk[..count]);
                }
                Err(Errno::AGAIN) if ended => *source = None,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => *source = None,
            }
        }
    }

    /// The process has ended and all its output was read.
    pub fn finished(&self) -> Option<Ended> {
        self.ended.filter(|_| self.stdout.is_none() && self.stderr.is_none())
    }

    /// Output of an ended process that waits neither for a reader nor for credit.
    pub fn can_drain(&self) -> bool {
        self.ended.is_some() && self.window != Some(0)
    }

    pub fn resize(&self, size: Terminal) {
        if let Some(terminal) = &self.terminal {
            // A terminal whose process is just ending cannot be resized, and need not be.
            let _ = spawn::resize(terminal.as_fd(), size);
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) -> std::io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(ErrorKind::InvalidInput)?;
        if self.ended.is_some() {
            // Reaped: the pid may be another's by now.
            return Ok(());
        }
        Ok(rustix::process::kill_process(self.pid, signal)?)
    }

    /// Kills the process and what shares its group, and drops its descriptors.
    pub fn abandon(&mut self) {
        self.stdin = None;
        self.stdout = None;
        self.stderr = None;
        self.terminal = None;
        if self.ended.is_none() {
            // It may end at this moment, which is what is wanted.
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }
}
