//! Everything here that reads foreign bytes, as functions of bytes alone. They must return for any
//! input; what they hold beyond that is said at each.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::forward::Kept;
use crate::serve::{Next, Now, Request, Responder, handle};
use crate::wire::{HEADER, Query, Transport};

/// A packet from anybody, answered by `responder`: the answer, if any, is one, is for this question, and
/// is no longer than the client takes.
pub fn packet(responder: &dyn Responder, bytes: &[u8], from: IpAddr, now: Now) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut answer = Vec::new();
        let next = handle(responder, bytes, from, transport, now, &mut answer);
        let Some(Next::Reply) = next else { continue };
        assert!(answer.len() >= HEADER && answer[..2] == bytes[..2] && answer[2] & 0x80 != 0, "no answer to this");
        if let Ok(query) = Query::read(bytes) {
            assert!(answer.len() <= query.limit(transport), "an answer is longer than allowed");
            assert!(answer[HEADER..].starts_with(query.question()), "an answer to another question");
        }
    }
}

/// Answers nothing: reading alone is tried.
struct Refusing;

impl Responder for Refusing {
    fn respond(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Next {
        request.refuse(crate::wire::Code::Refused, out)
    }
}

/// A packet, read and refused.
pub fn query(bytes: &[u8]) {
    packet(&Refusing, bytes, IpAddr::from([192, 0, 2, 1]), Now::read());
}

/// An upstream resolver's message: kept, and given to a client fresh and expired.
pub fn upstream(bytes: &[u8]) {
    let now = Instant::now();
    let Ok(kept) = Kept::read(bytes, now) else { return };
    // Its own question, asked by a client.
    let mut asked = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    asked.extend(&bytes[HEADER..]);
    let Ok(query) = Query::read(&asked) else { return };
    for after in [0, 1, 100_000] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut out = Vec::new();
            kept.write(&query, transport, now + Duration::from_secs(after), &mut out);
            assert!(out.len() <= query.limit(transport) && out[..2] == [0, 1], "no answer to this question");
        }
    }
}
