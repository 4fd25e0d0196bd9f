//! Stream-table joins.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use super::table::View;
use super::{Serde, Stream, Table};
use crate::chunk::{Chunk, Data, Pairs};
use crate::error::Result;
use crate::kernel::{KeyColumn, Lookup, StreamTableJoin};
use crate::rule::JoinKind;
use crate::topology::OperatorSpec;

impl<K: Serde, V: Serde> Stream<K, V> {
    /// Joins each row with the row that `table` holds for its key when it is processed; rows without a match, or with a null key or
    /// value, end here. The result has the stream row's timestamp.
    pub fn join_table<T: Data, V2: Data>(
        &self,
        table: &Table<K, T>,
        f: impl Fn(&K, V, T) -> V2 + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.lookup("join-table", table, JoinKind::Inner, move |key, value, found: Option<T>| {
            f(key, value, found.expect("an inner join goes on with matched rows only"))
        })
    }

    /// As [`Stream::join_table`], but rows without a match, or with a null key (KIP-962), go on with `None`. A null value ends
    /// here all the same.
    pub fn left_join_table<T: Data, V2: Data>(
        &self,
        table: &Table<K, T>,
        f: impl Fn(&K, V, Option<T>) -> V2 + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.lookup("left-join-table", table, JoinKind::Left, f)
    }

    fn lookup<T: Data, V2: Data>(
        &self,
        kind_name: &str,
        table: &Table<K, T>,
        kind: JoinKind,
        f: impl Fn(&K, V, Option<T>) -> V2 + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        let (f, view) = (Arc::new(f), table.view.clone());
        let spec = OperatorSpec::new(kind_name, move || {
            StreamTableJoin::new(TypedLookup { f: f.clone(), view: view.clone(), rows: PhantomData }, kind)
        });
        let mut graph = self.handle.graph.borrow_mut();
        if self.rekeyed {
            graph.problem(format!(
                "a stream is joined with table {:?} after its key was changed; call .repartition(\"<name>\") before the join",
                table.store
            ));
        }
        let name = graph.free_name(&format!("{kind_name}-{}", table.store));
        let port = graph.operator(name, spec.store(Arc::clone(&table.store)), &[self.handle.port]);
        graph.joins_by_key(port);
        drop(graph);
        Stream::new(self.handle.graph.clone(), port)
    }
}

/// Typed stream rows and the view of a table.
struct TypedLookup<K, V, T, V2, F> {
    f: Arc<F>,
    view: View<K, T>,
    rows: PhantomData<fn(K, V, T) -> V2>,
}

impl<K, V, T, V2, F> Lookup for TypedLookup<K, V, T, V2, F>
where
    K: Serde,
    V: Serde,
    T: Data,
    V2: Data,
    F: Fn(&K, V, Option<T>) -> V2 + Send + Sync + 'static,
{
    type Row = T;

    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        chunk.pairs::<K, V>()?.keys.iter().try_for_each(|key| keys.push_serde(key))
    }

    fn have_values(&self, chunk: &Chunk) -> Result<Option<Vec<bool>>> {
        let values = &chunk.pairs::<K, V>()?.values;
        let some_null = values.iter().any(Serde::is_null);
        Ok(some_null.then(|| values.iter().map(|value| !value.is_null()).collect()))
    }

    fn load(&mut self, key: &[u8], stored: Bytes) -> Result<Option<T>> {
        (self.view)(&K::decode(&Bytes::copy_from_slice(key))?, &stored)
    }

    fn join(&mut self, chunk: Chunk, found: Vec<Option<T>>) -> Result<Chunk> {
        let (rows, columns) = chunk.into_pairs::<K, V>()?;
        let joined = rows.keys.iter().zip(rows.values.into_iter().zip(found));
        let values = joined.map(|(key, (value, found))| (self.f)(key, value, found)).collect();
        Ok(columns.with_pairs(Pairs { keys: rows.keys, values }))
    }
}
