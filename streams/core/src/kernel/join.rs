//! Stream-table join.

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::{KeyColumn, split_stored};
use crate::chunk::Chunk;
use crate::counter::Counter;
use crate::error::Result;
use crate::operator::{Operator, OperatorContext};
use crate::rule::{JoinKind, JoinOutcome, join_outcome};

/// How stream rows meet table rows. One instance serves one task.
pub trait Lookup: Send + 'static {
    /// A decoded table row; plain bytes will do.
    type Row;

    /// Writes the key to look up for each row; null when there is none.
    ///
    /// # Errors
    /// Rows of the wrong kind, or a key that cannot be encoded.
    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()>;

    /// Whether each row of `chunk` has a value; `None` when all have. One without is dropped, in a left join too. A front end whose
    /// rows are never null leaves this as it is.
    ///
    /// # Errors
    /// Rows of the wrong kind.
    fn have_values(&self, _chunk: &Chunk) -> Result<Option<Vec<bool>>> {
        Ok(None)
    }

    /// Decodes a table row from its stored form (as [`super::TableRows::save`] or [`super::Fold::save`] wrote it). `None` when the
    /// table's filters hide it: then the stream row is unmatched.
    ///
    /// # Errors
    /// A stored row that cannot be decoded.
    fn load(&mut self, key: &[u8], stored: Bytes) -> Result<Option<Self::Row>>;

    /// Makes the joined rows, one for each row of `chunk`, in order: `found[row]` is its table row, none when it is unmatched
    /// (left joins only). Timestamps, offsets and headers stay those of the stream.
    ///
    /// # Errors
    /// What user code says.
    fn join(&mut self, chunk: Chunk, found: Vec<Option<Self::Row>>) -> Result<Chunk>;
}

/// Joins each stream row with the row that the table holds now; only the stream side triggers, and the result carries the
/// stream row's timestamp. Declares one store: that of the table.
pub struct StreamTableJoin<L: Lookup> {
    lookup: L,
    kind: JoinKind,
    keys: KeyColumn,
}

impl<L: Lookup> StreamTableJoin<L> {
    /// Joins as `lookup` says.
    pub fn new(lookup: L, kind: JoinKind) -> Self {
        Self { lookup, kind, keys: KeyColumn::default() }
    }
}

impl<L: Lookup> Operator for StreamTableJoin<L> {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, mut chunk: Chunk) -> Result<()> {
        self.keys.clear();
        self.lookup.keys(&chunk, &mut self.keys)?;
        let have_values = self.lookup.have_values(&chunk)?;
        let mut matches = Vec::with_capacity(chunk.len());
        let mut keep = Vec::with_capacity(chunk.len());
        let mut dropped = 0;
        // Many rows of a chunk have the same key, and nothing changes the table meanwhile.
        let mut seen: FxHashMap<&[u8], Option<Bytes>> = FxHashMap::default();
        for row in 0..chunk.len() {
            let has_value = have_values.as_ref().is_none_or(|have| have[row]);
            let found = match self.keys.get(row).filter(|_| has_value) {
                None => None,
                Some(key) => {
                    let stored = match seen.get(key) {
                        Some(known) => known.clone(),
                        None => {
                            let stored =
                                ctx.store(0).get(key)?.map(|stored| split_stored(&stored)).transpose()?;
                            seen.entry(key).or_insert(stored.map(|(_, found)| found)).clone()
                        }
                    };
                    stored.map(|stored| self.lookup.load(key, stored)).transpose()?.flatten()
                }
            };
            let outcome = join_outcome(self.kind, self.keys.get(row).is_some(), has_value, found.is_some());
            keep.push(matches!(outcome, JoinOutcome::Matched | JoinOutcome::Unmatched));
            dropped += u64::from(outcome == JoinOutcome::Dropped);
            if keep[row] {
                matches.push(found);
            }
        }
        ctx.count(Counter::Dropped, dropped);
        chunk.retain(&keep)?;
        if !chunk.is_empty() {
            let joined = self.lookup.join(chunk, matches)?;
            ctx.forward(joined);
        }
        Ok(())
    }

    fn only_reads(&self) -> bool {
        true
    }
}
