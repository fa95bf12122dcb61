//! The data of records as they travel, names in it uncompressed.

use crate::wire::Name;

/// Longest piece of a text.
const MAX_PIECE: usize = 255;

/// The data of a TXT record: the text in as many pieces as it needs, to be read as one.
pub fn text(text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(text.len() + text.len() / MAX_PIECE + 1);
    if text.is_empty() {
        data.push(0);
    }
    for piece in text.as_bytes().chunks(MAX_PIECE) {
        data.push(piece.len() as u8);
        data.extend(piece);
    }
    data
}

/// A zone's SOA record. Times are in seconds.
#[derive(Clone, Debug)]
pub struct Authority {
    pub server: Name,
    /// The mail address of who is responsible, its `@` a dot.
    pub mailbox: Name,
    pub serial: u32,
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    /// How long it may be believed that something does not exist.
    pub minimum: u32,
}

impl Authority {
    pub fn data(&self) -> Vec<u8> {
        let mut data = [self.server.wire(), self.mailbox.wire()].concat();
        for number in [self.serial, self.refresh, self.retry, self.expire, self.minimum] {
            data.extend(number.to_be_bytes());
        }
        data
    }
}
