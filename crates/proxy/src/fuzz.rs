//! Everything here that reads what clients, machines and other edges wrote and hyper has not already
//! judged, as functions of bytes alone. They must return for any input, and panic where what passes
//! is not what may pass.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Uri, Version};

use crate::backhaul;
use crate::front::Frames;
use crate::headers;
use crate::steering::Steering;

/// The head of a request: its target on the first line, then headers.
pub fn request_head(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = lines.next().and_then(|line| Uri::try_from(line).ok()).unwrap_or_default();
    let mut head = HeaderMap::new();
    for line in lines.take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value)) {
            head.append(name, value);
        }
    }
    for http2 in [false, true] {
        if let Ok(host) = headers::requested_host(http2, &target, &head) {
            assert!(!host.is_empty() && !host.ends_with('.') && host == host.to_ascii_lowercase(), "{host:?}");
            let alone = HeaderMap::from_iter([(http::header::HOST, headers::text(&host))]);
            assert_eq!(headers::requested_host(http2, &Uri::default(), &alone), Ok(host));
        }
    }
    backhaul::read_back(&head);

    headers::wanted_upgrade(Version::HTTP_11, &head);
    headers::absolute(&target, &head);
    Steering::take(&mut head);
    headers::strip_hop_by_hop(&mut head);
    headers::strip_platform(&mut head);
    for name in head.keys() {
        assert!(!headers::is_kept_from_machines(name), "{name} was let through");
    }
}

/// A stream of WebSocket frames, at once and cut in two.
pub fn websocket(bytes: &[u8]) {
    let mut at_once = Frames::default();
    at_once.follow(bytes);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut cut = Frames::default();
    cut.follow(first);
    cut.follow(second);
    assert_eq!(at_once.between(), cut.between());
}
