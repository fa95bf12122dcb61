//! The platform's root as an operator sees and replaces it.

use atoll_model::wire::{AuthorityView, RootView, RotationPhase};
use atoll_rpc::authorities::RootSeen;
use atoll_rpc::ca::CaError;
use atoll_rpc::rotation::Phase;

use crate::{Control, ControlError, ControlResult, Kind};

impl Control {
    pub fn authority_view(&self) -> AuthorityView {
        let seen = self.authority.seen();
        AuthorityView {
            phase: match seen.phase {
                Phase::Settled => RotationPhase::Settled,
                Phase::Announced { .. } => RotationPhase::Announced,
                Phase::Overlapping { .. } => RotationPhase::Overlapping,
            },
            root: root_view(seen.issuing),
            other: seen.other.map(root_view),
            phase_ends_at: seen.phase_ends,
        }
    }

    /// Begins to replace the root; control does the rest as time passes.
    pub fn authority_rotate(&self, old_key_lost: bool) -> ControlResult<AuthorityView> {
        self.authority.begin(old_key_lost, self.now_ms() / 1000).map_err(|error| match error {
            CaError::Underway => {
                let message = "the root is being replaced already; `atoll control authority` shows how far it is";
                ControlError::new(Kind::Conflict, message)
            }
            CaError::NoRootKey { path } => ControlError::new(
                Kind::Precondition,
                format!(
                    "the key of the root in use has to sign the next root, and is not at {}: put it back there for \
                     this, or, if it is lost, say so with --old-key-lost",
                    path.display()
                ),
            ),
            error => ControlError::internal(error),
        })?;
        let view = self.authority_view();
        tracing::info!(next = view.other.as_ref().map(|root| &root.fingerprint), "the root is being replaced");
        Ok(view)
    }
}

fn root_view(seen: RootSeen) -> RootView {
    RootView { fingerprint: seen.fingerprint, ends_at: seen.ends_at, linked: seen.linked }
}
