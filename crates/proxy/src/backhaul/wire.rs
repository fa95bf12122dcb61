//! What edges tell each other in headers, beyond the request or answer itself.

use std::time::Duration;

use atoll_model::MachineId;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::errors::Cause;
use crate::headers::text;
use crate::node::{Reached, Setback, Woken};

const MACHINE: HeaderName = HeaderName::from_static("atoll-machine");
const PORT: HeaderName = HeaderName::from_static("atoll-port");
const LAST_RESORT: HeaderName = HeaderName::from_static("atoll-last-resort");
const PATIENCE: HeaderName = HeaderName::from_static("atoll-patience-ms");
const VERDICT: HeaderName = HeaderName::from_static("atoll-verdict");
const STATUS: HeaderName = HeaderName::from_static("atoll-status");
const WOKEN: HeaderName = HeaderName::from_static("atoll-woken-ms");

/// Asked by probes; no machine's path, for it needs no `atoll-machine`.
pub(super) const PING_PATH: &str = "/.atoll/ping";

/// Where a request is to go on the receiving node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub machine: MachineId,
    /// External port: the service is found anew, for the machine may have a new version.
    pub port: u16,
    /// The sender knows no other machine.
    pub last_resort: bool,
    /// How long the request may be held.
    pub patience: Duration,
}

/// The protocol that a raw connection asks for in its CONNECT.
pub(super) const RAW: HeaderValue = HeaderValue::from_static("atoll-tcp");

impl Address {
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(MACHINE, text(&self.machine.to_string()));
        headers.insert(PORT, HeaderValue::from(self.port));
        let patience_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        headers.insert(PATIENCE, HeaderValue::from(patience_ms));
        if self.last_resort {
            headers.insert(LAST_RESORT, HeaderValue::from_static("1"));
        }
    }

    pub fn read(headers: &HeaderMap) -> Option<Self> {
        Some(Self {
            machine: headers.get(MACHINE)?.to_str().ok()?.parse().ok()?,
            port: headers.get(PORT)?.to_str().ok()?.parse().ok()?,
            last_resort: headers.contains_key(LAST_RESORT),
            patience: Duration::from_millis(headers.get(PATIENCE)?.to_str().ok()?.parse().ok()?),
        })
    }
}

/// The head of an answer that brings no answer.
pub(super) fn write_setback(setback: Setback) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    let kind = match setback.reached {
        Reached::No => "bounced",
        Reached::Perhaps => "broken",
    };
    response.headers_mut().insert(VERDICT, text(&format!("{kind};{}", setback.cause.code())));
    response
}

pub(super) fn read_setback(headers: &HeaderMap) -> Option<Setback> {
    let (kind, code) = headers.get(VERDICT)?.to_str().ok()?.split_once(';')?;
    // A newer edge may know more causes.
    let cause = Cause::from_code(code).unwrap_or(Cause::Broken);
    Some(match kind {
        "bounced" => Setback::untouched(cause),
        _ => Setback::perhaps(cause),
    })
}

/// Tells the other edge that the machine had to be woken for this answer.
pub(super) fn write_woken<B>(response: &mut Response<B>) {
    if let Some(Woken { waited }) = response.extensions_mut().remove::<Woken>() {
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(WOKEN, HeaderValue::from(waited_ms));
    }
}

pub(super) fn read_woken<B>(response: &mut Response<B>) {
    let waited = response.headers_mut().remove(WOKEN).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(waited) = waited.map(Duration::from_millis) {
        response.extensions_mut().insert(Woken { waited });
    }
}

/// A success would open a tunnel, so the answer of a machine that did not switch protocols carries
/// its status in a header.
pub(super) fn hide_status<B>(response: &mut Response<B>) {
    let status = response.status();
    response.headers_mut().insert(STATUS, HeaderValue::from(status.as_u16()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
}

pub(super) fn unhide_status<B>(response: &mut Response<B>) {
    let hidden = response.headers_mut().remove(STATUS);
    let status = hidden.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok());
    if let Some(status) = status {
        *response.status_mut() = status;
    }
}

/// Reads another edge's headers and panics where they do not survive being written; for fuzzing.
pub(crate) fn read_back(headers: &HeaderMap) {
    if let Some(address) = Address::read(headers) {
        let mut written = HeaderMap::new();
        address.write(&mut written);
        assert_eq!(Address::read(&written), Some(address));
    }
    if let Some(setback) = read_setback(headers) {
        assert_eq!(read_setback(write_setback(setback).headers()), Some(setback));
    }
    let mut response = Response::new(());
    *response.headers_mut() = headers.clone();
    unhide_status(&mut response);
    read_woken(&mut response);
    assert!(!response.headers().contains_key(STATUS) && !response.headers().contains_key(WOKEN));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_verdicts_survive_the_wire() {
        let address = Address {
            machine: MachineId::from_random(7),
            port: 443,
            last_resort: true,
            patience: Duration::from_secs(3),
        };
        let mut headers = HeaderMap::new();
        address.write(&mut headers);
        assert_eq!(Address::read(&headers), Some(address));
        for setback in [Setback::untouched(Cause::HardLimit), Setback::perhaps(Cause::Broken)] {
            let response = write_setback(setback);
            assert_eq!(read_setback(response.headers()), Some(setback));
        }
        assert_eq!(read_setback(&HeaderMap::new()), None);
    }

    #[test]
    fn a_hidden_status_comes_back() {
        let mut response = Response::new(());
        hide_status(&mut response);
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        unhide_status(&mut response);
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().is_empty());
    }
}
