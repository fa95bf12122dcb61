//! DNS messages as bytes: what a question says ([`Query`]), and answers written within a limit
//! ([`Reply`]). Only what a server needs of RFC 1035, 6891 (EDNS) and 7871 (client subnet); no table of
//! record types, no tree of objects, and no allocation between a packet and its answer.
//!
//! Must not know what is answered.

mod edns;
mod name;
mod query;
mod reply;
mod section;

pub(crate) use edns::mask;
pub use edns::{Edns, Subnet};
pub use name::{InvalidName, MAX_LABEL, MAX_NAME, Name};
pub use query::{Query, Unanswerable};
pub use reply::{Full, Reply};
pub use section::{Malformed, RawRecord, Records};

/// The fixed part before the question.
pub const HEADER: usize = 12;
/// Answers over UDP stay within this, whatever a client says it can take: larger ones are fragmented
/// on common paths, and fragments are lost or forged.
pub const MAX_UDP: usize = 1232;
/// What a client without EDNS can take.
pub const MIN_UDP: usize = 512;
/// The longest message over TCP.
pub const MAX_TCP: usize = 65_535;

/// The type of a record or a question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Type(pub u16);

impl Type {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const OPT: Self = Self(41);
    pub const RRSIG: Self = Self(46);
    pub const NSEC: Self = Self(47);
    pub const DNSKEY: Self = Self(48);
    /// In the bitmap of an NSEC record: the name does not exist (RFC 9824).
    pub const NXNAME: Self = Self(128);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
}

/// The class of all that is answered here.
pub const CLASS_IN: u16 = 1;

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    NotAuth = 9,
    /// An EDNS version that is not spoken here; the only code here beyond four bits.
    BadVers = 16,
}

/// What a message asks to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Query,
    /// A primary tells a secondary that a zone changed.
    Notify,
    Other(u8),
}

impl Opcode {
    fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Query,
            4 => Self::Notify,
            other => Self::Other(other),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Query => 0,
            Self::Notify => 4,
            Self::Other(bits) => bits,
        }
    }
}

/// How a message travels, which decides how long an answer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Two bytes in network order, or none at the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Four bytes in network order, or none at the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(bytes, at)?) << 16 | u32::from(u16_at(bytes, at.checked_add(2)?)?))
}

#[cfg(test)]
mod tests;
