//! Deadlines by name.

use std::collections::{BTreeMap, BTreeSet};

use millstream_record::Millis;

/// At most one deadline for each key.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_key: BTreeMap<K, Millis>,
    by_time: BTreeSet<(Millis, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Timers<K> {
    /// Sets or moves the deadline of `key`.
    pub(crate) fn set(&mut self, key: K, at: Millis) {
        self.clear(&key);
        self.by_key.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    /// Removes the deadline of `key`.
    pub(crate) fn clear(&mut self, key: &K) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    /// Takes out a deadline that is over, the earliest first.
    pub(crate) fn next_due(&mut self, now: Millis) -> Option<K> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// The earliest deadline.
    pub(crate) fn first(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(crate) fn is_set(&self, key: &K) -> bool {
        self.by_key.contains_key(key)
    }
}
