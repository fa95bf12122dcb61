//! What is wrong with a file, said so that its author can put it right: file, line, column, key,
//! the problem and what would be right. All findings of a file travel together.

use std::fmt;
use std::sync::Arc;

use atoll_model::AppName;
use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

use crate::document::Span;
use crate::path::Path;

/// Findings beyond this many are counted, not shown: a hostile file could hold a million.
const MAX_SHOWN: usize = 50;

/// One finding while the text is still at hand; places are byte offsets.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Finding {
    pub severity: Severity,
    pub span: Span,
    pub key: Option<Path>,
    pub message: String,
    pub label: Option<String>,
    pub help: Option<String>,
}

impl Finding {
    pub fn error(span: Span, message: String) -> Self {
        Self { severity: Severity::Error, span, key: None, message, label: None, help: None }
    }

    pub fn warning(span: Span, message: String) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    pub fn key(self, key: &Path) -> Self {
        Self { key: Some(key.clone()), ..self }
    }

    pub fn labelled(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// One problem of a file, complete in itself.
#[derive(Clone, Debug)]
pub struct Problem {
    pub severity: Severity,
    /// Such as `services[0].ports[1].handlers`; absent for syntax errors.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// One-based.
    pub line: usize,
    /// One-based, in characters.
    pub column: usize,
    span: Span,
    label: Option<String>,
    source: Source,
}

/// The text under report, shared by its problems.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: Arc<str>,
    text: Arc<NamedSource<Arc<str>>>,
    len: usize,
}

impl Source {
    pub fn new(name: &str, text: &str) -> Self {
        let language = if name.ends_with(".json") { "json" } else { "toml" };
        let named = NamedSource::new(name, Arc::<str>::from(text)).with_language(language);
        Self { name: name.into(), text: Arc::new(named), len: text.len() }
    }

    fn problem(&self, finding: Finding) -> Problem {
        let text: &str = self.text.inner();
        let start = floor_char_boundary(text, finding.span.start.min(self.len));
        let end = floor_char_boundary(text, finding.span.end.clamp(start, self.len)).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        Problem {
            severity: finding.severity,
            key: finding.key.map(|key| key.to_string()),
            message: finding.message,
            help: finding.help,
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            span: start..end,
            label: finding.label,
            source: self.clone(),
        }
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

impl fmt::Display for Problem {
    /// Plain: `fly.toml:3:9: services[0].internal_port: expected …`. Diagnostics add help and snippet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.source.name, self.line, self.column)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        (self.source.len > 0).then_some(self.source.text.as_ref() as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (self.source.len > 0).then(|| {
            let label = LabeledSpan::new_with_span(self.label.clone(), self.span.clone());
            Box::new(std::iter::once(label)) as Box<dyn Iterator<Item = LabeledSpan>>
        })
    }
}

/// Everything that is wrong with a file. `Display` is plain text, one problem a line with its help;
/// as [`ManifestErrors::diagnostic`] each problem shows its place in the source.
#[derive(Clone, Debug)]
pub struct ManifestErrors {
    /// In the order of the file; warnings among them, as they may explain an error.
    pub problems: Vec<Problem>,
    /// How many more there are than `problems` holds.
    pub hidden: usize,
    /// The app that the file names in spite of its problems.
    pub app: Option<AppName>,
    name: Arc<str>,
}

/// Problems of a file in its order, and how many were left out.
pub(crate) fn collect(source: &Source, mut findings: Vec<Finding>) -> (Vec<Problem>, usize) {
    // Errors first when cutting, so that warnings cannot push them out.
    findings.sort_by_key(|finding| (finding.severity != Severity::Error, finding.span.start));
    let hidden = findings.len().saturating_sub(MAX_SHOWN);
    findings.truncate(MAX_SHOWN);
    findings.sort_by_key(|finding| finding.span.start);
    (findings.into_iter().map(|finding| source.problem(finding)).collect(), hidden)
}

impl ManifestErrors {
    pub(crate) fn new(source: &Source, findings: Vec<Finding>, app: Option<AppName>) -> Self {
        let (problems, hidden) = collect(source, findings);
        Self { problems, hidden, app, name: source.name.clone() }
    }

    pub fn file_name(&self) -> &str {
        &self.name
    }

    /// For rendering with source snippets.
    pub fn diagnostic(&self) -> Rendered<'_> {
        Rendered(self)
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let warning = if problem.severity == Severity::Error { "" } else { "warning: " };
            write!(f, "{newline}{warning}{problem}")?;
            if let Some(help) = &problem.help {
                write!(f, "\n  help: {help}")?;
            }
        }
        if self.hidden > 0 {
            write!(f, "\n{}: and {} more problems", self.name, self.hidden)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// The errors as one diagnostic with a heading, for rendering with source snippets.
#[derive(Debug)]
pub struct Rendered<'a>(&'a ManifestErrors);

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.0.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        let total = errors + self.0.hidden;
        let noun = if total == 1 { "problem" } else { "problems" };
        write!(f, "{} has {total} {noun}", self.0.name)
    }
}

impl std::error::Error for Rendered<'_> {}

impl Diagnostic for Rendered<'_> {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.0.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}
