//! Tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{Handle, Serde, Stream};
use crate::chunk::{Chunk, Data, Pairs};
use crate::error::Result;
use crate::kernel::{KeyColumn, TableRows};

/// A change of one key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The value before; none when there was none, or when no step downstream asks for it.
    pub old: Option<V>,
    /// The value now; none when the key was deleted.
    pub new: Option<V>,
}

/// Whether a step downstream asks for old values. Set while the graph is built, read by the tasks.
#[derive(Clone, Default)]
pub(crate) struct WantsOld(Arc<AtomicBool>);

impl WantsOld {
    fn ask(&self) {
        self.0.store(true, Ordering::Relaxed); // the graph is handed to tasks later, which orders it
    }

    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Decodes a stored row and looks at it through the table's filters and maps.
pub(crate) type View<K, V> = Arc<dyn Fn(&K, &Bytes) -> Result<Option<V>> + Send + Sync>;

/// The last value of each key. Kept in a store; tables made from it by `filter` and `map_values` are views of that store.
pub struct Table<K, V> {
    pub(super) handle: Handle<K, Change<V>>,
    pub(super) store: Arc<str>,
    pub(super) view: View<K, V>,
    wants_old: WantsOld,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            store: Arc::clone(&self.store),
            view: Arc::clone(&self.view),
            wants_old: self.wants_old.clone(),
        }
    }
}

impl<K: Data, V: Serde> Table<K, V> {
    /// The table in `store`, whose rows are encoded by the serde of `V`.
    pub(super) fn stored(handle: Handle<K, Change<V>>, store: Arc<str>, wants_old: WantsOld) -> Self {
        Self { handle, store, view: Arc::new(|_, bytes| V::decode(bytes).map(Some)), wants_old }
    }
}

impl<K: Data, V: Data> Table<K, V> {
    /// The rows for which `keep` is true. A change to a row that does not pass deletes it, if it was there.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.wants_old.ask(); // else a row that never passed would be deleted (trap 8)
        let keep = Arc::new(keep);
        let (seen, view) = (keep.clone(), self.view.clone());
        let handle = self.handle.map_chunks("table-filter", move |chunk| {
            let (mut rows, columns) = chunk.into_pairs::<K, Change<V>>()?;
            let mut mask = Vec::with_capacity(rows.keys.len());
            for (key, change) in rows.keys.iter().zip(&mut rows.values) {
                change.old = change.old.take().filter(|value| keep(key, value));
                change.new = change.new.take().filter(|value| keep(key, value));
                mask.push(change.old.is_some() || change.new.is_some());
            }
            let mut made = columns.with_pairs(rows);
            made.retain(&mask)?;
            Ok(made)
        });
        let view = move |key: &K, bytes: &Bytes| Ok(view(key, bytes)?.filter(|value| seen(key, value)));
        Self { handle, store: self.store.clone(), view: Arc::new(view), wants_old: self.wants_old.clone() }
    }

    /// The rows for which `leave_out` is false.
    #[must_use]
    pub fn filter_not(&self, leave_out: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |key, value| !leave_out(key, value))
    }

    /// A new value for each row. `f` is called again when a view is read, so it must depend on its arguments only.
    pub fn map_values<V2: Data>(&self, f: impl Fn(&K, V) -> V2 + Send + Sync + 'static) -> Table<K, V2> {
        let f = Arc::new(f);
        let (seen, view) = (f.clone(), self.view.clone());
        let handle = self.handle.map_chunks("table-map-values", move |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, Change<V>>()?;
            let change = |(key, change): (&K, Change<V>)| Change {
                old: change.old.map(|value| f(key, value)),
                new: change.new.map(|value| f(key, value)),
            };
            let values = rows.keys.iter().zip(rows.values).map(change).collect();
            Ok(columns.with_pairs(Pairs { keys: rows.keys, values }))
        });
        let view = move |key: &K, bytes: &Bytes| Ok(view(key, bytes)?.map(|value| seen(key, value)));
        Table { handle, store: self.store.clone(), view: Arc::new(view), wants_old: self.wants_old.clone() }
    }

    /// The changes as rows: the new value, or none for a deletion.
    pub fn to_stream(&self) -> Stream<K, Option<V>> {
        let handle = self.handle.map_chunks("to-stream", |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, Change<V>>()?;
            let values = rows.values.into_iter().map(|change| change.new).collect();
            Ok(columns.with_pairs(Pairs { keys: rows.keys, values }))
        });
        Stream { handle, rekeyed: false }
    }
}

/// Typed rows as entries of a table.
pub(super) struct TypedTable<K, V> {
    wants_old: WantsOld,
    rows: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K: Serde, V: Serde> TypedTable<K, V> {
    pub(super) fn new(wants_old: WantsOld) -> Self {
        Self { wants_old, rows: std::marker::PhantomData }
    }
}

impl<K: Serde, V: Serde> TableRows for TypedTable<K, V> {
    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        chunk.pairs::<K, Option<V>>()?.keys.iter().try_for_each(|key| keys.push_serde(key))
    }

    fn save(&mut self, chunk: &Chunk, row: usize, bytes: &mut Vec<u8>) -> Result<bool> {
        chunk.pairs::<K, Option<V>>()?.values[row].encode(bytes)
    }

    fn changes(&mut self, chunk: Chunk, old: Vec<Option<Bytes>>) -> Result<Option<Chunk>> {
        let (rows, columns) = chunk.into_pairs::<K, Option<V>>()?;
        let mut values = Vec::with_capacity(rows.values.len());
        let asked = self.wants_old.asked();
        for (new, old) in rows.values.into_iter().zip(old) {
            let old = old.filter(|_| asked).map(|bytes| V::decode(&bytes)).transpose()?;
            values.push(Change { old, new });
        }
        Ok(Some(columns.with_pairs(Pairs { keys: rows.keys, values })))
    }
}

impl KeyColumn {
    /// Adds the encoding of `key`, or that there is none.
    pub(super) fn push_serde(&mut self, key: &impl Serde) -> Result<()> {
        let mut outcome = Ok(false);
        self.push_with(|bytes| {
            outcome = key.encode(bytes);
            matches!(outcome, Ok(true))
        });
        outcome.map(drop)
    }
}
