//! Messages as bytes: a tag, then fields; numbers little-endian, texts and bodies with their length
//! in front. Row bodies stay as their owner encoded them, so that one unreadable row spoils neither
//! the message nor the rows beside it. What does not parse is an error, never a panic.

use std::str::FromStr;
use std::time::Duration;

use atoll_model::{Owner, RowKey, RowVersion};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::message::{Ack, Base, Event, LeaseGrant, LeaseRequest, Part, Positions, Request, Write};

/// Larger messages are refused; it is also gRPC's customary limit.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

const WATCH: u8 = 1;
const ACK: u8 = 2;
const ROWS: u8 = 3;
const HEARTBEAT: u8 = 4;
const LEASE: u8 = 5;

/// A message that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("message of {0} bytes is larger than {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
    #[error("message ends inside its {0}")]
    Truncated(&'static str),
    #[error("message has tag {0}, which is none of this stream's")]
    UnknownTag(u8),
    #[error("message has an unreadable {0}")]
    Unreadable(&'static str),
    #[error("message goes on for {0} bytes after its end")]
    Trailing(usize),
}

impl Request {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Watch(positions) => {
                out.put_u8(WATCH);
                put_positions(&mut out, positions);
            }
            Self::Ack(ack) => {
                out.put_u8(ACK);
                put_positions(&mut out, &ack.positions);
                out.put_u32_le(ack.refused.len() as u32);
                for key in &ack.refused {
                    put_text(&mut out, key);
                }
                put_optional(&mut out, ack.lease.map(|request| as_micros(request.sent_at)));
            }
        }
        out.freeze()
    }

    pub fn decode(message: Bytes) -> Result<Self, Malformed> {
        let mut input = Input::new(message)?;
        let request = match input.u8("tag")? {
            WATCH => Self::Watch(input.positions()?),
            ACK => {
                let positions = input.positions()?;
                let mut refused = Vec::new();
                for _ in 0..input.u32("count of refused rows")? {
                    // A key of a later version names no row that this server could be asked about.
                    refused.extend(input.text::<RowKey>("refused key")?.ok());
                }
                let lease = input.optional("lease request")?.map(Duration::from_micros);
                Self::Ack(Ack { positions, refused, lease: lease.map(|sent_at| LeaseRequest { sent_at }) })
            }
            tag => return Err(Malformed::UnknownTag(tag)),
        };
        input.end()?;
        Ok(request)
    }
}

impl Event {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Rows(part) => {
                out.put_u8(ROWS);
                put_part(&mut out, part);
            }
            Self::Heartbeat => out.put_u8(HEARTBEAT),
            Self::Lease(grant) => {
                out.put_u8(LEASE);
                out.put_u64_le(as_micros(grant.sent_at));
                out.put_u64_le(as_micros(grant.term));
            }
        }
        out.freeze()
    }

    /// The event, without the rows whose keys this version cannot read; their number comes second.
    pub fn decode(message: Bytes) -> Result<(Self, usize), Malformed> {
        let mut input = Input::new(message)?;
        let mut skipped = 0;
        let event = match input.u8("tag")? {
            ROWS => Self::Rows(input.part(&mut skipped)?),
            HEARTBEAT => Self::Heartbeat,
            LEASE => {
                let sent_at = Duration::from_micros(input.u64("lease")?);
                let term = Duration::from_micros(input.u64("lease")?);
                Self::Lease(LeaseGrant { sent_at, term })
            }
            tag => return Err(Malformed::UnknownTag(tag)),
        };
        input.end()?;
        Ok((event, skipped))
    }
}

/// Half a million years fit.
fn as_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn put_text(out: &mut BytesMut, text: &impl ToString) {
    put_bytes(out, text.to_string().as_bytes());
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_optional(out: &mut BytesMut, number: Option<u64>) {
    out.put_u8(u8::from(number.is_some()));
    if let Some(number) = number {
        out.put_u64_le(number);
    }
}

fn put_positions(out: &mut BytesMut, positions: &Positions) {
    out.put_u32_le(positions.len() as u32);
    for (owner, version) in positions {
        put_text(out, owner);
        out.put_u64_le(version.epoch);
        out.put_u64_le(version.sequence);
    }
}

fn put_part(out: &mut BytesMut, part: &Part) {
    put_text(out, &part.owner);
    out.put_u64_le(part.epoch);
    put_optional(
        out,
        match part.base {
            Base::Nothing => None,
            Base::Sequence(sequence) => Some(sequence),
        },
    );
    out.put_u32_le(part.index);
    put_optional(out, part.through);
    out.put_u32_le(part.writes.len() as u32);
    for write in &part.writes {
        put_text(out, &write.key);
        out.put_u64_le(write.sequence);
        out.put_u8(u8::from(write.body.is_some()));
        if let Some(body) = &write.body {
            put_bytes(out, body);
        }
    }
}

/// What is left of a message. Reads name the field they are after, for the error.
struct Input(Bytes);

impl Input {
    fn new(message: Bytes) -> Result<Self, Malformed> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed::TooLarge(message.len()));
        }
        Ok(Self(message))
    }

    fn need(&self, bytes: usize, field: &'static str) -> Result<(), Malformed> {
        if self.0.remaining() < bytes { Err(Malformed::Truncated(field)) } else { Ok(()) }
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.need(1, field)?;
        Ok(self.0.get_u8())
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.need(4, field)?;
        Ok(self.0.get_u32_le())
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.need(8, field)?;
        Ok(self.0.get_u64_le())
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Unreadable(field)),
        }
    }

    fn optional(&mut self, field: &'static str) -> Result<Option<u64>, Malformed> {
        if self.flag(field)? { self.u64(field).map(Some) } else { Ok(None) }
    }

    fn bytes(&mut self, field: &'static str) -> Result<Bytes, Malformed> {
        let length = self.u32(field)? as usize;
        self.need(length, field)?;
        Ok(self.0.split_to(length))
    }

    /// The outer error ends the message, the inner one is a text that means nothing here.
    fn text<T: FromStr>(&mut self, field: &'static str) -> Result<Result<T, Malformed>, Malformed> {
        let bytes = self.bytes(field)?;
        let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
        Ok(text.ok_or(Malformed::Unreadable(field)))
    }

    fn positions(&mut self) -> Result<Positions, Malformed> {
        let mut positions = Positions::new();
        for _ in 0..self.u32("count of positions")? {
            let owner = self.text::<Owner>("owner")??;
            let version = RowVersion { epoch: self.u64("epoch")?, sequence: self.u64("sequence")? };
            positions.insert(owner, version);
        }
        Ok(positions)
    }

    fn part(&mut self, skipped: &mut usize) -> Result<Part, Malformed> {
        let owner = self.text::<Owner>("owner")??;
        let epoch = self.u64("epoch")?;
        let base = self.optional("base")?.map_or(Base::Nothing, Base::Sequence);
        let index = self.u32("index")?;
        let through = self.optional("end")?;
        let mut writes = Vec::new();
        for _ in 0..self.u32("count of rows")? {
            let key = self.text::<RowKey>("row key")?;
            let sequence = self.u64("row sequence")?;
            let body = if self.flag("row")? { Some(self.bytes("row body")?) } else { None };
            match key {
                Ok(key) => writes.push(Write { key, sequence, body }),
                Err(_) => *skipped += 1,
            }
        }
        Ok(Part { owner, epoch, base, index, writes, through })
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.0.remaining() {
            0 => Ok(()),
            left => Err(Malformed::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner() -> impl Strategy<Value = Owner> {
        prop_oneof![Just(Owner::Control), "[a-z]{1,8}".prop_map(|name| Owner::Node(name.parse().unwrap()))]
    }

    fn key() -> impl Strategy<Value = RowKey> {
        prop_oneof![
            any::<u64>().prop_map(|random| RowKey::Machine(atoll_model::MachineId::from_random(random))),
            "[a-z]{1,8}".prop_map(|name| RowKey::App(name.parse().unwrap())),
            any::<u128>().prop_map(|bits| RowKey::Device(bits.into())),
            "[a-z]{1,8}".prop_map(|name| RowKey::Certificate(format!("*.{name}").into())),
            "[a-z]{1,8}".prop_map(|name| RowKey::Challenge(name.into())),
        ]
    }

    prop_compose! {
        fn positions()(list in prop::collection::vec((owner(), any::<u64>(), any::<u64>()), 0..5)) -> Positions {
            list.into_iter().map(|(owner, epoch, sequence)| (owner, RowVersion { epoch, sequence })).collect()
        }
    }

    prop_compose! {
        fn write()(
            key in key(),
            sequence in any::<u64>(),
            body in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        ) -> Write {
            Write { key, sequence, body: body.map(Bytes::from) }
        }
    }

    prop_compose! {
        fn part()(
            owner in owner(),
            epoch in any::<u64>(),
            base in prop::option::of(any::<u64>()),
            index in any::<u32>(),
            through in prop::option::of(any::<u64>()),
            writes in prop::collection::vec(write(), 0..6),
        ) -> Part {
            Part { owner, epoch, base: base.map_or(Base::Nothing, Base::Sequence), index, writes, through }
        }
    }

    fn micros() -> impl Strategy<Value = Duration> {
        any::<u64>().prop_map(Duration::from_micros)
    }

    proptest! {
        #[test]
        fn requests_survive_their_bytes(
            positions in positions(),
            refused in prop::collection::vec(key(), 0..4),
            lease in prop::option::of(micros()),
        ) {
            let lease = lease.map(|sent_at| LeaseRequest { sent_at });
            for request in [Request::Watch(positions.clone()), Request::Ack(Ack { positions, refused, lease })] {
                prop_assert_eq!(Request::decode(request.encode()), Ok(request));
            }
        }

        #[test]
        fn events_survive_their_bytes(part in part(), sent_at in micros(), term in micros()) {
            for event in [Event::Rows(part), Event::Heartbeat, Event::Lease(LeaseGrant { sent_at, term })] {
                prop_assert_eq!(Event::decode(event.encode()), Ok((event, 0)));
            }
        }

        #[test]
        fn damaged_messages_are_errors_or_other_messages_but_never_panics(
            part in part(),
            positions in positions(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            for message in [Event::Rows(part).encode(), Request::Watch(positions).encode()] {
                let mut bytes = message.to_vec();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes.truncate(cut.index(bytes.len()) + 1);
                let _ = (Event::decode(bytes.clone().into()), Request::decode(bytes.into()));
            }
        }

        #[test]
        fn noise_is_no_message(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Event::decode(noise.clone().into()), Request::decode(noise.into()));
        }
    }

    #[test]
    fn a_row_with_an_unknown_kind_of_key_is_skipped_alone() {
        let write = |key: &str| Write { key: key.parse().unwrap(), sequence: 1, body: None };
        let part = Part {
            owner: Owner::Control,
            epoch: 1,
            base: Base::Nothing,
            index: 0,
            writes: vec![write("app/one"), write("app/two")],
            through: Some(2),
        };
        let bytes = Event::Rows(part.clone()).encode().to_vec();
        let at = bytes.windows(7).position(|window| window == b"app/one").unwrap();
        let mut newer = bytes;
        newer[at..at + 3].copy_from_slice(b"vol");
        let (event, skipped) = Event::decode(newer.into()).unwrap();
        assert_eq!(skipped, 1);
        assert_eq!(event, Event::Rows(Part { writes: vec![write("app/two")], ..part }));
    }
}
