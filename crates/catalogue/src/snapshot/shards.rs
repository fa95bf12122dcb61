//! A hash map cut into shards, each behind its own `Arc`: a clone shares all of them, and a write
//! to a clone copies only the shard it touches.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// At 100,000 entries a write copies some 400 of them, and a clone's first write 256 pointers.
const SHARDS: usize = 256;

#[derive(Clone)]
pub(super) struct Shards<K, V> {
    /// Chooses the shard. Not the hasher of the shards themselves: within one of them all keys
    /// would then share the bits that this one has looked at.
    hasher: RandomState,
    shards: Arc<[Arc<HashMap<K, V>>]>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        // All begin as one shared empty map, so that an unused table costs a few kilobytes.
        let empty = Arc::new(HashMap::new());
        Self { hasher: RandomState::new(), shards: vec![empty; SHARDS].into(), len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    fn index<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.index(key)].get(key)
    }

    /// The stored key equal to `key`, for sharing its allocation.
    pub fn stored_key<Q>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.index(key)].get_key_value(key).map(|(stored, _)| stored)
    }

    fn shard_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> &mut HashMap<K, V> {
        let index = self.index(key);
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[index])
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let previous = self.shard_mut(&key).insert(key, value);
        self.len += usize::from(previous.is_none());
        previous
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // Looks first: removing what is not there must not copy a shard.
        self.get(key)?;
        let removed = self.shard_mut(key).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// The value of `key` for changing it in place, made by `V::default` when missing.
    pub fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let missing = self.get(&key).is_none();
        self.len += usize::from(missing);
        self.shard_mut(&key).entry(key).or_default()
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    pub fn len(&self) -> usize {
        self.len
    }
}
