//! Machines on their way to another node. The record is the intent; every step of a move is
//! idempotent and named by it, so whoever finds an open one performs it again from its beginning.
//!
//! A move and a deploy of the same app would each take the other's machines for settled: while one
//! of them is open the other is not begun ([`WriteTx::move_begin`], [`WriteTx::release_begin`]).

use atoll_model::{AppName, MachineId, NodeName, RegionCode};

use crate::value::{Row, params};
use crate::{MachinePhase, ReadTx, StoreError, WriteTx};

/// A machine to move, decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMove {
    pub machine: MachineId,
    /// The id it has there; its own if its node is lost and nothing of it is left.
    pub successor: MachineId,
    pub node: NodeName,
    pub region: RegionCode,
    /// Who performs it.
    pub executor: String,
    pub leased_until_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    pub machine: MachineId,
    pub app: AppName,
    pub successor: MachineId,
    pub node: NodeName,
    pub executor: String,
    pub leased_until_ms: u64,
    /// Why the last attempt was given up; `None` while one is open.
    pub failed: Option<String>,
    /// No other attempt is begun before.
    pub retry_at_ms: u64,
}

impl Move {
    /// Its node was lost: the same machine is made again.
    pub fn is_remake(&self) -> bool {
        self.machine == self.successor
    }
}

fn read(row: &Row) -> Result<Move, StoreError> {
    Ok(Move {
        machine: row.parsed("machine")?,
        app: row.parsed("app_name")?,
        successor: row.parsed("successor")?,
        node: row.parsed("node")?,
        executor: row.text("executor")?,
        leased_until_ms: row.unsigned("leased_until")?,
        failed: row.text_opt("failed")?,
        retry_at_ms: row.unsigned("retry_at")?,
    })
}

impl ReadTx {
    /// All moves: open ones, and those that failed and may be tried again.
    pub async fn move_list(&self) -> Result<Vec<Move>, StoreError> {
        let sql = "SELECT m.*, a.name AS app_name FROM moves m JOIN apps a ON a.id = m.app ORDER BY m.machine";
        self.rows(sql, params![]).await?.iter().map(read).collect()
    }
}

impl WriteTx {
    /// Records a move before anything is done for it, in place of one that failed. That of a lost
    /// machine sends the machine's record to its new node.
    ///
    /// # Errors
    /// `Conflict` while a deploy of the app, or another attempt, is under way, and when the machine
    /// is not in place any more.
    pub async fn move_begin(&self, new: &NewMove, now_ms: u64) -> Result<(), StoreError> {
        let machine = self.machine_fetch(new.machine).await?;
        let refused = |reason: String| Err(StoreError::conflict("machine", new.machine, reason));
        let is_remake = new.machine == new.successor;
        let wanted = if is_remake { MachinePhase::Lost } else { MachinePhase::Placed };
        if machine.phase != wanted {
            return refused(format!("it is {}", machine.phase));
        }
        let sql = "SELECT r.version FROM releases r JOIN apps a ON a.id = r.app
                   WHERE a.name = $1 AND r.status IN ('pending', 'running')";
        if let Some(row) = self.row_opt(sql, params![&machine.app]).await? {
            return refused(format!("release {} of the app is being deployed", row.unsigned("version")?));
        }
        let sql = "DELETE FROM moves WHERE machine = $1 AND failed IS NOT NULL AND retry_at <= $2";
        self.execute(sql, params![new.machine, now_ms]).await?;
        if self.row_opt("SELECT machine FROM moves WHERE machine = $1", params![new.machine]).await?.is_some() {
            return refused("it is being moved".to_owned());
        }
        let app = self.app_fetch(&machine.app).await?;
        self.execute(
            "INSERT INTO moves (machine, app, successor, node, executor, leased_until, failed, retry_at, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, NULL, 0, $7)",
            params![new.machine, &app.id, new.successor, &new.node, &new.executor, new.leased_until_ms, now_ms],
        )
        .await?;
        if is_remake { self.machine_replace(new.machine, &new.node, new.region, now_ms).await } else { Ok(()) }
    }

    /// Takes an open move whose executor is not heard of any more, or prolongs one's own; says
    /// whether it is this executor's now.
    pub async fn move_lease(
        &self,
        machine: MachineId,
        executor: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE moves SET executor = $2, leased_until = $4
                   WHERE machine = $1 AND failed IS NULL AND (executor = $2 OR leased_until <= $3)";
        Ok(self.execute(sql, params![machine, executor, now_ms, until_ms]).await? > 0)
    }

    /// The attempt is given up. Its machine is where it was: a lost one that its new node refused
    /// is lost again.
    pub async fn move_fail(
        &self,
        machine: MachineId,
        reason: &str,
        retry_at_ms: u64,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE machines SET phase = 'lost', updated_at = $2 WHERE id = $1 AND phase = 'intended'
                   AND EXISTS (SELECT 1 FROM moves WHERE moves.machine = $1 AND moves.successor = $1)";
        self.execute(sql, params![machine, now_ms]).await?;
        let sql = "UPDATE moves SET failed = $2, retry_at = $3 WHERE machine = $1";
        self.execute(sql, params![machine, reason, retry_at_ms]).await.map(drop)
    }

    /// The machine has arrived, or need not go any more. Doing so twice is no error.
    pub async fn move_end(&self, machine: MachineId) -> Result<(), StoreError> {
        self.execute("DELETE FROM moves WHERE machine = $1", params![machine]).await.map(drop)
    }

    /// Refuses while a machine of the app is on its way.
    pub(crate) async fn moves_forbid(&self, release: &str, app: &AppName) -> Result<(), StoreError> {
        let sql = "SELECT m.machine FROM moves m JOIN apps a ON a.id = m.app WHERE a.name = $1 AND m.failed IS NULL";
        match self.row_opt(sql, params![app]).await? {
            None => Ok(()),
            Some(row) => {
                let reason = format!("machine {} of the app is being moved", row.text("machine")?);
                Err(StoreError::conflict("release", release, reason))
            }
        }
    }
}
