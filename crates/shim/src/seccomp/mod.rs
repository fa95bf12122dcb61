//! The filter of system calls for all processes of a machine. A call that is not allowed fails with
//! "not permitted" instead of killing, so that programs can do without it.

mod calls;

use std::collections::BTreeMap;

use atoll_guest_protocol::shim::Failure;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::failure::host;

/// Flags of `clone` that make namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// `personality` values that ask for ordinary Linux, with or without 32-bit `uname`, or only read.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Restricts the calling process and all it will start. The caller must have given up the right to
/// gain privileges before.
pub fn restrict() -> Result<(), Failure> {
    let cannot = |error| host("compile the system call filter", error);
    for program in [allowed_calls().map_err(cannot)?, absent_calls().map_err(cannot)?] {
        apply_filter(&program).map_err(|error| host("apply the system call filter", error))?;
    }
    Ok(())
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

fn allowed_calls() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(calls::EVERYWHERE.iter().map(|call| (*call, Vec::new())));
    #[cfg(target_arch = "x86_64")]
    rules.extend(calls::X86_64.iter().map(|call| (*call, Vec::new())));
    rules.extend(argument_rules()?);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, denied, SeccompAction::Allow, architecture()?)?.try_into()
}

/// `clone3` passes its flags in memory, which a filter cannot see. Libraries fall back to `clone`
/// when the kernel does not know it, so that is what they are told.
fn absent_calls() -> Result<BpfProgram, BackendError> {
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture()?)?.try_into()
}

/// Calls that are allowed with some arguments only.
fn argument_rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let when =
        |operator, value| SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)?]);
    let personalities =
        PERSONALITIES.into_iter().map(|value| when(SeccompCmpOp::Eq, value)).collect::<Result<Vec<_>, _>>()?;
    Ok(BTreeMap::from([
        (libc::SYS_clone, vec![when(SeccompCmpOp::MaskedEq(NAMESPACES), 0)?]),
        (libc::SYS_personality, personalities),
        // Sockets to a hypervisor would lead around the machine's network.
        (libc::SYS_socket, vec![when(SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?]),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile() {
        assert!(allowed_calls().unwrap().len() > 300);
        assert!(absent_calls().unwrap().len() < 20);
    }

    #[test]
    fn dangerous_calls_are_not_allowed() {
        let dangerous = [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_pivot_root,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_perf_event_open,
            libc::SYS_open_by_handle_at,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_clock_settime,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_iopl,
            libc::SYS_ioperm,
        ];
        for call in dangerous {
            assert!(!calls::EVERYWHERE.contains(&call), "{call} is allowed");
            assert!(!calls::X86_64.contains(&call), "{call} is allowed");
        }
    }
}
