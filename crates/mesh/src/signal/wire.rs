//! Signals as bytes: flags, the numbers, then four lists, each behind its length. All integers are big-endian.
//! Zeros may follow, which make a datagram as long as is wanted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use super::{Id, KnownWay, MAX_ABOUT, MAX_RELAYED, Signal};

const DIRECT: u8 = 1;
/// Loss is told in this many parts.
const PARTS: f32 = 250.0;
/// The longest silence that is told.
const LONG_SILENCE: Duration = Duration::from_secs(60);

pub fn write(signal: &Signal, bytes: &mut Vec<u8>) {
    bytes.push(if signal.direct { DIRECT } else { 0 });
    for number in [signal.ask, signal.answer] {
        bytes.extend(number.map_or(0, NonZeroU64::get).to_be_bytes());
    }
    list(bytes, &signal.about, MAX_ABOUT, |bytes, id| bytes.extend(id.0));
    list(bytes, &signal.relay_to, MAX_RELAYED, |bytes, id| bytes.extend(id.0));
    list(bytes, &signal.ways, MAX_ABOUT, way);
    list(bytes, &signal.relaying, MAX_RELAYED, |bytes, (id, port)| {
        bytes.extend(id.0);
        bytes.extend(port.to_be_bytes());
    });
}

/// What goes beyond the limit is left out.
fn list<T>(bytes: &mut Vec<u8>, items: &[T], limit: usize, write: impl Fn(&mut Vec<u8>, &T)) {
    let items = &items[..items.len().min(limit)];
    bytes.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
    items.iter().for_each(|item| write(bytes, item));
}

fn way(bytes: &mut Vec<u8>, way: &KnownWay) {
    bytes.extend(way.to.0);
    let silent = way.silent.min(LONG_SILENCE).as_millis();
    bytes.extend(u16::try_from(silent).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(u32::try_from(way.round_trip.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.push((way.loss.clamp(0.0, 1.0) * PARTS).round() as u8);
    for address in [way.mesh, way.signals] {
        let (ip, port) = address.map_or((Ipv6Addr::UNSPECIFIED, 0), |address| (mapped(address.ip()), address.port()));
        bytes.extend(ip.octets());
        bytes.extend(port.to_be_bytes());
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// None for what is no signal, to the last byte.
pub fn read(bytes: &[u8]) -> Option<Signal> {
    let mut rest = Rest(bytes);
    let direct = match rest.byte()? {
        0 => false,
        DIRECT => true,
        _ => return None,
    };
    let signal = Signal {
        direct,
        ask: NonZeroU64::new(u64::from_be_bytes(rest.take()?)),
        answer: NonZeroU64::new(u64::from_be_bytes(rest.take()?)),
        about: rest.list(MAX_ABOUT, Rest::id)?,
        relay_to: rest.list(MAX_RELAYED, Rest::id)?,
        ways: rest.list(MAX_ABOUT, Rest::way)?,
        relaying: rest.list(MAX_RELAYED, |rest| Some((rest.id()?, u16::from_be_bytes(rest.take()?))))?,
    };
    rest.0.iter().all(|byte| *byte == 0).then_some(signal)
}

/// Bytes that are not read yet.
struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn id(&mut self) -> Option<Id> {
        self.take().map(Id)
    }

    fn list<T>(&mut self, limit: usize, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::from(self.byte()?);
        if count > limit {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn way(&mut self) -> Option<KnownWay> {
        Some(KnownWay {
            to: self.id()?,
            silent: Duration::from_millis(u16::from_be_bytes(self.take()?).into()),
            round_trip: Duration::from_micros(u32::from_be_bytes(self.take()?).into()),
            loss: (f32::from(self.byte()?) / PARTS).min(1.0),
            mesh: self.address()?,
            signals: self.address()?,
        })
    }

    /// Of port 0 is none.
    fn address(&mut self) -> Option<Option<SocketAddr>> {
        let ip = Ipv6Addr::from(self.take::<16>()?).to_canonical();
        let port = u16::from_be_bytes(self.take()?);
        Some((port != 0).then_some(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = Id> {
        any::<[u8; 8]>().prop_map(Id)
    }

    fn address() -> impl Strategy<Value = Option<SocketAddr>> {
        let v4 = (any::<[u8; 4]>(), 1..u16::MAX).prop_map(|(ip, port)| SocketAddr::from((ip, port)));
        let v6 = (any::<u64>(), 1..u16::MAX)
            .prop_map(|(host, port)| (Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(host)), port).into());
        proptest::option::of(prop_oneof![v4, v6])
    }

    fn known_way() -> impl Strategy<Value = KnownWay> {
        (id(), 0..60_000_u64, any::<u32>(), 0..=250_u8, address(), address()).prop_map(
            |(to, silent, round_trip, loss, mesh, signals)| KnownWay {
                to,
                silent: Duration::from_millis(silent),
                round_trip: Duration::from_micros(round_trip.into()),
                loss: f32::from(loss) / PARTS,
                mesh,
                signals,
            },
        )
    }

    prop_compose! {
        fn signal()(
            ask: u64, answer: u64, direct: bool,
            about in vec(id(), 0..=MAX_ABOUT),
            relay_to in vec(id(), 0..=MAX_RELAYED),
            ways in vec(known_way(), 0..=MAX_ABOUT),
            relaying in vec((id(), any::<u16>()), 0..=MAX_RELAYED),
        ) -> Signal {
            Signal { ask: NonZeroU64::new(ask), answer: NonZeroU64::new(answer), direct, about, relay_to, ways, relaying }
        }
    }

    proptest! {
        #[test]
        fn a_signal_is_read_as_it_was_written_and_no_part_of_it_is_one(signal in signal(), cut: prop::sample::Index) {
            let mut bytes = Vec::new();
            write(&signal, &mut bytes);
            prop_assert!(bytes.len() + super::super::seal::OVERHEAD <= super::super::LONGEST_UNFILLED, "{}", bytes.len());
            prop_assert_eq!(read(&bytes), Some(signal.clone()));
            prop_assert_eq!(read(&bytes[..cut.index(bytes.len())]), None);
            bytes.push(0);
            prop_assert_eq!(read(&bytes), Some(signal));
            bytes.push(1);
            prop_assert_eq!(read(&bytes), None);
        }

        #[test]
        fn noise_breaks_nothing(noise in vec(any::<u8>(), 0..200)) {
            read(&noise);
        }
    }
}
