//! The executor over real records and a world in memory.

pub(crate) mod fake;
mod immediate;
mod remembering;
mod sequences;
mod unreachable;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_model::wire::{DeployEvent, DeployEventKind, DeployRequest};
use atoll_model::{AppName, RegionCode};
use atoll_rollout::Record;
use atoll_rollout::desired::ScaleCount;
use atoll_store::{AppStatus, Location, NewApp, NewRelease, Release, ReleaseStatus, Store, StoreError};
use tempfile::TempDir;

use self::fake::{FakeWorld, Fault, REGIONS};
use crate::asked::{Asked, count_of};
use crate::engine::Engine;
use crate::feed::EventFeed;
use crate::journal::{Journal, JournalError};
use crate::timing::Timing;
use crate::wish::{SCALE, Wish};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn quick() -> Timing {
    Timing {
        lease: Duration::from_secs(5),
        renewal: Duration::from_millis(100),
        search: Duration::from_millis(5),
        setback: Duration::from_millis(5),
        look: Duration::from_millis(1),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        patience: Duration::from_secs(5),
        short_patience: Duration::from_secs(1),
        retry_move: Duration::from_secs(5),
        barrier: Duration::from_secs(1),
    }
}

/// Records and a world; executors come and go.
pub(crate) struct Lab {
    _dir: TempDir,
    pub store: Store,
    pub world: Arc<FakeWorld>,
    pub app: AppName,
}

struct Executor {
    engine: Arc<Engine>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lab {
    /// An app in all regions.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(dir.path().join("control.db"))).await.unwrap();
        let app: AppName = "harbour".parse().unwrap();
        let new = &NewApp {
            name: app.clone(),
            org: atoll_store::DEFAULT_ORGANIZATION.parse().unwrap(),
            network: None,
            primary_region: None,
            idempotency_key: None,
        };
        let regions = &fake::REGIONS.map(|code| code.parse().unwrap());
        store
            .write(|tx| async move {
                tx.organization_ensure_default(now_ms()).await?;
                tx.app_create(new, now_ms()).await?;
                tx.app_set_regions(&new.name, None, regions).await
            })
            .await
            .unwrap();
        Self { _dir: dir, store, world: Arc::default(), app }
    }

    async fn release(&self) -> Release {
        self.release_with("").await
    }

    async fn release_with(&self, extra: &str) -> Release {
        self.release_asked(extra, &Asked::default()).await
    }

    async fn release_asked(&self, extra: &str, asked: &Asked) -> Release {
        self.release_of(extra, asked, None).await
    }

    async fn scale_release(&self, asked: &Asked) -> Release {
        self.release_of("", asked, Some(SCALE)).await
    }

    async fn release_of(&self, extra: &str, asked: &Asked, strategy: Option<&str>) -> Release {
        let manifest = format!("[build]\nimage = 'hello'\n[http_service]\ninternal_port = 8080\n{extra}");
        let request = DeployRequest { manifest: manifest.clone(), ..DeployRequest::default() };
        let wish = Wish::read(&self.app, &request).unwrap();
        let new = &NewRelease {
            image_ref: wish.image.clone(),
            image_digest: "sha256:00".into(),
            manifest,
            definition: wish.manifest.definition(),
            strategy: strategy.unwrap_or(wish.strategy_name()).into(),
            machine_configs: wish.configs,
            secrets_version: 0,
            description: String::new(),
            created_by: "tester".into(),
            asked: serde_json::to_value(asked).unwrap(),
        };
        self.store.write(|tx| async move { tx.release_create(&self.app, new, now_ms()).await }).await.unwrap()
    }

    /// The app's regions and counts as the records have them.
    async fn remembered(&self) -> (Vec<RegionCode>, Vec<ScaleCount>) {
        let app = &self.app;
        let (app, scales) = self
            .store
            .read(|tx| async move { Ok::<_, StoreError>((tx.app_fetch(app).await?, tx.scale_list(app).await?)) })
            .await
            .unwrap();
        (app.regions, scales.iter().map(count_of).collect())
    }

    /// Waits until the executor has died of the planned fault, or has ended the release before.
    async fn dead_or_over(&self, release: &Release) {
        let id = release.id.as_str();
        let over = async {
            while !self.world.is_dead() && !self.world.fault_came() {
                let known = self.store.read(|tx| async move { tx.release_fetch(id).await }).await.unwrap();
                if known.status.is_final() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, over).await.expect("the executor neither dies nor ends");
    }

    pub fn engine(&self, name: &str) -> Arc<Engine> {
        Arc::new(Engine::new(self.store.clone(), self.world.clone(), name.into(), now_ms, quick()))
    }

    fn executor(&self) -> Executor {
        let engine = self.engine("control-1");
        Executor { task: tokio::spawn(engine.clone().run_forever()), engine }
    }

    async fn ended(&self, release: &Release) -> ReleaseStatus {
        let id = release.id.as_str();
        let ended = async {
            loop {
                let status = self.store.read(|tx| async move { tx.release_fetch(id).await }).await.unwrap().status;
                if status.is_final() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("the deploy does not end")
    }

    async fn deployed(&self) -> Release {
        let release = self.release().await;
        let executor = self.executor();
        assert_eq!(self.ended(&release).await, ReleaseStatus::Complete);
        drop(executor);
        release
    }

    /// All events of a release that is over.
    async fn events(&self, release: &Release) -> Vec<DeployEvent> {
        let mut feed = EventFeed::new(self.engine("reader"), self.app.clone(), release.version, 0);
        let mut events = Vec::new();
        while let Some(event) = tokio::time::timeout(LIMIT, feed.next()).await.expect("no last event").unwrap() {
            events.push(event);
        }
        let indexes: Vec<u64> = events.iter().map(|event| event.index).collect();
        assert_eq!(indexes, (0..events.len() as u64).collect::<Vec<_>>(), "an event is missing");
        let last = events.iter().position(|event| event.kind.is_last());
        assert_eq!(last, Some(events.len() - 1), "the last event is not the last: {events:?}");
        events
    }
}

#[tokio::test]
async fn a_deploy_puts_a_machine_into_every_region_and_tells_of_it() {
    let lab = Lab::new().await;
    let release = lab.deployed().await;
    assert_eq!(lab.world.serving(), [1, 1, 1]);
    let events = lab.events(&release).await;
    for (kind, text, region) in
        [(DeployEventKind::Progress, "creating in nrt on node-nrt", "nrt"), (DeployEventKind::Done, "works", "ord")]
    {
        let matches = |event: &&DeployEvent| {
            event.kind == kind && event.text == text && event.region.is_some_and(|found| found.as_str() == region)
        };
        assert!(events.iter().any(|event| matches(&event)), "{text} in {region}: {events:#?}");
    }
    assert_eq!(events.last().unwrap().kind, DeployEventKind::Complete);
    let app = &lab.app;
    let app = lab.store.read(|tx| async move { tx.app_fetch(app).await }).await.unwrap();
    assert_eq!(app.status, AppStatus::Deployed);
}

#[tokio::test]
async fn the_next_release_replaces_the_machines_without_ever_serving_less() {
    let lab = Lab::new().await;
    lab.deployed().await;
    lab.world.least_serving();
    lab.deployed().await;
    assert_eq!(lab.world.serving(), [2, 2, 2]);
    assert_eq!((lab.world.machines().len(), lab.world.least_serving()), (3, Some(3)));
}

#[tokio::test]
async fn a_first_deploy_that_fails_leaves_no_machine_and_shows_the_log() {
    let lab = Lab::new().await;
    lab.world.break_release(1);
    let release = lab.release().await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Failed);
    assert!(lab.world.machines().is_empty());
    let events = lab.events(&release).await;
    assert!(events.iter().any(|event| event.kind == DeployEventKind::Log && event.text == "line 1"), "{events:#?}");
    let last = events.last().unwrap();
    assert!(last.kind == DeployEventKind::RolledBack && last.text.contains("exited with code 7"), "{last:?}");
}

#[tokio::test]
async fn a_release_that_does_not_work_is_taken_back_as_a_whole() {
    let lab = Lab::new().await;
    lab.deployed().await;
    lab.world.break_release(2);
    lab.world.least_serving();
    let release = lab.release().await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Failed);
    assert_eq!((lab.world.serving(), lab.world.machines().len()), (vec![1, 1, 1], 3));
    assert_eq!(lab.world.least_serving(), Some(3));
}

#[tokio::test]
async fn whatever_fails_the_app_ends_with_one_release_and_no_machine_too_many() {
    for call in 0.. {
        let lab = Lab::new().await;
        lab.deployed().await;
        lab.world.plan_fault(call, Fault::Refused);
        lab.world.least_serving();
        let release = lab.release().await;
        let _executor = lab.executor();
        let status = lab.ended(&release).await;
        if !lab.world.fault_came() {
            assert!(call > 15, "the deploy made {call} calls only");
            break;
        }
        let expected = if status == ReleaseStatus::Complete { 2 } else { 1 };
        assert_eq!(lab.world.serving(), [expected; 3], "call {call} failed");
        assert!(lab.world.least_serving().is_none_or(|least| least >= 3), "call {call} failed");
        let left_over = lab.world.machines().len() - 3;
        assert!(left_over == 0 || lab.events(&release).await.last().unwrap().text.contains("could not be destroyed"));
    }
}

/// Kills the executor at every call of the world, before or after its effect.
async fn survives_deaths(fault: Fault, broken: bool) {
    survives_deaths_of("", fault, broken).await;
}

async fn survives_deaths_of(extra: &str, fault: Fault, broken: bool) {
    for call in 0.. {
        let lab = Lab::new().await;
        lab.deployed().await;
        if broken {
            // The last of three, so that all there was must come back.
            lab.world.break_release_in(2, "ord");
        }
        lab.world.plan_fault(call, fault);
        let release = lab.release_with(extra).await;
        let first = lab.executor();
        lab.dead_or_over(&release).await;
        drop(first);
        if !lab.world.fault_came() {
            assert!(call > 15, "the deploy made {call} calls only");
            break;
        }
        lab.world.revive();
        let _second = lab.executor();
        let expected = if broken { ReleaseStatus::Failed } else { ReleaseStatus::Complete };
        assert_eq!(lab.ended(&release).await, expected, "killed at call {call}, {fault:?}");
        let serving = if broken { 1 } else { 2 };
        assert_eq!(lab.world.serving(), [serving; 3], "killed at call {call}, {fault:?}");
        assert_eq!(lab.world.machines().len(), 3, "killed at call {call}, {fault:?}");
        lab.events(&release).await;
    }
}

#[tokio::test]
async fn a_killed_executor_is_continued_by_the_next() {
    survives_deaths(Fault::DeathBefore, false).await;
}

#[tokio::test]
async fn an_effect_without_a_recorded_outcome_is_performed_again() {
    survives_deaths(Fault::DeathAfter, false).await;
}

#[tokio::test]
async fn a_killed_rollback_is_continued_by_the_next() {
    survives_deaths(Fault::DeathBefore, true).await;
}

#[tokio::test]
async fn an_undo_without_a_recorded_outcome_is_performed_again() {
    survives_deaths(Fault::DeathAfter, true).await;
}

/// Kills it after each write instead, so that recorded outcomes are all that the next one knows.
#[tokio::test]
async fn a_deploy_goes_on_after_a_kill_behind_every_record() {
    for writes in 1..60 {
        let lab = Lab::new().await;
        lab.deployed().await;
        let release = lab.release().await;
        let first = lab.executor();
        let mut written = first.engine.subscribe();
        let reached = written.wait_for(|count| *count >= writes);
        let reached_or_ended = async {
            // A short deploy ends before so many writes.
            tokio::select! { _ = reached => {}, _ = lab.ended(&release) => {} }
        };
        tokio::time::timeout(LIMIT, reached_or_ended).await.expect("neither written nor ended");
        drop(first);
        let _second = lab.executor();
        assert_eq!(lab.ended(&release).await, ReleaseStatus::Complete, "killed after {writes} writes");
        assert_eq!((lab.world.serving(), lab.world.machines().len()), (vec![2, 2, 2], 3));
        lab.events(&release).await;
    }
}

#[tokio::test]
async fn an_executor_that_lost_its_lease_is_refused() {
    let lab = Lab::new().await;
    let release = lab.release().await;
    let claim = |name| Journal::claim(&lab.store, &release.id, name, now_ms, Duration::ZERO);
    let mut stale = claim("control-1").await.unwrap().journal;
    let mut current = claim("control-2").await.unwrap().journal;
    for refused in [
        stale.append(&[Record::Cancelled], &[]).await,
        stale.renew(Duration::from_secs(1)).await,
        stale.append(&[], &[crate::narrate::Note::general(DeployEventKind::Done, "late")]).await,
    ] {
        assert!(matches!(refused, Err(JournalError::Fenced(_))), "{refused:?}");
    }
    current.renew(Duration::from_secs(1)).await.unwrap();
    let third = claim("control-3").await.map(|_| ()).unwrap_err();
    assert_eq!(third.kind(), atoll_store::ErrorKind::Conflict, "the lease is alive");
}

#[tokio::test]
async fn only_the_newest_wish_counts_and_the_overtaken_one_says_so() {
    let lab = Lab::new().await;
    let (overtaken, newest) = (lab.release().await, lab.release().await);
    let _executor = lab.executor();
    assert_eq!(lab.ended(&overtaken).await, ReleaseStatus::Superseded);
    assert_eq!(lab.ended(&newest).await, ReleaseStatus::Complete);
    assert_eq!(lab.world.serving(), [2, 2, 2]);
    let events = lab.events(&overtaken).await;
    assert!(events.len() == 1 && events[0].text.contains("later one"), "{events:?}");
}

#[tokio::test]
async fn a_release_waits_for_the_one_that_is_running() {
    let lab = Lab::new().await;
    lab.world.hold_gates(true);
    let first = lab.release().await;
    let executor = lab.executor();
    let mut feed = EventFeed::new(executor.engine.clone(), lab.app.clone(), first.version, 0);
    let waits = async {
        while let Some(event) = feed.next().await.unwrap() {
            if event.text.contains("check \"up\" to pass") {
                return;
            }
        }
        panic!("nobody was told what is being waited for");
    };
    tokio::time::timeout(LIMIT, waits).await.unwrap();
    let second = lab.release().await;
    executor.engine.wake();
    lab.world.hold_gates(false);
    assert_eq!(lab.ended(&first).await, ReleaseStatus::Complete);
    assert_eq!(lab.ended(&second).await, ReleaseStatus::Complete);
    assert_eq!(lab.world.serving(), [2, 2, 2]);
}

#[tokio::test]
async fn a_silent_server_is_asked_again() {
    let lab = Lab::new().await;
    lab.world.plan_fault(0, Fault::Silent);
    let release = lab.release().await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Complete);
    assert!(lab.world.fault_came());
}

#[tokio::test]
async fn a_machine_put_to_rest_before_it_has_passed_is_started_again() {
    let lab = Lab::new().await;
    lab.world.rest_once();
    lab.deployed().await;
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was() {
    let lab = Lab::new().await;
    let release = lab.deployed().await;
    let all = lab.events(&release).await;
    for after in [1, all.len() - 1] {
        let mut feed = EventFeed::new(lab.engine("reader"), lab.app.clone(), 1, after as u64);
        assert_eq!(feed.next().await.unwrap().as_ref(), all.get(after));
    }
    let mut late = EventFeed::new(lab.engine("reader"), lab.app.clone(), 1, all.len() as u64);
    assert_eq!(late.next().await.unwrap().unwrap().kind, DeployEventKind::Complete);
    assert_eq!(late.next().await.unwrap(), None);
}
