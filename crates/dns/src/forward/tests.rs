use std::time::Instant;

use proptest::prelude::*;

use super::kept::answers;
use super::*;
use crate::wire::{Name, Records};

const NAME: &str = "www.example.org";

fn question(id: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]].concat();
    message.extend(NAME.parse::<Name>().unwrap().wire());
    message.extend([0, 1, 0, 1]);
    message.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    message
}

/// An answer of two addresses and, as resolvers do, an OPT record.
fn upstream(ttls: [u32; 2]) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 0x81, 0xa0, 0, 1, 0, 2, 0, 0, 0, 1];
    message.extend(NAME.parse::<Name>().unwrap().wire());
    message.extend([0, 1, 0, 1]);
    for (index, ttl) in ttls.iter().enumerate() {
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4, 192, 0, 2, index as u8]);
    }
    message.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    message
}

fn ttls(answer: &[u8], count: usize) -> Vec<u32> {
    Records::new(answer, 12 + NAME.len() + 2 + 4, count).map(|record| record.unwrap().ttl).collect()
}

#[test]
fn a_kept_message_ages_and_is_given_past_its_time_with_a_short_one() {
    let came = Instant::now();
    let kept = Kept::read(&upstream([300, 60]), came).unwrap();
    let asked = question(7);
    let query = Query::read(&asked).unwrap();
    let mut out = Vec::new();
    kept.write(&query, Transport::Udp, came + Duration::from_secs(20), &mut out);
    assert!(answers(&out, 7, query.name.wire(), Type::A));
    assert_eq!(ttls(&out, 2), [280, 40]);
    assert_eq!((out[11], out[3] & 0x20), (1, 0), "an OPT record of our own, and no word of what was checked");

    let later = came + Duration::from_secs(61);
    assert!(!kept.is_fresh(later) && kept.is_usable(later));
    kept.write(&query, Transport::Udp, later, &mut out);
    assert_eq!(ttls(&out, 2), [30, 30]);
    assert!(kept.held_until(later + RETRY_AFTER).is_fresh(later));
    assert!(!kept.is_usable(came + Duration::from_secs(60 + 86_401)));
}

#[test]
fn that_nothing_exists_is_kept_as_its_zone_says() {
    let came = Instant::now();
    let mut message = upstream([0, 0])[..12 + NAME.len() + 2 + 4].to_vec();
    message[3] |= 3;
    message[6..12].copy_from_slice(&[0, 0, 0, 1, 0, 0]);
    message.extend([0xc0, 16, 0, 6, 0, 1, 0, 0, 0x0e, 0x10, 0, 22, 0, 0]);
    for number in [1_u32, 2, 3, 4, 120] {
        message.extend(number.to_be_bytes());
    }
    let kept = Kept::read(&message, came).unwrap();
    assert!(kept.is_fresh(came + Duration::from_secs(119)));
    assert!(!kept.is_fresh(came + Duration::from_secs(121)));
}

#[test]
fn a_message_too_long_for_a_client_is_cut() {
    let kept = Kept::read(&upstream([60, 60]), Instant::now()).unwrap();
    let mut asked = question(7);
    // A client without EDNS, and an answer padded to more than it takes.
    asked.truncate(asked.len() - 11);
    asked[11] = 0;
    let query = Query::read(&asked).unwrap();
    let mut long = upstream([60, 60]);
    long.truncate(long.len() - 11);
    long[11] = 40;
    for _ in 0..40 {
        long.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
    }
    let long = Kept::read(&long, Instant::now()).unwrap();
    let mut out = Vec::new();
    kept.write(&query, Transport::Udp, Instant::now(), &mut out);
    assert_eq!(out[2] & 2, 0);
    long.write(&query, Transport::Udp, Instant::now(), &mut out);
    assert_eq!((out[2] & 2, out.len()), (2, asked.len()));
    long.write(&query, Transport::Tcp, Instant::now(), &mut out);
    assert_eq!(out[2] & 2, 0);
}

proptest! {
    #[test]
    fn whatever_an_upstream_sends_is_kept_soundly_or_not_at_all(
        at in 0_usize..90, byte: u8, cut in 0_usize..90, seconds in 0_u64..200_000,
    ) {
        let mut message = upstream([300, 60]);
        if let Some(place) = message.get_mut(at) {
            *place = byte;
        }
        message.truncate(message.len().saturating_sub(cut));
        crate::fuzz::upstream(&message);
        let now = Instant::now();
        if let Ok(kept) = Kept::read(&message, now) {
            let asked = question(1);
            let mut out = Vec::new();
            kept.write(&Query::read(&asked).unwrap(), Transport::Udp, now + Duration::from_secs(seconds), &mut out);
            prop_assert!(out.len() <= 1232);
        }
    }
}
