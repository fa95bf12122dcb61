use std::fs;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::ca::{fingerprint, signing_request};
use crate::identity::Role;

const NOW: u64 = 1_800_000_000;
const LIFE: u64 = 3600;
/// Longer than a phase.
const PHASE: u64 = 2 * LIFE;

fn open(dir: &Path, now: u64) -> Authorities {
    Authorities::open(dir, "0a", Duration::from_secs(LIFE), now).unwrap()
}

fn issue(authorities: &Authorities, now: u64) -> Issued {
    let identity = Identity { platform: "0a".into(), role: Role::Worker, node: "ams1".parse().unwrap() };
    authorities.issue_node(&signing_request().unwrap().1, &identity, now).unwrap()
}

/// Of the certificates in a chain, the leaf left out.
fn fingerprints(pem: &str) -> Vec<String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|certificate| fingerprint(&certificate.unwrap())).collect()
}

/// Steps past the present phase.
fn pass(authorities: &Authorities, now: &mut u64) {
    *now += PHASE;
    assert!(authorities.step(*now, *now - 1).unwrap());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &to) } else { fs::copy(&path, &to).map(drop).unwrap() }
    }
}

fn copied(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    dir
}

#[test]
fn each_phase_signs_and_hands_out_what_it_should_and_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut now = NOW;
    let authorities = open(dir.path(), now);
    let first = authorities.root_fingerprint();
    assert_eq!(fingerprints(&authorities.roots_pem()), std::slice::from_ref(&first));

    authorities.begin(false, now).unwrap();
    assert!(matches!(authorities.begin(false, now), Err(CaError::Underway)));
    let both = fingerprints(&authorities.roots_pem());
    assert!(both.len() == 2 && both[0] == first, "{both:?}");
    let next = both[1].clone();
    assert_eq!(authorities.root_fingerprint(), first);
    assert!(fingerprints(&issue(&authorities, now).chain_pem).contains(&first));
    assert_eq!(open(dir.path(), now).seen(), authorities.seen());
    assert!(!authorities.step(now + 1, now).unwrap());

    pass(&authorities, &mut now);
    assert_eq!(authorities.root_fingerprint(), next);
    assert_eq!(fingerprints(&authorities.roots_pem()), [next.clone(), first.clone()]);
    let issued = issue(&authorities, now);
    let chain = fingerprints(&issued.chain_pem);
    assert!(chain.len() == 5 && chain[3] == next && chain[4] == first, "{chain:?}");
    assert_eq!(issued.roots_pem, authorities.roots_pem());
    assert_eq!(open(dir.path(), now).seen(), authorities.seen());

    pass(&authorities, &mut now);
    assert_eq!(fingerprints(&authorities.roots_pem()), std::slice::from_ref(&next));
    assert_eq!(fingerprints(&issue(&authorities, now).chain_pem).len(), 4, "the link stays");
    assert_eq!(authorities.generation(), 3);
    assert!(!dir.path().join("root.key").exists(), "the old key is still there");
    let opened = open(dir.path(), now);
    assert_eq!(opened.seen(), authorities.seen());
    assert_eq!(Authorities::platform_of(dir.path()).unwrap().as_deref(), Some("0a"));

    opened.begin(false, now).unwrap();
    assert_ne!(opened.seen().other.unwrap().fingerprint, first, "a third one");
}

#[test]
fn without_the_old_roots_key_a_rotation_begins_only_when_it_is_said_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let authorities = open(dir.path(), NOW);
    fs::remove_file(dir.path().join("root.key")).unwrap();
    let refused = authorities.begin(false, NOW);
    assert!(matches!(refused, Err(CaError::NoRootKey { .. })), "{refused:?}");
    assert_eq!(authorities.seen().phase, Phase::Settled);
    authorities.begin(true, NOW).unwrap();
    assert!(!authorities.seen().other.unwrap().linked);
}

#[test]
fn an_old_root_is_replaced_by_itself_while_its_key_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let authorities = open(dir.path(), NOW);
    let late = authorities.seen().issuing.ends_at - ROOT_LEFT.as_secs();
    assert!(!authorities.step(late, late).unwrap());
    let key = dir.path().join("root.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    assert!(!authorities.step(late + 1, late).unwrap());
    fs::write(&key, kept).unwrap();
    assert!(authorities.step(late + 1, late).unwrap());
    assert!(matches!(authorities.seen().phase, Phase::Announced { next: 2, .. }));
    assert!(authorities.seen().other.unwrap().linked);
}

/// Every state that a kill can leave between two effects of a change: files come to be and go one by one,
/// and `rotation.json` is replaced as a whole in between.
#[test]
fn a_kill_at_any_instant_leaves_the_state_before_or_the_one_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut now = NOW;
    for round in 0..2 {
        // Before a rotation and after one: an authority in the folder itself, and one in its own.
        let authorities = open(dir.path(), now);
        let settled = copied(dir.path());
        let before = (round == 1).then(|| authorities.seen());
        authorities.begin(false, now).unwrap();
        let announced = copied(dir.path());
        let next = (round + 2).to_string();
        for made in 0..=FILES.len() {
            let killed = copied(settled.path());
            fs::create_dir_all(killed.path().join(&next)).unwrap();
            for name in FILES.iter().take(made) {
                let file = Path::new(&next).join(name);
                fs::copy(announced.path().join(&file), killed.path().join(&file)).unwrap();
            }
            let again = open(killed.path(), now);
            assert_eq!(again.seen().phase, Phase::Settled);
            assert!(before.as_ref().is_none_or(|before| *before == again.seen()), "{made} files were made");
            issue(&again, now);
            again.begin(false, now).unwrap();
            assert_eq!(open(killed.path(), now).seen(), again.seen());
        }

        // The change of who signs is one file.
        pass(&authorities, &mut now);
        let overlapping = copied(dir.path());
        pass(&authorities, &mut now);
        let old = if round == 0 { PathBuf::new() } else { PathBuf::from((round + 1).to_string()) };
        for removed in 0..=FILES.len() {
            let killed = copied(overlapping.path());
            fs::copy(dir.path().join(ROTATION), killed.path().join(ROTATION)).unwrap();
            for name in FILES.iter().take(removed) {
                fs::remove_file(killed.path().join(&old).join(name)).ok();
            }
            let again = open(killed.path(), now);
            assert_eq!(again.seen(), authorities.seen(), "{removed} files were removed");
            issue(&again, now);
            assert!(!killed.path().join(&old).join("root.key").exists(), "the old key is still there");
        }
    }
}

#[test]
fn authorities_without_their_rotation_are_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let mut now = NOW;
    let authorities = open(dir.path(), now);
    authorities.begin(false, now).unwrap();
    pass(&authorities, &mut now);
    pass(&authorities, &mut now);
    fs::remove_file(dir.path().join(ROTATION)).unwrap();
    let refused = Authorities::open(dir.path(), "0a", Duration::from_secs(LIFE), now);
    assert!(matches!(refused, Err(CaError::Corrupt { .. })));
    assert!(dir.path().join("2/intermediate.key").exists(), "a key was removed");
}
