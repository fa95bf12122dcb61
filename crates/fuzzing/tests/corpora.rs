//! Every target runs over its seeds, over what fuzzing found before, and over mutations of both that
//! are the same each time. That finds what a change just broke; searching is the fuzzer's work.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use atoll_fuzzing::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Mutations of each input.
const MUTATIONS: u64 = 300;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// Files of `fuzz/<kind>/<target>`, in the order of their names.
fn inputs(kind: &str, target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(folder) = fs::read_dir(fuzz_folder().join(kind).join(target.name)) else { return Vec::new() };
    let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn mutated(original: &[u8], random: &mut StdRng) -> Vec<u8> {
    const TOKENS: [&[u8]; 8] = [b"\0", b"\xff\xff\xff\xff", b"{", b"\"", b"\r\n", b"../", b"0", "\u{fffd}".as_bytes()];
    let mut bytes = original.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            2 => {
                let end = (at + random.random_range(0..64)).min(bytes.len());
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            3 => {
                let end = (at + random.random_range(0..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
    bytes
}

fn survives(target: &Target, bytes: &[u8], origin: &str) {
    let run = target.run;
    let input = bytes.to_vec();
    if catch_unwind(move || run(&input)).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("broke-{}", target.name));
        fs::write(&kept, bytes).unwrap();
        panic!("target {} broke on {origin}; the input is in {}", target.name, kept.display());
    }
}

#[test]
fn every_target_survives_its_corpus_and_mutations_of_it() {
    for target in &TARGETS {
        let seeds = inputs("corpus", target);
        assert!(!seeds.is_empty(), "target {} has no seeds", target.name);
        for (path, bytes) in seeds.into_iter().chain(inputs("regressions", target)) {
            let name = path.display().to_string();
            survives(target, &bytes, &name);
            for number in 0..MUTATIONS {
                let bytes = mutated(&bytes, &mut StdRng::seed_from_u64(number));
                survives(target, &bytes, &format!("mutation {number} of {name}"));
            }
        }
    }
}

#[test]
fn every_target_has_a_program_and_no_program_is_without_one() {
    let named: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(named.len(), TARGETS.len(), "a name is given twice");
    let manifest: toml::Table = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap().parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let programs: BTreeSet<_> = programs.map(|bin| bin["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(programs, named);
    for name in named {
        let source = fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("targets::{name}(")), "the program {name} runs another target");
    }
}
