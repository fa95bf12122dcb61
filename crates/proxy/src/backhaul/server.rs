//! The receiving side: other edges send requests for machines of this node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use atoll_catalogue::Snapshot;
use atoll_model::NodeName;
use atoll_model::row::{MachineRow, NodeState};
use http::header::{HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::wire::{self, Address, PING_PATH};
use crate::body::{ClientBody, RequestBody};
use crate::core::Core;
use crate::errors::Cause;
use crate::front::{copy_both_ways, run_tunnel};
use crate::headers;
use crate::node::{Answer, Exchange, Setback, Terms, Tunnel, open, serve};
use crate::select::service_on;
use crate::surroundings::BackhaulTls;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Serves one connection of another edge, for as long as that is a node of the platform.
pub(crate) async fn serve_peer(core: Arc<Core>, stream: TcpStream, tls: Arc<dyn BackhaulTls>) {
    let handshake = TlsAcceptor::from(tls.server()).accept(stream);
    let stream = match tokio::time::timeout(core.edge.config.timeouts.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            core.edge.counters.foreign_peers.one();
            tracing::debug!(%error, "a TLS handshake with another edge failed");
            return;
        }
        Err(_) => return,
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| tls.identify(chain));
    let known = |node: &NodeName| is_member(&core.edge.surroundings.routes.snapshot(), node);
    let Some(peer) = peer.filter(known) else {
        core.edge.counters.foreign_peers.one();
        tracing::warn!("a connection from no edge of this platform was refused");
        return;
    };
    let limits = &core.edge.config.limits;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.backhaul_streams)
        // The sending edge has added to headers that were within its limit.
        .max_header_list_size(u32::try_from(limits.header_bytes * 2).unwrap_or(u32::MAX))
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service_fn(|request| handle(core.clone(), request)));
    let mut connection = std::pin::pin!(connection);
    let shutdown = &core.edge.shutdown;
    let result = tokio::select! {
        result = &mut connection => result,
        () = expulsion(&core, &peer) => {
            tracing::warn!(%peer, "a connection was closed: the node is no longer one of this platform");
            Ok(())
        }
        () = shutdown.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = &mut connection => result,
                () = shutdown.end.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection of another edge broke");
    }
}

fn is_member(snapshot: &Snapshot, node: &NodeName) -> bool {
    snapshot.node(node).is_some_and(|row| row.state != NodeState::Revoked)
}

/// Returns when the node is revoked or gone.
async fn expulsion(core: &Core, peer: &NodeName) {
    let routes = &core.edge.surroundings.routes;
    let mut changes = routes.changes();
    while is_member(&routes.snapshot(), peer) {
        if changes.changed().await.is_err() {
            // The catalogue is no longer kept up to date: what it says stays as it is.
            std::future::pending::<()>().await;
        }
    }
}

async fn handle(core: Arc<Core>, request: Request<Incoming>) -> Result<Response<ClientBody>, Infallible> {
    if request.method() == Method::GET
        && request.uri().path() == PING_PATH
        && Address::read(request.headers()).is_none()
    {
        let mut pong = Response::new(ClientBody::empty());
        *pong.status_mut() = StatusCode::NO_CONTENT;
        return Ok(pong);
    }
    let response = forward(&core, request).await.unwrap_or_else(|setback| {
        core.edge.counters.bounced.one();
        wire::write_setback(setback).map(|()| ClientBody::empty())
    });
    Ok(response)
}

async fn forward(core: &Arc<Core>, mut request: Request<Incoming>) -> Result<Response<ClientBody>, Setback> {
    let address = Address::read(request.headers()).ok_or(Setback::untouched(Cause::NotHere))?;
    let (row, service) = admissible(core, &address)?;
    let protocol = request.extensions_mut().remove::<Protocol>();
    let client = hyper::upgrade::on(&mut request);
    let hold = address.patience.min(core.edge.config.timeouts.hold);
    let terms = Terms { last_resort: address.last_resort, deadline: Instant::now() + hold };
    let exchange = Exchange { core, row: &row, service, terms };
    if protocol.as_ref().is_some_and(|protocol| wire::RAW == protocol.as_str()) {
        let (machine, permit) = open(&exchange).await?;
        let end = core.edge.shutdown.end.clone();
        let copying = async move {
            if let Ok(client) = client.await {
                copy_both_ways(TokioIo::new(client), machine).await;
            }
            drop(permit);
        };
        core.edge.tasks.spawn(async move { end.run_until_cancelled(copying).await });
        return Ok(Response::new(ClientBody::empty()));
    }
    match serve(&exchange, protocol.is_some(), for_machine(request, protocol.as_ref())).await? {
        Answer::Response(mut response) => {
            wire::write_woken(&mut response);
            if protocol.is_some() {
                wire::hide_status(&mut response);
            }
            Ok(response)
        }
        Answer::Tunnel(Tunnel { head, machine, permit }) => {
            let shutdown = core.edge.shutdown.clone();
            let websocket = protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"));
            core.edge.tasks.spawn(async move { run_tunnel(&shutdown, websocket, client, machine, permit).await });
            let mut response = head.map(|()| ClientBody::empty());
            headers::strip_hop_by_hop(response.headers_mut());
            wire::write_woken(&mut response);
            *response.status_mut() = StatusCode::OK;
            Ok(response)
        }
    }
}

/// What the sender believed is checked against what is known here.
fn admissible(core: &Core, address: &Address) -> Result<(Arc<MachineRow>, usize), Setback> {
    let snapshot = core.edge.surroundings.routes.snapshot();
    let row = snapshot
        .machine(&address.machine)
        .filter(|row| row.node == core.edge.config.node)
        .ok_or(Setback::untouched(Cause::NotHere))?;
    if row.cordoned {
        return Err(Setback::untouched(Cause::Cordoned));
    }
    let service = service_on(row, address.port).ok_or(Setback::untouched(Cause::NotHere))?;
    Ok((row.clone(), service))
}

fn for_machine(request: Request<Incoming>, protocol: Option<&Protocol>) -> Request<RequestBody> {
    let (mut parts, body) = request.into_parts();
    parts.version = Version::HTTP_11;
    parts.uri = parts.uri.into_parts().path_and_query.map_or_else(|| Uri::from_static("/"), Uri::from);
    headers::strip_internal(&mut parts.headers);
    let body = match protocol {
        None => RequestBody::Direct(body),
        Some(protocol) => {
            parts.method = Method::GET;
            if let Ok(protocol) = HeaderValue::from_str(protocol.as_str()) {
                headers::set_upgrade(&mut parts.headers, protocol);
            }
            debug_assert!(parts.headers.contains_key(UPGRADE));
            RequestBody::Empty
        }
    };
    Request::from_parts(parts, body)
}
