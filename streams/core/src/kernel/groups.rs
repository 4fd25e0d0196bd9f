//! The groups that one chunk touches.

use bytes::Bytes;
use indexmap::IndexMap;
use millstream_record::Millis;
use rustc_hash::FxBuildHasher;

use super::{Fold, Pick, begin_stored, split_stored};
use crate::BEGINNING_OF_TIME;
use crate::chunk::{Chunk, Columns};
use crate::error::Result;
use crate::store::Store;

/// Each group once, in order of its first row in the chunk, with its state out of the store.
pub(super) struct Groups<S> {
    slots: IndexMap<Vec<u8>, Slot, FxBuildHasher>,
    states: Vec<S>,
    picks: Vec<Pick>,
}

struct Slot {
    old: Option<Bytes>,
    timestamp: Millis,
    last_row: u32,
}

impl<S: Send> Groups<S> {
    pub(super) fn new() -> Self {
        Self { slots: IndexMap::default(), states: Vec::new(), picks: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds `row` to the group under `store_key`; its state is loaded when the chunk touches it first.
    pub(super) fn add<F: Fold<State = S>>(
        &mut self,
        fold: &mut F,
        store: &dyn Store,
        store_key: &[u8],
        row: usize,
        timestamp: Millis,
    ) -> Result<()> {
        let row = u32::try_from(row).expect("a chunk holds fewer than 2^32 rows");
        let slot = match self.slots.get_full_mut(store_key) {
            Some((index, _, slot)) => {
                slot.timestamp = slot.timestamp.max(timestamp); // trap 5: the result is as new as the newest row
                slot.last_row = row;
                index
            }
            None => {
                let (old, before, state) = match store.get(store_key)? {
                    Some(stored) => {
                        let (before, bytes) = split_stored(&stored)?;
                        let state = fold.load(&bytes)?;
                        (Some(bytes), before, state)
                    }
                    None => (None, BEGINNING_OF_TIME, fold.init()?),
                };
                let slot = Slot { old, timestamp: before.max(timestamp), last_row: row };
                self.states.push(state);
                self.slots.insert_full(store_key.to_vec(), slot).0
            }
        };
        self.picks.push(Pick { row, slot: u32::try_from(slot).expect("fewer groups than picks") });
        Ok(())
    }

    /// Folds the rows, and saves every state.
    pub(super) fn fold_and_save<F: Fold<State = S>>(
        &mut self,
        fold: &mut F,
        store: &mut dyn Store,
        chunk: &Chunk,
    ) -> Result<()> {
        fold.fold(&mut self.states, chunk, &self.picks)?;
        let mut buffer = Vec::new();
        for ((store_key, slot), state) in self.slots.iter().zip(&mut self.states) {
            begin_stored(&mut buffer, slot.timestamp);
            fold.save(state, &mut buffer)?;
            store.put(store_key, &buffer)?;
        }
        Ok(())
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
