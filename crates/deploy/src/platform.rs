//! The real [`World`]: control's machines and their workers, and the catalogue.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::{Control, ControlError, Kind, MachineCreate, MachineUpdate, ResolvedImage};
use atoll_model::config::DEFAULT_STOP_TIMEOUT;
use atoll_model::machine::ExitEvent;
use atoll_model::row::MachineRow;
use atoll_model::service::Protocol;
use atoll_model::{AppName, MachineId, MachineState, NodeName, RowKey};
use atoll_rollout::Effect;
use atoll_rollout::deploy::Existing;
use atoll_rollout::gate::LastExit;
use atoll_rollout::placement::NodeRoom;
use atoll_rpc::contract::MachineView;
use atoll_rpc::proto::worker as proto;
use atoll_store::{MachineFilter, MachinePhase, MachineRecord, MachineSpec, NodeStatus, Release};
use proto::change_request::Change;
use tokio::time::Instant;

use crate::barrier::Barrier;
use crate::wish::config_of;
use crate::world::{Setback, Sight, World};

/// How often a draining machine is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(25);
/// How often control's copy of a row is looked at, and how long it may lag behind the worker's word
/// that a machine is healthy.
const ROW_LOOK: Duration = Duration::from_millis(20);
const HEALTH_LAG: Duration = Duration::from_secs(2);
/// How long the image of a machine that is not launched may take.
const IMAGE_LIMIT: Duration = Duration::from_secs(300);
/// How often a stopping machine is looked at.
const STOP_LOOK: Duration = Duration::from_millis(50);
/// Beyond the kill timeout, for the worker's own work.
const STOP_SLACK: Duration = Duration::from_secs(5);

pub(crate) struct Platform {
    pub control: Arc<Control>,
    pub barrier: Arc<dyn Barrier>,
}

#[async_trait]
impl World for Platform {
    async fn nodes(&self, app: &AppName) -> Result<Vec<NodeRoom>, Setback> {
        let machines = self.control.machine_records_by(MachineFilter::default()).await?;
        let nodes = self.control.directory.nodes();
        let takes = |status: NodeStatus| status == NodeStatus::Active;
        // Where one node of a region is heard, those that are not get nothing. Where none is, that
        // may be control's own fault: it has just started.
        let heard: HashSet<_> = nodes.values().filter(|known| known.heard).map(|known| known.node.region).collect();
        let room = nodes.values().filter(|known| !known.node.state.is_over()).map(|known| {
            let node = &known.node;
            let here = || machines.iter().filter(|machine| machine.node == node.name);
            let promised: u64 = here().map(memory_mb).sum();
            NodeRoom {
                name: node.name.clone(),
                region: node.region,
                active: takes(node.state)
                    && node.worker_rpc.is_some()
                    && (known.heard || !heard.contains(&node.region)),
                free_memory_mb: node.memory_mb.saturating_sub(promised),
                free_cpu_milli: u64::from(node.cpus) * 1000,
                machines_of_app: here().filter(|machine| machine.app == *app).count() as u32,
            }
        });
        Ok(room.collect())
    }

    async fn machines(&self, app: &AppName) -> Result<Vec<Existing>, Setback> {
        let records = self.control.machine_records(app, false).await?;
        let managed = records.into_iter().filter(|record| record.phase != MachinePhase::Destroying);
        Ok(managed
            .filter_map(|record| {
                // Machines made through the API by hand are their maker's business.
                let release = record.spec.release_version?;
                Some(Existing {
                    id: record.id,
                    group: record.process_group,
                    region: record.region,
                    node: record.node,
                    release,
                })
            })
            .collect())
    }

    async fn silent(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        self.control.nodes_silent(nodes).await
    }

    async fn prepare(&self, node: &NodeName, release: &Release) -> Result<(), Setback> {
        Ok(self.control.image_prepare(node, &release.content.image_digest).await?)
    }

    async fn announce(&self, app: &AppName) -> Result<(), Setback> {
        self.control.app_publish(app).await?;
        Ok(())
    }

    async fn apply(&self, app: &AppName, effect: &Effect, release: Option<&Release>) -> Result<(), Setback> {
        match (effect, release) {
            (Effect::Create { .. }, Some(release)) => self.create(app, effect, release).await,
            (Effect::Update { machine, .. }, Some(release)) => self.update(app, *machine, release).await,
            (Effect::Copy { machine, of, node, launch }, _) => self.copy(app, *machine, *of, node, *launch).await,
            (Effect::Cordon { machine }, _) => self.cordon(app, *machine, true).await,
            (Effect::Uncordon { machine }, _) => self.cordon(app, *machine, false).await,
            (Effect::Destroy { machine }, _) => self.destroy(app, *machine).await,
            (Effect::Abandon { machine }, _) => Ok(self.control.machine_give_up(*machine).await?),
            _ => Err(Setback::lasting(format!("{effect} is nothing to be done at once"))),
        }
    }

    async fn observe(&self, app: &AppName, machine: MachineId) -> Result<Sight, Setback> {
        let seen = self.control.machine(app, machine).await?;
        if !seen.heard {
            return Err(silent(&seen.view));
        }
        Ok(sight(&seen.view, self.barrier.machine_row(machine).as_deref()))
    }

    async fn start(&self, app: &AppName, machine: MachineId) -> Result<(), Setback> {
        self.control.machine_change(app, machine, Change::Start(proto::Start {}), "").await?;
        Ok(())
    }

    async fn barrier(&self, app: &AppName, machine: MachineId, limit: Duration) -> Result<(), Setback> {
        let Some(record) = self.record(app, machine).await? else { return Ok(()) };
        let has_row = self.barrier.machine_row(machine).is_some();
        // Of a lost node no row counts; a machine that no worker confirmed may have none.
        if record.phase == MachinePhase::Lost || record.phase == MachinePhase::Intended && !has_row {
            return Ok(());
        }
        self.row_catches_up(&record, limit).await?;
        let waited = self.barrier.wait(RowKey::Machine(machine), limit).await;
        waited.map_err(|failure| Setback::lasting(failure.reason))
    }

    async fn drain(&self, app: &AppName, machine: MachineId) -> Result<(), Setback> {
        let Some(record) = self.record(app, machine).await? else { return Ok(()) };
        let limit = stop_timeout(&record);
        let drained = async {
            loop {
                let seen = self.control.machine_seen(&record).await?;
                // Of a server that does not answer nothing more will be known.
                if !seen.heard || seen.view.drained || seen.view.state != MachineState::Started {
                    return Ok::<_, ControlError>(());
                }
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        match tokio::time::timeout(limit, drained).await {
            Ok(looked) => Ok(looked?),
            // Those who stay, such as WebSockets, have the kill timeout once more after the stop signal.
            Err(_) => Ok(()),
        }
    }

    async fn last_lines(&self, app: &AppName, machine: MachineId, count: u32) -> Result<Vec<String>, Setback> {
        let record = self.control.machine_record(app, machine).await?;
        let request = proto::LogsRequest {
            machine: machine.to_string(),
            app: app.to_string(),
            after_ms: 0,
            tail: count,
            follow: false,
        };
        let answer = self.control.directory.worker(&record.node)?.logs(request).await;
        let mut stream = answer.map_err(ControlError::from)?.into_inner();
        let mut lines = Vec::new();
        while lines.len() < count as usize
            && let Some(line) = stream.message().await.map_err(ControlError::from)?
        {
            lines.push(line.text);
        }
        Ok(lines)
    }
}

impl Platform {
    /// A machine's record; `None` when it is gone, or was never made.
    async fn record(&self, app: &AppName, machine: MachineId) -> Result<Option<MachineRecord>, Setback> {
        match self.control.machine_record(app, machine).await {
            Ok(record) => Ok(Some(record).filter(|record| record.phase != MachinePhase::Destroyed)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until control's hub has the row that the worker speaks of: a barrier on the row before
    /// it would say nothing.
    async fn row_catches_up(&self, record: &MachineRecord, limit: Duration) -> Result<(), Setback> {
        let began = Instant::now();
        loop {
            let seen = self.control.machine_seen(record).await?;
            if !seen.heard {
                return Err(silent(&seen.view));
            }
            let row = self.barrier.machine_row(record.id);
            if let Some(row) = row.filter(|row| is_current(row, &seen.view)) {
                let is_ready = row.cordoned || row.services.iter().all(|service| service.healthy);
                // Whether it works is the gate's business; here it is only a matter of news on the way.
                if is_ready || row.state != MachineState::Started || began.elapsed() > HEALTH_LAG {
                    return Ok(());
                }
            }
            if began.elapsed() > limit {
                return Err(Setback::lasting(format!("control was not told of the machine's state in {limit:?}")));
            }
            tokio::time::sleep(ROW_LOOK).await;
        }
    }

    async fn create(&self, app: &AppName, effect: &Effect, release: &Release) -> Result<(), Setback> {
        let Effect::Create { machine, group, node, .. } = effect else { return Ok(()) };
        let create = MachineCreate {
            id: Some(*machine),
            node: Some(node.clone()),
            config: group_config(release, group)?,
            image: Some(image_of(release)?),
            release_version: Some(release.version),
            secrets_version: Some(release.content.secrets_version),
            ..MachineCreate::default()
        };
        let seen = self.control.machine_create(app, create).await?;
        if seen.view.state.is_active() {
            return Ok(());
        }
        // Recorded by an attempt whose refusal got lost.
        Err(Setback::lasting(format!("its server {node} refused it")))
    }

    /// With the configuration, image and secrets of the other; a new name, as the other has its own.
    async fn copy(
        &self,
        app: &AppName,
        machine: MachineId,
        of: MachineId,
        node: &NodeName,
        launch: bool,
    ) -> Result<(), Setback> {
        let old = self.control.machine_record(app, of).await?;
        let made = if machine == of {
            self.control.machine_make_again(&old, !launch).await?
        } else {
            let spec = old.intended.as_ref().unwrap_or(&old.spec);
            let create = MachineCreate {
                id: Some(machine),
                node: Some(node.clone()),
                config: spec.config.clone(),
                image: pinned_image(spec)?,
                release_version: spec.release_version,
                secrets_version: Some(spec.secrets_version),
                skip_launch: !launch,
                cordoned: old.cordoned,
                ..MachineCreate::default()
            };
            self.control.machine_create(app, create).await?.view
        };
        if !made.state.is_active() {
            return Err(Setback::lasting(format!("its server {node} refused it")));
        }
        if launch { Ok(()) } else { self.at_rest(app, machine).await }
    }

    /// Waits until a machine that is not launched could be: its image is there then.
    async fn at_rest(&self, app: &AppName, machine: MachineId) -> Result<(), Setback> {
        let began = Instant::now();
        loop {
            let seen = self.control.machine(app, machine).await?;
            match seen.view.state {
                MachineState::Created if began.elapsed() < IMAGE_LIMIT => tokio::time::sleep(STOP_LOOK).await,
                MachineState::Created => return Err(Setback::transient("its image is still being fetched")),
                MachineState::Failed => return Err(Setback::lasting("its image cannot be made ready there")),
                _ => return Ok(()),
            }
        }
    }

    async fn update(&self, app: &AppName, machine: MachineId, release: &Release) -> Result<(), Setback> {
        let record = self.control.machine_record(app, machine).await?;
        if let Some(intended) = &record.intended {
            // An earlier attempt, or somebody else's: at most one is open at a time.
            let is_ours = intended.release_version == Some(release.version);
            self.control.machine_apply_update(&record, false, "").await?;
            if is_ours {
                return Ok(());
            }
        } else if record.spec.release_version == Some(release.version) {
            return Ok(());
        }
        let update = MachineUpdate {
            config: group_config(release, &record.process_group)?,
            image: Some(image_of(release)?),
            release_version: Some(release.version),
            secrets_version: Some(release.content.secrets_version),
            ..MachineUpdate::default()
        };
        self.control.machine_update(app, machine, update).await?;
        Ok(())
    }

    async fn cordon(&self, app: &AppName, machine: MachineId, cordoned: bool) -> Result<(), Setback> {
        let Some(record) = self.record(app, machine).await? else { return Ok(()) };
        if record.phase == MachinePhase::Lost {
            return Ok(());
        }
        let change = Change::Cordon(proto::Cordon { cordoned });
        match self.control.machine_change(app, machine, change, "").await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            // No worker ever confirmed it, so nothing was routed to it.
            Err(_) if cordoned && record.phase == MachinePhase::Intended => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the app to end, then destroys the machine. What is recorded as going ends even when its
    /// server is away now.
    async fn destroy(&self, app: &AppName, machine: MachineId) -> Result<(), Setback> {
        let Some(record) = self.record(app, machine).await? else { return Ok(()) };
        match record.phase {
            MachinePhase::Placed => self.stop(app, &record).await,
            MachinePhase::Lost => {
                let now = self.control.now_ms();
                self.control.store.write(|tx| async move { tx.machine_destroyed(machine, now).await }).await?;
                return Ok(());
            }
            _ => {}
        }
        self.control.machine_destroy_recorded(&record).await?;
        Ok(())
    }

    /// With the machine's own signal and kill timeout. One that cannot be stopped is killed when it
    /// is destroyed, so nothing of this is an error.
    async fn stop(&self, app: &AppName, record: &MachineRecord) {
        let stop = Change::Stop(proto::Stop { signal: String::new(), timeout_ms: 0 });
        if let Err(error) = self.control.machine_change(app, record.id, stop, "").await {
            tracing::debug!(machine = %record.id, %error, "a machine is destroyed without a stop before");
            return;
        }
        let limit = stop_timeout(record) + STOP_SLACK;
        let ended = async {
            while let Ok(seen) = self.control.machine_seen(record).await {
                if !seen.heard || seen.view.state != MachineState::Stopping {
                    return;
                }
                tokio::time::sleep(STOP_LOOK).await;
            }
        };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::info!(machine = %record.id, "a machine did not end within its kill timeout");
        }
    }
}

fn silent(view: &MachineView) -> Setback {
    Setback::transient(format!("the machine's server {} does not answer", view.node))
}

/// A machine's kill timeout.
fn stop_timeout(record: &MachineRecord) -> Duration {
    let own = record.spec.config.stop_config.as_ref().and_then(|stop| stop.timeout);
    own.filter(|timeout| !timeout.0.is_zero()).unwrap_or(DEFAULT_STOP_TIMEOUT).0
}

fn is_current(row: &MachineRow, view: &MachineView) -> bool {
    row.version == view.version && row.cordoned == view.cordoned && row.state == view.state
}

fn memory_mb(record: &MachineRecord) -> u64 {
    record.spec.config.resolved_guest().map_or(0, |guest| u64::from(guest.memory_mb))
}

fn group_config(release: &Release, group: &str) -> Result<atoll_model::MachineConfig, Setback> {
    config_of(release, group)
        .ok_or_else(|| Setback::lasting(format!("release {} has no process group {group:?}", release.version)))
}

fn image_of(release: &Release) -> Result<ResolvedImage, Setback> {
    let digest = release.content.image_digest.parse();
    let digest =
        digest.map_err(|_| Setback::lasting(format!("release {} has no image that can be found", release.version)))?;
    Ok(ResolvedImage { reference: release.content.image_ref.clone(), digest })
}

/// The image that a machine was pinned to; `None` when it was not yet.
fn pinned_image(spec: &MachineSpec) -> Result<Option<ResolvedImage>, Setback> {
    let Some((reference, digest)) = spec.image.as_deref().and_then(|pinned| pinned.rsplit_once('@')) else {
        return Ok(None);
    };
    let digest = digest.parse().map_err(|_| Setback::lasting(format!("{digest:?} is no digest of an image")))?;
    Ok(Some(ResolvedImage { reference: reference.to_owned(), digest }))
}

/// What its worker and the catalogue say of a machine.
fn sight(view: &MachineView, row: Option<&MachineRow>) -> Sight {
    // Newest first: what is behind the last update was another version's doing.
    let own = || view.events.iter().take_while(|event| event.event_type != "update");
    let exits: Vec<ExitEvent> = own()
        .filter(|event| event.event_type == "exit")
        .filter_map(|event| serde_json::from_value(event.request.as_ref()?.get("exit_event")?.clone()).ok())
        .filter(|exit: &ExitEvent| !exit.requested_stop)
        .collect();
    let failed_launches = own().filter(|event| event.event_type == "launch" && event.status == "failed").count();
    let row = row.filter(|row| row.version == view.version);
    let accepts = |index: usize| row.and_then(|row| row.services.get(index)).is_some_and(|service| service.healthy);
    let services = view.config.services.iter().enumerate();
    Sight {
        state: view.state,
        boot_id: view.boot_id.clone(),
        exits: (exits.len() + failed_launches) as u32,
        last_exit: exits.first().map(|exit| LastExit { code: exit.exit_code, oom_killed: exit.oom_killed }),
        ports: services
            .filter(|(_, service)| service.protocol == Protocol::Tcp)
            .map(|(index, service)| (service.internal_port, accepts(index)))
            .collect(),
        checks: view.checks.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json_events: serde_json::Value) -> MachineView {
        serde_json::from_value(serde_json::json!({
            "id": "00000000000001", "name": "one", "app": "harbour", "state": "stopped", "region": "ams",
            "node": "ams1", "version": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "private_ipv6": "fdaa::1",
            "image": {"reference": "hello", "digest": "sha256:00"}, "created_at_ms": 1, "updated_at_ms": 1,
            "config": {"image": "hello", "services": [{"protocol": "tcp", "internal_port": 8080}]},
            "cordoned": false, "events": json_events,
        }))
        .unwrap()
    }

    fn exit(code: i32, requested: bool) -> serde_json::Value {
        serde_json::json!({
            "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "type": "exit", "status": "stopped", "source": "flyd", "timestamp": 1,
            "request": {"restart_count": 0, "exit_event": {
                "exit_code": code, "exited_at": "", "guest_exit_code": code, "guest_signal": -1, "signal": -1,
                "oom_killed": false, "requested_stop": requested, "restarting": false,
            }},
        })
    }

    #[test]
    fn only_ends_that_nobody_asked_for_count_against_a_machine() {
        let seen = sight(&view(serde_json::json!([exit(0, true), exit(3, false), exit(4, false)])), None);
        assert_eq!((seen.exits, seen.last_exit), (2, Some(LastExit { code: 3, oom_killed: false })));
        assert_eq!(seen.ports, [(8080, false)], "without a row nothing is known to accept");
    }

    #[test]
    fn a_new_version_does_not_answer_for_the_one_before() {
        let update = serde_json::json!({
            "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "type": "update", "status": "replacing", "source": "user", "timestamp": 1,
        });
        let seen = sight(&view(serde_json::json!([update, exit(3, false)])), None);
        assert_eq!((seen.exits, seen.last_exit), (0, None));
        let seen = sight(&view(serde_json::json!([exit(4, false), update, exit(3, false)])), None);
        assert_eq!(seen.exits, 1);
    }
}
