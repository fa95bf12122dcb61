//! Idle HTTP/1.1 connections of one core, such as those to the machines of this node, last used first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::{MachineId, MachineVersion};
use hyper::client::conn::http1::SendRequest;

use crate::body::RequestBody;

pub(crate) type Sender = SendRequest<RequestBody>;

/// A version is part of it: an update may put another program behind the same address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PoolKey {
    pub machine: MachineId,
    pub version: MachineVersion,
    pub port: u16,
}

/// Never waits and never grows past its limits; what does not fit is closed.
pub(crate) struct Pool<K> {
    idle: Mutex<HashMap<K, Vec<Idle>>>,
    per_key: usize,
    idle_timeout: Duration,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

impl<K: Eq + Hash> Pool<K> {
    pub fn new(per_key: usize, idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), per_key, idle_timeout })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is ready and, as far as known, still open.
    pub fn take(&self, key: &K, now: Instant) -> Option<Sender> {
        let mut idle = self.lock();
        let connections = idle.get_mut(key)?;
        while let Some(Idle { sender, since }) = connections.pop() {
            if sender.is_ready() && now.saturating_duration_since(since) < self.idle_timeout {
                return Some(sender);
            }
        }
        None
    }

    pub fn put(&self, key: K, sender: Sender, now: Instant) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.lock();
        let connections = idle.entry(key).or_default();
        if connections.len() < self.per_key {
            connections.push(Idle { sender, since: now });
        }
    }

    /// Closes what has not been used for the idle timeout.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, connections| {
            connections.retain(|idle| {
                !idle.sender.is_closed() && now.saturating_duration_since(idle.since) < self.idle_timeout
            });
            !connections.is_empty()
        });
    }
}
