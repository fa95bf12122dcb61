//! A message that asks: its header, its one question, and what the client says of itself.

use super::edns::Edns;
use super::section::{Malformed, Records};
use super::{CLASS_IN, Code, HEADER, MAX_TCP, MAX_UDP, MIN_UDP, Name, Opcode, Transport, Type, u16_at};

/// A question as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    message: &'a [u8],
    /// Where the question ends.
    question_end: usize,
    pub id: u16,
    pub opcode: Opcode,
    pub recursion_desired: bool,
    /// The client checks signatures itself and wants even what fails.
    pub checking_disabled: bool,
    pub name: Name,
    pub kind: Type,
    pub class: u16,
    pub edns: Option<Edns>,
}

/// A message that gets no proper answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unanswerable {
    /// Answers, and what is too short to say who asks: an answer to them would only feed loops.
    Silence,
    /// Refused by its header alone; see [`Unanswerable::write`].
    Refused { id: u16, flags: u16, code: Code },
}

impl<'a> Query<'a> {
    /// Reads a whole message.
    pub fn read(message: &'a [u8]) -> Result<Self, Unanswerable> {
        let word = |index: usize| u16_at(message, 2 * index).ok_or(Unanswerable::Silence);
        let (id, flags) = (word(0)?, word(1)?);
        let counts = [word(2)?, word(3)?, word(4)?, word(5)?];
        if flags >> 15 == 1 {
            return Err(Unanswerable::Silence);
        }
        let refused = |code| Unanswerable::Refused { id, flags, code };
        let opcode = Opcode::from_bits((flags >> 11 & 0xf) as u8);
        if matches!(opcode, Opcode::Other(_)) {
            return Err(refused(Code::NotImp));
        }
        if counts[0] != 1 {
            return Err(refused(Code::FormErr));
        }
        let malformed = |_: Malformed| refused(Code::FormErr);
        let (name, after) = Name::read(message, HEADER).map_err(malformed)?;
        // A pointer in the first name of a message could only point into the header.
        let plain = after == HEADER + name.wire().len();
        let (Some(kind), Some(class), true) = (u16_at(message, after), u16_at(message, after + 2), plain) else {
            return Err(refused(Code::FormErr));
        };
        let question_end = after + 4;
        let records = counts[1..].iter().map(|count| usize::from(*count)).sum();
        let mut edns = None;
        for record in Records::new(message, question_end, records) {
            let record = record.map_err(malformed)?;
            if record.kind == Type::OPT {
                let read = Edns::read(&record).map_err(malformed)?;
                if edns.replace(read).is_some() || record.name != Name::ROOT {
                    return Err(refused(Code::FormErr));
                }
            }
        }
        Ok(Self {
            message,
            question_end,
            id,
            opcode,
            recursion_desired: flags & 0x0100 != 0,
            checking_disabled: flags & 0x0010 != 0,
            name,
            kind: Type(kind),
            class,
            edns,
        })
    }

    /// The whole message.
    pub fn message(&self) -> &'a [u8] {
        self.message
    }

    /// The question as it was written, with the case of its letters.
    pub fn question(&self) -> &'a [u8] {
        &self.message[HEADER..self.question_end]
    }

    /// The longest answer that may be given.
    pub fn limit(&self, transport: Transport) -> usize {
        match (transport, &self.edns) {
            (Transport::Tcp, _) => MAX_TCP,
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_size).clamp(MIN_UDP, MAX_UDP),
            (Transport::Udp, None) => MIN_UDP,
        }
    }

    pub fn wants_signatures(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether the class is one in which there is anything here.
    pub fn is_internet(&self) -> bool {
        self.class == CLASS_IN || self.class == Type::ANY.0
    }
}

impl Unanswerable {
    /// Writes the refusal; false where there must be none.
    pub fn write(&self, out: &mut Vec<u8>) -> bool {
        out.clear();
        let Self::Refused { id, flags, code } = *self else { return false };
        // Kept are the opcode and the wish for recursion.
        let flags = 0x8000 | flags & 0x7900 | code as u16;
        out.extend(id.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend([0; 8]);
        true
    }
}
