//! Connections that became something else than HTTP: bytes are copied both ways until both ends are
//! through. Buffers begin small and grow with the traffic, so that an idle tunnel costs little and a
//! busy one few system calls.

use std::io;
use std::sync::Arc;

use http::Response;
use http::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::request::Record;
use super::websocket::{Frames, GOING_AWAY};
use crate::body::ClientBody;
use crate::core::{Edge, Shutdown};
use crate::headers;
use crate::node::{Permit, Tunnel};

pub(super) const WEBSOCKET: &[u8] = b"websocket";
const SMALLEST_BUFFER: usize = 4 << 10;
const LARGEST_BUFFER: usize = 256 << 10;

/// Answers the client that the protocol is switched, and begins to copy once both sides have.
pub(super) fn begin(
    edge: &Arc<Edge>,
    tunnel: Tunnel,
    client: OnUpgrade,
    protocol: Option<HeaderValue>,
    mut record: Record,
) -> Response<ClientBody> {
    let Tunnel { head, machine, permit } = tunnel;
    let mut response = head.map(|()| ClientBody::empty());
    let protocol = response.headers().get(http::header::UPGRADE).cloned().or(protocol);
    headers::strip_hop_by_hop(response.headers_mut());
    if let Some(protocol) = &protocol {
        headers::set_upgrade(response.headers_mut(), protocol.clone());
    }
    let websocket = protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET));
    let shutdown = edge.shutdown.clone();
    edge.tasks.spawn(async move {
        let copied = run_tunnel(&shutdown, websocket, client, machine, permit).await;
        record.tunnelled(copied.from_left, copied.from_right);
    });
    response
}

/// Waits until both sides have switched, then copies until both have ended or the edge does. When the
/// edge drains, the client of a WebSocket is told to go.
pub(crate) async fn run_tunnel(
    shutdown: &Shutdown,
    websocket: bool,
    client: OnUpgrade,
    machine: OnUpgrade,
    permit: Option<Permit>,
) -> Copied {
    let mut copied = Copied::default();
    let copying = async {
        let (client, machine) = match tokio::try_join!(client, machine) {
            Ok((client, machine)) => (TokioIo::new(client), TokioIo::new(machine)),
            Err(error) => {
                tracing::debug!(%error, "a connection that was to be upgraded broke off");
                return;
            }
        };
        let going_away = websocket.then_some(&shutdown.drain);
        copy_until_end(client, machine, going_away, &mut copied).await;
    };
    // What had passed by then is counted all the same.
    shutdown.end.run_until_cancelled(copying).await;
    drop(permit);
    copied
}

/// Bytes that passed; the client is on the left.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub from_left: u64,
    pub from_right: u64,
}

/// Copies until both directions have ended; an error in either ends both.
pub(crate) async fn copy_both_ways<L, R>(left: L, right: R) -> Copied
where
    L: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let mut copied = Copied::default();
    copy_until_end(left, right, None, &mut copied).await;
    copied
}

async fn copy_until_end<L, R>(left: L, right: R, going_away: Option<&CancellationToken>, copied: &mut Copied)
where
    L: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let (left_read, left_write) = tokio::io::split(left);
    let (right_read, right_write) = tokio::io::split(right);
    let there = copy(left_read, right_write, &mut copied.from_left);
    let back = async {
        match going_away {
            None => copy(right_read, left_write, &mut copied.from_right).await,
            Some(signal) => copy_frames(right_read, left_write, signal, &mut copied.from_right).await,
        }
    };
    if let Err(error) = tokio::try_join!(there, back) {
        tracing::debug!(%error, "a tunnel broke off");
    }
}

/// Copies one direction and passes its end on.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, copied: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0; SMALLEST_BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        pass_on(&buffer[..read], &mut to, copied).await?;
        grow(&mut buffer, read);
    }
}

/// Copies a server's WebSocket frames. On the signal, and between two frames, it says goodbye instead;
/// the client then closes, which the machine learns by the other direction.
async fn copy_frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    signal: &CancellationToken,
    copied: &mut u64,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; SMALLEST_BUFFER];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = signal.cancelled(), if frames.between() => break,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        let first_end = frames.follow(&buffer[..read]);
        if let Some(end) = first_end.filter(|_| signal.is_cancelled()) {
            pass_on(&buffer[..end], &mut to, copied).await?;
            break;
        }
        pass_on(&buffer[..read], &mut to, copied).await?;
        grow(&mut buffer, read);
    }
    pass_on(&GOING_AWAY, &mut to, copied).await?;
    // Nothing may follow a close frame.
    while from.read(&mut buffer).await? > 0 {}
    to.shutdown().await
}

async fn pass_on(bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), copied: &mut u64) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await?;
    *copied += bytes.len() as u64;
    Ok(())
}

/// A read that filled the buffer left more behind.
fn grow(buffer: &mut Vec<u8>, read: usize) {
    if read == buffer.len() && read < LARGEST_BUFFER {
        buffer.resize(read * 4, 0);
    }
}
