//! A command beside the main process: two tasks carry its input and output, each at the pace of the
//! other side.

use std::sync::Arc;

use atoll_guest_protocol::frame::MAX_DATA;
use atoll_guest_protocol::process::{StreamControl, StreamEvent, Terminal};
use atoll_guest_protocol::{Channel, WINDOW};
use tokio::sync::{Semaphore, mpsc};

use super::launch;
use super::link::{Arrival, Link, LinkError};
use crate::{ExecInput, ExecOutput, ExecSpec, ExecStreams};

/// Messages waiting on either side of a command.
const QUEUE: usize = 16;

/// Why a command did not start.
#[derive(Debug)]
pub enum ExecError {
    Refused(String),
    Link(LinkError),
}

impl From<LinkError> for ExecError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// Starts a command and returns when its program was executed.
pub async fn start(link: Arc<Link>, exec: &ExecSpec) -> Result<ExecStreams, ExecError> {
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let stream = link.add_stream(sender)?;
    // Dropped before the command is known to run, it must not be left running.
    let started = Abandoned { link: Arc::clone(&link), stream, armed: true };
    let process = launch::process(&exec.process, exec.terminal);
    link.control(stream, StreamControl::Start(process)).await?;
    loop {
        match arrivals.recv().await {
            Some(Arrival::Event(StreamEvent::Started { .. })) => break,
            Some(Arrival::Event(StreamEvent::Refused { reason })) => return Err(ExecError::Refused(reason)),
            Some(_) => {}
            None => return Err(LinkError::Gone.into()),
        }
    }
    let (input, requests) = mpsc::channel(QUEUE);
    let (results, output) = mpsc::channel(QUEUE);
    let window = Arc::new(Semaphore::new(WINDOW));
    tokio::spawn(carry_input(Arc::clone(&link), stream, requests, Arc::clone(&window)));
    tokio::spawn(carry_output(started, arrivals, results, window));
    Ok(ExecStreams { input, output })
}

/// Ends a stream when dropped, so that a caller that stops waiting leaves no command behind.
struct Abandoned {
    link: Arc<Link>,
    stream: u32,
    armed: bool,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.link.remove_stream(self.stream);
        if self.armed {
            let (link, stream) = (Arc::clone(&self.link), self.stream);
            tokio::spawn(async move {
                // With the shim gone, so is the command.
                drop(link.control(stream, StreamControl::Abandon).await);
            });
        }
    }
}

/// Ends when the caller closes its input or the command has ended.
async fn carry_input(link: Arc<Link>, stream: u32, mut requests: mpsc::Receiver<ExecInput>, window: Arc<Semaphore>) {
    let mut open = true;
    while let Some(request) = requests.recv().await {
        let sent = match request {
            ExecInput::Stdin(bytes) if open => send_stdin(&link, stream, &bytes, &window).await,
            ExecInput::Stdin(_) => Ok(()),
            ExecInput::CloseStdin => {
                open = false;
                link.control(stream, StreamControl::CloseStdin).await
            }
            ExecInput::Resize { rows, columns } => {
                link.control(stream, StreamControl::Resize(Terminal { rows, columns })).await
            }
            ExecInput::Signal(signal) => link.control(stream, StreamControl::Signal { signal }).await,
        };
        if sent.is_err() {
            return;
        }
    }
    // With the shim gone there is no input to close.
    drop(link.control(stream, StreamControl::CloseStdin).await);
}

async fn send_stdin(link: &Link, stream: u32, bytes: &[u8], window: &Semaphore) -> Result<(), LinkError> {
    for part in bytes.chunks(MAX_DATA) {
        // At most MAX_DATA, which fits the number.
        let permit = window.acquire_many(part.len() as u32).await.map_err(|_| LinkError::Gone)?;
        permit.forget();
        link.send_stdin(stream, part).await?;
    }
    Ok(())
}

/// Ends when the command has, or when the caller no longer listens, which kills the command.
async fn carry_output(
    mut command: Abandoned,
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
    results: mpsc::Sender<ExecOutput>,
    window: Arc<Semaphore>,
) {
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            () = results.closed() => None,
        };
        let result = match arrival {
            Some(Arrival::Data(channel, bytes)) => {
                let credit = StreamControl::Credit { bytes: bytes.len() as u32 };
                let result = match channel {
                    Channel::Stderr => ExecOutput::Stderr(bytes),
                    _ => ExecOutput::Stdout(bytes),
                };
                if results.send(result).await.is_err() {
                    break;
                }
                // An error shows as the end of arrivals.
                drop(command.link.control(command.stream, credit).await);
                continue;
            }
            Some(Arrival::Event(StreamEvent::Credit { bytes })) => {
                let missing = WINDOW.saturating_sub(window.available_permits());
                window.add_permits(missing.min(bytes as usize));
                continue;
            }
            Some(Arrival::Event(StreamEvent::Exit { code, signal })) => {
                command.armed = false;
                ExecOutput::Exit { code, signal }
            }
            Some(Arrival::Event(_)) => continue,
            None => break,
        };
        // The caller may not care how it ended.
        drop(results.send(result).await);
        break;
    }
    // Wakes input that waits for the command to take more.
    window.close();
}
