//! Whole files, good and bad: what they mean and what their authors are told.

use std::fs;
use std::path::{Path, PathBuf};

use atoll_manifest::keys::{Key, ROOT, Status};
use atoll_manifest::shape::Shape;
use atoll_manifest::{Manifest, ManifestErrors, Options, Release};
use proptest::prelude::*;

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// As a terminal without colours shows it.
fn rendered(errors: &ManifestErrors) -> String {
    let mut text = String::new();
    miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut text, &errors.diagnostic())
        .unwrap();
    text
}

#[test]
fn good_files_become_machine_configurations() {
    for path in fixtures("good") {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = Manifest::parse(&text, &name(&path)).unwrap_or_else(|errors| panic!("{errors}"));
        let release = Release { image: "example/app@sha256:0", id: "rel1", version: 3, ..Release::default() };
        let mut machines = serde_json::Map::new();
        for group in parsed.manifest.groups() {
            let config = parsed.manifest.machine_config(group, &release).unwrap();
            config.validate().unwrap();
            machines.insert(group.to_owned(), serde_json::to_value(config).unwrap());
        }
        let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
        let seen = serde_json::json!({ "warnings": warnings, "machines": machines });
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!(format!("good-{}", name(&path)), seen);
        });
    }
}

#[test]
fn good_files_survive_being_written_back() {
    for path in fixtures("good") {
        let manifest = Manifest::parse(&fs::read_to_string(&path).unwrap(), &name(&path)).unwrap().manifest;
        let toml = manifest.to_toml().unwrap();
        let strict = Options { strict: true, allow_unsupported: false };
        let again =
            Manifest::parse_with(toml.as_bytes(), "fly.toml", &strict).unwrap_or_else(|e| panic!("{e}\n{toml}"));
        assert_eq!(again.manifest, manifest, "{toml}");
        let definition = manifest.definition().to_string();
        assert_eq!(Manifest::parse(&definition, "definition.json").unwrap().manifest, manifest);
    }
}

#[test]
fn bad_files_are_explained() {
    for path in fixtures("bad") {
        let bytes = fs::read(&path).unwrap();
        let options = Options { strict: true, allow_unsupported: false };
        let errors = Manifest::parse_with(&bytes, &name(&path), &options).expect_err(&name(&path));
        let texts = format!("{errors}\n\n{}", rendered(&errors));
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("bad-{}", name(&path)), texts);
        });
    }
}

#[test]
fn misspelt_keys_are_warnings_unless_strict() {
    let text = "app = \"a\"\nprimary_regoin = \"ams\"\n";
    let warnings = Manifest::parse(text, "fly.toml").unwrap().warnings;
    assert_eq!(warnings[0].to_string(), "fly.toml:2:1: primary_regoin: unknown key");
    assert_eq!(warnings[0].help.as_deref(), Some("did you mean `primary_region`?"));
}

#[test]
fn unsupported_keys_are_warnings_when_allowed() {
    let bytes = fs::read(fixtures("bad").into_iter().find(|path| name(path) == "unsupported.toml").unwrap()).unwrap();
    let options = Options { strict: true, allow_unsupported: true };
    let parsed = Manifest::parse_with(&bytes, "fly.toml", &options).unwrap();
    assert_eq!(parsed.warnings.len(), 7);
}

#[test]
fn the_app_is_known_in_spite_of_errors_elsewhere() {
    let errors = Manifest::parse("app = \"here\"\n[http_service]\ninternal_port = \"web\"", "fly.toml").unwrap_err();
    assert_eq!(errors.app.unwrap().as_str(), "here");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let refusal = |bytes: &[u8]| Manifest::parse_with(bytes, "fly.toml", &Options::default()).unwrap_err().to_string();
    assert!(refusal(&vec![b'#'; (1 << 20) + 1]).contains("more than the limit"));
    assert!(refusal(b"app = \"\xff\"").contains("not UTF-8"));
}

#[test]
fn a_million_problems_do_not_make_a_million_lines() {
    let text: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let options = Options { strict: true, allow_unsupported: false };
    let errors = Manifest::parse_with(text.as_bytes(), "fly.toml", &options).unwrap_err();
    assert_eq!(errors.problems.len() + errors.hidden, 50_000);
    assert!(errors.to_string().lines().count() < 200);
}

/// A mebibyte of nonsense is answered within seconds, in every syntax.
#[test]
fn huge_nonsense_is_refused_quickly() {
    let repeated = |unit: &str| unit.repeat((1 << 20) / unit.len());
    for unit in ["=\n", "[a]\n", "[[a]]\n", "a.", "{", "[", "\"", "a=[", "{\"a\":", "a={b=", "\u{0}"] {
        for name in ["fly.toml", "fly.json"] {
            let begun = std::time::Instant::now();
            let text = repeated(unit);
            assert!(
                Manifest::parse_with(text.as_bytes(), name, &Options { strict: true, allow_unsupported: false })
                    .is_err()
            );
            assert!(begun.elapsed().as_secs() < 5, "{unit:?} in {name} took {:?}", begun.elapsed());
        }
    }
}

#[test]
fn local_files_arrive_with_the_release() {
    let text = "app = \"a\"\n[[files]]\nguest_path = \"/a\"\nlocal_path = \"conf/a\"\n";
    let manifest = Manifest::parse(text, "fly.toml").unwrap().manifest;
    assert_eq!(manifest.local_paths().collect::<Vec<_>>(), ["conf/a"]);
    let mut release = Release { image: "i", ..Release::default() };
    assert!(manifest.machine_config("app", &release).unwrap_err().to_string().contains("conf/a"));
    release.local_files.insert("conf/a".into(), vec![0xff, 0]);
    let config = manifest.machine_config("app", &release).unwrap();
    assert_eq!(config.files[0].raw_value.as_deref(), Some("/wA="));
}

/// A value for a key that is not what holds without it, where that is possible.
fn example(key: &Key) -> serde_json::Value {
    let text = match (key.name, &key.shape) {
        ("app", _) => "a",
        ("primary_region", _) => "ams",
        ("kill_signal", _) => "SIGINT",
        ("size", _) => "shared-cpu-1x",
        _ => "/a",
    };
    match &key.shape {
        Shape::Text | Shape::Checked(_) => text.into(),
        Shape::OneOf(allowed) => allowed[0].into(),
        Shape::Bool => true.into(),
        Shape::Whole { .. } => if key.name == "memory_mb" { 256 } else { 1 }.into(),
        Shape::Number => 0.5.into(),
        Shape::Duration(_) => "5s".into(),
        Shape::Memory => 256.into(),
        // Of two groups the one that is not the default, so that naming it tells.
        Shape::Texts if key.name == "processes" => serde_json::json!(["jobs"]),
        Shape::Texts | Shape::TextOrTexts => serde_json::json!(["app"]),
        Shape::TextsOf(allowed) => serde_json::json!([allowed[0]]),
        Shape::Autostop => "stop".into(),
        Shape::Strategy => "immediate".into(),
        Shape::PersistRootfs | Shape::Any => serde_json::Value::Null,
        Shape::Processes => serde_json::json!({ "app": "x", "jobs": "y" }),
        Shape::Env | Shape::Headers | Shape::AnyTable => serde_json::json!({ "app": "x" }),
        Shape::AnyList => serde_json::json!([{ "x": 1 }]),
        Shape::Table(keys) | Shape::Concurrency(keys) => table(keys),
        Shape::Tables(keys) | Shape::FilledTables(keys) => serde_json::json!([table(keys)]),
        Shape::Named(keys) => serde_json::json!({ "one": table(keys) }),
    }
}

fn table(keys: &[Key]) -> serde_json::Value {
    let honoured = keys.iter().filter(|key| key.status == Status::Honoured);
    honoured.map(|key| (key.name.to_owned(), example(key))).filter(|(_, value)| !value.is_null()).collect()
}

/// Every honoured key with a value, as one document that is accepted.
fn every_key() -> serde_json::Value {
    let mut document = table(ROOT);
    // The one exclusive choice: a port, or a range.
    for key in ["start_port", "end_port"] {
        document["services"][0]["ports"][0].as_object_mut().unwrap().remove(key);
    }
    document
}

/// The table of keys and the structs are two places; this is what keeps them one.
#[test]
fn every_honoured_key_of_the_table_is_read() {
    let document = every_key();
    let parsed = Manifest::parse(&document.to_string(), "fly.json").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(parsed.manifest.definition(), document);
}

/// What a file makes of its machines, by group; `None`: it is refused.
fn machines(document: &serde_json::Value) -> Option<Vec<serde_json::Value>> {
    let manifest = Manifest::parse(&document.to_string(), "fly.json").ok()?.manifest;
    let mut release = Release { image: "i", ..Release::default() };
    release.local_files.extend(manifest.local_paths().map(|path| (path.to_owned(), b"content".to_vec())));
    let config = |group| serde_json::to_value(manifest.machine_config(group, &release).unwrap()).unwrap();
    Some(manifest.groups().into_iter().map(config).collect())
}

/// A key that is honoured changes a machine, or is needed; these act elsewhere or are the default here.
#[test]
fn every_honoured_key_has_an_effect_on_machines() {
    /// Read by the command line or by the executor of deploys.
    const ELSEWHERE: &[&str] = &[
        "app",
        "console_command",
        "build",
        "build.image",
        "deploy",
        "deploy.strategy",
        "deploy.max_unavailable",
        "deploy.wait_timeout",
    ];
    /// Their example is what holds without them, or another key of the example wins: each has a pair of
    /// its own below.
    const IN_PAIRS: &[(&str, &str, &str)] = &[
        ("services[].protocol", "[[services]]\ninternal_port = 1", "protocol = 'udp'"),
        ("services[].concurrency.type", "[[services]]\ninternal_port = 1\n[services.concurrency]", "type = 'requests'"),
        ("http_service.concurrency.type", "[http_service.concurrency]", "type = 'requests'"),
        (
            "services[].ports[].start_port",
            "[[services]]\ninternal_port = 1\n[[services.ports]]",
            "start_port = 1\nend_port = 2",
        ),
        (
            "services[].ports[].end_port",
            "[[services]]\ninternal_port = 1\n[[services.ports]]\nstart_port = 1",
            "end_port = 2",
        ),
        ("kill_timeout", "", "kill_timeout = 7"),
        ("checks.NAME.type", "[checks.a]\nport = 1", "type = 'tcp'"),
        ("checks.NAME.port", "[http_service]\ninternal_port = 1\n[checks.a]\ntype = 'tcp'", "port = 2"),
        ("vm[].size", "[[vm]]", "size = 'shared-cpu-2x'"),
        ("vm[].memory", "[[vm]]", "memory = '1gb'"),
        ("vm[].cpu_kind", "[[vm]]", "cpu_kind = 'performance'"),
        ("vm[].cpus", "[[vm]]", "cpus = 2"),
        ("vm[].memory_mb", "[[vm]]", "memory_mb = 512"),
        ("vm[].persist_rootfs", "[[vm]]", "persist_rootfs = 'always'"),
        ("restart[].policy", "[[restart]]", "policy = 'always'"),
        ("files[].secret_name", "[[files]]\nguest_path = '/a'", "secret_name = 'A'"),
        ("files[].raw_value", "[[files]]\nguest_path = '/a'", "raw_value = 'A'"),
        ("experimental.cmd", "[experimental]", "cmd = 'x'"),
        ("experimental.kill_timeout", "[experimental]", "kill_timeout = 7"),
    ];
    let of_toml = |text: &str| machines(&text.parse::<toml::Table>().map(|table| serde_json::json!(table)).unwrap());
    for (key, without, with) in IN_PAIRS {
        let (without, with) = (of_toml(without), of_toml(&format!("{without}\n{with}")));
        assert_ne!(without, with, "{key} changes nothing");
    }
    let whole = every_key();
    let before = machines(&whole);
    assert!(before.is_some());
    let mut untested = Vec::new();
    for_each_key(ROOT, &mut vec![], &mut |path: &[&str]| {
        let name = path.join(".").replace(".[]", "[]");
        if ELSEWHERE.contains(&name.as_str()) || IN_PAIRS.iter().any(|(key, ..)| *key == name) {
            return;
        }
        let mut document = whole.clone();
        let Some((last, parents)) = path.split_last() else { return };
        let place = parents.iter().fold(&mut document, |place, part| match *part {
            "[]" => &mut place[0],
            "NAME" => &mut place["one"],
            name => &mut place[name],
        });
        place.as_object_mut().unwrap().remove(*last);
        if machines(&document) == before {
            untested.push(name);
        }
    });
    assert!(untested.is_empty(), "these keys are called honoured and change nothing: {untested:?}");
}

fn for_each_key<'a>(keys: &'a [Key], path: &mut Vec<&'a str>, see: &mut dyn FnMut(&[&str])) {
    for key in keys.iter().filter(|key| key.status == Status::Honoured) {
        path.push(key.name);
        see(path);
        let (inner, part): (&[Key], &[&str]) = match &key.shape {
            Shape::Table(inner) | Shape::Concurrency(inner) => (inner, &[]),
            Shape::Tables(inner) | Shape::FilledTables(inner) => (inner, &["[]"]),
            Shape::Named(inner) => (inner, &["NAME"]),
            _ => (&[], &[]),
        };
        path.extend(part);
        for_each_key(inner, path, see);
        path.truncate(path.len() - part.len() - 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn no_bytes_can_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        atoll_manifest::fuzz(&bytes);
    }

    #[test]
    fn no_mutation_of_a_real_file_can_panic_the_reader(
        which in 0usize..100,
        edits in proptest::collection::vec((0usize..4000, 0usize..40, "[ -~\n]{0,12}"), 1..6),
    ) {
        let files: Vec<PathBuf> = fixtures("good").into_iter().chain(fixtures("bad")).collect();
        let mut text = fs::read_to_string(&files[which % files.len()]).unwrap();
        for (at, length, insertion) in edits {
            let start = text.floor_char_boundary(at % (text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len())).max(start);
            text.replace_range(start..end, &insertion);
        }
        atoll_manifest::fuzz(text.as_bytes());
    }
}
