//! Writes what is at a name, with signatures and proofs where they are wanted.

use super::lookup::{Asker, Node, Record, lookup};
use super::sign::{Signer, nsec};
use super::zone::{MINIMUM, View, Zone};
use crate::place::Position;
use crate::serve::Request;
use crate::wire::{Code, Full, Name, Reply, Type};

/// What is said to those who want to know everything (RFC 8482): data of a HINFO record.
const EVERYTHING: &[u8] = b"\x07RFC8482\x00";

/// Where the asker is taken to be, and how many bits of a told subnet say so.
fn whereabouts(view: &View, request: &Request<'_>) -> (Option<Position>, u8) {
    let subnet = request.query.edns.and_then(|edns| edns.subnet);
    if let Some((place, bits)) = subnet.and_then(|subnet| view.places.find(subnet.address, subnet.prefix)) {
        return (Some(place), bits);
    }
    (view.places.find(request.from, u8::MAX).map(|(place, _)| place), 0)
}

/// Answers a question for a name within the zone.
pub(super) fn write(view: &View, zone: &Zone, request: &Request<'_>, out: &mut Vec<u8>) {
    let query = request.query;
    let (place, scope) = whereabouts(view, request);
    let node = lookup(view, zone, &query.name, Asker::At { place, turn: query.id });
    let mut reply = Reply::new(query, request.transport, out);
    reply.authoritative();
    if node.as_ref().is_some_and(|node| node.by_place) {
        reply.scope(scope);
    }
    let signer = zone.signer.as_ref().filter(|_| query.wants_signatures());
    let mut writer = Writer { zone, signer, unix: request.now.unix, reply: &mut reply };
    let code = match writer.write(&query.name, query.kind, node, query.edns.is_some_and(|edns| edns.compact_ok)) {
        Ok(code) => code,
        Err(Full) => {
            reply.truncate();
            Code::NoError
        }
    };
    reply.finish(code);
}

struct Writer<'w, 'q, 'o> {
    zone: &'w Zone,
    signer: Option<&'w Signer>,
    unix: u64,
    reply: &'w mut Reply<'q, 'o>,
}

impl Writer<'_, '_, '_> {
    fn write(&mut self, name: &Name, kind: Type, node: Option<Node>, compact: bool) -> Result<Code, Full> {
        let Some(node) = node else {
            self.nothing(name, [Type::NXNAME])?;
            // To those who check, the proof says it; a plain NXDOMAIN beside it would seem forged.
            return Ok(if self.signer.is_some() && !compact { Code::NoError } else { Code::NxDomain });
        };
        if kind == Type::ANY {
            self.set(name, Type::HINFO, MINIMUM, &[EVERYTHING])?;
            return Ok(Code::NoError);
        }
        let asked: Vec<&Record> = node.of(kind).collect();
        match asked.first() {
            Some(first) => {
                let data: Vec<&[u8]> = asked.iter().map(|record| record.data.bytes()).collect();
                self.set(name, kind, first.ttl, &data)?;
            }
            None => self.nothing(name, node.records.iter().map(|record| record.kind))?,
        }
        Ok(Code::NoError)
    }

    /// All records of one owner and type, and their signature.
    fn set(&mut self, owner: &Name, kind: Type, ttl: u32, data: &[&[u8]]) -> Result<(), Full> {
        for data in data {
            self.reply.record(owner, kind, ttl, data)?;
        }
        if let Some(signer) = self.signer
            && let Some(signature) = signer.sign(&self.zone.origin, owner, kind, ttl, data, self.unix)
        {
            self.reply.record(owner, Type::RRSIG, ttl, &signature)?;
        }
        Ok(())
    }

    /// For how long it may be believed that there is nothing of the type, and the proof: this name has
    /// these types, and the next name in the world follows right behind it.
    fn nothing(&mut self, name: &Name, kinds: impl IntoIterator<Item = Type>) -> Result<(), Full> {
        self.reply.authority();
        self.set(&self.zone.origin, Type::SOA, MINIMUM, &[&self.zone.start_of_authority()])?;
        // Names so long that none follows are no names of ours; they are denied without a proof.
        if self.signer.is_some()
            && let Some(next) = name.child(&[0])
        {
            self.set(name, Type::NSEC, MINIMUM, &[&nsec(&next, kinds)])?;
        }
        Ok(())
    }
}
