//! Where machines live. Written before a worker is asked for anything, so that a crash between the
//! two leaves a record to finish or unwind, and so that a lost node's machines can be made again.
//!
//! ```text
//! intended ─► placed ─► destroying ─► destroyed (kept a while, then pruned)
//!     │          └────► lost ──────────► destroyed
//!     └──────────────► destroying
//! ```
//! `state` is control's copy of what the worker last said and may be seconds old.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use atoll_model::address::network_of;
use atoll_model::{AppName, MachineConfig, MachineId, MachineState, MachineVersion, NodeName, OrgSlug, RegionCode};

use crate::ids::random_machine_id;
use crate::value::{Row, json_text, params, stored_word};
use crate::{AppStatus, Page, PageRequest, ReadTx, StoreError, WriteTx};

stored_word! {
    /// The record's own state.
    MachinePhase {
        /// Recorded; the worker may or may not have heard of it.
        Intended = "intended",
        /// The worker has it.
        Placed = "placed",
        /// Its node is gone, and what it held with it.
        Lost = "lost",
        Destroying = "destroying",
        Destroyed = "destroyed",
    }
}

/// What one version of a machine is made from: with it a machine can be made again elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub struct MachineSpec {
    pub version: MachineVersion,
    pub config: MachineConfig,
    /// The image pinned by digest, once resolved.
    pub image: Option<String>,
    /// The app's release this version belongs to, if a deploy made it.
    pub release_version: Option<u64>,
    pub secrets_version: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub struct NewMachine {
    /// Chosen beforehand, by a plan: a second record with the same id answers the first machine.
    /// `None`: a random one.
    pub id: Option<MachineId>,
    pub app: AppName,
    pub name: String,
    /// A second record with the same key answers the first machine.
    pub idempotency_key: Option<String>,
    pub node: NodeName,
    pub region: RegionCode,
    pub process_group: String,
    pub spec: MachineSpec,
    pub cordoned: bool,
}

/// A machine that its worker has and the records do not, as its worker has it.
#[derive(Clone, PartialEq, Debug)]
pub struct FoundMachine {
    /// With its id.
    pub machine: NewMachine,
    pub private_ip: Ipv6Addr,
    pub state: MachineState,
    pub created_at_ms: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub struct MachineRecord {
    pub id: MachineId,
    pub app: AppName,
    pub name: String,
    pub node: NodeName,
    pub region: RegionCode,
    pub process_group: String,
    pub phase: MachinePhase,
    /// What the worker was last known to have.
    pub spec: MachineSpec,
    /// An update that was decided and not yet confirmed.
    pub intended: Option<MachineSpec>,
    pub private_ip: Ipv6Addr,
    pub state: MachineState,
    pub cordoned: bool,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
}

/// What recording a new machine led to.
#[derive(Clone, PartialEq, Debug)]
pub enum MachineIntent {
    New(MachineRecord),
    /// The idempotency key or the id was used before, for this machine.
    Repeated(MachineRecord),
}

impl MachineIntent {
    pub fn record(&self) -> &MachineRecord {
        match self {
            Self::New(record) | Self::Repeated(record) => record,
        }
    }
}

/// An update to record before the worker hears of it.
#[derive(Clone, PartialEq, Debug)]
pub struct MachineUpdate {
    /// Refused unless the machine has this version; `None` updates whatever is there.
    pub current_version: Option<MachineVersion>,
    pub spec: MachineSpec,
}

/// What a worker says about a machine, with the version of its catalogue row.
#[derive(Clone, PartialEq, Debug)]
pub struct Observation {
    pub epoch: u64,
    pub sequence: u64,
    pub version: MachineVersion,
    pub state: MachineState,
    pub cordoned: bool,
}

/// Which machines to list. The default: every machine that is not destroyed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineFilter {
    pub app: Option<AppName>,
    pub node: Option<NodeName>,
    pub region: Option<RegionCode>,
    pub include_destroyed: bool,
}

const SELECT_BY_ID: &str = "SELECT m.*, a.name AS app_name FROM machines m JOIN apps a ON a.id = m.app WHERE m.id = $1";

fn machine(row: &Row) -> Result<MachineRecord, StoreError> {
    let intended = match row.parsed_opt("intended_version")? {
        None => None,
        Some(version) => Some(MachineSpec {
            version,
            config: row.json("intended_config")?,
            image: row.text_opt("intended_image")?,
            release_version: row.unsigned_opt("intended_release")?,
            secrets_version: row.unsigned_opt("intended_secrets")?.unwrap_or_default(),
        }),
    };
    Ok(MachineRecord {
        id: row.parsed("id")?,
        app: row.parsed("app_name")?,
        name: row.text("name")?,
        node: row.parsed("node")?,
        region: row.parsed("region")?,
        process_group: row.text("process_group")?,
        phase: row.parsed("phase")?,
        spec: MachineSpec {
            version: row.parsed("version")?,
            config: row.json("config")?,
            image: row.text_opt("image")?,
            release_version: row.unsigned_opt("release_version")?,
            secrets_version: row.unsigned("secrets_version")?,
        },
        intended,
        private_ip: row.parsed("private_ip")?,
        state: parse_state(&row.text("state")?)?,
        cordoned: row.flag("cordoned")?,
        created_at_ms: row.unsigned("created_at")?,
        updated_at_ms: row.unsigned("updated_at")?,
    })
}

fn parse_state(word: &str) -> Result<MachineState, StoreError> {
    use serde::Deserialize as _;
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, StrDeserializer};
    let words: StrDeserializer<'_, Error> = word.into_deserializer();
    MachineState::deserialize(words).map_err(|source| StoreError::Decode { column: "state", source: source.into() })
}

impl ReadTx {
    pub async fn machine_fetch(&self, id: MachineId) -> Result<MachineRecord, StoreError> {
        let row = self.row_opt(SELECT_BY_ID, params![id]).await?;
        machine(&row.ok_or_else(|| StoreError::not_found("machine", id))?)
    }

    /// Which of these are in the records, destroyed ones included.
    pub async fn machines_recorded(&self, ids: &[MachineId]) -> Result<HashSet<MachineId>, StoreError> {
        let mut recorded = HashSet::new();
        for &id in ids {
            if self.row_opt("SELECT id FROM machines WHERE id = $1", params![id]).await?.is_some() {
                recorded.insert(id);
            }
        }
        Ok(recorded)
    }

    /// Machines by id.
    pub async fn machine_list(
        &self,
        filter: &MachineFilter,
        page: &PageRequest,
    ) -> Result<Page<MachineRecord>, StoreError> {
        let rows = self
            .rows(
                "SELECT m.*, a.name AS app_name FROM machines m JOIN apps a ON a.id = m.app
                 WHERE ($1 IS NULL OR a.name = $1) AND ($2 IS NULL OR m.node = $2)
                   AND ($3 IS NULL OR m.region = $3) AND ($4 = 1 OR m.phase <> 'destroyed') AND m.id > $5
                 ORDER BY m.id LIMIT $6",
                params![
                    filter.app.as_ref(),
                    filter.node.as_ref(),
                    filter.region,
                    filter.include_destroyed,
                    page.after("machines")?,
                    page.fetch_limit(),
                ],
            )
            .await?;
        let machines = rows.iter().map(machine).collect::<Result<_, _>>()?;
        Ok(page.page("machines", machines, |machine: &MachineRecord| machine.id.to_string()))
    }

    /// Machines of an organization, least recently changed first; only those changed after `after_ms`,
    /// for which a cursor, if there is one, stands.
    pub async fn machine_changes(
        &self,
        org: &OrgSlug,
        include_destroyed: bool,
        after_ms: u64,
        page: &PageRequest,
    ) -> Result<Page<MachineRecord>, StoreError> {
        let (since, id) = match page.after("changes")? {
            // Sorts after every id: the moment itself does not count.
            none if none.is_empty() => (after_ms, "~".to_owned()),
            key => {
                let parts = key.split_once(':').and_then(|(since, id)| Some((since.parse().ok()?, id.to_owned())));
                parts.ok_or_else(|| StoreError::invalid("cursor", key, "it is not one that this list gave out"))?
            }
        };
        let rows = self
            .rows(
                "SELECT m.*, a.name AS app_name FROM machines m JOIN apps a ON a.id = m.app
                 WHERE a.org = $1 AND ($2 = 1 OR m.phase <> 'destroyed')
                   AND (m.updated_at > $3 OR (m.updated_at = $3 AND m.id > $4))
                 ORDER BY m.updated_at, m.id LIMIT $5",
                params![org, include_destroyed, since, id, page.fetch_limit()],
            )
            .await?;
        let machines = rows.iter().map(machine).collect::<Result<_, _>>()?;
        let key = |machine: &MachineRecord| format!("{}:{}", machine.updated_at_ms, machine.id);
        Ok(page.page("changes", machines, key))
    }

    /// Machines that cannot stay where they are: on a draining node, or lost with theirs.
    pub async fn machine_displaced(&self, limit: u32) -> Result<Vec<MachineRecord>, StoreError> {
        let sql = "SELECT m.*, a.name AS app_name FROM machines m JOIN apps a ON a.id = m.app
                   WHERE m.phase = 'lost'
                      OR (m.phase = 'placed' AND m.node IN (SELECT name FROM nodes WHERE state = 'draining'))
                   ORDER BY m.id LIMIT $1";
        self.rows(sql, params![limit]).await?.iter().map(machine).collect()
    }

    /// Machines whose last change was not confirmed: what a restarted control finishes or unwinds.
    pub async fn machine_unsettled(&self) -> Result<Vec<MachineRecord>, StoreError> {
        let sql = "SELECT m.*, a.name AS app_name FROM machines m JOIN apps a ON a.id = m.app
                   WHERE m.phase IN ('intended', 'destroying')
                      OR (m.phase = 'placed' AND m.intended_version IS NOT NULL) ORDER BY m.id";
        self.rows(sql, params![]).await?.iter().map(machine).collect()
    }
}

impl WriteTx {
    /// Records a machine with a new id and address before the worker is asked to make it.
    pub async fn machine_record(&self, new: &NewMachine, now_ms: u64) -> Result<MachineIntent, StoreError> {
        let app = self.app_fetch(&new.app).await?;
        if let Some(id) = new.id
            && let Some(row) = self.row_opt(SELECT_BY_ID, params![id]).await?
        {
            let known = machine(&row)?;
            if known.app != new.app {
                return Err(StoreError::conflict("machine", id, "another app has a machine with this id"));
            }
            return Ok(MachineIntent::Repeated(known));
        }
        if let Some(key) = &new.idempotency_key {
            let sql = "SELECT id FROM machines WHERE app = $1 AND idempotency_key = $2";
            if let Some(row) = self.row_opt(sql, params![&app.id, key]).await? {
                return self.machine_fetch(row.parsed("id")?).await.map(MachineIntent::Repeated);
            }
        }
        if app.status == AppStatus::Deleting {
            return Err(StoreError::conflict("app", &new.app, "it is being deleted"));
        }
        let sql = "SELECT id FROM machines WHERE app = $1 AND name = $2 AND phase <> 'destroyed'";
        if let Some(row) = self.row_opt(sql, params![&app.id, &new.name]).await? {
            return Err(StoreError::taken("machine", &new.name, Some(row.text("id")?)));
        }
        let id = new.id.unwrap_or_else(random_machine_id);
        let private_ip = self.address_allocate(app.network).await?;
        self.execute(
            "INSERT INTO machines (id, app, name, idempotency_key, node, region, process_group, phase, version,
                 config, image, release_version, secrets_version, private_ip, state, observed_epoch,
                 observed_sequence, cordoned, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'intended', $8, $9, $10, $11, $12, $13, 'created', 0, 0, $14,
                 $15, $15)",
            params![
                id,
                &app.id,
                &new.name,
                new.idempotency_key.as_deref(),
                &new.node,
                new.region,
                &new.process_group,
                new.spec.version,
                json_text("machine config", &new.spec.config)?,
                new.spec.image.as_deref(),
                new.spec.release_version,
                new.spec.secrets_version,
                private_ip.to_string(),
                new.cordoned,
                now_ms,
            ],
        )
        .await?;
        self.machine_fetch(id).await.map(MachineIntent::New)
    }

    /// Records a machine that its worker has: the records come from a backup that is older than the machine.
    /// It keeps its address. One that is known by now is left as it is.
    pub async fn machine_take_back(&self, found: &FoundMachine, now_ms: u64) -> Result<(), StoreError> {
        let mut new = found.machine.clone();
        let app = self.app_fetch(&new.app).await?;
        if network_of(found.private_ip) != Some(app.network) {
            let reason = format!("its address {} is not of the app's network", found.private_ip);
            return Err(StoreError::conflict("machine", &new.name, reason));
        }
        let sql = "SELECT id FROM machines WHERE private_ip = $1 AND id <> $2";
        if let Some(row) = self.row_opt(sql, params![found.private_ip.to_string(), new.id]).await? {
            return Err(StoreError::taken("address", found.private_ip, Some(row.text("id")?)));
        }
        // What it was made from may be newer than anything known here. As a machine of the last release
        // that is known it is replaced by the next deploy, like the others.
        let release = self.release_last_complete(&new.app).await?;
        new.spec.release_version = release.filter(|_| new.spec.config.is_deployed()).map(|release| release.version);
        new.spec.secrets_version = new.spec.secrets_version.min(app.secrets_version);
        let MachineIntent::New(record) = self.machine_record(&new, now_ms).await? else { return Ok(()) };
        self.execute(
            "UPDATE machines SET phase = 'placed', private_ip = $2, state = $3, created_at = $4 WHERE id = $1",
            params![record.id, found.private_ip.to_string(), found.state.as_str(), found.created_at_ms],
        )
        .await
        .map(drop)
    }

    /// The worker has the machine.
    pub async fn machine_placed(&self, id: MachineId, now_ms: u64) -> Result<(), StoreError> {
        let sql =
            "UPDATE machines SET phase = 'placed', updated_at = $2 WHERE id = $1 AND phase IN ('intended', 'placed')";
        self.machine_change(id, "place", sql, params![id, now_ms]).await
    }

    /// Chooses another node for a machine that no worker has: one never made, or one lost with its
    /// node. Its last known state is kept: it says whether the machine is to run there.
    pub async fn machine_replace(
        &self,
        id: MachineId,
        node: &NodeName,
        region: RegionCode,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE machines SET phase = 'intended', node = $2, region = $3,
                       observed_epoch = 0, observed_sequence = 0, updated_at = $4
                   WHERE id = $1 AND phase IN ('intended', 'lost')";
        self.machine_change(id, "move", sql, params![id, node, region, now_ms]).await
    }

    /// Records an update before the worker is asked for it. At most one is open at a time.
    pub async fn machine_update_intend(
        &self,
        id: MachineId,
        update: &MachineUpdate,
        now_ms: u64,
    ) -> Result<MachineRecord, StoreError> {
        let known = self.machine_fetch(id).await?;
        if known.phase != MachinePhase::Placed {
            return Err(StoreError::conflict("machine", id, format!("it is {}", known.phase)));
        }
        if update.current_version.is_some_and(|version| version != known.spec.version) {
            let reason = format!("its version is {}", known.spec.version);
            return Err(StoreError::conflict("machine", id, reason));
        }
        if known.intended.is_some() {
            return Err(StoreError::conflict("machine", id, "another update is under way"));
        }
        self.execute(
            "UPDATE machines SET intended_version = $2, intended_config = $3, intended_image = $4,
                 intended_release = $5, intended_secrets = $6, updated_at = $7 WHERE id = $1",
            params![
                id,
                update.spec.version,
                json_text("machine config", &update.spec.config)?,
                update.spec.image.as_deref(),
                update.spec.release_version,
                update.spec.secrets_version,
                now_ms,
            ],
        )
        .await?;
        self.machine_fetch(id).await
    }

    /// Ends the open update to `version`: it is what the machine is from now on, or it never was.
    /// Ending one that is not open any more changes nothing.
    pub async fn machine_update_settle(
        &self,
        id: MachineId,
        version: MachineVersion,
        applied: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        if applied {
            self.execute(
                "UPDATE machines SET version = intended_version, config = intended_config, image = intended_image,
                     release_version = intended_release, secrets_version = intended_secrets, updated_at = $3
                 WHERE id = $1 AND intended_version = $2",
                params![id, version, now_ms],
            )
            .await?;
        }
        self.execute(
            "UPDATE machines SET intended_version = NULL, intended_config = NULL, intended_image = NULL,
                 intended_release = NULL, intended_secrets = NULL WHERE id = $1 AND intended_version = $2",
            params![id, version],
        )
        .await
        .map(drop)
    }

    /// Keeps a changed configuration that makes no new version, such as metadata.
    pub async fn machine_set_config(
        &self,
        id: MachineId,
        version: MachineVersion,
        config: &MachineConfig,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let config = json_text("machine config", config)?;
        let sql = "UPDATE machines SET config = $3, updated_at = $4 WHERE id = $1 AND version = $2";
        self.machine_change(id, "change", sql, params![id, version, config, now_ms]).await
    }

    /// Copies what the worker said. Older news than the last, or of an epoch that was fenced, is
    /// ignored; says whether it was taken.
    pub async fn machine_observe(&self, id: MachineId, seen: &Observation, now_ms: u64) -> Result<bool, StoreError> {
        let changed = self
            .execute(
                "UPDATE machines SET state = $4, cordoned = $5, observed_epoch = $2, observed_sequence = $3,
                     updated_at = $6
                 WHERE id = $1 AND phase IN ('intended', 'placed', 'destroying')
                   AND (observed_epoch < $2 OR (observed_epoch = $2 AND observed_sequence < $3))
                   AND $2 >= (SELECT epoch FROM nodes WHERE nodes.name = machines.node)",
                params![id, seen.epoch, seen.sequence, seen.state.as_str(), seen.cordoned, now_ms],
            )
            .await?;
        if changed > 0 {
            // A worker that runs the intended version has made the update.
            self.machine_update_settle(id, seen.version, true, now_ms).await?;
        }
        Ok(changed > 0)
    }

    /// Records that a machine is to go, before the worker is asked. Doing so twice is no error.
    pub async fn machine_destroy_intend(&self, id: MachineId, now_ms: u64) -> Result<(), StoreError> {
        let sql = "UPDATE machines SET phase = 'destroying', updated_at = $2 WHERE id = $1 AND phase <> 'destroyed'";
        match self.execute(sql, params![id, now_ms]).await? {
            0 => self.machine_fetch(id).await.map(drop),
            _ => Ok(()),
        }
    }

    /// The machine is gone; its name is free again. Doing so twice is no error.
    pub async fn machine_destroyed(&self, id: MachineId, now_ms: u64) -> Result<(), StoreError> {
        let sql = "UPDATE machines SET phase = 'destroyed', state = 'destroyed', updated_at = $2
                   WHERE id = $1 AND phase IN ('destroying', 'lost')";
        match self.execute(sql, params![id, now_ms]).await? {
            0 => match self.machine_fetch(id).await?.phase {
                MachinePhase::Destroyed => Ok(()),
                phase => Err(StoreError::conflict("machine", id, format!("it is {phase}, not being destroyed"))),
            },
            _ => Ok(()),
        }
    }

    /// Forgets machines destroyed before `before_ms`.
    pub async fn machine_prune(&self, before_ms: u64) -> Result<u64, StoreError> {
        self.execute("DELETE FROM machines WHERE phase = 'destroyed' AND updated_at < $1", params![before_ms]).await
    }

    /// Marks a node's machines lost and returns them; those being destroyed are gone with it.
    pub(crate) async fn machines_mark_lost(&self, node: &NodeName, now_ms: u64) -> Result<Vec<MachineId>, StoreError> {
        let sql = "UPDATE machines SET phase = 'destroyed', state = 'destroyed', updated_at = $2
                   WHERE node = $1 AND phase = 'destroying'";
        self.execute(sql, params![node, now_ms]).await?;
        let sql =
            "UPDATE machines SET phase = 'lost', updated_at = $2 WHERE node = $1 AND phase IN ('intended', 'placed')";
        self.execute(sql, params![node, now_ms]).await?;
        let rows = self.rows("SELECT id FROM machines WHERE node = $1 AND phase = 'lost' ORDER BY id", params![node]);
        rows.await?.iter().map(|row| row.parsed("id")).collect()
    }

    async fn machine_change(
        &self,
        id: MachineId,
        verb: &str,
        sql: &'static str,
        params: Vec<crate::value::Param>,
    ) -> Result<(), StoreError> {
        if self.execute(sql, params).await? > 0 {
            return Ok(());
        }
        let phase = self.machine_fetch(id).await?.phase;
        Err(StoreError::conflict("machine", id, format!("cannot {verb} it while it is {phase}")))
    }
}
