//! Gives a host back: ends what is left of this instance's machines and removes what was made for
//! them. For a server that is given up, while no agent runs.

use std::io;
use std::path::{Path, PathBuf};

use atoll_driver::{Driver, DriverError};
use atoll_model::MachineId;

use crate::network::{HostNetworks, NetworkConfig};
use crate::seams::NetworkError;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error("cannot look for machines in {path}", path = .path.display())]
    Machines {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("machine {machine} cannot be ended")]
    Machine {
        machine: MachineId,
        #[source]
        source: DriverError,
    },
    #[error("the network of this server's machines cannot be removed")]
    Network(#[from] NetworkError),
    #[error("cannot remove the control group {path}", path = .path.display())]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Ends and removes everything of the agent's `state_dir`; returns how many machines there were.
/// Records, logs and images stay. Doing so twice is no error.
pub async fn remove_traces(state_dir: &Path, instance: u32, driver: &dyn Driver) -> Result<usize, TracesError> {
    let prefix = format!("atoll-{instance:08x}");
    let machines = machines(&state_dir.join("machines"))?;
    for (machine, dir) in &machines {
        let cgroup = format!("{prefix}/machine-{machine}");
        driver
            .destroy(*machine, dir, &cgroup)
            .await
            .map_err(|source| TracesError::Machine { machine: *machine, source })?;
    }
    let config =
        NetworkConfig { instance, state_dir: state_dir.to_owned(), block: None, ready_namespaces: 0, mesh: None };
    HostNetworks::open(config).await?.remove_all().await?;
    remove_cgroups(Path::new(CGROUPS), &prefix)?;
    Ok(machines.len())
}

fn machines(folder: &Path) -> Result<Vec<(MachineId, PathBuf)>, TracesError> {
    let failed = |source| TracesError::Machines { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut machines = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // Whatever else lies there is no machine's folder.
        if let Some(Ok(machine)) = entry.file_name().to_str().map(str::parse) {
            machines.push((machine, entry.path()));
        }
    }
    Ok(machines)
}

/// The groups that held the machines' groups: one, or with version 1 one below each controller.
fn remove_cgroups(root: &Path, prefix: &str) -> Result<(), TracesError> {
    let controllers = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for group in controllers.chain([root.to_owned()]).map(|folder| folder.join(prefix)) {
        match std::fs::remove_dir(&group) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(TracesError::Cgroup { path: group, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_removed_below_every_controller_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        for group in ["memory/atoll-0000002a", "atoll-0000002a", "memory/atoll-0000002b"] {
            std::fs::create_dir_all(root.path().join(group)).unwrap();
        }
        std::fs::write(root.path().join("cgroup.procs"), "").unwrap();
        remove_cgroups(root.path(), "atoll-0000002a").unwrap();
        remove_cgroups(root.path(), "atoll-0000002a").unwrap();
        assert!(!root.path().join("memory/atoll-0000002a").exists() && !root.path().join("atoll-0000002a").exists());
        assert!(root.path().join("memory/atoll-0000002b").exists());
    }

    #[test]
    fn only_machines_folders_are_taken_for_machines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("00000000000007")).unwrap();
        std::fs::create_dir(folder.path().join("lost+found")).unwrap();
        let found = machines(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(machines(&folder.path().join("absent")).unwrap().is_empty());
    }
}
