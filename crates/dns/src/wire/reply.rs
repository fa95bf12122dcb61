//! Writes an answer, never longer than allowed: a record that does not fit is not begun.

use super::edns::Subnet;
use super::{CLASS_IN, Code, HEADER, MAX_UDP, Name, Query, Transport, Type};

/// Fixed length of an OPT record without options.
const OPT_LENGTH: usize = 11;

/// There is no room for the record. Nothing of it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is full")]
pub struct Full;

/// An answer in the making. Records are written section by section: answers, [`Reply::authority`],
/// [`Reply::additional`].
pub struct Reply<'q, 'o> {
    query: &'q Query<'q>,
    out: &'o mut Vec<u8>,
    /// Room for records; what the OPT record takes is already subtracted.
    limit: usize,
    /// Of answers, authorities, additional records.
    counts: [u16; 3],
    section: usize,
    authoritative: bool,
    recursive: bool,
    truncated: bool,
    /// Bits of the client's subnet that the answer holds for.
    scope: u8,
}

impl<'q, 'o> Reply<'q, 'o> {
    /// Begins the answer in `out`, which is emptied.
    pub fn new(query: &'q Query<'q>, transport: Transport, out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.extend([0; HEADER]);
        out.extend(query.question());
        let mut reply = Self {
            query,
            out,
            limit: query.limit(transport),
            counts: [0; 3],
            section: 0,
            authoritative: false,
            recursive: false,
            truncated: false,
            scope: 0,
        };
        if let Some(edns) = &query.edns {
            reply.limit -= OPT_LENGTH + edns.subnet.as_ref().map_or(0, Subnet::written);
        }
        reply
    }

    /// The answer comes from its owner.
    pub fn authoritative(&mut self) {
        self.authoritative = true;
    }

    /// Recursion is available.
    pub fn recursive(&mut self) {
        self.recursive = true;
    }

    /// The answer holds for so many bits of the client's subnet.
    pub fn scope(&mut self, bits: u8) {
        self.scope = bits;
    }

    /// Tells the client to ask again over TCP.
    pub fn truncate(&mut self) {
        self.truncated = true;
    }

    pub fn authority(&mut self) {
        self.section = 1;
    }

    pub fn additional(&mut self) {
        self.section = 2;
    }

    /// How many bytes of records still fit.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len())
    }

    /// Writes a record of the internet class. `data` holds no compressed name.
    pub fn record(&mut self, owner: &Name, kind: Type, ttl: u32, data: &[u8]) -> Result<(), Full> {
        let begin = self.out.len();
        let length = u16::try_from(data.len()).map_err(|_| Full)?;
        self.name(owner);
        self.out.extend(kind.0.to_be_bytes());
        self.out.extend(CLASS_IN.to_be_bytes());
        self.out.extend(ttl.to_be_bytes());
        self.out.extend(length.to_be_bytes());
        self.out.extend(data);
        let count = self.counts[self.section].checked_add(1);
        match count {
            Some(count) if self.out.len() <= self.limit => self.counts[self.section] = count,
            _ => {
                self.out.truncate(begin);
                return Err(Full);
            }
        }
        Ok(())
    }

    /// Writes a name; what it shares with the end of the question's name is a pointer to that.
    fn name(&mut self, name: &Name) {
        let root = &[0_u8][..];
        for (at, suffix) in name.suffixes() {
            let asked = self.query.name.suffixes().find(|(_, asked)| *asked == suffix && suffix != root);
            if let Some((offset, _)) = asked {
                self.out.extend(&name.wire()[..at]);
                // The question begins right behind the header and is shorter than a pointer's reach.
                self.out.extend((0xc000 | (HEADER + offset) as u16).to_be_bytes());
                return;
            }
        }
        self.out.extend(name.wire());
    }

    /// Ends the answer.
    pub fn finish(self, code: Code) {
        let code = code as u16;
        let mut additional = self.counts[2];
        if let Some(edns) = &self.query.edns {
            additional = additional.saturating_add(1);
            self.out.push(0);
            self.out.extend(Type::OPT.0.to_be_bytes());
            self.out.extend((MAX_UDP as u16).to_be_bytes());
            // The upper bits of the code, version 0, and whether signatures were wanted.
            self.out.extend([(code >> 4) as u8, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0]);
            let length = edns.subnet.as_ref().map_or(0, Subnet::written) as u16;
            self.out.extend(length.to_be_bytes());
            if let Some(subnet) = &edns.subnet {
                subnet.write(self.scope, self.out);
            }
        }
        let mut flags = 0x8000 | u16::from(self.query.opcode.bits()) << 11 | code & 0xf;
        for (set, bit) in [
            (self.authoritative, 0x0400),
            (self.truncated, 0x0200),
            (self.query.recursion_desired, 0x0100),
            (self.recursive, 0x0080),
            (self.query.checking_disabled, 0x0010),
        ] {
            flags |= if set { bit } else { 0 };
        }
        let header = [self.query.id, flags, 1, self.counts[0], self.counts[1], additional];
        for (place, word) in self.out.chunks_exact_mut(2).zip(header) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }
}
