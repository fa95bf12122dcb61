//! A whole zone, for secondaries: as records, and as messages of a transfer (RFC 5936). A signed zone is
//! given with all signatures and a chain of what does not exist, so that a secondary needs no key.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use atoll_model::reserved::API;
use atoll_model::row::CHALLENGE_LABEL;

use super::lookup::{Asker, Data, Node, Record, lookup};
use super::sign::nsec;
use super::zone::{Kind, MINIMUM, View, Zone};
use crate::wire::{Code, Name, Query, Reply, Transport, Type};

/// A name in the order of zones.
#[derive(PartialEq, Eq)]
struct Canonical(Name);

impl Ord for Canonical {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.canonical_cmp(&other.0)
    }
}

impl PartialOrd for Canonical {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// All names of a zone with what is at them, in the order of zones, the zone's own first.
fn nodes(view: &View, zone: &Zone) -> Vec<(Name, Node)> {
    let mut names = BTreeSet::from([Canonical(zone.origin)]);
    let mut add = |name: Name| {
        if name.is_within(&zone.origin) {
            names.insert(Canonical(name));
        }
    };
    zone.servers.iter().for_each(|server| add(server.name));
    if zone.kind == Kind::AppDomain {
        zone.origin.child(API.as_bytes()).into_iter().for_each(&mut add);
    }
    for app in view.catalogue.apps() {
        if zone.kind == Kind::AppDomain {
            zone.origin.child(app.name.as_str().as_bytes()).into_iter().for_each(&mut add);
        }
        app.hostnames.iter().filter_map(|host| host.parse().ok()).for_each(&mut add);
    }
    let challenged = view.catalogue.challenges().map(|challenge| format!("{CHALLENGE_LABEL}.{}", challenge.host));
    challenged.filter_map(|name| name.parse().ok()).for_each(&mut add);
    let node = |Canonical(name)| Some((name, lookup(view, zone, &name, Asker::Everybody)?));
    names.into_iter().filter_map(node).filter(|(_, node)| !node.records.is_empty()).collect()
}

/// A number that changes when the zone does, its serial aside.
pub(super) fn fingerprint(view: &View, zone: &Zone) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, node) in nodes(view, zone) {
        name.hash(&mut hasher);
        let records = node.records.iter().filter(|record| record.kind != Type::SOA);
        records.for_each(|record| record.hash(&mut hasher));
    }
    hasher.finish()
}

/// The messages of a transfer that `message` asks for.
pub(super) fn messages(view: &View, zone: &Zone, message: &[u8], unix: u64) -> Vec<Vec<u8>> {
    // It was read before.
    let Ok(query) = Query::read(message) else { return Vec::new() };
    let Some(records) = records(view, zone, unix) else { return failure(&query) };
    let mut records = records.iter().peekable();
    let mut messages = Vec::new();
    while records.peek().is_some() {
        let mut out = Vec::new();
        let mut reply = Reply::new(&query, Transport::Tcp, &mut out);
        reply.authoritative();
        let mut written = 0;
        let mut fits = |(owner, record): &&(Name, Record)| {
            reply.record(owner, record.kind, record.ttl, record.data.bytes()).is_ok()
        };
        while records.next_if(&mut fits).is_some() {
            written += 1;
        }
        reply.finish(Code::NoError);
        if written == 0 {
            // A record that no message holds: half of a zone must not be given.
            return failure(&query);
        }
        messages.push(out);
    }
    messages
}

fn failure(query: &Query<'_>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    Reply::new(query, Transport::Tcp, &mut out).finish(Code::ServFail);
    vec![out]
}

/// All records of a zone, with its SOA first and last. None when a signature cannot be made.
fn records(view: &View, zone: &Zone, unix: u64) -> Option<Vec<(Name, Record)>> {
    let start = Record { kind: Type::SOA, ttl: MINIMUM, data: Data::Bytes(zone.start_of_authority()) };
    let mut all = vec![(zone.origin, start.clone())];
    let nodes = nodes(view, zone);
    let following = nodes.iter().skip(1).map(|(name, _)| name).chain([&zone.origin]);
    for ((name, node), next) in nodes.iter().zip(following) {
        let mut records = node.records.clone();
        if zone.signer.is_some() {
            let data = Data::Bytes(nsec(next, node.records.iter().map(|record| record.kind)));
            records.push(Record { kind: Type::NSEC, ttl: MINIMUM, data });
        }
        for set in records.chunk_by(|a, b| a.kind == b.kind) {
            let Record { kind, ttl, .. } = set[0];
            if kind != Type::SOA {
                all.extend(set.iter().map(|record| (*name, record.clone())));
            }
            if let Some(signer) = &zone.signer {
                let set: Vec<&[u8]> = if kind == Type::SOA {
                    vec![start.data.bytes()]
                } else {
                    set.iter().map(|record| record.data.bytes()).collect()
                };
                let data = Data::Bytes(signer.sign(&zone.origin, name, kind, ttl, &set, unix)?);
                all.push((*name, Record { kind: Type::RRSIG, ttl, data }));
            }
        }
    }
    all.push((zone.origin, start));
    Some(all)
}
