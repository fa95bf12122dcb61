//! Host names with one-level wildcards: `*.example.org` covers `a.example.org`, neither
//! `example.org` nor `a.b.example.org` (RFC 6125).

use std::sync::Arc;

use super::shards::Shards;

#[derive(Clone)]
pub(super) struct HostTable<V> {
    exact: Shards<Arc<str>, V>,
    /// By the name without `*.`, so that a lookup needs no new string.
    wildcard: Shards<Arc<str>, V>,
}

impl<V> Default for HostTable<V> {
    fn default() -> Self {
        Self { exact: Shards::default(), wildcard: Shards::default() }
    }
}

impl<V: Clone> HostTable<V> {
    /// What covers `host`: its own entry, else that of the wildcard above it.
    pub fn find(&self, host: &str) -> Option<&V> {
        self.exact.get(host).or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.wildcard.get(parent)
        })
    }

    fn table_of<'a>(&mut self, pattern: &'a str) -> (&mut Shards<Arc<str>, V>, &'a str) {
        match pattern.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, pattern),
        }
    }

    pub fn insert(&mut self, pattern: &str, value: V) {
        let (table, name) = self.table_of(pattern);
        table.insert(name.into(), value);
    }

    pub fn remove(&mut self, pattern: &str) {
        let (table, name) = self.table_of(pattern);
        table.remove(name);
    }

    /// The value of this very pattern, made by `V::default` when missing.
    pub fn entry(&mut self, pattern: &str) -> &mut V
    where
        V: Default,
    {
        let (table, name) = self.table_of(pattern);
        table.entry(name.into())
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.exact.values().chain(self.wildcard.values())
    }
}
