//! The agent's connection to one shim: requests and answers, running commands, and the machine's
//! phase. Two tasks own the socket's halves; both end with it, and then everything waiting learns
//! that the shim is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_guest_protocol::process::{StreamControl, StreamEvent};
use atoll_guest_protocol::shim::{Answer, Ask, FromShim, Phase, ToShim};
use atoll_guest_protocol::{Channel, Decoder, Frame, MAIN_STREAM, Versions, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

/// Encoded messages waiting for the socket.
const OUTGOING_MAX: usize = 64;
/// Longest wait for an answer: a shim answers at once, freezing and listing take moments.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
const READ_SIZE: usize = 64 * 1024;

/// What arrives for one stream.
#[derive(Debug)]
pub enum Arrival {
    Data(Channel, Vec<u8>),
    Event(StreamEvent),
}

/// Where a stream's arrivals go. Its length is bounded by the stream's window, which the receiver
/// alone opens again.
pub type Arrivals = mpsc::UnboundedSender<Arrival>;

/// The shim is gone, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the machine's shim is gone")]
    Gone,
    #[error("the machine's shim does not answer within {} s", ANSWER_PATIENCE.as_secs())]
    Silent,
    #[error("the machine's shim could not: {0}")]
    Failed(String),
    #[error("the message does not fit the protocol")]
    Encode(#[from] frame::FrameError),
}

/// Whether the machine runs, as far as this connection knows.
#[derive(Clone, Debug)]
pub enum Known {
    Phase(Phase),
    /// The connection ended without the machine's end having been said.
    Gone,
}

#[derive(Debug, Default)]
struct Routes {
    streams: HashMap<u32, Arrivals>,
    answers: HashMap<u32, oneshot::Sender<Answer>>,
    /// No more can be added: the reading task has ended.
    closed: bool,
    last: u32,
}

/// A connection to a shim. Dropping it closes the connection at once, so that a shim which is only
/// coming up knows that nobody wants it any more.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    outgoing: mpsc::Sender<Vec<u8>>,
    routes: Arc<Mutex<Routes>>,
    known: watch::Receiver<Known>,
}

impl Link {
    /// Greets the shim and begins to listen.
    pub async fn open(stream: UnixStream) -> Result<Self, LinkError> {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (publish, known) = watch::channel(Known::Phase(Phase::Starting));
        let routes = Arc::new(Mutex::new(Routes { last: MAIN_STREAM, ..Routes::default() }));
        let socket = stream.as_fd().try_clone_to_owned().map_err(|_| LinkError::Gone)?;
        let (reader, writer) = stream.into_split();
        tokio::spawn(write(writer, queue));
        tokio::spawn(read(reader, Arc::clone(&routes), publish));
        let link = Self { socket, outgoing, routes, known };
        link.send(&ToShim::Hello(Versions::OURS)).await?;
        Ok(link)
    }

    /// What is known of the machine, and every change.
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }

    pub async fn send(&self, message: &ToShim) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::encode_control(&mut bytes, message)?;
        self.outgoing.send(bytes).await.map_err(|_| LinkError::Gone)
    }

    pub async fn send_stdin(&self, stream: u32, data: &[u8]) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::encode_data(&mut bytes, Channel::Stdin, stream, data);
        self.outgoing.send(bytes).await.map_err(|_| LinkError::Gone)
    }

    pub async fn control(&self, stream: u32, control: StreamControl) -> Result<(), LinkError> {
        self.send(&ToShim::Stream { stream, control }).await
    }

    /// Asks and waits for the answer.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, LinkError> {
        let (sender, answer) = oneshot::channel();
        let request = self.add(|routes, number| drop(routes.answers.insert(number, sender)))?;
        self.send(&ToShim::Request { request, ask }).await?;
        let answer = tokio::time::timeout(ANSWER_PATIENCE, answer).await;
        if answer.is_err() {
            lock(&self.routes).answers.remove(&request);
        }
        match answer.map_err(|_| LinkError::Silent)?.map_err(|_| LinkError::Gone)? {
            Answer::Failed { reason } => Err(LinkError::Failed(reason)),
            answer => Ok(answer),
        }
    }

    /// A new stream's number, whose arrivals go to `arrivals`.
    pub fn add_stream(&self, arrivals: Arrivals) -> Result<u32, LinkError> {
        self.add(|routes, number| drop(routes.streams.insert(number, arrivals)))
    }

    pub fn remove_stream(&self, stream: u32) {
        lock(&self.routes).streams.remove(&stream);
    }

    fn add(&self, insert: impl FnOnce(&mut Routes, u32)) -> Result<u32, LinkError> {
        let mut routes = lock(&self.routes);
        if routes.closed {
            return Err(LinkError::Gone);
        }
        routes.last = routes.last.checked_add(1).unwrap_or(MAIN_STREAM + 1);
        let number = routes.last;
        insert(&mut routes, number);
        Ok(number)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Fails only when the shim has closed it already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

/// The maps stay valid whatever a holder of the lock was doing when it panicked.
fn lock(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        // The reading task notices the same end and tells everybody.
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read(reader: OwnedReadHalf, routes: Arc<Mutex<Routes>>, publish: watch::Sender<Known>) {
    if let Err(error) = listen(reader, &routes, &publish).await {
        tracing::debug!(%error, "the connection to a shim ended");
    }
    let mut routes = lock(&routes);
    routes.closed = true;
    routes.streams.clear();
    routes.answers.clear();
    drop(routes);
    publish.send_if_modified(|known| match known {
        Known::Phase(Phase::Ended(_) | Phase::Failed(_)) | Known::Gone => false,
        Known::Phase(_) => {
            *known = Known::Gone;
            true
        }
    });
}

async fn listen(
    mut reader: OwnedReadHalf,
    routes: &Mutex<Routes>,
    publish: &watch::Sender<Known>,
) -> Result<(), io::Error> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; READ_SIZE];
    loop {
        match reader.read(&mut chunk).await? {
            0 => return Ok(()),
            count => decoder.push(&chunk[..count]),
        }
        while let Some(frame) = decoder.next_frame().map_err(|error| invalid(&error))? {
            match frame {
                Frame::Data { channel, stream, bytes } => deliver(routes, stream, Arrival::Data(channel, bytes)),
                Frame::Control(body) => match frame::parse(&body).map_err(|error| invalid(&error))? {
                    FromShim::Hello(theirs) => {
                        Versions::OURS.agree(theirs).map_err(|error| invalid(&error))?;
                    }
                    FromShim::Machine(Phase::Unknown) | FromShim::Unknown => {}
                    FromShim::Machine(phase) => drop(publish.send_replace(Known::Phase(phase))),
                    FromShim::Stream { stream, event } => deliver(routes, stream, Arrival::Event(event)),
                    FromShim::Reply { request, answer } => {
                        if let Some(asker) = lock(routes).answers.remove(&request) {
                            // Who asked may have given up waiting.
                            drop(asker.send(answer));
                        }
                    }
                },
            }
        }
    }
}

fn deliver(routes: &Mutex<Routes>, stream: u32, arrival: Arrival) {
    if let Some(arrivals) = lock(routes).streams.get(&stream) {
        // A receiver that is gone has said so to the shim.
        drop(arrivals.send(arrival));
    }
}
