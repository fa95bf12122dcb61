//! The way to other edges: one core's connections, and one request over them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use atoll_model::NodeName;
use atoll_signals::with_causes;
use futures_util::future::join_all;
use http::header::HeaderValue;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use tokio::sync::OnceCell;

use super::connect::{ConnectError, connect};
use super::wire::{self, Address};
use crate::body::{AtEnd, ClientBody, RequestBody};
use crate::core::{Core, Edge};
use crate::errors::Cause;
use crate::headers;
use crate::node::{Answer, Setback, Terms, Tunnel};
use crate::select::Target;

/// Stands for "the edge I am connected to"; the request's own host travels as a header.
const AUTHORITY: &str = "edge";

/// Tries to hand one request to a connection: the second finds a new one if the first had ended.
const SENDS: usize = 2;

/// Connections of one core to other edges, one a node.
#[derive(Default)]
pub(crate) struct Peers {
    slots: Mutex<HashMap<NodeName, Slot>>,
}

/// A connection, or one that is being made: all who need it wait for the same attempt.
#[derive(Clone)]
struct Slot {
    address: SocketAddr,
    connection: Arc<OnceCell<SendRequest<RequestBody>>>,
}

impl Peers {
    /// Sends `request` to the node of `target`, and returns when its answer begins.
    pub async fn send(
        &self,
        core: &Core,
        target: &Target,
        port: u16,
        terms: Terms,
        upgrade: Option<&HeaderValue>,
        request: Request<RequestBody>,
    ) -> Result<Answer, Setback> {
        let node = &target.machine.node;
        let patience = terms.deadline.saturating_duration_since(Instant::now());
        let address = Address { machine: target.machine.id, port, last_resort: terms.last_resort, patience };
        let mut request = for_peer(request, &address, upgrade).ok_or(Setback::untouched(Cause::Broken))?;
        for _ in 0..SENDS {
            let mut connection = self.connection(&core.edge, node).await.map_err(|error| {
                tracing::debug!(%node, error = with_causes(&error), "another edge cannot be reached");
                Setback::untouched(Cause::PeerUnreachable)
            })?;
            match connection.try_send_request(request).await {
                Ok(response) => return read_answer(response, upgrade.is_some()),
                Err(mut error) => match error.take_message() {
                    // The connection had ended before; the next one is new.
                    Some(unsent) => request = unsent,
                    None => {
                        let error = error.into_error();
                        tracing::debug!(%node, error = with_causes(&error), "an exchange with another edge broke");
                        return Err(broken(&error));
                    }
                },
            }
        }
        Err(Setback::untouched(Cause::PeerUnreachable))
    }

    /// Opens a raw connection to a service of the machine of `target`.
    pub async fn open(&self, core: &Core, target: &Target, port: u16, terms: Terms) -> Result<Answer, Setback> {
        let mut request = Request::new(RequestBody::Empty);
        *request.uri_mut() = Uri::from_static("/");
        self.send(core, target, port, terms, Some(&wire::RAW), request).await
    }

    async fn connection(&self, edge: &Edge, node: &NodeName) -> Result<SendRequest<RequestBody>, ConnectError> {
        let no_address = || ConnectError::NoAddress(node.clone());
        let tls = edge.surroundings.backhaul.as_ref().ok_or_else(no_address)?;
        let snapshot = edge.surroundings.routes.snapshot();
        let address = snapshot.node(node).and_then(|row| row.backhaul).ok_or_else(no_address)?;
        let slot = self.slot(node, address);
        let opened = slot
            .connection
            .get_or_try_init(|| connect(tls, node, address, edge.config.timeouts.backhaul_connect))
            .await?;
        Ok(opened.clone())
    }

    fn slot(&self, node: &NodeName, address: SocketAddr) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Slot { address, connection: Arc::default() };
        let slot = slots.entry(node.clone()).or_insert_with(fresh);
        let closed = slot.connection.get().is_some_and(SendRequest::is_closed);
        if slot.address != address || closed {
            *slot = fresh();
        }
        slot.clone()
    }

    /// Opens the connections that are missing, so that no request has to wait for one.
    pub async fn warm(&self, edge: &Edge) {
        let reachability = edge.reachability.load_full();
        let nodes: Vec<&NodeName> =
            reachability.paths.iter().filter(|(_, path)| path.reachable).map(|(node, _)| node).collect();
        for opened in join_all(nodes.iter().map(|node| self.connection(edge, node))).await {
            if let Err(error) = opened {
                tracing::debug!(error = with_causes(&error), "another edge cannot be reached");
            }
        }
    }

    /// Closes connections to nodes that are no longer `kept`.
    pub fn retain(&self, kept: impl Fn(&NodeName) -> bool) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).retain(|node, _| kept(node));
    }
}

/// A peer that refuses a stream promises not to have looked at it.
fn broken(error: &hyper::Error) -> Setback {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match source.and_then(h2::Error::reason) {
        Some(h2::Reason::REFUSED_STREAM) => Setback::untouched(Cause::PeerUnreachable),
        _ => Setback::perhaps(Cause::PeerUnreachable),
    }
}

fn for_peer(
    mut request: Request<RequestBody>,
    address: &Address,
    upgrade: Option<&HeaderValue>,
) -> Option<Request<RequestBody>> {
    *request.uri_mut() = peer_uri(request.uri().path_and_query()?.clone())?;
    *request.version_mut() = Version::HTTP_2;
    if let Some(protocol) = upgrade {
        headers::strip_hop_by_hop(request.headers_mut());
        request.headers_mut().remove(http::header::CONTENT_LENGTH);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(protocol.to_str().ok()?));
    }
    address.write(request.headers_mut());
    Some(request)
}

pub(super) fn peer_uri(path: PathAndQuery) -> Option<Uri> {
    Uri::builder().scheme(Scheme::HTTPS).authority(AUTHORITY).path_and_query(path).build().ok()
}

fn read_answer(mut response: Response<Incoming>, upgrade: bool) -> Result<Answer, Setback> {
    if let Some(setback) = wire::read_setback(response.headers()) {
        return Err(setback);
    }
    wire::read_woken(&mut response);
    if upgrade && response.status() == StatusCode::OK {
        let machine = hyper::upgrade::on(&mut response);
        let mut head = response.map(drop);
        *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        return Ok(Answer::Tunnel(Tunnel { head, machine, permit: None }));
    }
    wire::unhide_status(&mut response);
    Ok(Answer::Response(response.map(|body| ClientBody::passed(body, Box::new(Unguarded)))))
}

/// The other edge keeps count of the machine.
struct Unguarded;

impl AtEnd for Unguarded {
    fn passed(&mut self, _: usize) {}

    fn complete(&mut self) {}
}
