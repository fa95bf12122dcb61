//! Answers everybody: finds the zone, and hands out whole zones to those who may have them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::zone::{View, Zone};
use super::{answer, transfer};
use crate::serve::{Next, Request, Responder};
use crate::wire::{Code, Name, Opcode, Transport, Type};

/// The responder of a node's public DNS server.
pub struct Public {
    zones: HashMap<Name, Arc<Zone>>,
    view: ArcSwap<View>,
}

impl Public {
    pub fn new(zones: impl IntoIterator<Item = Zone>, view: View) -> Self {
        let zones = zones.into_iter().map(|zone| (zone.origin, Arc::new(zone))).collect();
        Self { zones, view: ArcSwap::from_pointee(view) }
    }

    /// From now on answers follow from this view.
    pub fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub fn zones(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.zones.values()
    }

    /// The zone that a name is in: the longest, if one lies within another.
    fn zone(&self, name: &Name) -> Option<&Arc<Zone>> {
        name.suffixes().find_map(|(_, suffix)| self.zones.get(suffix))
    }

    fn transfer(&self, zone: &Arc<Zone>, request: &Request<'_>, out: &mut Vec<u8>) -> Next {
        if *zone.origin() != request.query.name {
            return request.refuse(Code::NotAuth, out);
        }
        if !zone.transferred_to.contains(&request.from) {
            return request.refuse(Code::Refused, out);
        }
        let (zone, view, message) = (zone.clone(), self.view(), request.query.message().to_vec());
        let unix = request.now.unix;
        // Changes alone are never given: who asks for them gets the whole zone, which is allowed.
        Next::Transfer(Box::new(move || transfer::messages(&view, &zone, &message, unix)))
    }
}

impl Responder for Public {
    fn respond(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Next {
        let query = request.query;
        if query.opcode != Opcode::Query {
            return request.refuse(Code::NotImp, out);
        }
        let Some(zone) = self.zone(&query.name).filter(|_| query.is_internet()) else {
            return request.refuse(Code::Refused, out);
        };
        match (query.kind, request.transport) {
            (Type::AXFR | Type::IXFR, Transport::Tcp) => self.transfer(zone, request, out),
            (Type::AXFR, Transport::Udp) => request.refuse(Code::FormErr, out),
            // A pseudo-type of proofs alone.
            (Type::NXNAME, _) => request.refuse(Code::FormErr, out),
            _ => {
                answer::write(&self.view.load(), zone, request, out);
                Next::Reply
            }
        }
    }
}
