//! Who takes part.

use atoll_model::NodeName;
use serde::{Deserialize, Serialize};

/// A server's public key in the mesh.
pub type MeshKey = [u8; 32];

/// A server: its name, which its certificate proves where tickets are given, and its key in the mesh. Both
/// go into every key, so that a ticket is worth nothing to anybody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Party {
    pub node: NodeName,
    pub mesh_key: MeshKey,
}

impl Party {
    /// Unambiguous beside others of its kind: the name's length goes before it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let name = self.node.as_str().as_bytes();
        out.extend_from_slice(&(name.len() as u64).to_be_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&self.mesh_key);
    }
}
