//! Aggregation by key, without windows.

use super::groups::Groups;
use super::{Fold, KeyColumn};
use crate::chunk::Chunk;
use crate::counter::Counter;
use crate::error::Result;
use crate::operator::{Operator, OperatorContext};

/// Folds rows by key into a table: count, reduce, aggregate. Declares one store.
///
/// A chunk emits each changed key once, with its state after the chunk (as Kafka Streams does with its cache on); how rows
/// are cut into chunks changes which states in between are seen, never the last one.
pub struct KeyAggregate<F: Fold> {
    fold: F,
    keys: KeyColumn,
}

impl<F: Fold> KeyAggregate<F> {
    /// Aggregates with `fold`.
    pub fn new(fold: F) -> Self {
        Self { fold, keys: KeyColumn::default() }
    }
}

impl<F: Fold> Operator for KeyAggregate<F> {
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
}
