//! An upstream's message as it is kept: with the places of its times to live, and without its OPT
//! record, which speaks of one hop alone.

use std::time::{Duration, Instant};

use crate::wire::{
    CLASS_IN, Code, HEADER, MAX_UDP, Malformed, Name, Query, Records, Reply, Transport, Type, u16_at, u32_at,
};

/// Longest message worth keeping.
const MAX_KEPT: usize = 4096;
/// Nothing is believed for longer than this, nor is it asked for more often.
const LONGEST: Duration = Duration::from_secs(86_400);
const SHORTEST: Duration = Duration::from_secs(1);
/// That something does not exist is believed for so long at most.
const LONGEST_NOTHING: Duration = Duration::from_secs(900);
/// How long beyond its time a message is kept for the case that nobody answers.
const EXPIRED_FOR: Duration = Duration::from_secs(86_400);
/// What is said to be the time to live of something expired, in seconds (RFC 8767 section 4).
const EXPIRED_TTL: u32 = 30;
/// Length of an OPT record without options.
const OPT_LENGTH: usize = 11;

/// A message with what is needed to give it again.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Ends before the OPT record.
    message: Box<[u8]>,
    question_end: usize,
    /// Where in the message times to live are.
    ttls: Box<[u16]>,
    came: Instant,
    /// Until when its own times to live hold.
    expires: Instant,
    /// Until when upstreams need not be asked: later than `expires` when they have just failed.
    held: Instant,
}

impl Kept {
    /// Reads an upstream's answer. Which question it answers is checked by who asked.
    pub fn read(message: &[u8], now: Instant) -> Result<Self, Malformed> {
        let word = |index: usize| u16_at(message, 2 * index).ok_or(Malformed);
        let flags = word(1)?;
        let nothing = flags & 0xf == Code::NxDomain as u16 || word(3)? == 0;
        let (_, after) = Name::read(message, HEADER)?;
        let question_end = after + 4;
        if word(2)? != 1 || question_end > message.len() || message.len() > usize::from(u16::MAX) {
            return Err(Malformed);
        }
        let counts = [word(3)?, word(4)?, word(5)?].map(usize::from);
        let mut kept_counts = counts;
        let (mut ttls, mut fresh, mut end) = (Vec::new(), LONGEST, question_end);
        for (index, record) in Records::new(message, question_end, counts.iter().sum()).enumerate() {
            let record = record?;
            if record.kind == Type::OPT {
                // Upper bits of the code, which only OPT has, would be lost.
                if record.ttl >> 24 != 0 {
                    return Err(Malformed);
                }
                // What comes after it is additional, and may point behind it.
                kept_counts[2] = index.checked_sub(counts[0] + counts[1]).ok_or(Malformed)?;
                break;
            }
            let mut seconds = record.ttl;
            if nothing && record.kind == Type::SOA {
                let minimum = record.data.len().checked_sub(4).and_then(|at| u32_at(record.data, at));
                seconds = seconds.min(minimum.ok_or(Malformed)?);
            }
            fresh = fresh.min(Duration::from_secs(u64::from(seconds)));
            ttls.push(record.ttl_at as u16);
            end = record.data_at + record.data.len();
        }
        if ttls.is_empty() {
            fresh = SHORTEST;
        } else if nothing {
            fresh = fresh.min(LONGEST_NOTHING);
        }
        let mut message: Box<[u8]> = message[..end].into();
        for (count, at) in kept_counts.iter().zip([6, 8, 10]) {
            // Smaller than what was read from two bytes, or the same.
            message[at..at + 2].copy_from_slice(&(*count as u16).to_be_bytes());
        }
        let expires = now + fresh.max(SHORTEST);
        Ok(Self { message, question_end, ttls: ttls.into(), came: now, expires, held: expires })
    }

    /// The same, given for some time longer although it has expired.
    pub fn held_until(&self, held: Instant) -> Self {
        Self { held, ..self.clone() }
    }

    pub fn is_small(&self) -> bool {
        self.message.len() <= MAX_KEPT
    }

    /// Whether it may be given without asking anybody.
    pub fn is_fresh(&self, now: Instant) -> bool {
        now < self.held
    }

    /// Whether it is better than nothing.
    pub fn is_usable(&self, now: Instant) -> bool {
        now < self.expires + EXPIRED_FOR
    }

    /// Writes it as the answer to a query for the same name and type.
    pub fn write(&self, query: &Query<'_>, transport: Transport, now: Instant, out: &mut Vec<u8>) {
        let opt = if query.edns.is_some() { OPT_LENGTH } else { 0 };
        if self.message.len() + opt > query.limit(transport) || query.question().len() + HEADER != self.question_end {
            let mut reply = Reply::new(query, transport, out);
            reply.recursive();
            reply.truncate();
            return reply.finish(Code::NoError);
        }
        out.clear();
        out.extend(&self.message);
        out[..2].copy_from_slice(&query.id.to_be_bytes());
        // Of the flags only the code is the upstream's: whether signatures were checked cannot be believed of
        // somebody on an open path. Recursion is available.
        out[2] = 0x80 | u8::from(query.recursion_desired);
        out[3] = 0x80 | if query.checking_disabled { 0x10 } else { 0 } | out[3] & 0xf;
        out[HEADER..self.question_end].copy_from_slice(query.question());
        let age = now.saturating_duration_since(self.came).as_secs().min(u64::from(u32::MAX)) as u32;
        let expired = now >= self.expires;
        for at in &self.ttls {
            let place = usize::from(*at);
            let ttl = u32_at(out, place).unwrap_or_default();
            let left = if expired { EXPIRED_TTL } else { ttl.min(LONGEST.as_secs() as u32).saturating_sub(age) };
            out[place..place + 4].copy_from_slice(&left.to_be_bytes());
        }
        if let Some(edns) = &query.edns {
            let additional = u16_at(out, 10).unwrap_or_default().saturating_add(1);
            out[10..12].copy_from_slice(&additional.to_be_bytes());
            out.push(0);
            out.extend(Type::OPT.0.to_be_bytes());
            out.extend((MAX_UDP as u16).to_be_bytes());
            out.extend([0, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        }
    }
}

/// Whether a message answers this question (a name in wire form and a type), whoever sent it.
pub(super) fn answers(message: &[u8], id: u16, name: &[u8], kind: Type) -> bool {
    let Ok((asked, after)) = Name::read(message, HEADER) else { return false };
    u16_at(message, 0) == Some(id)
        && message[2] & 0x80 != 0
        && u16_at(message, 4) == Some(1)
        && asked.wire() == name
        && u16_at(message, after) == Some(kind.0)
        && u16_at(message, after + 2) == Some(CLASS_IN)
}
