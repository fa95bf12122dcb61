//! Leases: while one lives, only its holder may change the machine. Decisions alone; expiry is
//! silent, so every decision is given the time.

use atoll_model::machine::Lease;
use atoll_model::{MachineId, MachineVersion};

use crate::clock::rfc3339;
use crate::error::WorkerError;

/// Time to live when the caller names none, and the longest one.
pub const DEFAULT_TTL_SECONDS: u64 = 30;
pub const MAX_TTL_SECONDS: u64 = 24 * 60 * 60;

/// What a caller wants to acquire.
#[derive(Clone, Debug, Default)]
pub struct Acquire {
    /// Of the lease the caller already holds: refreshes it.
    pub nonce: String,
    /// 0: the default.
    pub ttl_seconds: u64,
    pub owner: String,
    pub description: String,
}

/// The lease if it is still alive.
pub fn live(lease: Option<&Lease>, now_ms: u64) -> Option<&Lease> {
    lease.filter(|lease| lease.expires_at.saturating_mul(1000) > now_ms)
}

/// Whether a caller with this nonce (may be empty) may change the machine.
pub fn permits(machine: MachineId, lease: Option<&Lease>, nonce: &str, now_ms: u64) -> Result<(), WorkerError> {
    match live(lease, now_ms) {
        Some(lease) if lease.nonce != nonce => Err(held(machine, lease)),
        _ => Ok(()),
    }
}

fn held(machine: MachineId, lease: &Lease) -> WorkerError {
    WorkerError::Conflict(format!(
        "machine ID {machine} lease currently held by {}, expires at {}",
        lease.owner,
        rfc3339(lease.expires_at)
    ))
}

/// The lease after an acquire or refresh. `fresh_nonce` is used for a new lease only.
pub fn acquire(
    machine: MachineId,
    current: Option<&Lease>,
    ask: &Acquire,
    version: MachineVersion,
    now_ms: u64,
    fresh_nonce: String,
) -> Result<Lease, WorkerError> {
    let ttl = match ask.ttl_seconds {
        0 => DEFAULT_TTL_SECONDS,
        ttl => ttl.min(MAX_TTL_SECONDS),
    };
    // Rounded up, so that a lease never lives shorter than was asked.
    let expires_at = now_ms.div_ceil(1000) + ttl;
    match live(current, now_ms) {
        Some(lease) if lease.nonce == ask.nonce => Ok(Lease { expires_at, ..lease.clone() }),
        Some(lease) => Err(held(machine, lease)),
        None => Ok(Lease {
            nonce: fresh_nonce,
            expires_at,
            owner: ask.owner.clone(),
            description: ask.description.clone(),
            version,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineId {
        MachineId::from_random(10)
    }

    fn lease(now_ms: u64) -> Lease {
        let ask = Acquire { owner: "a@example.org".into(), ttl_seconds: 13, ..Acquire::default() };
        acquire(machine(), None, &ask, MachineVersion::from_parts(1, 1), now_ms, "fed368b018e9".into()).unwrap()
    }

    #[test]
    fn others_are_refused_with_the_documented_text_until_it_expires() {
        let lease = lease(1_700_000_000_000);
        let error = permits(machine(), Some(&lease), "", 1_700_000_000_000).unwrap_err().to_string();
        assert_eq!(
            error,
            "machine ID 0000000000000a lease currently held by a@example.org, expires at 2023-11-14T22:13:33Z"
        );
        assert!(permits(machine(), Some(&lease), &lease.nonce, 1_700_000_000_000).is_ok());
        assert!(permits(machine(), Some(&lease), "", 1_700_000_013_000).is_ok());
        assert!(permits(machine(), None, "whatever", 0).is_ok());
    }

    #[test]
    fn a_matching_nonce_refreshes_and_keeps_the_nonce() {
        let first = lease(0);
        let ask = Acquire { nonce: first.nonce.clone(), ttl_seconds: 60, ..Acquire::default() };
        let version = MachineVersion::from_parts(2, 2);
        let again = acquire(machine(), Some(&first), &ask, version, 5_000, "new".into()).unwrap();
        assert_eq!((again.nonce.as_str(), again.expires_at), (first.nonce.as_str(), 65));
        let stranger = Acquire::default();
        assert!(acquire(machine(), Some(&first), &stranger, version, 5_000, "new".into()).is_err());
        let after = acquire(machine(), Some(&first), &stranger, version, 13_000, "new".into()).unwrap();
        assert_eq!(after.nonce, "new");
    }
}
