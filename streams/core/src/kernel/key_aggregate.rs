//! Aggregation by key, without windows.

use super::groups::Groups;
use super::layout::Layout;
use super::{Fold, KeyColumn};
use crate::chunk::Chunk;
use crate::counter::Counter;
use crate::error::Result;
use crate::operator::{Epoch, Operator, OperatorContext};

/// Folds rows by key into a table: count, reduce, aggregate. Declares one store.
///
/// A chunk emits each changed key once, with its state after the chunk (as Kafka Streams does with its cache on); how rows
/// are cut into chunks changes which states in between are seen, never the last one.
pub struct KeyAggregate<F: Fold> {
    layout: Layout,
    fold: F,
    keys: KeyColumn,
}

impl<F: Fold> KeyAggregate<F> {
    /// Aggregates with `fold`.
    pub fn new(fold: F) -> Self {
        Self { layout: Layout::new(fold.layout()), fold, keys: KeyColumn::default() }
    }
}

impl<F: Fold> Operator for KeyAggregate<F> {
    fn restore(&mut self, ctx: &mut OperatorContext<'_>) -> Result<()> {
        self.layout.compare(ctx.store(0))
    }

    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, chunk: Chunk) -> Result<()> {
        self.keys.clear();
        self.fold.keys(&chunk, &mut self.keys)?;
        let mut groups = Groups::new();
        let mut dropped = 0;
        for row in 0..chunk.len() {
            match self.keys.get(row) {
                Some(key) => {
                    groups.add(&mut self.fold, Some(ctx.store(0)), key, row, chunk.timestamps[row])?;
                }
                None => dropped += 1,
            }
        }
        ctx.count(Counter::Dropped, dropped);
        if groups.is_untouched() {
            return Ok(());
        }
        groups.fold(&mut self.fold, &chunk)?;
        groups.save(&mut self.fold, ctx.store(0))?;
        let results = groups.emit(&mut self.fold, &chunk, |key| (key, None))?;
        ctx.forward(results);
        Ok(())
    }

    fn on_epoch(&mut self, ctx: &mut OperatorContext<'_>, _epoch: Epoch) -> Result<()> {
        self.layout.note(ctx.store(0))
    }
}
