//! Keeps the mesh's link what the catalogue wants.

use std::sync::Arc;

use atoll_mesh::{Backend, MeshError, PrivateKey};

use crate::peers::Wanted;
use crate::secrets::held::Secrets;

/// A link and what it was made to have.
pub struct Links {
    backend: Arc<dyn Backend>,
    private_key: PrivateKey,
    secrets: Arc<Secrets>,
    /// Not known at first, nor after something failed half way.
    have: Option<Wanted>,
}

impl Links {
    /// Peers are made with the secrets that `secrets` has for them; it changes them itself.
    pub fn new(backend: Arc<dyn Backend>, private_key: PrivateKey, secrets: Arc<Secrets>) -> Self {
        Self { backend, private_key, secrets, have: None }
    }

    /// Makes the link have this and nothing else. Sessions of peers that stay are not touched.
    ///
    /// # Errors
    /// If the link refuses a step; the next call then begins with all of it.
    pub fn follow(&mut self, want: Wanted) -> Result<(), MeshError> {
        match self.have.take() {
            Some(have) => self.change(&have, &want)?,
            None => {
                let mut desired = want.desired(&self.private_key);
                self.secrets.with_current(|current| {
                    for peer in &mut desired.peers {
                        peer.preshared_key = current(peer.public_key);
                    }
                    self.backend.apply(&desired)
                })?;
            }
        }
        self.have = Some(want);
        Ok(())
    }

    fn change(&self, have: &Wanted, want: &Wanted) -> Result<(), MeshError> {
        let steps = want.after(have);
        steps.gone.iter().try_for_each(|peer| self.backend.remove_peer(*peer))?;
        self.secrets.forget(&steps.gone);
        for mut peer in steps.new {
            self.secrets.with_current(|current| {
                peer.preshared_key = current(peer.public_key);
                self.backend.set_peer(&peer)
            })?;
        }
        steps.moved.iter().try_for_each(|(peer, endpoint)| self.backend.set_endpoint(*peer, *endpoint))?;
        if steps.addresses.is_empty() { Ok(()) } else { self.backend.change_addresses(&steps.addresses) }
    }
}
