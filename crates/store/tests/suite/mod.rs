//! What the records promise, on whichever engine. Each case gets an empty store.

mod addresses;
mod apps;
mod audit;
mod backup;
mod challenges;
mod devices;
mod egress;
mod machines;
mod moves;
mod nodes;
mod policies;
mod releases;
mod secrets;
mod tokens;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_keyring::{FileKeys, Keyring};
use atoll_model::{AppName, MachineConfig, MachineState, MachineVersion, NodeName, OrgSlug, RegionCode, RowVersion};
use atoll_store::*;
use serde_json::json;

pub use addresses::*;
pub use apps::*;
pub use audit::*;
pub use backup::*;
pub use challenges::*;
pub use devices::*;
pub use egress::*;
pub use machines::*;
pub use moves::*;
pub use nodes::*;
pub use policies::*;
pub use releases::*;
pub use secrets::*;
pub use tokens::*;
pub use writes::*;

macro_rules! every_case {
    ($run:ident) => {
        $run! {
            apps_have_one_name_and_a_lasting_network
            an_address_is_one_apps_until_it_has_rested
            a_shared_address_is_many_apps
            an_egress_address_is_one_apps_until_it_has_rested
            apps_are_not_settled_when_a_server_has_other_egress_addresses
            an_idempotency_key_answers_the_first_app
            apps_are_listed_in_pages
            a_machines_name_is_unique_while_it_lives
            a_repeated_machine_is_the_same_machine
            addresses_are_never_given_twice
            an_update_is_recorded_before_it_is_made
            machines_are_listed_by_their_last_change
            a_machine_made_after_the_backup_is_taken_back
            a_restore_gives_out_no_address_that_may_be_in_use
            observations_are_taken_in_order_and_from_the_current_epoch
            a_lost_node_loses_its_machines_and_its_voice
            a_move_and_a_deploy_of_an_app_take_turns
            a_node_that_lost_its_records_gets_a_new_epoch
            no_two_nodes_have_the_same_mesh_key
            a_device_has_its_name_key_and_address_alone
            a_challenge_stays_until_it_ends_or_is_removed
            a_join_token_admits_one_node
            releases_are_numbered_and_run_one_at_a_time
            a_stale_executor_is_refused
            secrets_come_back_as_of_any_version
            old_keys_are_replaced_in_place
            policies_have_one_name_in_their_app
            tokens_end_when_revoked_or_expired
            scales_hubs_and_settings_are_kept
            a_record_is_begun_before_and_ended_after
            records_are_found_by_time_app_organization_and_actor
            refusals_do_not_fill_the_disk
            an_app_goes_with_all_it_had
            racing_writers_lose_nothing
            a_backup_is_refused_when_damaged_or_not_into_new_records
            a_failed_closure_changes_nothing
            a_cancelled_closure_changes_nothing
        }
    };
}
pub(crate) use every_case;

pub const NOW: u64 = 1_800_000_000_000;

pub fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn version(number: u128) -> MachineVersion {
    MachineVersion::from_parts(NOW, number)
}

pub fn new_app(name: &str) -> NewApp {
    NewApp {
        name: parsed(name),
        org: parsed(DEFAULT_ORGANIZATION),
        network: None,
        primary_region: Some(parsed("ams")),
        idempotency_key: None,
    }
}

pub async fn create_app(store: &Store, new: &NewApp) -> Result<App, StoreError> {
    store
        .write(|tx| async move {
            tx.organization_ensure_default(NOW).await?;
            tx.app_create(new, NOW).await
        })
        .await
}

pub fn new_machine(app: &str, name: &str) -> NewMachine {
    NewMachine {
        id: None,
        app: parsed(app),
        name: name.into(),
        idempotency_key: None,
        node: parsed("ams1"),
        region: parsed("ams"),
        process_group: "app".into(),
        spec: spec(1),
        cordoned: false,
    }
}

fn spec(number: u128) -> MachineSpec {
    let env = BTreeMap::from([("NUMBER".to_owned(), number.to_string())]);
    MachineSpec {
        version: version(number),
        config: MachineConfig { image: "nginx".into(), env, ..MachineConfig::default() },
        image: Some("registry.example/nginx@sha256:00".into()),
        release_version: None,
        secrets_version: 0,
    }
}

pub async fn record_machine(store: &Store, new: &NewMachine) -> Result<MachineRecord, StoreError> {
    store.write(|tx| async move { tx.machine_record(new, NOW).await.map(|intent| intent.record().clone()) }).await
}

fn new_node(name: &str) -> NewNode {
    NewNode {
        name: parsed(name),
        region: parsed("ams"),
        key_fingerprint: format!("key of {name}"),
        kept_epoch: None,
        may_replace_key: false,
        cpus: 4,
        memory_mb: 4096,
    }
}

async fn enrol(store: &Store, new: &NewNode) -> Result<Node, StoreError> {
    store.write(|tx| async move { tx.node_enrol(new, NOW).await }).await
}

async fn machine(store: &Store, id: atoll_model::MachineId) -> MachineRecord {
    store.read(|tx| async move { tx.machine_fetch(id).await }).await.unwrap()
}

pub fn new_release(number: u32) -> NewRelease {
    NewRelease {
        image_ref: format!("nginx:{number}"),
        image_digest: "sha256:00".into(),
        manifest: "app = 'web'\n".into(),
        definition: json!({"app": "web"}),
        machine_configs: BTreeMap::from([("app".to_owned(), MachineConfig::default())]),
        secrets_version: 0,
        strategy: "rolling".into(),
        description: String::new(),
        created_by: "tester".into(),
        asked: json!({}),
    }
}

pub async fn create_release(store: &Store, app: &str, number: u32) -> Release {
    let (app, new): (&AppName, _) = (&parsed(app), &new_release(number));
    store.write(|tx| async move { tx.release_create(app, new, NOW).await }).await.unwrap()
}

pub fn keyring(dir: &std::path::Path) -> (Arc<FileKeys>, Keyring) {
    let keys = Arc::new(FileKeys::open_or_create(&dir.join("root.key")).unwrap());
    (keys.clone(), Keyring::new(keys))
}

fn map(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn seen(epoch: u64, sequence: u64, state: MachineState) -> Observation {
    Observation { epoch, sequence, version: version(1), state, cordoned: false }
}

async fn observe(store: &Store, id: atoll_model::MachineId, seen: Observation) -> bool {
    let seen = &seen;
    store.write(|tx| async move { tx.machine_observe(id, seen, NOW).await }).await.unwrap()
}
