//! A store's uncommitted layer.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::{Entries, Store, is_empty_range};
use crate::error::Result;

/// Bookkeeping of one entry of the layer, in bytes: tree node share and two handles.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Changes since the last commit over a committed base. Reads see both; writes stay in the layer until [`Layered::fold`].
/// The layer holds one change for each key, however often the key changed: it is the changelog of the epoch.
pub struct Layered {
    base: Box<dyn Store>,
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Layered {
    /// An empty layer over `base`.
    #[must_use]
    pub fn new(base: Box<dyn Store>) -> Self {
        Self { base, changes: BTreeMap::new(), bytes: 0 }
    }

    /// Memory that the layer takes, roughly; a task commits early when its layers outgrow their bound.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.bytes
    }

    /// The changes since the last commit, in key order; a value of `None` is a removal.
    pub fn changes(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.changes.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// The commit succeeded: moves the changes to the base.
    ///
    /// # Errors
    /// What the base says; the layer still holds the changes that were not moved.
    pub fn fold(&mut self) -> Result<()> {
        while let Some(first) = self.changes.first_entry() {
            match first.get() {
                Some(value) => self.base.put(first.key(), value)?,
                None => self.base.delete(first.key())?,
            }
            first.remove();
        }
        self.bytes = 0;
        Ok(())
    }

    /// Takes the changes out without applying them: the runtime applies those of all stores of a task in one batch.
    pub fn take_changes(&mut self) -> BTreeMap<Bytes, Option<Bytes>> {
        self.bytes = 0;
        std::mem::take(&mut self.changes)
    }

    /// The commit failed: forgets the changes.
    pub fn discard(&mut self) {
        self.changes.clear();
        self.bytes = 0;
    }

    /// The committed base, without the changes.
    #[must_use]
    pub fn into_base(self) -> Box<dyn Store> {
        self.base
    }

    fn record(&mut self, key: &[u8], value: Option<Bytes>) {
        let added = value.as_ref().map_or(0, Bytes::len);
        if let Some(slot) = self.changes.get_mut(key) {
            let removed = slot.as_ref().map_or(0, Bytes::len);
            *slot = value;
            self.bytes = self.bytes + added - removed;
        } else {
            self.bytes += key.len() + added + ENTRY_OVERHEAD_BYTES;
            self.changes.insert(Bytes::copy_from_slice(key), value);
        }
    }
}

impl Store for Layered {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.record(key, Some(Bytes::copy_from_slice(value)));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.record(key, None);
        Ok(())
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_> {
        if is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        Box::new(Merge {
            base: self.base.range(from, to).peekable(),
            changes: self.changes.range::<[u8], _>((from, to)).peekable(),
        })
    }
}

/// Two sorted sequences as one; a change hides the base's entry of the same key.
struct Merge<'a, C: Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>> {
    base: Peekable<Entries<'a>>,
    changes: Peekable<C>,
}

impl<'a, C: Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>> Iterator for Merge<'a, C> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((changed, _)) = self.changes.peek() else { return self.base.next() };
            match self.base.peek() {
                Some(Err(_)) => return self.base.next(),
                Some(Ok((key, _))) if key < *changed => return self.base.next(),
                Some(Ok((key, _))) if key == *changed => drop(self.base.next()),
                _ => {}
            }
            let (key, value) = self.changes.next()?;
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
