//! What a machine's processes may not do although they may be root: capabilities, privileges gained
//! by executing, and resource limits. Applied to the guest init before it is executed, and inherited
//! by everything it starts.

use atoll_guest_protocol::shim::Failure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::failure::host;

/// What container images expect of root. Making device nodes is not among it: without a device
/// controller a node of the host's disk would be the disk.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Soft and hard limits. Programs that scan all descriptors suffer from a high soft limit, programs
/// that need many raise it themselves. No core dumps: the host's handler would get them.
const LIMITS: [(Resource, u64, u64); 4] = [
    (Resource::Nofile, 10_240, 1_048_576),
    (Resource::Core, 0, 0),
    (Resource::Memlock, 8 << 20, 8 << 20),
    (Resource::Stack, 8 << 20, u64::MAX),
];

/// Gives up, for good, whatever a machine must not have.
pub fn drop_privileges() -> Result<(), Failure> {
    for (resource, current, maximum) in LIMITS {
        // A host that is itself confined cannot give more than it has.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX).min(maximum);
        let unlimited = |value: u64| Some(value).filter(|value| *value != u64::MAX);
        let limit = Rlimit { current: unlimited(current.min(most)), maximum: unlimited(most) };
        setrlimit(resource, limit).map_err(|error| host(format_args!("limit {resource:?}"), error))?;
    }
    // The kernel's own list is longer than the library's on newer kernels, so every bit is tried.
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(host("give up capabilities", error)),
        }
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    clear_ambient_capability_set().map_err(|error| host("give up ambient capabilities", error))?;
    set_capabilities(None, sets).map_err(|error| host("give up capabilities", error))?;
    set_no_new_privs(true).map_err(|error| host("forbid new privileges", error))
}
