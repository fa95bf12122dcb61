//! One HTTP request of a client: whose it is, what the machine is told, what the client is told.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use atoll_catalogue::Snapshot;
use atoll_model::AppName;
use atoll_model::reserved::{API, below_app_domain};
use atoll_model::row::MachineRow;
use atoll_model::service::{Handler, HttpOptions, Port};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::devices;
use super::journey::Journey;
use super::pace::Pace;
use super::platform_api;
use super::private;
use super::search::{Destination, Found};
use super::tunnel;
use crate::body::{AtEnd, ClientBody, Recording};
use crate::core::{Core, Edge};
use crate::counters::TrafficClass;
use crate::errors::{CLIENT_STALLED, Failure};
use crate::headers::{self, Facts, HostError};
use crate::node::Answer;
use crate::select::{Refusal, service_on};
use crate::steering::Steering;
use crate::surroundings::AccessEntry;

/// What is known of a connection before its first request.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub tls: bool,
    /// It came from within a private network, to an address there.
    pub private: bool,
    /// The service port this listener stands for; it may listen elsewhere.
    pub external_port: u16,
}

impl Entrance {
    fn facts(&self) -> Facts {
        Facts { client: self.peer.ip(), entered: self.local.ip(), port: self.local.port(), tls: self.tls }
    }
}

/// Answers one request. Never fails: what goes wrong becomes an answer. `pace`: how the client takes it,
/// where that is watched.
pub(crate) async fn handle(
    core: Arc<Core>,
    entrance: Entrance,
    request: Request<Incoming>,
    pace: Option<Arc<Pace>>,
) -> Result<Response<ClientBody>, Infallible> {
    let began = Instant::now();
    let version = request.version();
    let request_id = new_request_id(&core.edge);
    let mut record = Record::new(&core.edge, &request, &request_id, entrance.peer.ip(), began);
    record.pace = pace;
    let outcome = route(&core, &entrance, request, &request_id, &mut record, began).await;
    let (mut response, options) = match outcome {
        Ok(Routed { response, options }) => (response, options),
        Err(failure) => {
            core.edge.counters.failure(failure.code);
            record.entry.error = Some(failure.code);
            (failure.response().map(ClientBody::own), None)
        }
    };
    dress(response.headers_mut(), version, &request_id, options.as_ref());
    let last = core.edge.shutdown.drain.is_cancelled() || core.edge.departure.has_begun();
    if version < Version::HTTP_2 && last && !is_upgrade(&response) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.answered(response.status());
    Ok(match is_upgrade(&response) {
        // The tunnel task holds the record until the tunnel ends.
        true => response,
        false => response.map(|body| body.guarded(Box::new(record))),
    })
}

fn is_upgrade<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

struct Routed {
    response: Response<ClientBody>,
    options: Option<HttpOptions>,
}

async fn route(
    core: &Arc<Core>,
    entrance: &Entrance,
    request: Request<Incoming>,
    request_id: &HeaderValue,
    record: &mut Record,
    began: Instant,
) -> Result<Routed, Failure> {
    let edge = &core.edge;
    let host = requested_host(&request);
    // An address of the app's own needs no host, but nothing that could be read in two ways either.
    if let Err(error @ (HostError::Ambiguous | HostError::Malformed)) = host {
        return Err(Failure::bad_host(error));
    }
    let snapshot = edge.surroundings.routes.snapshot();
    let app = match find_app(edge, &snapshot, entrance, host.as_deref().map_err(|error| *error)) {
        Ok(app) => app,
        Err(failure) => {
            drop(snapshot);
            let host = host.as_deref().ok();
            let response = match &edge.surroundings.devices {
                _ if platform_api::is_meant(edge, entrance, host) => {
                    platform_api::hand_over(core, entrance, request, request_id, record).await?
                }
                Some(socket) if devices::is_meant(entrance, &request, host) => {
                    devices::hand_over(edge, socket, request, record).await?
                }
                _ => return Err(failure),
            };
            return Ok(Routed { response, options: None });
        }
    };
    record.entry.app = Some(app.clone());
    let port = find_port(&snapshot, &app, entrance.external_port)
        .filter(|port| port.has(Handler::Http))
        .ok_or(Failure::refused(Refusal::NoService))?;
    // Private names have no certificates, and what comes by them has not left the platform.
    if port.force_https && !entrance.tls && !entrance.private {
        let response = redirect_to_https(edge, &host.unwrap_or_default(), request.uri());
        return Ok(Routed { response, options: port.http_options.clone() });
    }
    let options = port.http_options.clone();
    let source = private::source(&snapshot, entrance, &edge.config.node, SystemTime::now());
    // Not held while the request is under way: it may take hours.
    drop(snapshot);
    let kept = edge.config.limits.replay_bytes;
    let mut inbound = Inbound::take(edge, entrance, request, kept, request_id, record)?;
    if let Some(source) = source {
        headers::add_source(&mut inbound.headers, &source);
    }
    let steering = Steering::take(&mut inbound.headers);
    let client_upgrade = inbound.client_upgrade;
    let journey = Journey {
        to: Destination { app, port: entrance.external_port, steering, began },
        method: inbound.method,
        uri: inbound.uri,
        headers: inbound.headers,
        body: inbound.body,
        upgrade: inbound.upgrade,
    };
    let Found { result, machine, attempts } = journey.run(core).await;
    record.arrived(machine.as_deref(), attempts);
    let response = match result.inspect(|answer| record.entry.wake = answer.woken())? {
        Answer::Response(response) => response,
        Answer::Tunnel(tunnel) => tunnel::begin(edge, tunnel, client_upgrade, journey.upgrade, record.take()),
    };
    Ok(Routed { response, options })
}

/// A client's request, taken apart: ready to be sent on, with what the edge knows of its client and without
/// what only the platform may say.
pub(super) struct Inbound {
    pub method: Method,
    /// Path and query only.
    pub uri: Uri,
    pub headers: HeaderMap,
    /// `None`: the request has no body.
    pub body: Option<Recording<Incoming>>,
    /// The protocol to switch to.
    pub upgrade: Option<HeaderValue>,
    pub client_upgrade: OnUpgrade,
}

impl Inbound {
    /// Refuses what no machine is sent. `kept`: bytes of the body that are kept for sending it again.
    pub fn take(
        edge: &Edge,
        entrance: &Entrance,
        mut request: Request<Incoming>,
        kept: usize,
        request_id: &HeaderValue,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        check_supported(&request)?;
        let client_upgrade = hyper::upgrade::on(&mut request);
        let (Parts { method, uri, version, mut headers, .. }, body) = request.into_parts();
        let upgrade = headers::wanted_upgrade(version, &headers);
        adopt_authority(&mut headers, &uri);
        headers::strip_hop_by_hop(&mut headers);
        headers::strip_platform(&mut headers);
        headers::add_request_facts(&mut headers, version, &entrance.facts(), edge.config.region, request_id);
        let body = (!body.is_end_stream())
            .then(|| Recording::new(body, kept, edge.replay.clone(), edge.config.timeouts.body_read));
        if let Some(body) = &body {
            record.request_bytes = body.passed();
        }
        Ok(Self { method, uri: origin_form(uri), headers, body, upgrade, client_upgrade })
    }
}

fn requested_host<B>(request: &Request<B>) -> Result<String, HostError> {
    headers::requested_host(request.version() == Version::HTTP_2, request.uri(), request.headers())
}

/// The app a request is for: by the address it entered at, or by its host.
pub(super) fn find_app(
    edge: &Edge,
    snapshot: &Snapshot,
    entrance: &Entrance,
    host: Result<&str, HostError>,
) -> Result<AppName, Failure> {
    if entrance.private {
        return private::called(snapshot, entrance).map(|app| app.name.clone()).ok_or_else(Failure::unknown_host);
    }
    if let Some(app) = snapshot.app_by_address(entrance.local.ip()) {
        return Ok(app.name.clone());
    }
    let host = host.map_err(Failure::bad_host)?;
    app_of_host(edge, snapshot, host).ok_or_else(Failure::unknown_host)
}

pub(super) fn app_of_host(edge: &Edge, snapshot: &Snapshot, host: &str) -> Option<AppName> {
    let default_name = below_app_domain(host, &edge.config.app_domain);
    if default_name == Some(API) {
        return None;
    }
    let by_default_name = default_name.and_then(|label| label.parse::<AppName>().ok());
    match by_default_name.and_then(|name| snapshot.app(&name)) {
        Some(app) => Some(app.name.clone()),
        None => snapshot.app_by_hostname(host).map(|app| app.name.clone()),
    }
}

/// How the app wants an external port handled.
pub(super) fn find_port<'a>(snapshot: &'a Snapshot, app: &AppName, external: u16) -> Option<&'a Port> {
    snapshot
        .machines_of(app)
        .iter()
        .find_map(|machine| machine.services[service_on(machine, external)?].service.port(external))
}

fn redirect_to_https(edge: &Edge, host: &str, uri: &Uri) -> Response<ClientBody> {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let location = match edge.config.public_https_port {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    let mut response = Response::new(ClientBody::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, headers::text(&location));
    response
}

fn check_supported<B>(request: &Request<B>) -> Result<(), Failure> {
    if request.method() == Method::CONNECT {
        return Err(Failure::unsupported("CONNECT is not offered"));
    }
    // The body is framed anew towards the machine, so no other coding may be left on it.
    let only_chunked = request
        .headers()
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    match only_chunked {
        true => Ok(()),
        false => Err(Failure::unsupported("the only transfer coding offered is \"chunked\"")),
    }
}

/// The host of an HTTP/2 request, or of an absolute request line, becomes the `Host` header.
fn adopt_authority(headers: &mut HeaderMap, uri: &Uri) {
    if let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(header::HOST, host);
    }
}

fn origin_form(uri: Uri) -> Uri {
    let path = uri.into_parts().path_and_query;
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Unique, and sorts by time: a ULID and the edge's region.
fn new_request_id(edge: &Edge) -> HeaderValue {
    let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let id = ulid::Ulid::from_parts(u64::try_from(unix_ms).unwrap_or(0), rand::random());
    headers::text(&format!("{id}-{}", edge.config.region))
}

/// The headers of an answer as the client gets it.
fn dress(headers: &mut HeaderMap, version: Version, request_id: &HeaderValue, options: Option<&HttpOptions>) {
    let response = options.and_then(|options| options.response.as_ref());
    if response.is_none_or(|response| response.pristine != Some(true)) {
        headers::add_response_facts(headers, version, request_id);
    }
    let Some(response) = response else { return };
    for (name, value) in &response.headers {
        let Ok(name) = name.parse::<HeaderName>() else { continue };
        headers.remove(&name);
        let values = match value {
            serde_json::Value::Array(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in values.iter().filter_map(|value| HeaderValue::from_str(value.as_str()?).ok()) {
            headers.append(&name, value);
        }
    }
}

/// A request's line in the access log, written when the last byte is through or the client is gone.
pub(super) struct Record {
    edge: Arc<Edge>,
    entry: AccessEntry,
    began: Instant,
    class: TrafficClass,
    request_bytes: Arc<AtomicU64>,
    pace: Option<Arc<Pace>>,
    /// Nothing is written once the record was handed to somebody else.
    live: bool,
}

impl Record {
    fn new(
        edge: &Arc<Edge>,
        request: &Request<Incoming>,
        request_id: &HeaderValue,
        client: IpAddr,
        began: Instant,
    ) -> Self {
        let entry = AccessEntry {
            time: SystemTime::now(),
            client,
            request_id: request_id.to_str().unwrap_or_default().to_owned(),
            app: None,
            machine: None,
            region: None,
            edge: edge.config.region,
            method: request.method().clone(),
            version: request.version(),
            host: requested_host(request).unwrap_or_default(),
            path: request.uri().path().to_owned(),
            status: 0,
            error: None,
            retries: 0,
            wake: None,
            first_byte: Default::default(),
            total: Default::default(),
            request_bytes: 0,
            response_bytes: 0,
        };
        Self {
            edge: edge.clone(),
            entry,
            began,
            class: TrafficClass::SameNode,
            request_bytes: Arc::default(),
            pace: None,
            live: true,
        }
    }

    fn arrived(&mut self, machine: Option<&MachineRow>, attempts: u32) {
        self.entry.retries = attempts.saturating_sub(1);
        let Some(row) = machine else { return };
        self.entry.machine = Some(row.id);
        self.entry.region = Some(row.region);
        self.class = TrafficClass::of(row, &self.edge.config);
    }

    fn answered(&mut self, status: StatusCode) {
        self.entry.status = status.as_u16();
        self.entry.first_byte = self.began.elapsed();
        if self.live {
            self.edge.counters.response(status);
            self.edge.counters.first_byte.observe(self.entry.first_byte);
        }
    }

    /// The record for whoever goes on with the request; this one falls silent.
    pub(super) fn take(&mut self) -> Record {
        let mut taken = Record {
            edge: self.edge.clone(),
            entry: self.entry.clone(),
            began: self.began,
            class: self.class,
            request_bytes: self.request_bytes.clone(),
            pace: self.pace.clone(),
            live: true,
        };
        taken.answered(StatusCode::SWITCHING_PROTOCOLS);
        self.live = false;
        taken
    }

    /// Bytes of an upgraded connection.
    pub fn tunnelled(&mut self, from_client: u64, to_client: u64) {
        self.request_bytes.fetch_add(from_client, Ordering::Relaxed);
        self.entry.response_bytes += to_client;
    }
}

impl AtEnd for Record {
    fn passed(&mut self, bytes: usize) {
        self.entry.response_bytes += bytes as u64;
    }

    fn complete(&mut self) {}
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.live {
            return;
        }
        if self.pace.as_ref().is_some_and(|pace| pace.was_given_up()) {
            self.entry.error = Some(CLIENT_STALLED);
        }
        self.entry.total = self.began.elapsed();
        self.entry.request_bytes = self.request_bytes.load(Ordering::Relaxed);
        self.edge.counters.bytes(self.class).add(self.entry.request_bytes + self.entry.response_bytes);
        self.edge.surroundings.access_log.record(&self.entry);
    }
}
