//! What an agent promises, whatever driver is under it. Each function takes a [`Stage`] and panics
//! where a promise is broken.

pub mod access;
pub mod lifecycle;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::address::{NetworkId, machine_address};
use atoll_model::policy::NetworkLimits;
use atoll_model::{MachineConfig, MachineId, MachineState, MachineVersion};
use atoll_rpc::contract::{LaunchBundle, MachineView, PinnedImage};

use atoll_worker::{Agent, CreateMachine, LogQuery, UpdateMachine, WaitFor, WorkerError};

/// Programs that a driver's test image offers, as arguments of `init.exec`.
pub struct Programs {
    /// Listens on 8080 and answers 200.
    pub serve: &'static [&'static str],
    /// Never ends by itself; ends on SIGINT.
    pub sleep: &'static [&'static str],
    /// Ends at once with code 3.
    pub exit_3: &'static [&'static str],
    /// Ends at once with code 0.
    pub exit_0: &'static [&'static str],
    /// Ignores every signal that can be ignored, from when it has printed `ready`.
    pub stubborn: &'static [&'static str],
    /// Cannot be executed.
    pub nonsense: &'static [&'static str],
    /// As a command beside the main process: prints `$KEY` and ends with code 7.
    pub print_key: &'static [&'static str],
}

/// An agent with what tests need to know of its surroundings.
pub struct Stage {
    pub agent: Agent,
    pub programs: Programs,
    pub image: String,
}

pub const LIMIT: Duration = Duration::from_secs(20);

pub fn id(number: u64) -> MachineId {
    MachineId::from_random(number)
}

pub fn version(number: u64) -> MachineVersion {
    MachineVersion::from_parts(number, u128::from(number))
}

impl Stage {
    /// A bundle of version 1 that runs `program`; `extra` is merged into the configuration.
    pub fn bundle(&self, number: u64, program: &[&str], extra: serde_json::Value) -> LaunchBundle {
        let mut config = serde_json::json!({ "image": "test", "init": { "exec": program } });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        LaunchBundle {
            machine: id(number),
            name: format!("machine-{number}"),
            app: "web".parse().unwrap(),
            org: "personal".parse().unwrap(),
            network: NetworkId(7),
            region: "ams".parse().unwrap(),
            version: version(1),
            config: serde_json::from_value::<MachineConfig>(config).unwrap(),
            image: PinnedImage { reference: "test".into(), digest: self.image.clone() },
            secrets: BTreeMap::from([("KEY".into(), "swordfish".into())]),
            secrets_version: 1,
            private_ipv6: machine_address(NetworkId(7), 1, number as u32),
            limits: NetworkLimits::default(),
            primary_region: None,
            skip_launch: false,
            cordoned: false,
            created_at_ms: 1_700_000_000_000,
        }
    }

    pub fn service(&self) -> serde_json::Value {
        serde_json::json!({ "services": [{ "internal_port": 8080, "ports": [{ "port": 80, "handlers": ["http"] }] }] })
    }

    pub async fn create(&self, bundle: LaunchBundle) -> MachineView {
        self.try_create(bundle).await.unwrap()
    }

    pub async fn try_create(&self, bundle: LaunchBundle) -> Result<MachineView, WorkerError> {
        self.agent.create(CreateMachine { bundle, lease_ttl_seconds: 0, lease_owner: String::new() }).await
    }

    pub async fn update(&self, bundle: LaunchBundle) -> Result<MachineView, WorkerError> {
        let update = UpdateMachine { bundle, expected_version: None, lease_nonce: String::new() };
        self.agent.update(update, "user").await
    }

    /// Waits for the state, with a limit.
    pub async fn reach(&self, number: u64, state: MachineState) -> MachineView {
        let wait = WaitFor { states: vec![state], settled: false, version: None, from_event: None, timeout: LIMIT };
        if let Err(error) = self.agent.wait(id(number), wait).await {
            panic!("{error}: {:#?}", self.agent.get(id(number)));
        }
        self.agent.get(id(number)).unwrap()
    }

    /// Waits until the machine has printed the line, with a limit.
    pub async fn printed(&self, number: u64, text: &str) {
        let query = LogQuery { machine: Some(id(number)), follow: true, ..LogQuery::default() };
        let mut lines = self.agent.logs(query);
        let found = async { while lines.recv().await.expect("the log ended").unwrap().text != text {} };
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{text:?} was not printed"));
    }

    /// Waits until the condition holds of the machine, with a limit.
    pub async fn until(&self, number: u64, what: &str, condition: impl Fn(&MachineView) -> bool) -> MachineView {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let view = self.agent.get(id(number)).unwrap();
            if condition(&view) {
                return view;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what} did not happen: {view:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Types and statuses of events, oldest first.
pub fn history(view: &MachineView) -> Vec<String> {
    view.events.iter().rev().map(|event| format!("{}/{}/{}", event.event_type, event.status, event.source)).collect()
}
