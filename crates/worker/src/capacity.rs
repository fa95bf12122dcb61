//! What of the node is promised. A machine keeps its promise while it exists, stopped or not, so
//! that a wake can count on it; CPUs are shared and not counted.

use atoll_model::guest::{CpuKind, Guest};

use crate::error::WorkerError;

/// Sizes of the node and the rule of promising.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub cpus: u32,
    pub memory_mb: u64,
    pub memory_overcommit: f64,
}

impl Capacity {
    /// Whether `wanted` fits beside `promised_mb`, which counts all other machines of the node.
    pub fn admit(&self, wanted: &Guest, promised_mb: u64) -> Result<(), WorkerError> {
        let limit = (self.memory_mb as f64 * self.memory_overcommit) as u64;
        let memory = u64::from(wanted.memory_mb);
        // One machine alone must fit the real memory, whatever the factor.
        if memory > self.memory_mb || promised_mb.saturating_add(memory) > limit {
            return Err(WorkerError::NodeFull { resource: "memory" });
        }
        // Shared CPUs are weights; a performance CPU is a quota that the node must have.
        if wanted.cpu_kind == CpuKind::Performance && wanted.cpus > self.cpus {
            return Err(WorkerError::NodeFull { resource: "CPUs" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_promised_up_to_the_factor() {
        let node = Capacity { cpus: 2, memory_mb: 1000, memory_overcommit: 1.5 };
        let guest = |memory_mb| Guest { memory_mb, ..Guest::DEFAULT };
        assert!(node.admit(&guest(256), 1244).is_ok());
        let error = node.admit(&guest(256), 1245).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not reserve resource for machine: insufficient memory available to fulfill request"
        );
        assert!(node.admit(&guest(1001), 0).is_err());
        let many = Guest { cpu_kind: CpuKind::Performance, cpus: 4, ..Guest::DEFAULT };
        assert!(node.admit(&many, 0).unwrap_err().to_string().contains("insufficient CPUs"));
    }
}
