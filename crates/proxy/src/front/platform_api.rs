//! The platform's own API, which has a name below the app domain: the edge that a user meets hands requests for
//! it to control. What control may have begun is not begun again, but for questions, which change nothing: one on
//! a kept connection that turns out to be dead is asked once more (RFC 9110 sections 9.2.1 and 9.2.2). What the
//! requests are, and who may make them, is not known here.

use std::sync::Arc;
use std::time::Instant;

use atoll_model::reserved::is_api;
use atoll_signals::with_causes;
use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::request::{Entrance, Inbound, Record};
use super::tunnel;
use crate::body::{AtEnd, ClientBody, RequestBody};
use crate::core::{Core, Edge};
use crate::errors::Failure;
use crate::headers;
use crate::node::{Pool, Sender, Tunnel};
use crate::surroundings::PlatformApi;

/// Idle connections of one core to control.
pub(crate) type ApiPool = Pool<()>;

/// Whether a request that is for no app is for the API.
pub(super) fn is_meant(edge: &Edge, entrance: &Entrance, host: Option<&str>) -> bool {
    !entrance.private && host.is_some_and(|host| is_api(host, &edge.config.app_domain))
}

/// Hands a request over, and returns when its answer begins.
pub(super) async fn hand_over(
    core: &Arc<Core>,
    entrance: &Entrance,
    request: Request<Incoming>,
    request_id: &HeaderValue,
    record: &mut Record,
) -> Result<Response<ClientBody>, Failure> {
    let edge = &core.edge;
    let api = edge.surroundings.api.as_ref().ok_or_else(Failure::unknown_host)?;
    if !entrance.tls {
        return Err(Failure::api_without_tls());
    }
    // Nothing is kept of the body, however large it is.
    let inbound = Inbound::take(edge, entrance, request, 0, request_id, record)?;
    let body = match &inbound.body {
        None => RequestBody::Empty,
        // It is played once, so it is whole.
        Some(recording) => recording.play().map_or(RequestBody::Empty, RequestBody::Replay),
    };
    let mut request = Request::new(body);
    *request.method_mut() = inbound.method;
    *request.uri_mut() = inbound.uri;
    *request.headers_mut() = inbound.headers;
    if let Some(protocol) = &inbound.upgrade {
        headers::set_upgrade(request.headers_mut(), protocol.clone());
    }
    let (mut response, sender) = match send(core, api.as_ref(), inbound.upgrade.is_some(), request).await {
        Ok(answered) => answered,
        Err(_) if inbound.body.as_ref().is_some_and(|body| body.stalled()) => return Err(Failure::body_stalled()),
        Err(failure) => return Err(failure),
    };
    if let Some(body) = &inbound.body {
        body.release();
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let machine = hyper::upgrade::on(&mut response);
        let tunnel = Tunnel { head: response.map(drop), machine, permit: None };
        return Ok(tunnel::begin(edge, tunnel, inbound.client_upgrade, inbound.upgrade, record.take()));
    }
    headers::strip_hop_by_hop(response.headers_mut());
    let give_back = GiveBack { pool: core.api.clone(), sender: Some(sender) };
    Ok(response.map(|body| ClientBody::passed(body, Box::new(give_back))))
}

async fn send(
    core: &Core,
    api: &dyn PlatformApi,
    upgrade: bool,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Sender), Failure> {
    // A kept connection may be dead without our knowing: only what may be repeated is sent on one.
    let repeatable = request.method().is_safe() && !upgrade && matches!(request.body(), RequestBody::Empty);
    if let Some(mut kept) = repeatable.then(|| core.api.take(&(), Instant::now())).flatten() {
        match kept.send_request(repetition(&request)).await {
            Ok(response) => return Ok((response, kept)),
            Err(error) => tracing::debug!(error = with_causes(&error), "a kept connection to control was dead"),
        }
    }
    let mut sender = connect(core, api).await?;
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, sender)),
        Err(mut error) => {
            tracing::debug!(error = with_causes(error.error()), "an exchange with control broke");
            // What comes back was not written.
            let unsent = error.take_message().is_some();
            Err(if unsent { Failure::control_unreachable() } else { Failure::control_broke_off() })
        }
    }
}

/// The same request, which has no body.
fn repetition(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut same = Request::new(RequestBody::Empty);
    *same.method_mut() = request.method().clone();
    *same.uri_mut() = request.uri().clone();
    *same.headers_mut() = request.headers().clone();
    same
}

async fn connect(core: &Core, api: &dyn PlatformApi) -> Result<Sender, Failure> {
    let place = core.api_places.clone().try_acquire_owned().map_err(|_| Failure::api_crowded())?;
    let unreachable = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(error = with_causes(error), "control cannot be reached for a request to the API");
        Failure::control_unreachable()
    };
    let stream = api.connect().await.map_err(|error| unreachable(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            // Whoever waits for an answer on it is told by itself.
            tracing::debug!(%error, "a connection to control broke");
        }
        drop(place);
    });
    Ok(sender)
}

/// Lives as long as the answer flows; a connection whose answer came to its end is kept.
struct GiveBack {
    pool: Arc<ApiPool>,
    sender: Option<Sender>,
}

impl AtEnd for GiveBack {
    fn passed(&mut self, _: usize) {}

    fn complete(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.put((), sender, Instant::now());
        }
    }
}
