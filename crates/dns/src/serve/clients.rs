//! How much of something each client has, so that one of them does not take it all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts by client; those who have nothing take no memory.
#[derive(Default)]
pub struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// One of what a client has; its end makes room for another.
pub struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// One more for a client that has fewer than `limit`.
    pub fn enter(clients: &Arc<Self>, client: IpAddr, limit: usize) -> Option<Place> {
        // The counts are right whoever panicked while holding them.
        let mut counts = clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { clients: clients.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let clients = Arc::new(Clients::default());
        let enter = |client: [u8; 4]| Clients::enter(&clients, client.into(), 2);
        let (first, second) = (enter([192, 0, 2, 1]), enter([192, 0, 2, 1]));
        assert!(first.is_some() && second.is_some() && enter([192, 0, 2, 1]).is_none());
        assert!(enter([192, 0, 2, 2]).is_some());
        drop(first);
        assert!(enter([192, 0, 2, 1]).is_some());
        drop(second);
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
