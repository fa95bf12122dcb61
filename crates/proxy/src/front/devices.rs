//! Users' devices whose networks let no UDP through: their WireGuard datagrams come in a WebSocket to the
//! server's own address, and are handed to whoever lets devices in on this server. What they are is not
//! known here, nor who sends them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::request::{Entrance, Record};
use super::tunnel;
use crate::body::ClientBody;
use crate::core::Edge;
use crate::errors::{Cause, Failure};
use crate::headers;
use crate::node::Tunnel;

/// By when the other process must have switched protocols.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether a request that is for no app is a device's: a WebSocket at an address instead of a name.
pub(super) fn is_meant<B>(entrance: &Entrance, request: &Request<B>, host: Option<&str>) -> bool {
    let host = host.unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let upgrade = headers::wanted_upgrade(request.version(), request.headers());
    !entrance.private
        && request.uri().path() == "/"
        && host.parse::<IpAddr>().is_ok()
        && upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(tunnel::WEBSOCKET))
}

/// Hands a device's connection over.
pub(super) async fn hand_over(
    edge: &Arc<Edge>,
    socket: &Path,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<ClientBody>, Failure> {
    let client = hyper::upgrade::on(&mut request);
    let upgrade = headers::wanted_upgrade(request.version(), request.headers());
    let (mut parts, _) = request.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_platform(&mut parts.headers);
    if let Some(protocol) = &upgrade {
        headers::set_upgrade(&mut parts.headers, protocol.clone());
    }
    let request = Request::from_parts(parts, Empty::<Bytes>::new());
    let switched = tokio::time::timeout(LIMIT, switch(socket, request)).await;
    let tunnel = switched.ok().flatten().ok_or(Failure::broken(Cause::ConnectFailed))?;
    Ok(tunnel::begin(edge, tunnel, client, upgrade, record.take()))
}

async fn switch(socket: &Path, request: Request<Empty<Bytes>>) -> Option<Tunnel> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection for a user's device broke");
        }
    });
    let mut response = sender.send_request(request).await.ok()?;
    let machine = hyper::upgrade::on(&mut response);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    switched.then(|| Tunnel { head: response.map(drop), machine, permit: None })
}
