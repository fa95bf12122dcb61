//! The durable side of a deploy: plan, recorded outcomes, events, and who executes it.
//!
//! Exactly one process executes a deploy at a time. It holds a lease with a fence that grows with
//! every change of owner; each of its writes carries the fence (and the plan's generation), and one
//! that is no longer current is refused in the same transaction. Outcomes and events are only added.

use serde_json::Value;

use crate::value::{Row, json_text, params};
use crate::{ReadTx, StoreError, WriteTx};

#[derive(Clone, PartialEq, Debug)]
pub struct Deploy {
    pub release: String,
    /// `None` until the first plan is recorded.
    pub plan: Option<Value>,
    /// How many plans there were; the current one's number.
    pub generation: u64,
    pub executor: Option<String>,
    pub fence: u64,
    pub leased_until_ms: u64,
    pub done: bool,
}

/// The right to execute a deploy, until it runs out or another owner takes over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeployLease {
    pub release: String,
    pub executor: String,
    pub fence: u64,
    pub leased_until_ms: u64,
}

/// How one step of a plan ended.
#[derive(Clone, PartialEq, Debug)]
pub struct DeployOutcome {
    pub generation: u64,
    pub step: u32,
    pub outcome: Value,
    pub at_ms: u64,
}

/// One entry of a deploy's progress, numbered from 1 without gaps.
#[derive(Clone, PartialEq, Debug)]
pub struct DeployEvent {
    pub number: u64,
    pub event: Value,
    pub at_ms: u64,
}

fn deploy(row: &Row) -> Result<Deploy, StoreError> {
    Ok(Deploy {
        release: row.text("release")?,
        plan: row.json_opt("plan")?,
        generation: row.unsigned("generation")?,
        executor: row.text_opt("executor")?,
        fence: row.unsigned("fence")?,
        leased_until_ms: row.unsigned("leased_until")?,
        done: row.flag("done")?,
    })
}

fn event(row: &Row) -> Result<DeployEvent, StoreError> {
    Ok(DeployEvent { number: row.unsigned("number")?, event: row.json("event")?, at_ms: row.unsigned("at")? })
}

impl ReadTx {
    pub async fn deploy_fetch(&self, release: &str) -> Result<Deploy, StoreError> {
        let row = self.row_opt("SELECT * FROM deploys WHERE release = $1", params![release]).await?;
        deploy(&row.ok_or_else(|| StoreError::not_found("deploy", release))?)
    }

    /// Deploys that are not done and that nobody executes now, oldest release first.
    pub async fn deploy_orphans(&self, now_ms: u64, limit: u32) -> Result<Vec<Deploy>, StoreError> {
        let sql = "SELECT d.* FROM deploys d JOIN releases r ON r.id = d.release
                   WHERE d.done = 0 AND d.leased_until <= $1 ORDER BY r.created_at, r.id LIMIT $2";
        self.rows(sql, params![now_ms, limit]).await?.iter().map(deploy).collect()
    }

    /// The recorded outcomes of a plan, by step.
    pub async fn deploy_outcomes(&self, release: &str, generation: u64) -> Result<Vec<DeployOutcome>, StoreError> {
        let sql = "SELECT * FROM deploy_outcomes WHERE release = $1 AND generation = $2 ORDER BY step";
        self.rows(sql, params![release, generation])
            .await?
            .iter()
            .map(|row| {
                Ok(DeployOutcome {
                    generation: row.unsigned("generation")?,
                    step: row.small("step")?,
                    outcome: row.json("outcome")?,
                    at_ms: row.unsigned("at")?,
                })
            })
            .collect()
    }

    /// Events after number `after`, in order.
    pub async fn deploy_events(&self, release: &str, after: u64, limit: u32) -> Result<Vec<DeployEvent>, StoreError> {
        let sql = "SELECT * FROM deploy_events WHERE release = $1 AND number > $2 ORDER BY number LIMIT $3";
        self.rows(sql, params![release, after, limit]).await?.iter().map(event).collect()
    }

    /// The newest event; of a deploy that is done it says how it ended.
    pub async fn deploy_last_event(&self, release: &str) -> Result<Option<DeployEvent>, StoreError> {
        let sql = "SELECT * FROM deploy_events WHERE release = $1 ORDER BY number DESC LIMIT 1";
        self.row_opt(sql, params![release]).await?.as_ref().map(event).transpose()
    }
}

impl WriteTx {
    /// Takes the lease of a deploy that is free or whose owner let it run out. The same executor
    /// taking it again (it restarted) gets a new fence as well.
    pub async fn deploy_lease_take(
        &self,
        release: &str,
        executor: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<DeployLease, StoreError> {
        let deploy = self.deploy_fetch(release).await?;
        if deploy.done {
            return Err(StoreError::conflict("deploy", release, "it is done"));
        }
        if deploy.leased_until_ms > now_ms && deploy.executor.as_deref() != Some(executor) {
            let owner = deploy.executor.unwrap_or_default();
            return Err(StoreError::conflict("deploy", release, format!("{owner} executes it")));
        }
        let fence = deploy.fence + 1;
        self.execute(
            "UPDATE deploys SET executor = $2, fence = $3, leased_until = $4 WHERE release = $1",
            params![release, executor, fence, until_ms],
        )
        .await?;
        Ok(DeployLease { release: release.to_owned(), executor: executor.to_owned(), fence, leased_until_ms: until_ms })
    }

    /// Prolongs a lease. One that ran out may be prolonged too while nobody else took it.
    pub async fn deploy_lease_renew(&self, lease: &DeployLease, until_ms: u64) -> Result<DeployLease, StoreError> {
        let sql = "UPDATE deploys SET leased_until = $3 WHERE release = $1 AND fence = $2 AND done = 0";
        match self.execute(sql, params![&lease.release, lease.fence, until_ms]).await? {
            0 => Err(fenced(lease)),
            _ => Ok(DeployLease { leased_until_ms: until_ms, ..lease.clone() }),
        }
    }

    /// Gives a deploy back, so that another process need not wait for the lease to run out.
    pub async fn deploy_lease_release(&self, lease: &DeployLease) -> Result<(), StoreError> {
        let sql = "UPDATE deploys SET leased_until = 0, executor = NULL WHERE release = $1 AND fence = $2";
        self.execute(sql, params![&lease.release, lease.fence]).await.map(drop)
    }

    /// Records a plan as the one after `replaces` (0 for the first) and returns its generation.
    pub async fn deploy_plan_record(
        &self,
        lease: &DeployLease,
        replaces: u64,
        plan: &Value,
    ) -> Result<u64, StoreError> {
        self.deploy_check(lease, replaces).await?;
        let generation = replaces + 1;
        self.execute(
            "UPDATE deploys SET plan = $2, generation = $3 WHERE release = $1",
            params![&lease.release, json_text("plan", plan)?, generation],
        )
        .await?;
        Ok(generation)
    }

    /// Records how a step of plan `generation` ended. A step has one outcome; recording the same one
    /// again is no error, as the first answer may have been lost.
    pub async fn deploy_outcome_append(
        &self,
        lease: &DeployLease,
        generation: u64,
        step: u32,
        outcome: &Value,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.deploy_check(lease, generation).await?;
        let sql = "SELECT outcome FROM deploy_outcomes WHERE release = $1 AND generation = $2 AND step = $3";
        if let Some(row) = self.row_opt(sql, params![&lease.release, generation, step]).await? {
            if row.json::<Value>("outcome")? == *outcome {
                return Ok(());
            }
            let reason = format!("step {step} of plan {generation} has another outcome already");
            return Err(StoreError::conflict("deploy", &lease.release, reason));
        }
        self.execute(
            "INSERT INTO deploy_outcomes (release, generation, step, outcome, at) VALUES ($1, $2, $3, $4, $5)",
            params![&lease.release, generation, step, json_text("outcome", outcome)?, now_ms],
        )
        .await
        .map(drop)
    }

    /// Adds an event and returns its number.
    pub async fn deploy_event_append(
        &self,
        lease: &DeployLease,
        event: &Value,
        now_ms: u64,
    ) -> Result<u64, StoreError> {
        let sql = "UPDATE deploys SET last_event = last_event + 1 WHERE release = $1 AND fence = $2";
        if self.execute(sql, params![&lease.release, lease.fence]).await? == 0 {
            return Err(fenced(lease));
        }
        let row = self.row("SELECT last_event FROM deploys WHERE release = $1", params![&lease.release]).await?;
        let number = row.unsigned("last_event")?;
        self.execute(
            "INSERT INTO deploy_events (release, number, event, at) VALUES ($1, $2, $3, $4)",
            params![&lease.release, number, json_text("event", event)?, now_ms],
        )
        .await?;
        Ok(number)
    }

    async fn deploy_check(&self, lease: &DeployLease, generation: u64) -> Result<(), StoreError> {
        let deploy = self.deploy_fetch(&lease.release).await?;
        if deploy.fence != lease.fence {
            return Err(fenced(lease));
        }
        if deploy.generation != generation {
            let reason = format!("plan {generation} was replaced by plan {}", deploy.generation);
            return Err(StoreError::conflict("deploy", &lease.release, reason));
        }
        Ok(())
    }
}

fn fenced(lease: &DeployLease) -> StoreError {
    let reason = format!("{} lost its lease (fence {}) to another executor", lease.executor, lease.fence);
    StoreError::conflict("deploy", &lease.release, reason)
}
