//! State stores: sorted maps from bytes to bytes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;

mod layered;
pub use layered::Layered;

/// Key and value pairs in ascending order of key bytes.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + 'a>;

/// A sorted map of bytes, owned by one task. The in-memory twin is [`MemoryStore`]; the runtime has one on disk.
pub trait Store: Send {
    /// The value of `key`.
    ///
    /// # Errors
    /// What the engine says.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Sets the value of `key`.
    ///
    /// # Errors
    /// What the engine says.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Removes `key`; nothing happens when it is absent.
    ///
    /// # Errors
    /// What the engine says.
    fn delete(&mut self, key: &[u8]) -> Result<()>;
    /// The entries between two bounds.
    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_>;

    /// The entries whose key begins with `prefix`.
    fn prefix(&self, prefix: &[u8]) -> Entries<'_> {
        match after_prefix(prefix) {
            Some(end) => self.range(Bound::Included(prefix), Bound::Excluded(&end)),
            None => self.range(Bound::Included(prefix), Bound::Unbounded),
        }
    }
}

/// The least key greater than every key that begins with `prefix`; none when there is no such key.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// A store as the topology declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Name, unique in the topology; its changelog topic is `<app>-<name>-changelog`.
    pub name: Arc<str>,
    /// Whether changes are written to a changelog topic, from which the store is restored. Without one the store starts
    /// empty after a crash or a move.
    pub changelog: bool,
    /// Whether it is kept in memory only (restored from its changelog at every start).
    pub in_memory: bool,
}

impl StoreSpec {
    /// A store on disk with a changelog.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), changelog: true, in_memory: false }
    }

    /// Keeps the store in memory.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    /// Leaves the changelog out.
    #[must_use]
    pub fn without_changelog(mut self) -> Self {
        self.changelog = false;
        self
    }
}

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    map: BTreeMap<Bytes, Bytes>,
}

impl MemoryStore {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.map.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let value = Bytes::copy_from_slice(value);
        match self.map.get_mut(key) {
            Some(slot) => *slot = value,
            None => drop(self.map.insert(Bytes::copy_from_slice(key), value)),
        }
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.map.remove(key);
        Ok(())
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_> {
        if is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.map.range::<[u8], _>((from, to)).map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}

/// Whether no key can lie between the bounds; `BTreeMap::range` panics on such bounds.
pub(crate) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
        _ => false,
    }
}
