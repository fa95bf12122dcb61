//! Which headers cross the edge, and which it sets itself.

mod host;

use std::net::IpAddr;

use atoll_model::RegionCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Uri, Version};

pub(crate) use host::{HostError, requested_host};

const FLY_CLIENT_IP: HeaderName = HeaderName::from_static("fly-client-ip");
const FLY_FORWARDED_PORT: HeaderName = HeaderName::from_static("fly-forwarded-port");
const FLY_SRC: HeaderName = HeaderName::from_static("fly-src");
const FLY_REGION: HeaderName = HeaderName::from_static("fly-region");
pub(crate) const FLY_REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
const PREFERRED_UNAVAILABLE: HeaderName = HeaderName::from_static("fly-preferred-instance-unavailable");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers that only the platform may set: a client that sends them is impersonating it.
const PLATFORM_ONLY: [&str; 7] = [
    "fly-src",
    "fly-src-signature",
    "fly-replay-src",
    "fly-replay-failed",
    "fly-replay-cache-status",
    "fly-preferred-instance-unavailable",
    "fly-src-optin",
];

/// Headers between edges, never seen by clients or machines.
pub(crate) const INTERNAL_PREFIX: &str = "atoll-";

/// What the edge knows of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub client: IpAddr,
    /// The address the client connected to.
    pub entered: IpAddr,
    /// The port it really connected to.
    pub port: u16,
    pub tls: bool,
}

/// Removes what concerns one connection only, including what `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    // Trailers pass through the edge; nothing else that TE may ask for does.
    if headers.contains_key(header::TE) {
        let trailers = headers.get_all(header::TE).iter().any(asks_for_trailers);
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

fn asks_for_trailers(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|list| list.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

/// The protocol an HTTP/1.1 request wants to switch to; `h2c` is not offered.
pub(crate) fn wanted_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE)?;
    (version == Version::HTTP_11 && named && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
        .then(|| protocol.clone())
}

/// Marks a request or an answer as switching to `protocol`.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Removes everything from a client's request that only the platform may say.
pub(crate) fn strip_platform(headers: &mut HeaderMap) {
    for name in PLATFORM_ONLY {
        headers.remove(name);
    }
    strip_internal(headers);
}

/// Whether a machine must never see a header of this name as a client sent it.
pub(crate) fn is_kept_from_machines(name: &HeaderName) -> bool {
    const CONNECTION_ONLY: [HeaderName; 5] =
        [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
    let name_text = name.as_str();
    CONNECTION_ONLY.contains(name) || PLATFORM_ONLY.contains(&name_text) || name_text.starts_with(INTERNAL_PREFIX)
}

/// Removes what edges tell each other.
pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(INTERNAL_PREFIX)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

/// Adds what a machine is told about a request.
pub(crate) fn add_request_facts(
    headers: &mut HeaderMap,
    version: Version,
    facts: &Facts,
    edge: RegionCode,
    request_id: &HeaderValue,
) {
    headers.insert(FLY_CLIENT_IP, text(&facts.client.to_string()));
    append_to_list(headers, X_FORWARDED_FOR, &format!("{}, {}", facts.client, facts.entered));
    let (proto, ssl) = if facts.tls { ("https", "on") } else { ("http", "off") };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(X_FORWARDED_SSL, HeaderValue::from_static(ssl));
    headers.entry(X_FORWARDED_PORT).or_insert_with(|| HeaderValue::from(facts.port));
    headers.insert(FLY_FORWARDED_PORT, HeaderValue::from(facts.port));
    headers.insert(FLY_REGION, text(edge.as_str()));
    headers.insert(FLY_REQUEST_ID, request_id.clone());
    add_via(headers, version);
}

/// Says which machine a request comes from.
pub(crate) fn add_source(headers: &mut HeaderMap, source: &str) {
    headers.insert(FLY_SRC, text(source));
}

/// Adds what a client is told with an answer.
pub(crate) fn add_response_facts(headers: &mut HeaderMap, version: Version, request_id: &HeaderValue) {
    headers.insert(FLY_REQUEST_ID, request_id.clone());
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    add_via(headers, version);
}

const SERVER: &str = concat!("Atoll/", env!("CARGO_PKG_VERSION"));

fn add_via(headers: &mut HeaderMap, version: Version) {
    let hop = match version {
        Version::HTTP_09 => "0.9 atoll",
        Version::HTTP_10 => "1.0 atoll",
        Version::HTTP_2 => "2 atoll",
        Version::HTTP_3 => "3 atoll",
        _ => "1.1 atoll",
    };
    append_to_list(headers, header::VIA, hop);
}

pub(crate) fn preferred_unavailable(headers: &mut HeaderMap, machine: atoll_model::MachineId) {
    headers.insert(PREFERRED_UNAVAILABLE, text(&machine.to_string()));
}

fn append_to_list(headers: &mut HeaderMap, name: HeaderName, addition: &str) {
    let mut list = String::new();
    for value in headers.get_all(&name) {
        // A list that is no text is not worth carrying on.
        if let Ok(value) = value.to_str() {
            list.push_str(value);
            list.push_str(", ");
        }
    }
    list.push_str(addition);
    headers.insert(name, text(&list));
}

/// For texts of our own: addresses, ids and codes are always valid header values.
pub(crate) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The URI of a request for a plain HTTP/2 server, which wants its host in it.
pub(crate) fn absolute(uri: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let path = uri.path_and_query()?.clone();
    Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(path).build().ok()
}

#[cfg(test)]
mod tests;
