//! Deploys as the API's faces use them: ask for one, look at it, follow it.

use std::sync::Arc;

use atoll_control::{Control, ControlError, ControlResult, Kind};
use atoll_manifest::Manifest;
use atoll_model::wire::{AppStatus, DeployAccepted, DeployRequest, ReleaseView, ScaleRequest};
use atoll_model::{AppName, MachineId, NodeName, RegionCode};
use atoll_rollout::Effect;
use atoll_rollout::desired::ScaleCount;
use atoll_rollout::placement::{NodeRoom, PlacementError};
use atoll_store::{App, AppStatus as StoredStatus, ErrorKind, NewRelease, Release, ReleaseStatus, Scale, StoreError};

use crate::asked::{Asked, Homes, count_of};
use crate::barrier::Barrier;
use crate::engine::Engine;
use crate::feed::EventFeed;
use crate::moves::{Leaving, Mover, MoverError};
use crate::narrate::Note;
use crate::planning::{CannotLook, CannotPlan, decide, manifest_of};
use crate::platform::Platform;
use crate::status::{machine_summary, release_view};
use crate::timing::Timing;
use crate::wish::{SCALE, Wish};
use crate::world::{Setback, World};

/// Releases that are listed.
const LISTED: u32 = 50;
/// Machines of one process group in one region.
const MAX_COUNT: u32 = 1000;

pub struct Deploys {
    control: Arc<Control>,
    world: Arc<dyn World>,
    engine: Arc<Engine>,
    mover: Arc<Mover>,
}

impl From<Setback> for ControlError {
    fn from(setback: Setback) -> Self {
        let kind = if setback.is_transient { Kind::Unavailable } else { Kind::Precondition };
        Self { kind, message: setback.reason.clone(), source: Some(Box::new(setback)) }
    }
}

impl From<CannotPlan> for ControlError {
    fn from(error: CannotPlan) -> Self {
        match error {
            CannotPlan::Definition(error) => Self::internal(error),
            away @ CannotPlan::Unreachable { .. } => Self::new(Kind::Precondition, away.to_string()),
            refused => Self::invalid(refused.to_string()),
        }
    }
}

impl From<CannotLook> for ControlError {
    fn from(error: CannotLook) -> Self {
        match error {
            CannotLook::World(setback) => setback.into(),
            CannotLook::Store(error) => error.into(),
        }
    }
}

impl Deploys {
    /// `executor` names this process among those over the same records; it must be the same after
    /// its restart.
    pub fn new(control: Arc<Control>, barrier: Arc<dyn Barrier>, executor: impl Into<String>, timing: Timing) -> Self {
        let world: Arc<dyn World> = Arc::new(Platform { control: control.clone(), barrier });
        let (store, now_ms) = (control.store.clone(), control.settings.now_ms);
        let engine = Arc::new(Engine::new(store, world.clone(), executor.into(), now_ms, timing));
        let mover = Arc::new(Mover::new(engine.clone()));
        Self { control, world, engine, mover }
    }

    /// Executes deploys and moves until it is dropped. Also those that were under way when control ended.
    pub async fn run_forever(self: Arc<Self>) {
        tokio::join!(self.engine.clone().run_forever(), self.mover.clone().run_forever());
    }

    /// What comes of the machines that cannot stay on a node.
    pub async fn leaving(&self, node: &NodeName) -> ControlResult<Vec<Leaving>> {
        self.mover.leaving(node).await.map_err(|error| match error {
            MoverError::Store(error) => error.into(),
            MoverError::World(error) => error.into(),
        })
    }

    /// Records a release of what is asked for; it is deployed in the background. Whatever can be
    /// refused is refused now, before anything is recorded.
    pub async fn start(
        &self,
        app: &AppName,
        request: &DeployRequest,
        created_by: &str,
    ) -> ControlResult<DeployAccepted> {
        let known = self.living(app).await?;
        let wish = Wish::read(app, request)?;
        let nodes = self.world.nodes(app).await?;
        refuse_unknown_regions(&request.regions, &nodes)?;
        let image = self.control.image_resolve(&wish.image).await?;
        let asked =
            Asked { regions: request.regions.clone(), counts: None, skip_unreachable: request.skip_unreachable };
        let new = NewRelease {
            image_ref: wish.image.clone(),
            image_digest: image.digest.to_string(),
            manifest: request.manifest.clone(),
            definition: wish.manifest.definition(),
            secrets_version: known.secrets_version,
            strategy: wish.strategy_name().to_owned(),
            description: String::new(),
            created_by: created_by.to_owned(),
            machine_configs: wish.configs,
            asked: serde_json::to_value(asked).map_err(ControlError::internal)?,
        };
        let under_way = self.under_way(app).await?;
        let (release, abandoned) = self.record(app, new).await?;
        let mut warnings = wish.warnings;
        warnings.extend(under_way.map(|version| format!("release {version} is being deployed: this one follows it")));
        warnings.extend(abandoned.iter().map(|machine| {
            format!("machine {machine} is left out, as its server does not answer: it goes when the server is back")
        }));
        Ok(DeployAccepted { release: release.version, warnings })
    }

    /// Changes how many machines there are; a release of its own, with the content of the last one.
    pub async fn scale(
        &self,
        app: &AppName,
        request: &ScaleRequest,
        created_by: &str,
    ) -> ControlResult<DeployAccepted> {
        let known = self.living(app).await?;
        let last = self.settled(app).await?;
        let manifest = manifest_of(&last.content).map_err(ControlError::internal)?;
        let homes = Homes { primary: known.primary_region, regions: known.regions };
        let counts = rescaled(self.scales(app).await?, request, &last, &manifest, &homes)?;
        let asked = Asked { counts: Some(counts), ..Asked::default() };
        let new = NewRelease {
            strategy: SCALE.to_owned(),
            description: describe(request),
            created_by: created_by.to_owned(),
            asked: serde_json::to_value(asked).map_err(ControlError::internal)?,
            ..last.content
        };
        let (release, _) = self.record(app, new).await?;
        Ok(DeployAccepted { release: release.version, warnings: Vec::new() })
    }

    /// An app's releases, newest first.
    pub async fn releases(&self, app: &AppName) -> ControlResult<Vec<ReleaseView>> {
        self.control.app(app).await?;
        self.release_views(app, LISTED).await
    }

    /// Follows a release by its events, from the one with index `after` on.
    pub async fn release_events(&self, app: &AppName, version: u64, after: u64) -> ControlResult<EventFeed> {
        let found = self.engine.store.read(|tx| async move { tx.release_fetch_version(app, version).await }).await;
        match found {
            Ok(_) => Ok(EventFeed::new(self.engine.clone(), app.clone(), version, after)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(ControlError::not_found(format!("app {app} has no release {version}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn status(&self, app: &AppName) -> ControlResult<AppStatus> {
        let known = self.control.app(app).await?;
        let machines = self.control.machines(app, false).await?;
        Ok(AppStatus {
            hostname: format!("{app}.{}", self.control.settings.app_domain),
            name: known.name,
            org: known.org,
            regions: known.regions,
            primary_region: known.primary_region,
            release: self.release_views(app, 1).await?.pop(),
            machines: machines.into_iter().map(machine_summary).collect(),
        })
    }

    async fn living(&self, app: &AppName) -> ControlResult<App> {
        let known = self.control.app(app).await?;
        match known.status {
            StoredStatus::Deleting => Err(ControlError::new(Kind::Precondition, format!("app {app} is being deleted"))),
            _ => Ok(known),
        }
    }

    async fn scales(&self, app: &AppName) -> ControlResult<Vec<Scale>> {
        Ok(self.engine.store.read(|tx| async move { tx.scale_list(app).await }).await?)
    }

    /// The release in place, when none is on its way.
    async fn settled(&self, app: &AppName) -> ControlResult<Release> {
        if let Some(version) = self.under_way(app).await? {
            return Err(ControlError::new(
                Kind::Conflict,
                format!("release {version} of {app} is being deployed: scale when it is in place"),
            ));
        }
        let complete = self.engine.store.read(|tx| async move { tx.release_last_complete(app).await }).await?;
        complete.ok_or_else(|| {
            ControlError::new(Kind::Precondition, format!("nothing of {app} was deployed yet: deploy it first"))
        })
    }

    /// The newest release, if it is not over.
    async fn under_way(&self, app: &AppName) -> ControlResult<Option<u64>> {
        let newest = self.engine.store.read(|tx| async move { tx.release_list(app, 1).await }).await?;
        Ok(newest.first().filter(|release| !release.status.is_final()).map(|release| release.version))
    }

    /// Records a release that can be planned now; names the machines that it gives up, too.
    async fn record(&self, app: &AppName, new: NewRelease) -> ControlResult<(Release, Vec<MachineId>)> {
        let trial = decide(&*self.world, &self.engine.store, app, &new, 0, 0).await??;
        let (new, now) = (&new, (self.engine.now_ms)());
        let recorded = self.engine.store.write(|tx| async move { tx.release_create(app, new, now).await }).await;
        let release = recorded.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ControlError::not_found(format!("app {app} is gone")),
            _ => error.into(),
        })?;
        self.engine.wake();
        let given_up = trial.plan.steps.iter().filter(|step| matches!(step.effect, Effect::Abandon { .. }));
        Ok((release, given_up.map(|step| step.effect.machine()).collect()))
    }

    async fn release_views(&self, app: &AppName, limit: u32) -> ControlResult<Vec<ReleaseView>> {
        let releases = self
            .engine
            .store
            .read(|tx| async move {
                let mut releases = Vec::new();
                for release in tx.release_list(app, limit).await? {
                    let last = match release.status {
                        ReleaseStatus::Failed => tx.deploy_last_event(&release.id).await?,
                        _ => None,
                    };
                    releases.push((release, last));
                }
                Ok::<_, StoreError>(releases)
            })
            .await?;
        let reason =
            |event: atoll_store::DeployEvent| serde_json::from_value::<Note>(event.event).ok().map(|note| note.text);
        Ok(releases.into_iter().map(|(release, last)| release_view(&release, last.and_then(reason))).collect())
    }
}

fn refuse_unknown_regions(regions: &[RegionCode], nodes: &[NodeRoom]) -> ControlResult<()> {
    for region in regions {
        if !nodes.iter().any(|node| node.region == *region) {
            let mut known: Vec<RegionCode> = nodes.iter().map(|node| node.region).collect();
            known.sort_unstable();
            known.dedup();
            return Err(ControlError::invalid(PlacementError::UnknownRegion { region: *region, known }.to_string()));
        }
    }
    Ok(())
}

/// The settings after `scale count`: without a region, the same count in each of the app's.
fn rescaled(
    known: Vec<Scale>,
    request: &ScaleRequest,
    release: &Release,
    manifest: &Manifest,
    homes: &Homes,
) -> ControlResult<Vec<ScaleCount>> {
    let mut scales: Vec<ScaleCount> = known.iter().map(count_of).collect();
    if request.counts.is_empty() {
        return Err(ControlError::invalid("no count is given"));
    }
    let groups = &release.content.machine_configs;
    for (asked, count) in &request.counts {
        // `app` is what a bare count means.
        let group = if asked == "app" { manifest.default_group() } else { asked };
        if !groups.contains_key(group) {
            let known: Vec<&str> = groups.keys().map(String::as_str).collect();
            return Err(ControlError::invalid(format!(
                "there is no process group {group:?}; the release has {}",
                known.join(", ")
            )));
        }
        if *count > MAX_COUNT {
            return Err(ControlError::invalid(format!("{count} machines of {group} are more than {MAX_COUNT}")));
        }
        let regions: Vec<RegionCode> = match (request.region, homes.regions.as_slice()) {
            (Some(region), _) => vec![region],
            (None, []) => homes.primary.into_iter().collect(),
            (None, regions) => regions.to_vec(),
        };
        scales.retain(|scale| scale.group != group || request.region.is_some_and(|region| region != scale.region));
        scales.extend(regions.into_iter().map(|region| ScaleCount { group: group.to_owned(), region, count: *count }));
    }
    Ok(scales)
}

fn describe(request: &ScaleRequest) -> String {
    let counts: Vec<String> = request.counts.iter().map(|(group, count)| format!("{group}={count}")).collect();
    let place = request.region.map(|region| format!(" in {region}"));
    format!("scale {}{}", counts.join(" "), place.unwrap_or_default())
}
