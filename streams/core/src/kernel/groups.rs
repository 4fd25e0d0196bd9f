//! Groups at hand: those that one chunk touches, or all that are open.

use bytes::Bytes;
use indexmap::IndexMap;
use millstream_record::Millis;
use rustc_hash::FxBuildHasher;

use super::{Fold, Pick, begin_stored, split_stored};
use crate::BEGINNING_OF_TIME;
use crate::chunk::{Chunk, Columns};
use crate::error::Result;
use crate::store::Store;

/// Each group once, in the order in which they came to hand, with its state out of the store.
pub(super) struct Groups<S> {
    slots: IndexMap<Vec<u8>, Slot, FxBuildHasher>,
    /// As long as `slots`, in its order.
    states: Vec<S>,
    /// Rows of the chunk that is being taken.
    picks: Vec<Pick>,
    /// Memory of the groups whose state the store does not have, roughly.
    changed_bytes: usize,
}

/// Bookkeeping of one group and a small state, in bytes.
const GROUP_OVERHEAD_BYTES: usize = 128;

struct Slot {
    old: Option<Bytes>,
    timestamp: Millis,
    last_row: u32,
    /// The store has an entry for it, this state or an earlier one.
    stored: bool,
    /// The store does not have this state.
    changed: bool,
}

/// A group that was taken out.
pub(super) struct Taken<S> {
    pub(super) store_key: Vec<u8>,
    pub(super) timestamp: Millis,
    pub(super) state: S,
    /// The store has an entry for it.
    pub(super) stored: bool,
}

impl<S: Send> Groups<S> {
    pub(super) fn new() -> Self {
        Self { slots: IndexMap::default(), states: Vec::new(), picks: Vec::new(), changed_bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Lets go of all groups.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.states.clear();
        self.picks.clear();
        self.changed_bytes = 0;
    }

    /// Memory of the groups whose state the store does not have, roughly: what a state takes beyond a small one is not known before
    /// it is saved.
    pub(super) fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// A new chunk comes; the groups stay at hand.
    pub(super) fn begin_chunk(&mut self) {
        self.picks.clear();
    }

    /// Whether the chunk has touched no group.
    pub(super) fn is_untouched(&self) -> bool {
        self.picks.is_empty()
    }

    /// The keys of all groups.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.slots.keys().map(Vec::as_slice)
    }

    /// Takes a group to hand that is in the store.
    pub(super) fn load<F: Fold<State = S>>(
        &mut self,
        fold: &mut F,
        store_key: &[u8],
        stored: &Bytes,
    ) -> Result<()> {
        let (timestamp, bytes) = split_stored(stored)?;
        self.states.push(fold.load(&bytes)?);
        let slot = Slot { old: Some(bytes), timestamp, last_row: 0, stored: true, changed: false };
        self.slots.insert(store_key.to_vec(), slot);
        Ok(())
    }

    /// Adds `row` to the group under `store_key`; one that is not at hand is looked for in `store` (none: it is not there either).
    pub(super) fn add<F: Fold<State = S>>(
        &mut self,
        fold: &mut F,
        store: Option<&dyn Store>,
        store_key: &[u8],
        row: usize,
        timestamp: Millis,
    ) -> Result<()> {
        let row = u32::try_from(row).expect("a chunk holds fewer than 2^32 rows");
        let index = match self.slots.get_index_of(store_key) {
            Some(index) => index,
            None => self.take_to_hand(fold, store, store_key)?,
        };
        let (_, slot) = self.slots.get_index_mut(index).expect("it was found or put there");
        slot.timestamp = slot.timestamp.max(timestamp); // trap 5: the result is as new as the newest row
        slot.last_row = row;
        if !std::mem::replace(&mut slot.changed, true) {
            self.changed_bytes += changed_bytes(store_key);
        }
        self.picks
            .push(Pick { row, slot: u32::try_from(index).expect("fewer than 2^32 groups are at hand") });
        Ok(())
    }

    /// Out of the store, or new.
    fn take_to_hand<F: Fold<State = S>>(
        &mut self,
        fold: &mut F,
        store: Option<&dyn Store>,
        store_key: &[u8],
    ) -> Result<usize> {
        match store.map(|store| store.get(store_key)).transpose()?.flatten() {
            Some(stored) => self.load(fold, store_key, &stored)?,
            None => {
                self.states.push(fold.init()?);
                let timestamp = BEGINNING_OF_TIME;
                let slot = Slot { old: None, timestamp, last_row: 0, stored: false, changed: false };
                self.slots.insert(store_key.to_vec(), slot);
            }
        }
        Ok(self.slots.len() - 1)
    }

    /// Folds the chunk's rows into their groups.
    pub(super) fn fold<F: Fold<State = S>>(&mut self, fold: &mut F, chunk: &Chunk) -> Result<()> {
        fold.fold(&mut self.states, chunk, &self.picks)
    }

    /// Saves the states that the store does not have, and deletes the entries of groups without a state.
    pub(super) fn save<F: Fold<State = S>>(&mut self, fold: &mut F, store: &mut dyn Store) -> Result<()> {
        let mut buffer = Vec::new();
        self.changed_bytes = 0;
        for ((store_key, slot), state) in self.slots.iter_mut().zip(&mut self.states) {
            if !slot.changed {
                continue;
            }
            slot.changed = false;
            if fold.exists(state) {
                begin_stored(&mut buffer, slot.timestamp);
                fold.save(state, &mut buffer)?;
                store.put(store_key, &buffer)?;
                slot.stored = true;
            } else if std::mem::take(&mut slot.stored) {
                store.delete(store_key)?;
            }
        }
        Ok(())
    }

    /// Lets go of the chunk's groups that have no state now, and deletes their entries.
    pub(super) fn let_go_of_deleted<F: Fold<State = S>>(
        &mut self,
        fold: &F,
        store: &mut dyn Store,
    ) -> Result<()> {
        let is_deleted = |pick: &Pick| !fold.exists(&self.states[pick.slot as usize]);
        let mut deleted: Vec<_> =
            self.picks.iter().filter(|pick| is_deleted(pick)).map(|pick| pick.slot).collect();
        deleted.sort_unstable();
        deleted.dedup();
        for index in deleted.into_iter().rev() {
            let index = index as usize; // from the back: what takes a place was behind it
            if let Some((store_key, slot)) = self.slots.swap_remove_index(index) {
                self.changed_bytes -= if slot.changed { changed_bytes(&store_key) } else { 0 };
                if slot.stored {
                    store.delete(&store_key)?;
                }
            }
            self.states.swap_remove(index);
        }
        Ok(())
    }

    /// Takes out the first groups that are due, in the order of their keys, `limit` of them at most.
    pub(super) fn take_due(&mut self, limit: usize, is_due: impl Fn(&[u8]) -> bool) -> Vec<Taken<S>> {
        let mut due: Vec<&Vec<u8>> = self.slots.keys().filter(|key| is_due(key)).collect();
        if due.len() > limit {
            due.select_nth_unstable(limit);
            due.truncate(limit);
        }
        due.sort_unstable();
        let due: Vec<Vec<u8>> = due.into_iter().cloned().collect();
        let take = |store_key: Vec<u8>| {
            let (index, _, slot) = self.slots.swap_remove_full(&store_key)?;
            let state = self.states.swap_remove(index);
            self.changed_bytes -= if slot.changed { changed_bytes(&store_key) } else { 0 };
            Some(Taken { store_key, timestamp: slot.timestamp, state, stored: slot.stored })
        };
        due.into_iter().filter_map(take).collect()
    }

    /// The result of every group, each with the offset and headers of its last row. `describe` splits a store key.
    pub(super) fn emit<F: Fold<State = S>>(
        &mut self,
        fold: &mut F,
        chunk: &Chunk,
        describe: impl Fn(&[u8]) -> (&[u8], Option<crate::rule::Window>),
    ) -> Result<Chunk> {
        let rows: Vec<u32> = self.slots.values().map(|slot| slot.last_row).collect();
        let mut columns = Columns {
            timestamps: Vec::new(),
            offsets: rows.iter().map(|&row| chunk.offsets[row as usize]).collect(),
            headers: chunk
                .headers
                .as_ref()
                .map(|h| rows.iter().map(|&row| h[row as usize].clone()).collect()),
            stream_times: chunk
                .stream_times
                .as_ref()
                .map(|times| rows.iter().map(|&row| times[row as usize]).collect()),
        };
        let mut groups = Vec::with_capacity(self.states.len());
        for ((store_key, slot), state) in self.slots.iter_mut().zip(&mut self.states) {
            let (key, window) = describe(store_key);
            columns.timestamps.push(slot.timestamp);
            groups.push(super::Group { key, window, state, old: slot.old.take() });
        }
        Ok(columns.with(fold.emit(groups)?))
    }
}

/// What a group under `store_key` takes that the store does not have.
fn changed_bytes(store_key: &[u8]) -> usize {
    store_key.len() + GROUP_OVERHEAD_BYTES
}
