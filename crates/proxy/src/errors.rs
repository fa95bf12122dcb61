//! What the edge answers when it has to answer itself: a status, a code and one sentence. The codes
//! are those that users know from their platform's logs (`PR03`: no machine took the request).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

use crate::headers::HostError;
use crate::select::{Refusal, Unusable};
use crate::surroundings::WakeError;

pub(crate) const ATOLL_ERROR: HeaderName = HeaderName::from_static("atoll-error");

/// The client took nothing of its answer for too long. Its headers are out by then: the code is for
/// operators, in the access log and in metrics.
pub(crate) const CLIENT_STALLED: &str = "PU05";

/// An answer of the edge itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub status: StatusCode,
    pub code: &'static str,
    /// One sentence for the client; names no address and no node.
    pub text: String,
    form: Form,
}

/// Who reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Users of apps.
    Text,
    /// Clients of the platform's API: JSON as its own errors are, and after how many seconds to try again.
    Api { retry_after: Option<u16> },
}

/// Seconds until control is usually back.
const CONTROL_BACK: u16 = 2;

impl Failure {
    fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), form: Form::Text }
    }

    pub fn unknown_host() -> Self {
        Self::new(StatusCode::NOT_FOUND, "PU04", "no app has this host name")
    }

    pub fn bad_host(error: HostError) -> Self {
        let text = match error {
            HostError::Missing => "the request names no host",
            HostError::Ambiguous => "the request names several hosts",
            HostError::Malformed => "what the request names as its host is none",
        };
        Self::new(StatusCode::BAD_REQUEST, "PU04", text)
    }

    pub fn unsupported(text: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "PU04", text)
    }

    pub fn refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoService => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "PR04", "no machine of this app has a service on this port")
            }
            Refusal::ForcedElsewhere => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "PR04",
                "the app has no machine of the kind this request insists on",
            ),
        }
    }

    /// Held for as long as allowed; `cause` is the last thing that went wrong at a machine.
    pub fn held_too_long(waiting_for: Option<Unusable>, cause: Option<Cause>) -> Self {
        let why = waiting_for.map_or("no machine took the request", Unusable::describe);
        match cause {
            Some(cause) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "PR03",
                format!("no machine took the request: {why}; last cause {}", cause.code()),
            ),
            None => Self::new(StatusCode::SERVICE_UNAVAILABLE, "PR04", format!("no machine took the request: {why}")),
        }
    }

    fn of_api(status: StatusCode, code: &'static str, text: &str, retry_after: Option<u16>) -> Self {
        Self { form: Form::Api { retry_after }, ..Self::new(status, code, text) }
    }

    /// Whoever sent a token has shown it to the network: a redirect would hide that.
    pub fn api_without_tls() -> Self {
        Self::of_api(StatusCode::FORBIDDEN, "PU04", "the API is served over HTTPS alone", None)
    }

    /// No byte of the request has reached control.
    pub fn control_unreachable() -> Self {
        let text = "the platform's control process cannot be reached from here at the moment; nothing was done. \
                    Apps go on being served; try again shortly";
        Self::of_api(StatusCode::SERVICE_UNAVAILABLE, Cause::PeerUnreachable.code(), text, Some(CONTROL_BACK))
    }

    /// As many requests as may be are under way to control.
    pub fn api_crowded() -> Self {
        let text = "too many requests to the API are under way here; nothing was done, try again shortly";
        Self::of_api(StatusCode::SERVICE_UNAVAILABLE, Cause::HardLimit.code(), text, Some(CONTROL_BACK))
    }

    /// The request may have reached control, and may not be repeated.
    pub fn control_broke_off() -> Self {
        let text = "the platform's control process broke off before it answered; look whether it was done \
                    before you try again";
        Self::of_api(StatusCode::BAD_GATEWAY, Cause::Broken.code(), text, None)
    }

    pub fn body_stalled() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "PU02", "the request's body did not come in time")
    }

    /// The request may have reached a machine, and may not be repeated.
    pub fn broken(cause: Cause) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, cause.code(), "the machine broke off before it answered")
    }

    /// No machine has seen the request, but too much of its body was read to send it again.
    pub fn not_repeatable(cause: Cause) -> Self {
        let code = cause.code();
        Self::new(
            StatusCode::BAD_GATEWAY,
            "PA01",
            format!("the body is too large to send the request to another machine; last cause {code}"),
        )
    }

    pub fn response(&self) -> Response<Bytes> {
        let (content, kind, retry_after) = match self.form {
            Form::Text => (format!("{}: {}\n", self.code, self.text), "text/plain; charset=utf-8", None),
            Form::Api { retry_after } => (json!({"error": self.text}).to_string(), "application/json", retry_after),
        };
        let mut response = Response::new(Bytes::from(content));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(ATOLL_ERROR, HeaderValue::from_static(self.code));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What went wrong in one attempt at one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    ConnectRefused,
    ConnectTimedOut,
    /// The machine accepts connections and closes them at once.
    ConnectReset,
    ConnectFailed,
    /// The machine does not speak the HTTP/2 its app promised.
    H2Handshake,
    /// The exchange broke before a response came.
    Broken,
    /// The other edge could not be reached or broke off.
    PeerUnreachable,
    /// The machine is not, or no longer, where the catalogue said.
    NotHere,
    NotRunning,
    Cordoned,
    HardLimit,
    WakeFailed,
    WakeTimedOut,
    NotStartable,
    /// The node's worker does not answer.
    WorkerAway,
}

/// Every cause with its code: the code is also how edges tell each other.
const CAUSES: [(Cause, &str); 15] = [
    (Cause::ConnectRefused, "PC02"),
    (Cause::ConnectTimedOut, "PC05"),
    (Cause::ConnectReset, "PC03"),
    (Cause::ConnectFailed, "PC06"),
    (Cause::H2Handshake, "PU01"),
    (Cause::Broken, "PU02"),
    (Cause::PeerUnreachable, "PU03"),
    (Cause::NotHere, "PR02"),
    (Cause::NotRunning, "PM11"),
    (Cause::Cordoned, "PM07"),
    (Cause::HardLimit, "PL02"),
    (Cause::WakeFailed, "PM02"),
    (Cause::WakeTimedOut, "PM03"),
    (Cause::NotStartable, "PM08"),
    (Cause::WorkerAway, "PM01"),
];

impl Cause {
    pub fn code(self) -> &'static str {
        CAUSES.iter().find(|(cause, _)| *cause == self).map_or("PU02", |(_, code)| code)
    }

    pub fn from_code(code: &str) -> Option<Self> {
        CAUSES.iter().find(|(_, known)| *known == code).map(|(cause, _)| *cause)
    }

    pub fn of_connect(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::ConnectRefused,
            std::io::ErrorKind::TimedOut => Self::ConnectTimedOut,
            _ => Self::ConnectFailed,
        }
    }
}

impl From<&WakeError> for Cause {
    fn from(error: &WakeError) -> Self {
        match error {
            WakeError::NotFound(_) => Self::NotHere,
            WakeError::NotStartable { .. } => Self::NotStartable,
            WakeError::TimedOut(_) => Self::WakeTimedOut,
            WakeError::Failed { .. } => Self::WakeFailed,
            WakeError::Unavailable(_) => Self::WorkerAway,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_means_one_cause() {
        for (cause, code) in CAUSES {
            assert_eq!(Cause::from_code(code), Some(cause));
            assert_eq!(cause.code(), code);
        }
        assert_eq!(Cause::from_code("PR99"), None);
    }
}
