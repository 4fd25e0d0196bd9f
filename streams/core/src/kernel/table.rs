//! Tables from rows.

use bytes::Bytes;

use super::layout::Layout;
use super::{KeyColumn, begin_stored, split_stored};
use crate::chunk::Chunk;
use crate::counter::Counter;
use crate::error::Result;
use crate::operator::{Epoch, Operator, OperatorContext};

/// How rows become entries of a table. One instance serves one task.
pub trait TableRows: Send + 'static {
    /// How keys and rows are laid out, as [`super::Fold::layout`] says.
    fn layout(&self) -> Option<String> {
        None
    }

    /// Writes one key for each row; a null key leaves the row out.
    ///
    /// # Errors
    /// Rows of the wrong kind, or a key that cannot be encoded.
    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()>;

    /// Appends the stored form of `row` to `bytes`. False: the row deletes its key.
    ///
    /// # Errors
    /// A row that cannot be encoded.
    fn save(&mut self, chunk: &Chunk, row: usize, bytes: &mut Vec<u8>) -> Result<bool>;

    /// The rows to forward, given the chunk of the rows taken (those with a key) and for each what was stored before it. `None`
    /// when nothing reads the table's changes.
    ///
    /// # Errors
    /// What user code says.
    fn changes(&mut self, chunk: Chunk, old: Vec<Option<Bytes>>) -> Result<Option<Chunk>>;
}

/// Keeps the last row of each key, in offset order even when timestamps run back. Declares one store.
pub struct TableUpsert<T: TableRows> {
    layout: Layout,
    table: T,
    keys: KeyColumn,
}

impl<T: TableRows> TableUpsert<T> {
    /// Stores rows as `table` says.
    pub fn new(table: T) -> Self {
        Self { layout: Layout::new(table.layout()), table, keys: KeyColumn::default() }
    }
}

impl<T: TableRows> Operator for TableUpsert<T> {
    fn restore(&mut self, ctx: &mut OperatorContext<'_>) -> Result<()> {
        self.layout.compare(ctx.store(0))
    }

    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, mut chunk: Chunk) -> Result<()> {
        self.keys.clear();
        self.table.keys(&chunk, &mut self.keys)?;
        let mut old = Vec::with_capacity(chunk.len());
        let mut keep = Vec::with_capacity(chunk.len());
        let mut buffer = Vec::new();
        for row in 0..chunk.len() {
            keep.push(self.keys.get(row).is_some());
            let Some(key) = self.keys.get(row) else { continue };
            let before = ctx.store(0).get(key)?;
            old.push(before.map(|stored| split_stored(&stored).map(|(_, row)| row)).transpose()?);
            begin_stored(&mut buffer, chunk.timestamps[row]);
            if self.table.save(&chunk, row, &mut buffer)? {
                ctx.store(0).put(key, &buffer)?;
            } else {
                ctx.store(0).delete(key)?;
            }
        }
        ctx.count(Counter::Dropped, keep.iter().filter(|kept| !**kept).count() as u64);
        chunk.retain(&keep)?;
        if let Some(changes) = self.table.changes(chunk, old)? {
            ctx.forward(changes);
        }
        Ok(())
    }

    fn on_epoch(&mut self, ctx: &mut OperatorContext<'_>, _epoch: Epoch) -> Result<()> {
        self.layout.note(ctx.store(0))
    }
}
