//! fly.toml to the model and back: every documented key, every legacy shape, and errors that name
//! file, line, column and key, all of a file's at once.
//!
//! A text becomes a tree with places ([`document`]), the tree a canonical one by the table of keys
//! ([`keys`]), that one the typed [`Manifest`], which rules between keys then check ([`validate`]).
//! This crate reads no files and knows nothing of servers.

mod document;
pub mod files;
pub mod keys;
pub mod machine;
pub mod manifest;
mod path;
mod read;
mod report;
pub mod shape;
mod validate;
pub mod words;

pub use machine::{ConversionError, Release};
pub use manifest::Manifest;
pub use report::{ManifestErrors, Problem, Rendered};

use miette::Severity;

use crate::report::{Finding, Source};

/// No manifest that a person wrote comes near this.
pub const MAX_BYTES: usize = 1 << 20;

/// How forgiving the reading is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Unknown keys are errors.
    pub strict: bool,
    /// Documented keys that are not honoured yet are warnings.
    pub allow_unsupported: bool,
}

/// A file that can be deployed.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub manifest: Manifest,
    /// In the order of the file.
    pub warnings: Vec<Problem>,
}

impl Manifest {
    /// Reads a file's text; the name says the syntax (`.json`, else TOML) and appears in errors.
    pub fn parse(text: &str, file_name: &str) -> Result<Parsed, ManifestErrors> {
        Self::parse_with(text.as_bytes(), file_name, &Options::default())
    }

    /// Reads a file's bytes.
    pub fn parse_with(bytes: &[u8], file_name: &str, options: &Options) -> Result<Parsed, ManifestErrors> {
        let refuse = |message: String| {
            let source = Source::new(file_name, "");
            ManifestErrors::new(&source, vec![Finding::error(0..0, message)], None)
        };
        if bytes.len() > MAX_BYTES {
            return Err(refuse(format!("the file has {} bytes, more than the limit of {MAX_BYTES}", bytes.len())));
        }
        if file_name.ends_with(".yaml") || file_name.ends_with(".yml") {
            return Err(refuse("YAML is not supported: write the file as TOML or JSON".into()));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| refuse(format!("the file is not UTF-8: byte {} is wrong", error.valid_up_to())))?;
        parse_text(text, file_name, options)
    }
}

fn parse_text(text: &str, file_name: &str, options: &Options) -> Result<Parsed, ManifestErrors> {
    let source = Source::new(file_name, text);
    let tree = if file_name.ends_with(".json") { document::from_json(text) } else { document::from_toml(text) };
    let tree = tree.map_err(|findings| ManifestErrors::new(&source, findings, None))?;

    let mut reader = read::Reader { options, findings: Vec::new() };
    let canonical = reader.table(&tree, &path::Path::root(), keys::ROOT);
    let mut findings = reader.findings;
    let app = canonical.as_ref().and_then(|root| root.get("app")?.to_json().as_str()?.parse().ok());
    let Some(canonical) = canonical.filter(|_| !has_errors(&findings)) else {
        return Err(ManifestErrors::new(&source, findings, app));
    };
    let manifest: Manifest = match serde_json::from_value(canonical.to_json()) {
        Ok(manifest) => manifest,
        // The table of keys lets through only what the types take, which a test of every key shows.
        Err(error) => {
            findings.push(Finding::error(0..0, error.to_string()));
            return Err(ManifestErrors::new(&source, findings, app));
        }
    };
    let mut validator = validate::Validator { manifest: &manifest, root: &canonical, findings };
    validator.run();
    let findings = validator.findings;
    if has_errors(&findings) {
        return Err(ManifestErrors::new(&source, findings, app));
    }
    let (warnings, _) = report::collect(&source, findings);
    Ok(Parsed { manifest, warnings })
}

fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// Reads any bytes in every syntax and, where they are a manifest, writes them back; panics where
/// that loses something. For fuzzers.
pub fn fuzz(bytes: &[u8]) {
    for name in ["fly.toml", "fly.json"] {
        let options = Options { strict: false, allow_unsupported: true };
        match Manifest::parse_with(bytes, name, &options) {
            Ok(parsed) => {
                let definition = parsed.manifest.definition().to_string();
                let again = Manifest::parse(&definition, "definition.json").map(|again| again.manifest);
                assert_eq!(again.ok().as_ref(), Some(&parsed.manifest), "the definition reads back differently");
                let release = Release { image: "image", ..Release::default() };
                for group in parsed.manifest.groups() {
                    match parsed.manifest.machine_config(group, &release) {
                        Ok(config) => assert_eq!(config.validate(), Ok(()), "an accepted file makes no valid machine"),
                        // No flaw of the file: its local files are simply not here.
                        Err(ConversionError::LocalFile { .. }) => {}
                        Err(error) => panic!("an accepted file makes no machine: {error}"),
                    }
                }
            }
            Err(errors) => assert!(!errors.to_string().is_empty()),
        }
    }
}
