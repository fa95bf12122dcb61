//! The key schedule: HKDF with SHA-256 from a ticket's secret to one AEAD key (AES-256-GCM) per direction of
//! one attempt. Everything that both sides must agree on goes in, so that they share no key where they
//! differ: version, direction, both parties, ticket, attempt.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use zeroize::Zeroizing;

use crate::party::Party;
use crate::ticket::{Attempt, Secret, TicketId};
use crate::wire::{Direction, HEADER, Header};

const SALT: &[u8] = b"atoll mesh resumption 1";
const EARLY: &[u8] = b"early packets";
const ANSWERS: &[u8] = b"answers";

/// Both directions of one attempt.
pub struct Keys {
    early: LessSafeKey,
    answers: LessSafeKey,
}

impl Keys {
    /// None only if the library refuses what it documents to take.
    pub fn derive(
        secret: &Secret,
        initiator: &Party,
        responder: &Party,
        ticket: TicketId,
        attempt: Attempt,
    ) -> Option<Self> {
        let mut context = Vec::with_capacity(256);
        initiator.write(&mut context);
        responder.write(&mut context);
        context.extend_from_slice(&ticket.0);
        context.extend_from_slice(&attempt.0);
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret.expose());
        Some(Self { early: key(&root, EARLY, &context)?, answers: key(&root, ANSWERS, &context)? })
    }

    fn of(&self, direction: Direction) -> &LessSafeKey {
        match direction {
            Direction::Early => &self.early,
            Direction::Answer => &self.answers,
        }
    }

    /// A whole datagram. The caller never uses a number twice in one direction.
    pub fn seal(&self, header: &Header, packet: &[u8]) -> Option<Vec<u8>> {
        let bytes = header.bytes();
        let mut sealed = packet.to_vec();
        let key = self.of(header.direction);
        key.seal_in_place_append_tag(nonce(header.number), Aad::from(bytes), &mut sealed).ok()?;
        Some([&bytes[..], &sealed].concat())
    }

    /// The packet behind a header, if the seal is whole.
    pub fn open(&self, header: &Header, sealed: &[u8]) -> Option<Vec<u8>> {
        let bytes: [u8; HEADER] = header.bytes();
        let mut packet = sealed.to_vec();
        let key = self.of(header.direction);
        let length = key.open_in_place(nonce(header.number), Aad::from(bytes), &mut packet).ok()?.len();
        packet.truncate(length);
        Some(packet)
    }
}

fn key(root: &Prk, label: &[u8], context: &[u8]) -> Option<LessSafeKey> {
    let info = [label, &[0], context];
    let mut bytes = Zeroizing::new([0; 32]);
    root.expand(&info, HKDF_SHA256).ok()?.fill(bytes.as_mut_slice()).ok()?;
    UnboundKey::new(&AES_256_GCM, bytes.as_slice()).ok().map(LessSafeKey::new)
}

/// Each key is of one attempt and direction, so a number is enough.
fn nonce(number: u8) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 1] = number;
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(number: u8) -> Party {
        Party { node: format!("n{number}").parse().unwrap(), mesh_key: [number; 32] }
    }

    fn header(direction: Direction) -> Header {
        Header { direction, ticket: TicketId([3; 16]), attempt: Attempt([4; 16]), number: 5 }
    }

    fn keys(change: impl FnOnce(&mut (Secret, Party, Party, TicketId, Attempt))) -> Keys {
        let mut of = (Secret::new([9; 32]), party(1), party(2), TicketId([3; 16]), Attempt([4; 16]));
        change(&mut of);
        Keys::derive(&of.0, &of.1, &of.2, of.3, of.4).unwrap()
    }

    #[test]
    fn keys_agree_only_where_everything_agrees() {
        let header = header(Direction::Early);
        let datagram = keys(|_| {}).seal(&header, b"packet").unwrap();
        let sealed = &datagram[HEADER..];
        assert_eq!(keys(|_| {}).open(&header, sealed).as_deref(), Some(&b"packet"[..]));
        let others = [
            keys(|of| of.0 = Secret::new([8; 32])),
            keys(|of| of.1 = party(7)),
            keys(|of| of.2 = party(7)),
            keys(|of| of.1.mesh_key = [7; 32]),
            keys(|of| of.2.mesh_key = [7; 32]),
            keys(|of| of.3 = TicketId([7; 16])),
            keys(|of| of.4 = Attempt([7; 16])),
            keys(|of| std::mem::swap(&mut of.1, &mut of.2)),
        ];
        assert!(others.iter().all(|keys| keys.open(&header, sealed).is_none()));
    }

    #[test]
    fn the_header_is_bound_and_so_is_the_direction() {
        let keys = keys(|_| {});
        let early = header(Direction::Early);
        let datagram = keys.seal(&early, b"packet").unwrap();
        let sealed = &datagram[HEADER..];
        let others = [
            Header { number: 6, ..early },
            Header { ticket: TicketId([7; 16]), ..early },
            Header { attempt: Attempt([7; 16]), ..early },
            header(Direction::Answer),
        ];
        assert!(others.iter().all(|header| keys.open(header, sealed).is_none()));
    }

    /// Values that another implementation must arrive at, too.
    #[test]
    fn the_schedule_does_not_change_by_accident() {
        let datagram = keys(|_| {}).seal(&header(Direction::Early), b"packet").unwrap();
        let hex: String = datagram[HEADER..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0980b886ff4197c8fc6e9079045e3062380485327b9d");
    }
}
