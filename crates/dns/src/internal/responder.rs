//! Answers machines and users' devices: decides who asks, writes what [`super::answer`] says, and hands
//! the rest of the world's names on.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use atoll_model::address::{NetworkId, network_of};

use super::answer::{Answer, answer};
use super::view::View;
use crate::record;
use crate::serve::{Next, Request, Responder};
use crate::wire::{Code, Full, Name, Opcode, Reply, Type};

/// Which network a source address speaks for. Sources are enforced at each machine's own interface.
pub type Callers = Box<dyn Fn(IpAddr) -> Option<NetworkId> + Send + Sync>;

/// Seconds for which answers may be kept, and that something does not exist. Machines come and go.
const TTL: u32 = 5;

/// Names that are not of the private network.
pub trait Recursion: Send + Sync + 'static {
    fn resolve(self: Arc<Self>, request: &Request<'_>, out: &mut Vec<u8>) -> Next;
}

/// The responder of a node's private DNS server.
pub struct Internal {
    view: ArcSwap<View>,
    callers: Callers,
    recursion: Option<Arc<dyn Recursion>>,
}

impl Internal {
    /// Callers are told by their 6PN addresses; nobody else is answered. Without `recursion`, names
    /// that are not of the private network are refused.
    pub fn new(view: View, recursion: Option<Arc<dyn Recursion>>) -> Self {
        let by_address = |source| match source {
            IpAddr::V6(address) => network_of(address),
            IpAddr::V4(_) => None,
        };
        Self { view: ArcSwap::from_pointee(view), callers: Box::new(by_address), recursion }
    }

    /// With another way to tell callers.
    pub fn with_callers(self, callers: Callers) -> Self {
        Self { callers, ..self }
    }

    /// From now on answers follow from this view.
    pub fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    fn write(&self, request: &Request<'_>, answer: &Answer, out: &mut Vec<u8>) {
        let mut reply = Reply::new(request.query, request.transport, out);
        reply.authoritative();
        if self.recursion.is_some() {
            reply.recursive();
        }
        let code = match records(&mut reply, &request.query.name, answer) {
            Ok(code) => code,
            Err(Full) => {
                // What was written stays: many clients take it and never ask over TCP.
                reply.truncate();
                Code::NoError
            }
        };
        reply.finish(code);
    }
}

impl Responder for Internal {
    fn respond(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Next {
        let query = request.query;
        let Some(caller) = (self.callers)(request.from) else { return request.refuse(Code::Refused, out) };
        if query.opcode != Opcode::Query || matches!(query.kind, Type::AXFR | Type::IXFR) {
            return request.refuse(Code::NotImp, out);
        }
        if !query.is_internet() {
            return request.refuse(Code::Refused, out);
        }
        let view = self.view.load();
        match (answer(&view, caller, &query.name, query.kind, query.id), &self.recursion) {
            (Answer::Elsewhere, Some(recursion)) if query.recursion_desired => recursion.clone().resolve(request, out),
            (Answer::Elsewhere, _) => request.refuse(Code::Refused, out),
            (answer, _) => {
                self.write(request, &answer, out);
                Next::Reply
            }
        }
    }
}

fn records(reply: &mut Reply<'_, '_>, name: &Name, answer: &Answer) -> Result<Code, Full> {
    match answer {
        Answer::Addresses(addresses) => {
            for address in addresses {
                reply.record(name, Type::AAAA, TTL, &address.octets())?;
            }
        }
        Answer::Text(text) => reply.record(name, Type::TXT, TTL, &record::text(text))?,
        Answer::Pointer(target) => reply.record(name, Type::PTR, TTL, target.wire())?,
        Answer::NoData => start_of_authority(reply, name)?,
        Answer::NoSuchName | Answer::Elsewhere => {
            start_of_authority(reply, name)?;
            return Ok(Code::NxDomain);
        }
    }
    Ok(Code::NoError)
}

/// Says for how long it may be believed that there is nothing.
fn start_of_authority(reply: &mut Reply<'_, '_>, name: &Name) -> Result<(), Full> {
    let labels = name.label_count();
    let kept = if name.labels().last() == Some(b"arpa") { 6 } else { 1 };
    let mut zone = *name;
    for _ in kept..labels {
        zone = zone.parent();
    }
    let (Some(server), Some(mailbox)) = (zone.child(b"_dns"), zone.child(b"hostmaster")) else { return Ok(()) };
    reply.authority();
    let soa = record::Authority { server, mailbox, serial: 1, refresh: 60, retry: 60, expire: 60, minimum: TTL };
    reply.record(&zone, Type::SOA, TTL, &soa.data())
}
