//! Copies machines' states from the catalogue into control's records, so that lists survive a worker's
//! silence. A copy that could not be made is tried again soon, even if nothing else changes: records
//! that are away for a while must not leave a list wrong for as long as the machine rests.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_control::{Control, Observed};
use atoll_model::row::MachineRow;
use atoll_model::{MachineId, Owner};
use atoll_store::Observation;

/// Runs until the process ends.
pub async fn observe_machines(control: Arc<Control>, view: ReplicaHandle) {
    let note = |id: MachineId, observation: Observation| {
        let (control, now) = (control.clone(), control.now_ms());
        async move {
            let observation = &observation;
            control.store.write(|tx| async move { tx.machine_observe(id, observation, now).await }).await.map(drop)
        }
    };
    copy_changes(|| rows(&view), view.subscribe(), note, &PAUSES).await;
}

/// All machines as the catalogue has them now.
pub fn rows(view: &ReplicaHandle) -> Vec<Observed> {
    let (snapshot, positions) = (view.snapshot(), view.positions());
    let observed = |row: &Arc<MachineRow>| {
        let position = positions.get(&Owner::Node(row.node.clone()))?;
        let observation = Observation {
            epoch: position.epoch,
            sequence: position.sequence,
            version: row.version,
            state: row.state,
            cordoned: row.cordoned,
        };
        Some((row.clone(), observation))
    };
    snapshot.machines().filter_map(observed).collect()
}

/// How long is waited before another look at the rows.
struct Pauses {
    /// Bursts of changes become one look.
    burst: Duration,
    /// After a note failed; doubled each time, up to the longest.
    first_retry: Duration,
    longest_retry: Duration,
}

const PAUSES: Pauses = Pauses {
    burst: Duration::from_millis(100),
    first_retry: Duration::from_millis(200),
    longest_retry: Duration::from_secs(10),
};

/// Notes every row once, and again when it is another one; until the rows' source ends.
async fn copy_changes<Noting, E>(
    rows: impl Fn() -> Vec<Observed>,
    mut changes: watch::Receiver<u64>,
    note: impl Fn(MachineId, Observation) -> Noting,
    pauses: &Pauses,
) where
    Noting: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut noted: HashMap<MachineId, Arc<MachineRow>> = HashMap::new();
    let mut retry = pauses.first_retry;
    loop {
        changes.mark_unchanged();
        let present = rows();
        let mut failed = 0;
        for (row, observation) in &present {
            if noted.get(&row.id).is_some_and(|known| Arc::ptr_eq(known, row)) {
                continue;
            }
            match note(row.id, observation.clone()).await {
                Ok(()) => drop(noted.insert(row.id, row.clone())),
                Err(error) => {
                    failed += 1;
                    tracing::warn!(machine = %row.id, %error, "cannot note a machine's state");
                }
            }
        }
        let living: HashSet<MachineId> = present.iter().map(|(row, _)| row.id).collect();
        noted.retain(|id, _| living.contains(id));
        if failed == 0 {
            retry = pauses.first_retry;
            if changes.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(pauses.burst).await;
        } else {
            // Changes meanwhile wait as well: records that are in trouble are not asked more often.
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(pauses.longest_retry);
            if changes.has_changed().is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use atoll_model::MachineState;
    use serde_json::json;

    use super::*;

    const SHORT: Pauses = Pauses {
        burst: Duration::from_millis(1),
        first_retry: Duration::from_millis(1),
        longest_retry: Duration::from_millis(5),
    };
    const LIMIT: Duration = Duration::from_secs(10);

    fn row(number: u8) -> (Arc<MachineRow>, Observation) {
        let row: MachineRow = serde_json::from_value(json!({
            "id": format!("{number:014x}"),
            "app": "web",
            "network": 1,
            "node": "ams1",
            "region": "ams",
            "version": "01JNRQ9VVKJ7HZFMJWJB3M3RYN",
            "state": "started",
            "private_ipv4": "10.0.0.2",
            "private_ipv6": "fdaa::2",
            "services": [],
        }))
        .unwrap();
        let observation = Observation {
            epoch: 1,
            sequence: u64::from(number),
            version: row.version,
            state: MachineState::Started,
            cordoned: false,
        };
        (Arc::new(row), observation)
    }

    /// Sequences in the order in which they were noted or refused.
    #[derive(Default)]
    struct Records {
        noted: Mutex<Vec<u64>>,
        refused: Mutex<Vec<u64>>,
    }

    impl Records {
        /// Refuses what `refuse` says, given how often it has refused before.
        async fn note(&self, sequence: u64, refuse: impl Fn(u64, usize) -> bool) -> Result<(), &'static str> {
            let mut refused = self.refused.lock().unwrap();
            if refuse(sequence, refused.len()) {
                refused.push(sequence);
                return Err("the records are away");
            }
            self.noted.lock().unwrap().push(sequence);
            Ok(())
        }

        async fn noted(&self, wanted: &[u64]) {
            let reached = async {
                while *self.noted.lock().unwrap() != wanted {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let noted = || self.noted.lock().unwrap().clone();
            tokio::time::timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("noted {:?}", noted()));
        }
    }

    #[tokio::test]
    async fn a_note_that_failed_is_made_although_nothing_changes() {
        let records = Arc::new(Records::default());
        let present = Arc::new(Mutex::new(vec![row(1), row(2)]));
        let (changed, changes) = watch::channel(0);
        let copying = tokio::spawn({
            let (records, present) = (records.clone(), present.clone());
            let note = move |_, seen: Observation| {
                let records = records.clone();
                async move { records.note(seen.sequence, |sequence, refused| sequence == 1 && refused < 3).await }
            };
            async move { copy_changes(|| present.lock().unwrap().clone(), changes, note, &SHORT).await }
        });
        // The other machine does not wait for the one whose note fails.
        records.noted(&[2, 1]).await;
        assert_eq!(*records.refused.lock().unwrap(), [1, 1, 1]);

        // What was noted is not noted again, what is new is.
        present.lock().unwrap().push(row(3));
        changed.send(1).unwrap();
        records.noted(&[2, 1, 3]).await;
        drop(changed);
        tokio::time::timeout(LIMIT, copying).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_note_that_never_succeeds_ends_with_its_machine() {
        let records = Arc::new(Records::default());
        let present = Arc::new(Mutex::new(vec![row(1)]));
        let (changed, changes) = watch::channel(0);
        let copying = tokio::spawn({
            let (records, present) = (records.clone(), present.clone());
            let note = move |_, seen: Observation| {
                let records = records.clone();
                async move { records.note(seen.sequence, |sequence, _| sequence == 1).await }
            };
            async move { copy_changes(|| present.lock().unwrap().clone(), changes, note, &SHORT).await }
        });
        let tried = async {
            while records.refused.lock().unwrap().len() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, tried).await.unwrap();
        *present.lock().unwrap() = vec![row(2)];
        changed.send(1).unwrap();
        records.noted(&[2]).await;
        drop(changed);
        tokio::time::timeout(LIMIT, copying).await.unwrap().unwrap();
    }
}
