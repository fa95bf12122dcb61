//! Machines: recorded here, run by their workers. A change is recorded before the worker is asked;
//! an answer that never came is settled by [`crate::reconcile`].

use std::time::Duration;

use atoll_model::config::InvalidConfig;
use atoll_model::guest::Guest;
use atoll_model::machine::Lease;
use atoll_model::policy::NetworkLimits;
use atoll_model::region::{RegionTerm, parse_expression};
use atoll_model::{AppName, MachineConfig, MachineId, MachineState, MachineVersion, NodeName, RegionCode};
use atoll_rpc::contract::{LaunchBundle, MachineView, PinnedImage};
use atoll_rpc::proto::worker as proto;
use atoll_store::{
    App, AppStatus, ErrorKind, MachineIntent, MachinePhase, MachineRecord, MachineSpec, NewMachine, NodeStatus,
};

use crate::names::machine_name;
use crate::{Control, ControlError, ControlResult, Kind, ResolvedImage};

/// How long a worker may take to record and begin.
const WORKER_TIMEOUT: Duration = Duration::from_secs(60);

/// A machine to make.
#[derive(Clone, Debug, Default)]
pub struct MachineCreate {
    /// Chosen beforehand, by a plan: a second create with the same id answers the first machine.
    pub id: Option<MachineId>,
    /// Already placed there by a plan; `region` does not count then.
    pub node: Option<NodeName>,
    pub name: Option<String>,
    /// A region expression; `None`: the app's primary region, else wherever there is room.
    pub region: Option<String>,
    pub config: MachineConfig,
    pub skip_launch: bool,
    pub cordoned: bool,
    /// Seconds; 0: no lease.
    pub lease_ttl: u64,
    pub lease_owner: String,
    pub idempotency_key: Option<String>,
    /// Already resolved by a deploy; else resolved now.
    pub image: Option<ResolvedImage>,
    pub release_version: Option<u64>,
    /// `None`: the newest.
    pub secrets_version: Option<u64>,
    pub skip_secrets: bool,
}

/// A new version of a machine's configuration.
#[derive(Clone, Debug, Default)]
pub struct MachineUpdate {
    pub config: MachineConfig,
    /// Refused unless this is the machine's version.
    pub current_version: Option<MachineVersion>,
    pub skip_launch: bool,
    pub nonce: String,
    pub image: Option<ResolvedImage>,
    pub release_version: Option<u64>,
    pub secrets_version: Option<u64>,
}

/// A machine as it can be shown now.
#[derive(Clone, Debug)]
pub struct Seen {
    pub view: MachineView,
    /// The machine's own worker said it; else it is control's copy.
    pub heard: bool,
    pub release_version: Option<u64>,
}

/// A lease with its holder's nonce.
pub type Held = Lease;

impl From<InvalidConfig> for ControlError {
    fn from(error: InvalidConfig) -> Self {
        Self::invalid(error.to_string())
    }
}

impl Control {
    pub async fn machine_create(&self, app: &AppName, create: MachineCreate) -> ControlResult<Seen> {
        let app = self.app(app).await?;
        if app.status == AppStatus::Deleting {
            return Err(ControlError::new(Kind::Precondition, format!("app {} is being deleted", app.name)));
        }
        create.config.validate()?;
        let guest = create.config.resolved_guest().map_err(InvalidConfig::from)?;
        refuse_unsupported(&create.config)?;
        let image = match &create.image {
            Some(image) => image.clone(),
            None => self.image_resolve(&create.config.image).await?,
        };
        let candidates = match &create.node {
            Some(node) => vec![(node.clone(), self.region_of(node)?)],
            None => self.place(&app, create.region.as_deref(), guest).await?,
        };
        let secrets_version = create.secrets_version.unwrap_or(app.secrets_version);
        let mut full = None;
        for (node, region) in candidates {
            match self.machine_create_on(&app, &create, &image, secrets_version, node, region).await {
                // The worker refused before it recorded anything: the next node may have room.
                Err(error) if error.kind == Kind::Capacity => full = Some(error),
                other => return other,
            }
        }
        Err(full.unwrap_or_else(|| ControlError::new(Kind::Capacity, "no server of the platform can take the machine")))
    }

    async fn machine_create_on(
        &self,
        app: &App,
        create: &MachineCreate,
        image: &ResolvedImage,
        secrets_version: u64,
        node: NodeName,
        region: RegionCode,
    ) -> ControlResult<Seen> {
        let now = self.now_ms();
        let name = create.name.clone().filter(|name| !name.is_empty());
        let new = NewMachine {
            id: create.id,
            app: app.name.clone(),
            name: name.unwrap_or_else(|| machine_name(rand::random())),
            idempotency_key: create.idempotency_key.clone(),
            node,
            region,
            process_group: create.config.process_group().to_owned(),
            spec: MachineSpec {
                version: MachineVersion::from_parts(now, rand::random()),
                config: create.config.clone(),
                image: Some(image.pinned()),
                release_version: create.release_version,
                secrets_version: if create.skip_secrets { 0 } else { secrets_version },
            },
            cordoned: create.cordoned,
        };
        let wanted_name = new.name.clone();
        let intent = self
            .store
            .write(move |tx| {
                let new = new.clone();
                async move { tx.machine_record(&new, now).await }
            })
            .await
            .map_err(|error| match (error.kind(), &error) {
                (ErrorKind::Taken, atoll_store::StoreError::Taken { holder: Some(holder), .. }) => ControlError::new(
                    Kind::Conflict,
                    format!("already_exists: unique machine name violation, machine ID {holder} already exists with name {wanted_name}"),
                ),
                _ => error.into(),
            })?;
        let record = match intent {
            MachineIntent::Repeated(record) if record.phase != MachinePhase::Intended => {
                return self.machine_seen(&record).await;
            }
            MachineIntent::New(record) | MachineIntent::Repeated(record) => record,
        };
        match self.machine_hand_over(&record, create.skip_launch, create.lease_ttl, &create.lease_owner).await {
            Ok(view) => Ok(Seen { view, heard: true, release_version: record.spec.release_version }),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                // A clear refusal: the worker has nothing, so nothing may stay here.
                let id = record.id;
                self.store
                    .write(move |tx| async move {
                        tx.machine_destroy_intend(id, now).await?;
                        tx.machine_destroyed(id, now).await
                    })
                    .await?;
                Err(error)
            }
        }
    }

    /// Gives a recorded machine to its worker. Repeating it is harmless.
    pub(crate) async fn machine_hand_over(
        &self,
        record: &MachineRecord,
        skip_launch: bool,
        lease_ttl: u64,
        lease_owner: &str,
    ) -> ControlResult<MachineView> {
        let bundle = self.bundle(record, &record.spec, skip_launch).await?;
        let request =
            proto::CreateRequest { bundle_json: encode(&bundle)?, lease_ttl, lease_owner: lease_owner.to_owned() };
        let reply = self.directory.worker(&record.node)?.create(timed(request)).await?.into_inner();
        let (id, now) = (record.id, self.now_ms());
        let view = decode(&reply.machine_json)?;
        self.policies_check(&view).await?;
        self.store.write(move |tx| async move { tx.machine_placed(id, now).await }).await?;
        Ok(view)
    }

    /// Gives a machine that its node lost to the node that it was sent to. Repeating it is harmless.
    pub async fn machine_make_again(&self, record: &MachineRecord, skip_launch: bool) -> ControlResult<MachineView> {
        if record.phase == MachinePhase::Intended {
            return self.machine_hand_over(record, skip_launch, 0, "").await;
        }
        self.machine_seen(record).await.map(|seen| seen.view)
    }

    pub async fn machine_update(&self, app: &AppName, id: MachineId, update: MachineUpdate) -> ControlResult<Seen> {
        update.config.validate()?;
        refuse_unsupported(&update.config)?;
        let record = self.machine_record(app, id).await?;
        let image = match &update.image {
            Some(image) => image.clone(),
            None => self.image_resolve(&update.config.image).await?,
        };
        // While the image is fetched the machine goes on as it is; if that fails, nothing has changed.
        self.image_prepare(&record.node, &image.digest.to_string()).await?;
        let now = self.now_ms();
        let spec = MachineSpec {
            version: MachineVersion::from_parts(now, rand::random()),
            config: update.config.clone(),
            image: Some(image.pinned()),
            release_version: update.release_version.or(record.spec.release_version),
            secrets_version: match update.secrets_version {
                Some(version) => version,
                None => self.app(app).await?.secrets_version,
            },
        };
        let intended = atoll_store::MachineUpdate { current_version: update.current_version, spec };
        let record = self
            .store
            .write(move |tx| {
                let intended = intended.clone();
                async move { tx.machine_update_intend(id, &intended, now).await }
            })
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::Conflict => ControlError::new(
                    Kind::Conflict,
                    format!("aborted: machine update failed due to concurrent update ({error})"),
                ),
                _ => error.into(),
            })?;
        self.machine_apply_update(&record, update.skip_launch, &update.nonce).await
    }

    /// Hands an intended update to the worker and settles it.
    pub async fn machine_apply_update(
        &self,
        record: &MachineRecord,
        skip_launch: bool,
        nonce: &str,
    ) -> ControlResult<Seen> {
        let Some(intended) = &record.intended else { return self.machine_seen(record).await };
        let (id, version, now) = (record.id, intended.version, self.now_ms());
        let bundle = self.bundle(record, intended, skip_launch).await?;
        let request = proto::UpdateRequest {
            bundle_json: encode(&bundle)?,
            expected_version: String::new(),
            lease_nonce: nonce.to_owned(),
        };
        let reply = self.directory.worker(&record.node)?.update(timed(request)).await;
        let view = match reply.map_err(ControlError::from) {
            Ok(reply) => {
                let view = decode(&reply.get_ref().machine_json)?;
                self.policies_check(&view).await?;
                Ok(view)
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => Err(error),
        };
        let applied = view.is_ok();
        self.store.write(move |tx| async move { tx.machine_update_settle(id, version, applied, now).await }).await?;
        Ok(Seen { view: view?, heard: true, release_version: intended.release_version })
    }

    /// A machine as its worker says it is, else as control last knew it.
    pub async fn machine(&self, app: &AppName, id: MachineId) -> ControlResult<Seen> {
        let record = self.machine_record(app, id).await?;
        self.machine_seen(&record).await
    }

    pub async fn machine_seen(&self, record: &MachineRecord) -> ControlResult<Seen> {
        let release_version = record.spec.release_version;
        if record.phase != MachinePhase::Destroyed {
            let request = timed_short(proto::MachineRequest { machine: record.id.to_string() });
            let answer = match self.directory.worker(&record.node) {
                Ok(mut worker) => worker.get(request).await.map_err(ControlError::from),
                Err(error) => Err(error),
            };
            match answer {
                Ok(reply) => {
                    let view = decode(&reply.into_inner().machine_json)?;
                    return Ok(Seen { view, heard: true, release_version });
                }
                Err(error) if error.is_transient() || error.kind == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let heard = record.phase == MachinePhase::Destroyed;
        Ok(Seen { view: copy_of(record), heard, release_version })
    }

    /// start, stop, suspend, restart, cordon, signal: straight to the worker, who owns the state.
    pub async fn machine_change(
        &self,
        app: &AppName,
        id: MachineId,
        change: proto::change_request::Change,
        nonce: &str,
    ) -> ControlResult<(String, MachineView)> {
        let record = self.machine_record(app, id).await?;
        let request = proto::ChangeRequest {
            machine: id.to_string(),
            change: Some(change),
            lease_nonce: nonce.to_owned(),
            source: "user".to_owned(),
        };
        let reply = self.directory.worker(&record.node)?.change(timed(request)).await?.into_inner();
        Ok((reply.previous_state, decode(&reply.machine_json)?))
    }

    pub async fn machine_destroy(&self, app: &AppName, id: MachineId, force: bool, nonce: &str) -> ControlResult<()> {
        let record = self.machine_record(app, id).await?;
        if record.phase == MachinePhase::Destroyed {
            return Ok(());
        }
        // The worker judges whether it may be destroyed now; only then it is recorded as going.
        let destroy = proto::change_request::Change::Destroy(proto::Destroy { force });
        match self.machine_change(app, id, destroy, nonce).await {
            Ok(_) => {}
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        let now = self.now_ms();
        self.store
            .write(move |tx| async move {
                tx.machine_destroy_intend(id, now).await?;
                tx.machine_destroyed(id, now).await
            })
            .await?;
        Ok(())
    }

    /// Destroys a machine whose end is decided: recorded first, so that it ends even if its node is
    /// away now.
    pub async fn machine_destroy_recorded(&self, record: &MachineRecord) -> ControlResult<()> {
        let (id, now) = (record.id, self.now_ms());
        self.store.write(move |tx| async move { tx.machine_destroy_intend(id, now).await }).await?;
        self.machine_end(&record.node, id).await?;
        self.store.write(move |tx| async move { tx.machine_destroyed(id, now).await }).await?;
        Ok(())
    }

    /// Has a worker destroy a machine, whatever it is doing; one that the worker has not is no error.
    pub(crate) async fn machine_end(&self, node: &NodeName, id: MachineId) -> ControlResult<()> {
        let request = proto::ChangeRequest {
            machine: id.to_string(),
            change: Some(proto::change_request::Change::Destroy(proto::Destroy { force: true })),
            lease_nonce: String::new(),
            source: "flyd".to_owned(),
        };
        match self.directory.worker(node)?.change(timed(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// Records that a machine shall end; [`crate::reconcile`] ends it when its node answers.
    pub async fn machine_give_up(&self, id: MachineId) -> ControlResult<()> {
        let now = self.now_ms();
        Ok(self.store.write(move |tx| async move { tx.machine_destroy_intend(id, now).await }).await?)
    }

    pub async fn machine_lease(
        &self,
        app: &AppName,
        id: MachineId,
        action: proto::lease_request::Action,
        lease: proto::LeaseRequest,
    ) -> ControlResult<Option<Lease>> {
        let record = self.machine_record(app, id).await?;
        let request = proto::LeaseRequest { machine: id.to_string(), action: action.into(), ..lease };
        let reply = self.directory.worker(&record.node)?.lease(timed(request)).await?.into_inner();
        if reply.lease_json.is_empty() { Ok(None) } else { decode(&reply.lease_json).map(Some) }
    }

    pub async fn machine_set_metadata(
        &self,
        app: &AppName,
        id: MachineId,
        entries: std::collections::HashMap<String, String>,
        replace_all: bool,
        expected_version: &str,
    ) -> ControlResult<MachineView> {
        let record = self.machine_record(app, id).await?;
        let request = proto::MetadataRequest {
            machine: id.to_string(),
            entries,
            replace_all,
            expected_version: expected_version.to_owned(),
        };
        let reply = self.directory.worker(&record.node)?.set_metadata(timed(request)).await?.into_inner();
        let view: MachineView = decode(&reply.machine_json)?;
        let (config, version, now) = (view.config.clone(), view.version, self.now_ms());
        self.store
            .write(move |tx| {
                let config = config.clone();
                async move { tx.machine_set_config(id, version, &config, now).await }
            })
            .await?;
        self.policies_check(&view).await?;
        Ok(view)
    }

    pub async fn machine_wait(
        &self,
        app: &AppName,
        id: MachineId,
        wait: proto::WaitRequest,
    ) -> ControlResult<proto::WaitReply> {
        let record = self.machine_record(app, id).await?;
        if record.phase == MachinePhase::Destroyed {
            return destroyed_wait(&wait, &record);
        }
        let mut request = tonic::Request::new(proto::WaitRequest { machine: id.to_string(), ..wait.clone() });
        request.set_timeout(Duration::from_millis(wait.timeout_ms) + Duration::from_secs(5));
        match self.directory.worker(&record.node)?.wait(request).await {
            Ok(reply) => Ok(reply.into_inner()),
            // Destroyed and forgotten by its worker while we asked.
            Err(status) if status.code() == tonic::Code::NotFound => destroyed_wait(&wait, &record),
            Err(status) => Err(status.into()),
        }
    }

    /// All that a worker needs to run this version of the machine, ever.
    async fn bundle(
        &self,
        record: &MachineRecord,
        spec: &MachineSpec,
        skip_launch: bool,
    ) -> ControlResult<LaunchBundle> {
        let app = self.app(&record.app).await?;
        let secrets = self.secret_values(&record.app, spec.secrets_version).await?;
        let pinned = spec.image.as_deref().unwrap_or_default();
        let (reference, digest) = pinned.rsplit_once('@').unwrap_or((pinned, ""));
        Ok(LaunchBundle {
            machine: record.id,
            name: record.name.clone(),
            app: record.app.clone(),
            org: app.org,
            network: app.network,
            region: record.region,
            version: spec.version,
            config: spec.config.clone(),
            image: PinnedImage { reference: reference.to_owned(), digest: digest.to_owned() },
            secrets,
            secrets_version: spec.secrets_version,
            private_ipv6: record.private_ip,
            limits: self.limits(record, spec).await?,
            primary_region: app.primary_region,
            skip_launch,
            cordoned: record.cordoned,
            created_at_ms: record.created_at_ms,
        })
    }

    fn region_of(&self, node: &NodeName) -> ControlResult<RegionCode> {
        let nodes = self.directory.nodes();
        let known = nodes.get(node).filter(|known| !known.node.state.is_over());
        known
            .map(|known| known.node.region)
            .ok_or_else(|| ControlError::invalid(format!("the server {node} is not part of the platform")))
    }

    /// Nodes that may take the machine, best first: the expression's order of regions, then the node
    /// with the fewest machines of this app, then the one with the most free memory.
    async fn place(&self, app: &App, region: Option<&str>, guest: Guest) -> ControlResult<Vec<(NodeName, RegionCode)>> {
        let terms = match (region.filter(|text| !text.is_empty()), app.primary_region) {
            (Some(text), _) => parse_expression(text).map_err(|error| ControlError::invalid(error.to_string()))?,
            (None, Some(primary)) => vec![RegionTerm::Code(primary), RegionTerm::Any],
            (None, None) => vec![RegionTerm::Any],
        };
        let nodes = self.directory.nodes();
        let machines = self.machine_records(&app.name, false).await?;
        let mut candidates: Vec<(usize, usize, bool, std::cmp::Reverse<u64>, NodeName, RegionCode)> = nodes
            .values()
            .filter(|known| known.node.state == NodeStatus::Active && known.node.worker_rpc.is_some())
            .filter(|known| known.node.memory_mb >= u64::from(guest.memory_mb))
            .filter_map(|known| {
                let rank = terms.iter().position(|term| term.matches(known.node.region))?;
                let own = machines.iter().filter(|machine| machine.node == known.node.name).count();
                let memory = std::cmp::Reverse(known.node.memory_mb);
                Some((rank, own, !known.heard, memory, known.node.name.clone(), known.node.region))
            })
            .collect();
        candidates.sort();
        if candidates.is_empty() {
            return Err(self.no_place(region, &terms));
        }
        Ok(candidates.into_iter().map(|(.., node, region)| (node, region)).collect())
    }

    fn no_place(&self, region: Option<&str>, terms: &[RegionTerm]) -> ControlError {
        let nodes = self.directory.nodes();
        let mut regions: Vec<&str> = nodes
            .values()
            .filter(|known| known.node.state == NodeStatus::Active)
            .map(|known| known.node.region.as_str())
            .collect();
        regions.sort_unstable();
        regions.dedup();
        let known = regions.join(", ");
        let somewhere = nodes.values().any(|known| terms.iter().any(|term| term.matches(known.node.region)));
        if somewhere {
            return ControlError::new(
                Kind::Capacity,
                "aborted: could not reserve resource for machine: no server there can take it",
            );
        }
        ControlError::invalid(format!("no server in region {:?}; this platform has {known}", region.unwrap_or("any")))
    }
}

fn refuse_unsupported(config: &MachineConfig) -> ControlResult<()> {
    match config.unsupported().as_slice() {
        [] => Ok(()),
        fields => Err(ControlError::invalid(format!(
            "config.{} is not honoured by this version of Atoll",
            fields.join(", config.")
        ))),
    }
}

fn destroyed_wait(wait: &proto::WaitRequest, record: &MachineRecord) -> ControlResult<proto::WaitReply> {
    if wait.states.iter().any(|state| state == "destroyed" || state == "settled") {
        return Ok(proto::WaitReply {
            state: "destroyed".into(),
            version: record.spec.version.to_string(),
            event: String::new(),
        });
    }
    Err(ControlError::not_found(format!("machine not found: {}", record.id)))
}

/// What control knows of a machine whose worker does not answer.
pub(crate) fn copy_of(record: &MachineRecord) -> MachineView {
    let pinned = record.spec.image.as_deref().unwrap_or_default();
    let (reference, digest) = pinned.rsplit_once('@').unwrap_or((pinned, ""));
    MachineView {
        id: record.id,
        name: record.name.clone(),
        app: record.app.clone(),
        state: match record.phase {
            MachinePhase::Destroyed => MachineState::Destroyed,
            MachinePhase::Destroying => MachineState::Destroying,
            _ => record.state,
        },
        region: record.region,
        node: record.node.clone(),
        version: record.spec.version,
        image: PinnedImage { reference: reference.to_owned(), digest: digest.to_owned() },
        private_ipv6: record.private_ip,
        created_at_ms: record.created_at_ms,
        updated_at_ms: record.updated_at_ms,
        config: record.spec.config.clone(),
        cordoned: record.cordoned,
        drained: false,
        secrets_version: record.spec.secrets_version,
        limits: NetworkLimits::default(),
        events: Vec::new(),
        checks: Vec::new(),
        lease: None,
        boot_id: None,
        pid: None,
        earlier_versions: Vec::new(),
    }
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(WORKER_TIMEOUT);
    request
}

/// For reads: a node that does not answer must not hold up a list.
pub(crate) fn timed_short<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(3));
    request
}

pub(crate) fn encode<T: serde::Serialize>(value: &T) -> ControlResult<bytes::Bytes> {
    serde_json::to_vec(value).map(bytes::Bytes::from).map_err(ControlError::internal)
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(json: &[u8]) -> ControlResult<T> {
    serde_json::from_slice(json).map_err(ControlError::internal)
}
