//! The state folder of a server: where everything lies, and the facts that never change after the
//! first start.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use atoll_model::{NodeName, RegionCode};
use atoll_rpc::files::write_durably;

/// Paths below the state folder.
#[derive(Clone, Debug)]
pub struct StateDir(pub PathBuf);

impl StateDir {
    pub fn node_file(&self) -> PathBuf {
        self.0.join("node.json")
    }

    /// Pids, locks and sockets; nothing that must survive a reboot.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The edge and control talk to this node's worker here.
    pub fn worker_socket(&self) -> PathBuf {
        self.run().join("worker.sock")
    }

    /// A process of this server says its metrics here.
    pub fn metrics_socket(&self, role: &str) -> PathBuf {
        self.run().join(format!("{role}.metrics"))
    }

    pub fn options_file(&self) -> PathBuf {
        self.run().join("options.json")
    }

    pub fn role(&self, role: &str) -> PathBuf {
        self.0.join(role)
    }

    pub fn identity(&self, role: &str) -> PathBuf {
        self.role(role).join("identity.pem")
    }

    /// The server's secret in the mesh.
    pub fn mesh_key(&self) -> PathBuf {
        self.role("net").join("mesh.key")
    }

    /// When control was alive last.
    pub fn alive(&self) -> PathBuf {
        self.role("control").join("alive")
    }

    /// The server's secret towards users' devices.
    pub fn gateway_key(&self) -> PathBuf {
        self.role("net").join("gateway.key")
    }

    /// The edge hands WebSockets of users' devices to this server's gateway here.
    pub fn devices_socket(&self) -> PathBuf {
        self.run().join("devices.sock")
    }

    /// Where users' devices spoke from last.
    pub fn devices(&self) -> PathBuf {
        self.role("net").join("devices")
    }

    pub fn authority(&self) -> PathBuf {
        self.role("control").join("ca")
    }

    pub fn ca_certificate(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The first owner token, for whoever is root here.
    pub fn root_token(&self) -> PathBuf {
        self.0.join("root.token")
    }

    /// The same token where control may read it, until it is registered.
    pub fn first_token(&self) -> PathBuf {
        self.role("control").join("first.token")
    }
}

/// What this server is; written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeFile {
    /// 16 hex characters, shared by all nodes of the platform.
    pub platform: String,
    /// 16 hex characters of this state folder; its first 8 mark every kernel object we make.
    pub instance: String,
    pub name: NodeName,
    pub region: RegionCode,
    /// Owner epoch of this node's catalogue rows.
    pub epoch: u64,
    pub runs_control: bool,
    /// `host:port` of control's node RPC.
    pub control: String,
    pub app_domain: String,
}

impl NodeFile {
    pub fn load(state: &StateDir) -> anyhow::Result<Option<Self>> {
        let path = state.node_file();
        match std::fs::read(&path) {
            Ok(text) => {
                let file = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Written last of a first start: without it the next start begins anew.
    pub fn save(&self, state: &StateDir) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        write_durably(&state.node_file(), &text, false).context("cannot write the node's file")
    }

    /// The number in the names of kernel objects.
    pub fn instance_number(&self) -> anyhow::Result<u32> {
        u32::from_str_radix(self.mark(), 16).context("the instance in node.json is not hex")
    }

    /// The 8 hex characters in the names of kernel objects.
    pub fn mark(&self) -> &str {
        self.instance.get(..8).unwrap_or(&self.instance)
    }
}

/// Random hex text of `bytes` bytes.
pub fn random_hex<const BYTES: usize>() -> String {
    hex::encode(rand::random::<[u8; BYTES]>())
}

/// Makes a folder that belongs to `uid` alone.
pub fn private_dir(path: &Path, uid: u32) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .and_then(|()| chown(path, Some(uid), Some(uid)))
        .with_context(|| format!("cannot hand {} to user {uid}", path.display()))
}

/// Hands a file or folder, with all in it, to `uid`.
pub fn hand_over(path: &Path, uid: u32) -> anyhow::Result<()> {
    let hand_one = |path: &Path| {
        std::os::unix::fs::lchown(path, Some(uid), Some(uid))
            .with_context(|| format!("cannot hand {} to user {uid}", path.display()))
    };
    hand_one(path)?;
    if path.symlink_metadata()?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            hand_over(&entry?.path(), uid)?;
        }
    }
    Ok(())
}
