//! Everything here that reads foreign bytes, as functions of bytes alone. They must return for any
//! input, and panic where something accepted does not read back as it was written.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

use crate::disk::{decode_body, encode_body};
use crate::protocol::message::{Event, Request};
use crate::protocol::{PathId, Replica};

/// Reads one message, as either side of a watch.
pub fn message(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(request) = Request::decode(bytes.clone()) {
        assert_eq!(Request::decode(request.encode()), Ok(request));
    }
    if let Ok((event, _)) = Event::decode(bytes) {
        assert_eq!(Event::decode(event.encode()), Ok((event, 0)));
    }
}

/// Follows two servers at once: messages, each with its path (a byte) and length (4 bytes) before it.
pub fn stream(bytes: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(bytes);
    let mut replica = Replica::default();
    while bytes.remaining() >= 5 {
        let path = PathId(u64::from(bytes.get_u8() & 1));
        let length = bytes.get_u32_le() as usize;
        let message = bytes.split_to(length.min(bytes.len()));
        match Event::decode(message) {
            Ok((Event::Rows(part), _)) => {
                let (before, owner) = (replica.positions().clone(), part.owner.clone());
                let outcome = replica.receive(path, part);
                let moved = replica.positions().get(&owner) > before.get(&owner);
                assert!(outcome.moved || !moved, "the copy moved and says it did not");
            }
            Ok(_) => {}
            Err(_) => replica.close(path),
        }
    }
    let saved = replica.save();
    let body = encode_body(saved.by_owner());
    assert!(decode_body(body.into()).is_ok(), "what was received cannot be read when kept");
}

/// Begins with what a file on disk holds once it is opened, and keeps that again.
pub fn saved(bytes: &[u8]) {
    let Ok(owners) = decode_body(Bytes::copy_from_slice(bytes)) else { return };
    let replica = Replica::restore(owners);
    let kept = decode_body(encode_body(replica.save().by_owner()).into());
    let Ok(kept) = kept else { panic!("what was read cannot be read when kept") };
    let again = Replica::restore(kept);
    let rows = |replica: &Replica| -> BTreeMap<_, _> {
        let machines = replica.view().machines().map(|row| (row.id, (row.node.clone(), row.version)));
        machines.collect()
    };
    assert_eq!(rows(&replica), rows(&again), "machines got lost in a file");
}
