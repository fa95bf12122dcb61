//! Keeps the mesh's link what the catalogue wants.

use std::sync::Arc;

use atoll_mesh::{Backend, MeshError, PrivateKey};

use crate::peers::Wanted;

/// A link and what it was made to have.
pub struct Links {
    backend: Arc<dyn Backend>,
    private_key: PrivateKey,
    /// Not known at first, nor after something failed half way.
    have: Option<Wanted>,
}

impl Links {
    pub fn new(backend: Arc<dyn Backend>, private_key: PrivateKey) -> Self {
        Self { backend, private_key, have: None }
    }

    /// Makes the link have this and nothing else. Sessions of peers that stay are not touched.
    ///
    /// # Errors
    /// If the link refuses a step; the next call then begins with all of it.
    pub fn follow(&mut self, want: Wanted) -> Result<(), MeshError> {
        match self.have.take() {
            Some(have) => self.change(&have, &want)?,
            None => self.backend.apply(&want.desired(&self.private_key))?,
        }
        self.have = Some(want);
        Ok(())
    }

    fn change(&self, have: &Wanted, want: &Wanted) -> Result<(), MeshError> {
        let steps = want.after(have);
        steps.gone.iter().try_for_each(|peer| self.backend.remove_peer(*peer))?;
        steps.new.iter().try_for_each(|peer| self.backend.set_peer(peer))?;
        steps.moved.iter().try_for_each(|(peer, endpoint)| self.backend.set_endpoint(*peer, *endpoint))?;
        if steps.addresses.is_empty() { Ok(()) } else { self.backend.change_addresses(&steps.addresses) }
    }
}
