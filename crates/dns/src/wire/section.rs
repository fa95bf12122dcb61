//! Records of a message that somebody else wrote, walked without copying.

use super::{Name, Type, u16_at, u32_at};

/// Bytes that are no DNS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the DNS message is malformed")]
pub struct Malformed;

/// One record, its data as it stands in the message (names in it may be compressed).
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    pub name: Name,
    pub kind: Type,
    pub class: u16,
    /// Seconds; for OPT, flags.
    pub ttl: u32,
    pub data: &'a [u8],
    /// Where in the message the record begins, its time to live is, and its data begins.
    pub begins_at: usize,
    pub ttl_at: usize,
    pub data_at: usize,
}

/// A number of records from some place on. Ends at the first that is malformed, after saying so.
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Records<'a> {
    pub fn new(message: &'a [u8], at: usize, count: usize) -> Self {
        Self { message, at, left: count }
    }

    fn read(&mut self) -> Result<RawRecord<'a>, Malformed> {
        let begins_at = self.at;
        let (name, after) = Name::read(self.message, begins_at)?;
        let field = |offset| u16_at(self.message, after + offset).ok_or(Malformed);
        let (kind, class, length) = (Type(field(0)?), field(2)?, usize::from(field(8)?));
        let ttl = u32_at(self.message, after + 4).ok_or(Malformed)?;
        let data_at = after + 10;
        let data = self.message.get(data_at..data_at + length).ok_or(Malformed)?;
        self.at = data_at + length;
        Ok(RawRecord { name, kind, class, ttl, data, begins_at, ttl_at: after + 4, data_at })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RawRecord<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}
