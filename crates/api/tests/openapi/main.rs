//! Our description of the Machines API against the published one, an unchanged copy in
//! `interop/fly/machines-openapi.json`. Every difference is a line of `interop/fly/differences.txt` and
//! has a reason there: a new one must be decided, a gone one must be struck out.
//!
//! `ATOLL_UPDATE_DIFFERENCES=1` rewrites the file, keeping reasons; new lines still need theirs.

mod compare;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

const HEADER: &str = "\
# How Atoll's Machines API differs from the published description beside this file. A line: what differs,
# a dash, why. A test compares the list with the actual differences.
";
const DASH: &str = " — ";

fn interop(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../interop/fly").join(name)
}

/// The written differences with their reasons.
fn written() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(interop("differences.txt")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let split = |line: &str| {
        let (difference, reason) = line.split_once(DASH.trim_end()).unwrap_or((line, ""));
        (difference.trim().to_owned(), reason.trim().to_owned())
    };
    lines.map(split).collect()
}

#[test]
fn the_list_of_differences_is_exact() {
    let published = std::fs::read(interop("machines-openapi.json")).unwrap();
    let published: Value = serde_json::from_slice(&published).unwrap();
    let actual = compare::differences(&published, &atoll_api::machines_document());
    let mut written = written();
    if std::env::var_os("ATOLL_UPDATE_DIFFERENCES").is_some() {
        let line = |difference: &String| {
            let reason = written.get(difference).map_or("", String::as_str);
            format!("{difference}{DASH}{reason}").trim_end().to_owned() + "\n"
        };
        let lines: String = actual.iter().map(line).collect();
        std::fs::write(interop("differences.txt"), format!("{HEADER}\n{lines}")).unwrap();
        written.retain(|difference, _| actual.contains(difference));
    }
    let missing: Vec<_> = actual.iter().filter(|difference| !written.contains_key(*difference)).collect();
    let stale: Vec<_> = written.keys().filter(|difference| !actual.contains(*difference)).collect();
    let unexplained: Vec<_> = written.iter().filter(|(_, reason)| reason.is_empty()).map(|(line, _)| line).collect();
    assert!(
        missing.is_empty() && stale.is_empty() && unexplained.is_empty(),
        "interop/fly/differences.txt\nlacks {missing:#?}\nhas but does not apply {stale:#?}\nwithout a reason {unexplained:#?}"
    );
}

#[test]
fn values_in_another_order_are_no_difference() {
    let document = |values: Value| {
        let schema = json!({"type": "string", "enum": values});
        let content = json!({"application/json": {"schema": schema}});
        json!({"paths": {"/v1/thing": {"get": {"operationId": "Thing", "responses": {"200": {"content": content}}}}}})
    };
    let published = document(json!(["no", "always", "on-failure"]));
    assert_eq!(compare::differences(&published, &document(json!(["on-failure", "no", "always"]))), [].into());
    let fewer = compare::differences(&published, &document(json!(["no", "always"])));
    assert_eq!(
        Vec::from_iter(fewer),
        [r#"response 200: is one of ["no","always"] (published: ["no","always","on-failure"])"#]
    );
}

#[test]
fn operations_have_names_of_their_own() {
    for document in [atoll_api::machines_document(), atoll_api::own_document()] {
        let mut seen = BTreeMap::new();
        for (operation, described) in compare::operations(&document) {
            let id = described["operationId"].as_str().unwrap().to_owned();
            if let Some(other) = seen.insert(id, operation.clone()) {
                panic!("{operation} and {other} have the same operationId");
            }
        }
    }
}

#[test]
fn everything_referred_to_is_there() {
    for document in [atoll_api::machines_document(), atoll_api::own_document()] {
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "there is no schema {name}");
        }
    }
}
