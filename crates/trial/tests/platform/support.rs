//! How every test here is run.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use atoll_trial::platform::{Node, Platform};

/// One platform at a time: each wants the whole machine.
static TURN: Mutex<()> = Mutex::new(());

/// Starts a world, runs a test in it, prints how long both took; keeps the servers' logs if it fails.
#[track_caller]
pub fn trial(name: &str, world: &str, test: impl AsyncFnOnce(&mut Platform) -> anyhow::Result<()>) {
    trial_prepared(name, world, async |_: &Node| Ok(()), test);
}

/// [`trial`], with something done to each server's host before the server starts.
#[track_caller]
pub fn trial_prepared(
    name: &str,
    world: &str,
    prepare: impl AsyncFn(&Node) -> anyhow::Result<()>,
    test: impl AsyncFnOnce(&mut Platform) -> anyhow::Result<()>,
) {
    run(name, Platform::start_prepared(world, prepare), test);
}

/// [`trial`], with further arguments for every server.
#[track_caller]
pub fn trial_with(
    name: &str,
    world: &str,
    arguments: &[&str],
    test: impl AsyncFnOnce(&mut Platform) -> anyhow::Result<()>,
) {
    run(name, Platform::start_with(world, arguments), test);
}

#[track_caller]
fn run(
    name: &str,
    starting: impl Future<Output = anyhow::Result<Platform>>,
    test: impl AsyncFnOnce(&mut Platform) -> anyhow::Result<()>,
) {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests start platforms in network namespaces: run them as root"
    );
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failure = runtime.block_on(async {
        let begun = Instant::now();
        let mut platform = match starting.await {
            Ok(platform) => platform,
            Err(error) => return Some(format!("the platform did not start: {error:#}")),
        };
        let started = begun.elapsed();
        let outcome = test(&mut platform).await;
        println!("{name}: started in {started:.1?}, done after {:.1?}", begun.elapsed());
        let error = outcome.err()?;
        let logs = platform.keep_logs(name).map_or_else(|error| error.to_string(), |path| path.display().to_string());
        Some(format!("{error:#}\nlogs: {logs}"))
    });
    if let Some(failure) = failure {
        panic!("{name}: {failure}");
    }
}
