//! A process's metrics on its own private socket: what every process has, and serving it all.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use atoll_signals::metrics::{self, Samples, Source, names, render};

/// A process that takes longer to answer is stuck.
const SCRAPE_LIMIT: Duration = Duration::from_secs(1);
/// More than any of our processes has to say.
const SCRAPE_MAX_BYTES: u64 = 4 << 20;

/// Answers `GET /metrics` for as long as the process lives.
pub fn serve(process: &'static str, listener: UnixListener, sources: Vec<Arc<dyn Source>>) -> anyhow::Result<()> {
    serve_beside(process, listener, sources, Router::new())
}

/// [`serve`], beside what else the process says on its private socket.
pub fn serve_beside(
    process: &'static str,
    listener: UnixListener,
    sources: Vec<Arc<dyn Source>>,
    others: Router,
) -> anyhow::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener).context("the socket for metrics cannot be used")?;
    let started = SystemTime::now();
    let answer = move || {
        let own = |samples: &mut Samples| describe_process(started, samples);
        let all: Vec<&dyn Source> =
            std::iter::once(&own as &dyn Source).chain(sources.iter().map(|source| &**source)).collect();
        let text = render(process, &all);
        async move { ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text) }
    };
    let router = others.route("/metrics", get(answer));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "this process no longer says its metrics");
        }
    });
    Ok(())
}

/// The metrics of the process behind `socket`.
pub async fn scrape(socket: &Path) -> anyhow::Result<String> {
    ask(socket, "/metrics").await
}

/// What the process behind `socket` answers to a GET.
pub async fn ask(socket: &Path, path: &str) -> anyhow::Result<String> {
    let asking = async {
        let mut stream = UnixStream::connect(socket).await?;
        // In HTTP/1.0 the end of the connection is the end of the answer.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(SCRAPE_MAX_BYTES).read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(SCRAPE_LIMIT, asking).await.context("it did not answer in time")??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!("it has no answer to {path}"),
    }
}

fn describe_process(started: SystemTime, samples: &mut Samples) {
    let unix = started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    samples.gauge(&names::PROCESS_START, &[], unix);
    samples.gauge(&names::PROCESS_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    if let Some(bytes) = resident_bytes() {
        samples.gauge(&names::PROCESS_MEMORY, &[], bytes as f64);
    }
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: u64 =
        text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// How often each process was started again.
pub struct Restarts(BTreeMap<&'static str, AtomicU64>);

impl Restarts {
    pub fn new(roles: impl Iterator<Item = &'static str>) -> Self {
        Self(roles.map(|role| (role, AtomicU64::new(0))).collect())
    }

    pub fn note(&self, role: &str) {
        if let Some(count) = self.0.get(role) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Source for Restarts {
    fn collect(&self, samples: &mut Samples) {
        for (role, count) in &self.0 {
            samples.counter(&names::RESTARTS, &[role], count.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_says_its_metrics_on_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("supervisor.metrics");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let restarts = Arc::new(Restarts::new(["edge", "worker"].into_iter()));
        restarts.note("edge");
        serve("supervisor", listener, vec![restarts]).unwrap();
        let text = scrape(&path).await.unwrap();
        assert!(text.contains(r#"atoll_supervisor_restarts_total{process="supervisor",role="edge"} 1"#), "{text}");
        assert!(text.contains(r#"atoll_supervisor_restarts_total{process="supervisor",role="worker"} 0"#), "{text}");
        assert!(text.contains("atoll_process_resident_bytes"), "{text}");
        assert!(scrape(&folder.path().join("nobody")).await.is_err());
    }
}
