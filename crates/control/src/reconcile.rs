//! Finishes what was begun: machines recorded but not confirmed, updates and deletions that a kill or
//! a silent worker left open. Looks at the whole truth each time; a lost wake-up costs delay only.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::MachineState;
use atoll_rpc::proto::worker as proto;
use atoll_rpc::proto::worker::change_request::Change;
use atoll_signals::with_causes;
use atoll_store::{AppStatus, MachinePhase, MachineRecord};

use crate::{Control, ControlResult, Kind};

const EVERY: Duration = Duration::from_secs(5);
/// A request under way is left alone for this long before it counts as abandoned.
const ABANDONED_AFTER_MS: u64 = 90_000;

impl Control {
    /// Runs until the process ends.
    pub async fn reconcile_forever(self: Arc<Self>) {
        let mut first = true;
        loop {
            if let Err(error) = self.reconcile(first).await {
                tracing::warn!(error = with_causes(&error), "cannot look for unfinished changes");
            } else {
                first = false;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// At a start nobody else is at work: everything open was abandoned.
    async fn reconcile(&self, at_start: bool) -> ControlResult<()> {
        let (unsettled, moves) = self
            .store
            .read(|tx| async move {
                Ok::<_, atoll_store::StoreError>((tx.machine_unsettled().await?, tx.move_list().await?))
            })
            .await?;
        for record in unsettled {
            // Whoever moves a machine settles it.
            let is_in = |it: &atoll_store::Move| it.machine == record.id || it.successor == record.id;
            if moves.iter().any(|it| it.failed.is_none() && is_in(it)) {
                continue;
            }
            let age = self.now_ms().saturating_sub(record.updated_at_ms);
            // A machine that shall end waits for its node alone.
            if !at_start && age < ABANDONED_AFTER_MS && record.phase != MachinePhase::Destroying {
                continue;
            }
            if let Err(error) = self.settle(&record).await {
                tracing::info!(machine = %record.id, node = %record.node, %error, "a change stays open");
            }
        }
        self.policies_settle(None).await;
        if let Err(error) = self.addresses_settle().await {
            tracing::info!(error = with_causes(&error), "addresses that were given back rest for longer");
        }
        for app in self.all_apps().await? {
            if app.status == AppStatus::Deleting
                && let Err(error) = self.app_finish_deletion(&app.name).await
            {
                tracing::info!(app = %app.name, %error, "an app's deletion stays open");
            }
        }
        Ok(())
    }

    /// Ends a machine without anyone noticing, a step each time it is looked at: out of the routing,
    /// asked to stop, destroyed. A node that was away may have served with it all the while.
    async fn see_off(&self, record: &MachineRecord) -> ControlResult<()> {
        let seen = self.machine_seen(record).await?;
        let (id, up) = (record.id.to_string(), seen.heard && seen.view.state == MachineState::Started);
        let change = match seen.view.state {
            _ if up && !seen.view.cordoned => Change::Cordon(proto::Cordon { cordoned: true }),
            _ if up => Change::Stop(proto::Stop { signal: String::new(), timeout_ms: 0 }),
            MachineState::Stopping if seen.heard => return Ok(()),
            _ => return self.machine_destroy_recorded(record).await,
        };
        let request = proto::ChangeRequest {
            machine: id,
            change: Some(change),
            lease_nonce: String::new(),
            source: "flyd".to_owned(),
        };
        self.directory.worker(&record.node)?.change(request).await?;
        Ok(())
    }

    async fn settle(&self, record: &MachineRecord) -> ControlResult<()> {
        match record.phase {
            MachinePhase::Intended => match self.machine_hand_over(record, false, 0, "").await {
                Ok(_) => Ok(()),
                Err(error) if error.is_transient() => Err(error),
                // Refused for good: it never was.
                Err(error) => {
                    tracing::info!(machine = %record.id, %error, "gave up a machine that its worker refuses");
                    let (id, now) = (record.id, self.now_ms());
                    self.store
                        .write(move |tx| async move {
                            tx.machine_destroy_intend(id, now).await?;
                            tx.machine_destroyed(id, now).await
                        })
                        .await
                        .map_err(Into::into)
                }
            },
            MachinePhase::Destroying => self.see_off(record).await,
            MachinePhase::Placed if record.intended.is_some() => {
                let skip_launch = record.state != MachineState::Started;
                match self.machine_apply_update(record, skip_launch, "").await {
                    Err(error) if error.kind != Kind::Conflict => Err(error),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
