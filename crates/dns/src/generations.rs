//! A bounded map that forgets what was not used for long: a young and an old half. When the young one is
//! full it becomes the old one, and the old one is dropped whole. No lists, no counters, no clock.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

pub struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Entries of each half.
    half: usize,
}

impl<K: Hash + Eq, V: Clone> Generations<K, V> {
    /// Holds `capacity` entries at most.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The value of a key, which counts as used.
    pub fn get<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let mut map = Generations::new(10);
        map.insert(0, "used");
        for number in 1..1000 {
            assert_eq!(map.get(&0), Some("used"), "forgotten at {number}");
            map.insert(number, "once");
            assert!(map.len() <= 10);
        }
        assert_eq!(map.get(&1), None);
    }
}
