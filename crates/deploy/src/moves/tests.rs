//! Moves over real records and a world in memory, with faults at every call.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{MachineConfig, MachineId, MachineVersion, NodeName};
use atoll_store::{MachineSpec, Move, NewMachine, NewNode, NodeStatus};
use tokio::task::JoinHandle;

use super::{Mover, Outlook};
use crate::tests::fake::Fault;
use crate::tests::{LIMIT, Lab, now_ms};

const OLD: &str = "node-ams";
const SPARE: &str = "node-ams-2";

/// A lab with one machine that serves, on a node that is being drained.
async fn draining(spare: bool) -> (Lab, MachineId) {
    let lab = Lab::new().await;
    lab.world.keep_records(lab.store.clone());
    if spare {
        lab.world.add_node(SPARE, "ams");
    }
    let old: &NodeName = &OLD.parse().unwrap();
    let id = MachineId::from_random(7);
    let machine = &NewMachine {
        id: Some(id),
        app: lab.app.clone(),
        name: "one".into(),
        idempotency_key: None,
        node: old.clone(),
        region: "ams".parse().unwrap(),
        process_group: "app".into(),
        spec: MachineSpec {
            version: MachineVersion::from_parts(now_ms(), 1),
            config: MachineConfig { image: "hello".into(), ..MachineConfig::default() },
            image: None,
            release_version: None,
            secrets_version: 0,
        },
        cordoned: false,
    };
    let node = &NewNode {
        name: old.clone(),
        region: "ams".parse().unwrap(),
        key_fingerprint: "key".into(),
        kept_epoch: None,
        may_replace_key: false,
        cpus: 4,
        memory_mb: 4096,
    };
    let recorded = lab.store.write(|tx| async move {
        tx.node_enrol(node, now_ms()).await?;
        tx.machine_record(machine, now_ms()).await?;
        tx.machine_placed(id, now_ms()).await?;
        tx.node_set_state(old, NodeStatus::Draining, now_ms()).await
    });
    recorded.await.unwrap();
    lab.world.put_machine(id, OLD, "ams");
    lab.world.drain_node(OLD);
    (lab, id)
}

fn mover(lab: &Lab) -> (Arc<Mover>, JoinHandle<()>) {
    let mover = Arc::new(Mover::new(lab.engine("control-1")));
    (mover.clone(), tokio::spawn(mover.run_forever()))
}

async fn moves(lab: &Lab) -> Vec<Move> {
    lab.store.read(|tx| async move { tx.move_list().await }).await.unwrap()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waiting).await.is_ok(), "waited in vain until {what}");
}

/// What serves is on the spare node alone, and nothing is on its way.
async fn has_moved(lab: &Lab) -> bool {
    let machines = lab.world.places();
    machines == [SPARE] && moves(lab).await.is_empty()
}

#[tokio::test]
async fn a_machine_of_a_draining_node_is_replaced_before_it_goes() {
    let (lab, _) = draining(true).await;
    let (_, task) = mover(&lab);
    until("the machine has moved", async || has_moved(&lab).await).await;
    assert_eq!(lab.world.least_serving(), Some(1), "at some moment nothing served");
    task.abort();
}

#[tokio::test]
async fn a_move_interrupted_anywhere_is_finished_by_the_next_executor() {
    for fault in [Fault::Silent, Fault::DeathBefore, Fault::DeathAfter] {
        for call in 0.. {
            let (lab, _) = draining(true).await;
            lab.world.plan_fault(call, fault);
            let (_, task) = mover(&lab);
            until("the fault came or the machine has moved", async || lab.world.is_dead() || has_moved(&lab).await)
                .await;
            let came = lab.world.fault_came();
            task.abort();
            lab.world.revive();
            let (_, task) = mover(&lab);
            until("the machine has moved", async || has_moved(&lab).await).await;
            assert_eq!(lab.world.least_serving(), Some(1), "{fault:?} at call {call}: at some moment nothing served");
            task.abort();
            if !came {
                assert!(call > 5, "only {call} calls were met");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_successor_that_does_not_work_is_taken_back() {
    let (lab, id) = draining(true).await;
    // The first look at the successor, after one at the machine itself and the successor's creation.
    lab.world.plan_fault(2, Fault::Refused);
    let (mover, task) = mover(&lab);
    until("the move failed", async || moves(&lab).await.iter().any(|it| it.failed.is_some())).await;
    assert_eq!(lab.world.places(), [OLD]);
    task.abort();
    let leaving = mover.leaving(&OLD.parse().unwrap()).await.unwrap();
    assert_eq!(leaving[0].machine, id);
    assert!(
        matches!(&leaving[0].outlook, Outlook::Stays { why } if why.contains("refused by the test")),
        "{leaving:?}"
    );
}

#[tokio::test]
async fn without_another_node_a_machine_stays_and_it_is_said_why() {
    let (lab, id) = draining(false).await;
    let (mover, task) = mover(&lab);
    let leaving = mover.leaving(&OLD.parse().unwrap()).await.unwrap();
    assert_eq!((leaving.len(), leaving[0].machine), (1, id));
    assert!(matches!(&leaving[0].outlook, Outlook::Stays { why } if why.contains("region ams")), "{leaving:?}");
    assert_eq!((moves(&lab).await.len(), lab.world.places()), (0, vec![OLD.to_owned()]));
    task.abort();
}
