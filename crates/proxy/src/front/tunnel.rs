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

use super::request::Record;
use crate::body::ClientBody;
use crate::core::Edge;
use crate::headers;
use crate::node::{Permit, Tunnel};

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
    if let Some(protocol) = protocol {
        headers::set_upgrade(response.headers_mut(), protocol);
    }
    let end = edge.shutdown.end.clone();
    edge.tasks.spawn(async move {
        let copied = end.run_until_cancelled(run_tunnel(client, machine, permit)).await;
        if let Some(Copied { from_left, from_right }) = copied {
            record.tunnelled(from_left, from_right);
        }
    });
    response
}

/// Waits until both sides have switched, then copies until both have ended.
pub(crate) async fn run_tunnel(left: OnUpgrade, right: OnUpgrade, permit: Option<Permit>) -> Copied {
    let copied = match tokio::try_join!(left, right) {
        Ok((left, right)) => copy_both_ways(TokioIo::new(left), TokioIo::new(right)).await,
        Err(error) => {
            tracing::debug!(%error, "a connection that was to be upgraded broke off");
            Copied::default()
        }
    };
    drop(permit);
    copied
}

/// Bytes that passed.
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
    let (left_read, left_write) = tokio::io::split(left);
    let (right_read, right_write) = tokio::io::split(right);
    let mut copied = Copied::default();
    let there = copy(left_read, right_write, &mut copied.from_left);
    let back = copy(right_read, left_write, &mut copied.from_right);
    if let Err(error) = tokio::try_join!(there, back) {
        tracing::debug!(%error, "a tunnel broke off");
    }
    copied
}

/// Copies one direction and passes its end on.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, copied: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0; SMALLEST_BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        *copied += read as u64;
        // A read that filled the buffer left more behind.
        if read == buffer.len() && read < LARGEST_BUFFER {
            buffer.resize(read * 4, 0);
        }
    }
}
