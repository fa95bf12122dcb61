//! Writes down which apps with local addresses this place serves. The guard, which has more rights, reads it
//! and announces a route for each ([`atoll_anycast::served`]); here is only said what is so.
//!
//! It follows the catalogue a moment behind and beside the data plane: a whole pass over the apps is made on a
//! thread of its own, at most every [`PAUSE`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_anycast::damping::Damping;
use atoll_anycast::served::Served;
use atoll_catalogue::Snapshot;
use atoll_catalogue::watch::ReplicaHandle;
use atoll_model::row::MachineRow;
use atoll_model::{MachineState, RegionCode};

/// Changes within it are looked at together.
const PAUSE: Duration = Duration::from_millis(100);
/// How soon a list that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the list until the process ends. There is none before the first address is served.
pub async fn write_forever(replica: ReplicaHandle, place: RegionCode, file: PathBuf) {
    let mut changes = replica.subscribe();
    let mut written = None;
    let began = Instant::now();
    let mut damping = Damping::default();
    loop {
        changes.mark_unchanged();
        let snapshot = replica.snapshot();
        let addresses = match tokio::task::spawn_blocking(move || addresses(&snapshot, place)).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::error!(%error, "the list of what is served here was not made");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let served = Served { addresses: damping.allow(&addresses, began.elapsed()) };
        let (path, known) = (file.clone(), written.clone());
        let pass = tokio::task::spawn_blocking(move || {
            let needless = known.as_ref() == Some(&served) || (served.addresses.is_empty() && !path.exists());
            if needless { Ok(served) } else { write(&path, &served).map(|()| served) }
        });
        let failed = match pass.await {
            Ok(Ok(served)) => {
                written = Some(served);
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, file = %file.display(), "cannot write down what is served here");
                true
            }
            Err(error) => {
                tracing::error!(%error, "the list of what is served here was not made");
                true
            }
        };
        if failed {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        let held_back = damping.next().map(|next| next.saturating_sub(began.elapsed()));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(held_back.unwrap_or(Duration::MAX)), if held_back.is_some() => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Replaces the list as a whole.
fn write(path: &Path, served: &Served) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(served)?)?;
    std::fs::rename(&new, path)
}

/// The local addresses of the apps that a place serves.
fn addresses(catalogue: &Snapshot, place: RegionCode) -> BTreeSet<IpAddr> {
    let local = catalogue.apps().filter(|app| !app.local_addresses.is_empty());
    let here = local.filter(|app| {
        let machines = catalogue.machines_of(&app.name);
        machines.iter().any(|machine| machine.region == place && serves(machine))
    });
    here.flat_map(|app| app.local_addresses.iter().copied()).collect()
}

/// Whether a machine serves its app, or would be started by a request: so an app that idles and wakes keeps
/// its route.
fn serves(machine: &MachineRow) -> bool {
    use MachineState::*;
    let any =
        |holds: fn(&atoll_model::row::ServiceRow) -> bool| !machine.cordoned && machine.services.iter().any(holds);
    match machine.state {
        Started => any(|service| service.healthy),
        Starting | Stopping | Suspending | Stopped | Suspended => any(|service| service.service.starts_on_request()),
        Created | Restarting | Replacing | Failed | Destroying | Destroyed => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_model::row::{AppRow, ServiceRow};
    use atoll_model::{MachineVersion, Row};
    use serde_json::json;

    use super::*;

    fn app(name: &str, local: &[&str]) -> Row {
        let addresses: Vec<IpAddr> = local.iter().map(|address| address.parse().unwrap()).collect();
        Row::App(AppRow {
            name: name.parse().unwrap(),
            org: "personal".parse().unwrap(),
            network: atoll_model::address::NetworkId(1),
            primary_region: None,
            hostnames: Vec::new(),
            addresses: addresses.iter().copied().chain([[192, 0, 2, 99].into()]).collect(),
            shared_addresses: Vec::new(),
            local_addresses: addresses,
        })
    }

    fn machine(app: &str, region: &str, state: MachineState, healthy: bool, autostart: bool) -> MachineRow {
        let service = json!({"protocol": "tcp", "internal_port": 80, "autostart": autostart, "healthy": healthy});
        let service: ServiceRow = serde_json::from_value(service).unwrap();
        MachineRow {
            id: atoll_model::MachineId::from_random(7),
            app: app.parse().unwrap(),
            network: atoll_model::address::NetworkId(1),
            node: "one".parse().unwrap(),
            region: region.parse().unwrap(),
            version: MachineVersion::from_parts(1, 1),
            state,
            cordoned: false,
            private_ipv4: [10, 0, 0, 2].into(),
            private_ipv6: "fdaa::2".parse().unwrap(),
            process_group: String::new(),
            services: Arc::new([service]),
            changed_at_ms: 0,
            metadata: Arc::new([]),
            skip_dns: false,
        }
    }

    #[test]
    fn an_app_is_served_where_it_runs_well_or_would_be_started() {
        use MachineState::*;
        let judged = |state, healthy, autostart| serves(&machine("web", "ams", state, healthy, autostart));
        assert!(judged(Started, true, false) && judged(Stopped, false, true));
        assert!(!judged(Started, false, true) && !judged(Stopped, true, false) && !judged(Destroyed, true, true));
        assert!(!serves(&MachineRow { cordoned: true, ..machine("web", "ams", Started, true, true) }));
        for state in [Started, Stopping, Stopped, Starting, Started, Suspending, Suspended, Starting, Started] {
            assert!(judged(state, true, true), "idling and waking changes nothing: {state:?}");
        }
    }

    #[test]
    fn only_local_addresses_of_apps_with_machines_in_this_region_are_listed() {
        let here = machine("web", "ams", MachineState::Started, true, true);
        let elsewhere = MachineRow {
            id: atoll_model::MachineId::from_random(8),
            ..machine("far", "nrt", MachineState::Started, true, true)
        };
        let apps = [app("web", &["192.0.2.1", "2001:db8::1"]), app("far", &["192.0.2.2"]), app("none", &["192.0.2.3"])];
        let rows = apps.into_iter().chain([Row::Machine(here), Row::Machine(elsewhere)]);
        let found = addresses(&Snapshot::from_rows(rows), "ams".parse().unwrap());
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn what_is_written_is_what_the_guard_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("served.json");
        let served = Served { addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]) };
        write(&file, &served).unwrap();
        assert_eq!(Served::parse(&std::fs::read(&file).unwrap()).unwrap(), served);
    }
}
