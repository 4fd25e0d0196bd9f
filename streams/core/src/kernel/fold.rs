//! What a front end supplies to aggregate.

use bytes::Bytes;

use super::KeyColumn;
use crate::chunk::{Chunk, Rows};
use crate::error::Result;
use crate::rule::Window;

/// One row of a chunk that belongs to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Row in the chunk.
    pub row: u32,
    /// Group, as a position in the states given along.
    pub slot: u32,
}

/// A group whose result is emitted.
pub struct Group<'a, S> {
    /// Key bytes, as [`Fold::keys`] wrote them.
    pub key: &'a [u8],
    /// The window; none for a [`super::KeyAggregate`].
    pub window: Option<Window>,
    /// The state to emit.
    pub state: &'a mut S,
    /// The state before this chunk, as [`Fold::save`] wrote it: what was emitted last for this group, for tables that
    /// forward old values. None for a new group and on close.
    pub old: Option<Bytes>,
}

/// An aggregation: keys of rows, and states that rows are folded into. One instance serves one task.
///
/// The kernel loads the states of a chunk's groups, calls [`Fold::fold`] once, saves them, and hands to [`Fold::emit`] those
/// whose results are due. A typed closure folds pick by pick; accumulators that work batch-wise sort the picks by slot.
pub trait Fold: Send + 'static {
    /// The state of one group.
    type State: Send;

    /// How keys and states are laid out, where that can change between two runs of a program: it is kept in the store, and a
    /// store of another layout is refused. Whoever has one sees that no key begins with `ff`.
    fn layout(&self) -> Option<String> {
        None
    }

    /// Writes one key for each row of `chunk`. A null key leaves the row out (also the way to leave out a null value).
    ///
    /// # Errors
    /// Rows of the wrong kind, or a key that cannot be encoded.
    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()>;

    /// The state of a new group.
    ///
    /// # Errors
    /// What user code says.
    fn init(&mut self) -> Result<Self::State>;

    /// Reads what [`Fold::save`] wrote.
    ///
    /// # Errors
    /// Bytes that are not a state.
    fn load(&mut self, bytes: &Bytes) -> Result<Self::State>;

    /// Appends `state` to `bytes` (accumulators need `&mut` to tell their state).
    ///
    /// # Errors
    /// A state that cannot be encoded.
    fn save(&mut self, state: &mut Self::State, bytes: &mut Vec<u8>) -> Result<()>;

    /// Whether `state` is one. A group without a state is deleted, as in Kafka Streams where an aggregator returns null: its entry
    /// goes out of the store, [`Fold::emit`] is handed the group as it is (which tells of the deletion), and its next row finds
    /// [`Fold::init`]. [`Fold::save`] is not asked to write it. Where a group ends and begins anew in one chunk, its timestamp is
    /// still the highest of all its rows there.
    fn exists(&self, state: &Self::State) -> bool {
        let _ = state;
        true
    }

    /// Folds the picked rows into the states, in the order of `picks` (which is row order). With hopping windows a row is
    /// picked once for each of its windows.
    ///
    /// # Errors
    /// What user code says.
    fn fold(&mut self, states: &mut [Self::State], chunk: &Chunk, picks: &[Pick]) -> Result<()>;

    /// Makes one row for each group, in order. The kernel adds timestamps: the highest of the group's rows.
    ///
    /// # Errors
    /// What user code says.
    fn emit(&mut self, groups: Vec<Group<'_, Self::State>>) -> Result<Rows>;
}
