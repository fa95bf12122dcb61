//! Why a machine cannot start, said so that the reason can be shown to the user as it is.

use std::fmt::Display;

use atoll_guest_protocol::shim::Failure;

use crate::cgroup::CgroupError;

/// The host could not do its part.
pub fn host(what: impl Display, error: impl Display) -> Failure {
    Failure { reason: format!("cannot {what}: {error}"), by_configuration: false }
}

/// A control group could not be made or changed.
pub fn cgroup(error: CgroupError) -> Failure {
    let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    Failure { reason: format!("{error}{cause}"), by_configuration: false }
}

/// The image or configuration asks for what cannot be.
pub fn configuration(what: impl Display, error: impl Display) -> Failure {
    Failure { reason: format!("cannot {what}: {error}"), by_configuration: true }
}
