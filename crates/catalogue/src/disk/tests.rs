use atoll_model::address::NetworkId;
use atoll_model::row::{AppRow, CertificateRow, NodeRow, NodeState, Row};
use proptest::prelude::*;

use super::*;
use crate::protocol::series::Session;
use crate::protocol::{OwnerLog, PathId, Replica};

/// Stands for real encryption: a wrong key is noticed.
struct Xor(u8);

impl Seal for Xor {
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok([b"key".iter(), plain.iter()].into_iter().flatten().map(|byte| byte ^ self.0).collect())
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        let plain: Vec<u8> = sealed.iter().map(|byte| byte ^ self.0).collect();
        Ok(plain.strip_prefix(b"key").ok_or("another key")?.to_vec())
    }
}

fn app(number: usize) -> Row {
    Row::App(AppRow {
        name: format!("app{number}").parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(1),
        primary_region: None,
        hostnames: vec![format!("h{number}.example")],
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

fn replica() -> Replica {
    let mut log = OwnerLog::new(Owner::Control, 3);
    for number in 0..40 {
        log.put(&app(number)).unwrap();
    }
    log.put(&Row::Node(NodeRow {
        name: "ams1".parse().unwrap(),
        region: "ams".parse().unwrap(),
        state: NodeState::Active,
        epoch: 2,
        backhaul: None,
        worker_rpc: None,
        public_addresses: Vec::new(),
        egress_addresses: Vec::new(),
        mesh: None,
        gateway: None,
        zones: Vec::new(),
    }))
    .unwrap();
    log.put(&Row::Certificate(CertificateRow {
        host: "*.example".into(),
        chain_pem: "chain".into(),
        key_pem: "key-that-must-not-be-readable".into(),
        not_after: 1,
    }))
    .unwrap();
    let mut replica = Replica::default();
    let mut feed = |log: &OwnerLog| {
        let mut session = Session::default();
        while let Some(part) = session.next(log) {
            replica.receive(PathId(1), part);
        }
    };
    feed(&log);
    // A node without rows has a position all the same.
    feed(&OwnerLog::resume(Owner::Node("ams1".parse().unwrap()), 2, 77));
    replica
}

#[test]
fn a_restored_replica_is_where_the_saved_one_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue");
    let saved = replica();
    save(&path, &saved.save(), &Xor(7)).unwrap();
    save(&path, &saved.save(), &Xor(7)).unwrap();

    let restored = Replica::restore(load(&path, &Xor(7)).unwrap());
    assert_eq!(restored.positions(), saved.positions());
    assert_eq!(restored.positions().len(), 2);
    assert_eq!(restored.view().apps().count(), 40);
    assert!(restored.view().app_by_hostname("h7.example").is_some());
    assert_eq!(restored.view().certificate_for("a.example").unwrap().key_pem, "key-that-must-not-be-readable");
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"key-that"), "the key lies open on disk");
}

#[test]
fn files_that_are_not_whole_or_not_ours_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue");
    assert!(matches!(load(&path, &Xor(7)), Err(LoadError::Absent { .. })));
    assert!(matches!(load(folder.path(), &Xor(7)), Err(LoadError::Read { .. })));

    save(&path, &replica().save(), &Xor(7)).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(matches!(load(&path, &Xor(8)), Err(LoadError::Sealed { .. })));
    for length in (0..whole.len()).step_by(11) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(load(&path, &Xor(7)).is_err(), "{length} of {} bytes were accepted", whole.len());
    }
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        assert!(load(&path, &Xor(7)).is_err(), "damage at byte {at} was accepted");
    }
    let mut newer = whole;
    newer[8] = 9;
    fs::write(&path, &newer).unwrap();
    assert!(matches!(load(&path, &Xor(7)), Err(LoadError::Version { version: 9, .. })));
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue");
    save(&path, &replica().save(), &Xor(7)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

proptest! {
    /// What got past the checksum and the seal may still be anything.
    #[test]
    fn no_body_makes_a_restore_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = encode_body(replica().save().by_owner());
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(cut.index(body.len()) + 1);
        if let Ok(saved) = decode_body(body.into()) {
            Replica::restore(saved);
        }
    }
}
