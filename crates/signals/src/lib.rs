//! How every process emits what operators look at: logs (one set-up, one format, to standard error),
//! errors in them ([`with_causes`]), lines of other logs that must never hold anybody up ([`lines`]), and metrics ([`metrics`]). Who keeps
//! them is not known here.

mod causes;
pub mod lines;
pub mod metrics;

pub use causes::with_causes;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The target of lines that say how far something is, each with a field `at_us` from [`moment_us`].
/// Benches turn them on; processes of one host can be compared by them.
pub const STAGES: &str = "atoll_stages";

/// Microseconds of the host's monotonic clock, which all its processes and namespaces share.
pub fn moment_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people at a terminal.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The filter text is no filter.
#[derive(Debug, thiserror::Error)]
#[error("the log filter {filter:?} cannot be read: use a level such as \"info\" or \"atoll_proxy=debug,info\"")]
pub struct InvalidFilter {
    filter: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Installs the process's logger; call once, before anything logs.
pub fn init(filter: &str, format: LogFormat) -> Result<(), InvalidFilter> {
    let parsed =
        EnvFilter::builder().parse(filter).map_err(|source| InvalidFilter { filter: filter.to_owned(), source })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
