//! Deploys as the API's faces use them: ask for one, look at it, follow it.

use std::sync::Arc;

use atoll_control::{Control, ControlError, ControlResult, Kind};
use atoll_manifest::Manifest;
use atoll_model::wire::{AppStatus, DeployAccepted, DeployRequest, ReleaseView, ScaleRequest};
use atoll_model::{AppName, RegionCode};
use atoll_rollout::placement::{NodeRoom, PlacementError};
use atoll_store::{App, AppStatus as StoredStatus, ErrorKind, NewRelease, Release, ReleaseStatus, Scale, StoreError};

use crate::barrier::Barrier;
use crate::engine::Engine;
use crate::feed::EventFeed;
use crate::narrate::Note;
use crate::planning::{CannotPlan, Situation, active_regions, manifest_of};
use crate::platform::Platform;
use crate::status::{machine_summary, release_view};
use crate::timing::Timing;
use crate::wish::{Homes, SCALE, Wish};
use crate::world::{Setback, World};

/// Releases that are listed.
const LISTED: u32 = 50;
/// Machines of one process group in one region.
const MAX_COUNT: u32 = 1000;

pub struct Deploys {
    control: Arc<Control>,
    world: Arc<dyn World>,
    engine: Arc<Engine>,
}

/// What a release changes in the records besides being there.
struct Remembered {
    homes: Homes,
    scales: Vec<Scale>,
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
            refused => Self::invalid(refused.to_string()),
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
        Self { control, world, engine }
    }

    /// Executes deploys until it is dropped. Also those that were under way when control ended.
    pub async fn run_forever(self: Arc<Self>) {
        self.engine.clone().run_forever().await;
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
        let homes = Homes::choose(&known, &wish.manifest, &request.regions, &active_regions(&nodes));
        let mut scales = self.scales(app).await?;
        if !request.regions.is_empty() {
            scales.retain(|scale| homes.regions.contains(&scale.region));
        }
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
        };
        let release = self.record(app, new, Remembered { homes, scales }, nodes).await?;
        Ok(DeployAccepted { release: release.version, warnings: wish.warnings })
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
        let scales = rescaled(self.scales(app).await?, request, &last, &manifest, &homes)?;
        let new = NewRelease {
            strategy: SCALE.to_owned(),
            description: describe(request),
            created_by: created_by.to_owned(),
            ..last.content
        };
        let nodes = self.world.nodes(app).await?;
        let release = self.record(app, new, Remembered { homes, scales }, nodes).await?;
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
        let (newest, complete) = self
            .engine
            .store
            .read(|tx| async move {
                Ok::<_, StoreError>((tx.release_list(app, 1).await?, tx.release_last_complete(app).await?))
            })
            .await?;
        if let Some(open) = newest.first().filter(|release| !release.status.is_final()) {
            return Err(ControlError::new(
                Kind::Conflict,
                format!("release {} of {app} is being deployed: scale when it is in place", open.version),
            ));
        }
        complete.ok_or_else(|| {
            ControlError::new(Kind::Precondition, format!("nothing of {app} was deployed yet: deploy it first"))
        })
    }

    async fn record(
        &self,
        app: &AppName,
        new: NewRelease,
        remembered: Remembered,
        nodes: Vec<NodeRoom>,
    ) -> ControlResult<Release> {
        let existing = self.world.machines(app).await?;
        let trial = Situation {
            app,
            content: &new,
            homes: &remembered.homes,
            scales: &remembered.scales,
            nodes,
            existing: &existing,
        };
        trial.plan(0, None, 0)?;
        let now = (self.engine.now_ms)();
        let (new, remembered) = (&new, &remembered);
        let release = self
            .engine
            .store
            .write(|tx| async move {
                let Homes { primary, regions } = &remembered.homes;
                tx.app_set_regions(app, *primary, regions).await?;
                let groups = new.machine_configs.keys().map(String::as_str);
                let known = tx.scale_list(app).await?;
                for group in groups.chain(known.iter().map(|scale| scale.process_group.as_str())) {
                    let own = remembered.scales.iter().filter(|scale| scale.process_group == group);
                    let counts: Vec<(RegionCode, u32)> = own.map(|scale| (scale.region, scale.count)).collect();
                    tx.scale_replace(app, group, &counts).await?;
                }
                tx.release_create(app, new, now).await
            })
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => ControlError::not_found(format!("app {app} is gone")),
                _ => error.into(),
            })?;
        self.control.app_publish(&self.control.app(app).await?);
        self.engine.wake();
        Ok(release)
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
    mut scales: Vec<Scale>,
    request: &ScaleRequest,
    release: &Release,
    manifest: &Manifest,
    homes: &Homes,
) -> ControlResult<Vec<Scale>> {
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
        scales.retain(|scale| {
            scale.process_group != group || request.region.is_some_and(|region| region != scale.region)
        });
        scales.extend(regions.into_iter().map(|region| Scale {
            process_group: group.to_owned(),
            region,
            count: *count,
        }));
    }
    Ok(scales)
}

fn describe(request: &ScaleRequest) -> String {
    let counts: Vec<String> = request.counts.iter().map(|(group, count)| format!("{group}={count}")).collect();
    let place = request.region.map(|region| format!(" in {region}"));
    format!("scale {}{}", counts.join(" "), place.unwrap_or_default())
}
