//! A machine's size. Presets and limits are those of the Machines API, so that a configuration
//! accepted there is accepted here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How CPU time is shared: `shared` is a weight that may use idle CPU, `performance` a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpuKind {
    Shared,
    Performance,
}

/// A machine's size as given: every field may be absent until [`GuestRequest::resolve`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GuestRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_dedication_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel_args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist_rootfs: Option<String>,
}

/// A valid size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Guest {
    pub cpu_kind: CpuKind,
    pub cpus: u32,
    pub memory_mb: u32,
}

/// A size that no machine can have; the texts are those that clients of the API know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGuest {
    #[error("invalid config.guest.cpu_kind: must be \"shared\" or \"performance\"")]
    CpuKind,
    #[error("invalid config.guest.cpus: must be one of {}", join(.allowed))]
    Cpus { allowed: &'static [u32] },
    #[error("invalid config.guest.memory_mb, minimum required {minimum} MiB")]
    TooLittleMemory { minimum: u32 },
    #[error("invalid config.guest.memory_mb, cannot exceed {maximum} MiB")]
    TooMuchMemory { maximum: u32 },
    #[error("invalid config.guest.memory_mb: must be a multiple of {step} MiB")]
    MemoryStep { step: u32 },
    #[error("invalid config.size {given:?}: must be a preset such as \"shared-cpu-1x\" or \"performance-1x\"")]
    Preset { given: String },
    #[error("invalid config.guest.gpus: this platform has no GPUs")]
    Gpu,
}

fn join(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

struct Limits {
    cpus: &'static [u32],
    memory_per_cpu_min: u32,
    memory_per_cpu_max: u32,
    memory_step: u32,
}

const SHARED: Limits =
    Limits { cpus: &[1, 2, 4, 6, 8], memory_per_cpu_min: 256, memory_per_cpu_max: 2048, memory_step: 256 };
const PERFORMANCE: Limits = Limits {
    cpus: &[1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128],
    memory_per_cpu_min: 2048,
    memory_per_cpu_max: 8192,
    memory_step: 1024,
};

impl CpuKind {
    fn limits(self) -> &'static Limits {
        match self {
            Self::Shared => &SHARED,
            Self::Performance => &PERFORMANCE,
        }
    }
}

impl Guest {
    /// `shared-cpu-1x`: what a machine gets that asks for nothing.
    pub const DEFAULT: Self = Self { cpu_kind: CpuKind::Shared, cpus: 1, memory_mb: 256 };

    /// The preset of this name with its minimum memory, such as `shared-cpu-2x`.
    pub fn preset(name: &str) -> Result<Self, InvalidGuest> {
        let invalid = || InvalidGuest::Preset { given: name.chars().take(40).collect() };
        let (cpu_kind, count) = if let Some(rest) = name.strip_prefix("shared-cpu-") {
            (CpuKind::Shared, rest)
        } else if let Some(rest) = name.strip_prefix("performance-") {
            (CpuKind::Performance, rest)
        } else {
            return Err(invalid());
        };
        let cpus: u32 = count.strip_suffix('x').and_then(|n| n.parse().ok()).ok_or_else(invalid)?;
        let limits = cpu_kind.limits();
        // Presets end at 16 CPUs; larger sizes are spelled out.
        if !limits.cpus.contains(&cpus) || cpus > 16 {
            return Err(invalid());
        }
        Ok(Self { cpu_kind, cpus, memory_mb: cpus * limits.memory_per_cpu_min })
    }
}

impl GuestRequest {
    /// The valid size meant by this request.
    pub fn resolve(&self) -> Result<Guest, InvalidGuest> {
        let cpu_kind = match self.cpu_kind.as_deref() {
            Some("shared") => CpuKind::Shared,
            Some("performance") => CpuKind::Performance,
            _ => return Err(InvalidGuest::CpuKind),
        };
        if self.gpus.unwrap_or(0) > 0 || self.gpu_kind.as_deref().is_some_and(|kind| !kind.is_empty()) {
            return Err(InvalidGuest::Gpu);
        }
        let limits = cpu_kind.limits();
        let cpus = self.cpus.filter(|cpus| *cpus != 0).unwrap_or(1);
        if !limits.cpus.contains(&cpus) {
            return Err(InvalidGuest::Cpus { allowed: limits.cpus });
        }
        let (minimum, maximum) = (cpus * limits.memory_per_cpu_min, cpus * limits.memory_per_cpu_max);
        let memory_mb = self.memory_mb.filter(|memory| *memory != 0).unwrap_or(minimum);
        if memory_mb < minimum {
            return Err(InvalidGuest::TooLittleMemory { minimum });
        }
        if memory_mb > maximum {
            return Err(InvalidGuest::TooMuchMemory { maximum });
        }
        if !memory_mb.is_multiple_of(limits.memory_step) {
            return Err(InvalidGuest::MemoryStep { step: limits.memory_step });
        }
        Ok(Guest { cpu_kind, cpus, memory_mb })
    }
}

impl From<Guest> for GuestRequest {
    fn from(guest: Guest) -> Self {
        let cpu_kind = match guest.cpu_kind {
            CpuKind::Shared => "shared",
            CpuKind::Performance => "performance",
        };
        Self {
            cpu_kind: Some(cpu_kind.to_owned()),
            cpus: Some(guest.cpus),
            memory_mb: Some(guest.memory_mb),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cpu_kind: &str, cpus: u32, memory_mb: u32) -> GuestRequest {
        GuestRequest {
            cpu_kind: Some(cpu_kind.into()),
            cpus: Some(cpus),
            memory_mb: Some(memory_mb),
            ..Default::default()
        }
    }

    #[test]
    fn presets_have_their_minimum_memory() {
        assert_eq!(Guest::preset("shared-cpu-1x").unwrap(), Guest::DEFAULT);
        assert_eq!(Guest::preset("performance-16x").unwrap().memory_mb, 32768);
        for bad in ["", "shared-cpu-3x", "shared-cpu-1", "performance-128x", "a10"] {
            assert!(Guest::preset(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn impossible_sizes_are_refused_with_the_known_texts() {
        let error = |r: GuestRequest| r.resolve().unwrap_err().to_string();
        assert_eq!(error(request("shared", 4, 512)), "invalid config.guest.memory_mb, minimum required 1024 MiB");
        assert_eq!(error(request("shared", 1, 4096)), "invalid config.guest.memory_mb, cannot exceed 2048 MiB");
        assert_eq!(error(request("shared", 3, 1024)), "invalid config.guest.cpus: must be one of 1, 2, 4, 6, 8");
        assert_eq!(error(request("shared", 1, 300)), "invalid config.guest.memory_mb: must be a multiple of 256 MiB");
        assert!(error(GuestRequest::default()).starts_with("invalid config.guest.cpu_kind"));
        assert!(error(request("shared", u32::MAX, u32::MAX)).contains("cpus"));
    }
}
