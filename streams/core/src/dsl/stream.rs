//! Streams.

use std::sync::Arc;

use super::format::{RowReader, RowWriter};
use super::grouped::NamedRepartition;
use super::table::TypedTable;
use super::{Change, Grouped, Handle, Serde, Table};
use crate::chunk::{Chunk, Data, Pairs};
use crate::error::Result;
use crate::kernel::TableUpsert;
use crate::operator::{Operator, OperatorContext};
use crate::store::StoreSpec;
use crate::topology::{OperatorSpec, Port, SinkSpec};

/// An unbounded sequence of rows with key and value. The handle is cheap to clone; each use adds a step behind it.
pub struct Stream<K, V> {
    pub(super) handle: Handle<K, V>,
    /// A step has changed the key since the rows were last partitioned by it.
    pub(super) rekeyed: bool,
}

impl<K, V> Clone for Stream<K, V> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), rekeyed: self.rekeyed }
    }
}

impl<K: Data, V: Data> Stream<K, V> {
    pub(super) fn new(graph: super::Graph, port: Port) -> Self {
        Self { handle: Handle::new(graph, port), rekeyed: false }
    }

    fn then<K2: Data, V2: Data>(
        &self,
        kind: &str,
        rekeyed: bool,
        apply: impl Fn(Chunk) -> Result<Chunk> + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        Stream { handle: self.handle.map_chunks(kind, apply), rekeyed: self.rekeyed || rekeyed }
    }

    /// Keeps the rows for which `keep` is true.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.then("filter", false, move |mut chunk| {
            let rows = chunk.pairs::<K, V>()?;
            let mask: Vec<_> =
                rows.keys.iter().zip(&rows.values).map(|(key, value)| keep(key, value)).collect();
            chunk.retain(&mask)?;
            Ok(chunk)
        })
    }

    /// Keeps the rows for which `leave_out` is false.
    #[must_use]
    pub fn filter_not(&self, leave_out: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |key, value| !leave_out(key, value))
    }

    /// One row from each row, with a new key. Where rows must meet by the new key they are repartitioned.
    pub fn map<K2: Data, V2: Data>(
        &self,
        f: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.then("map", true, move |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, V>()?;
            let (keys, values) =
                rows.keys.into_iter().zip(rows.values).map(|(key, value)| f(key, value)).unzip();
            Ok(columns.with_pairs(Pairs { keys, values }))
        })
    }

    /// A new value for each row; the key stays.
    pub fn map_values<V2: Data>(&self, f: impl Fn(&K, V) -> V2 + Send + Sync + 'static) -> Stream<K, V2> {
        self.then("map-values", false, move |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, V>()?;
            let values = rows.keys.iter().zip(rows.values).map(|(key, value)| f(key, value)).collect();
            Ok(columns.with_pairs(Pairs { keys: rows.keys, values }))
        })
    }

    /// Any number of rows from each row, with new keys.
    pub fn flat_map<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)>>(
        &self,
        f: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.then("flat-map", true, move |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, V>()?;
            let mut made = Pairs::with_capacity(rows.keys.len());
            let mut from = Vec::with_capacity(rows.keys.len());
            for (row, (key, value)) in (0u32..).zip(rows.keys.into_iter().zip(rows.values)) {
                for (key, value) in f(key, value) {
                    made.push(key, value);
                    from.push(row);
                }
            }
            Ok(columns.gather(&from).with_pairs(made))
        })
    }

    /// Any number of values from each row; the key stays.
    pub fn flat_map_values<V2: Data, I: IntoIterator<Item = V2>>(
        &self,
        f: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.then("flat-map-values", false, move |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, V>()?;
            let mut made = Pairs::with_capacity(rows.keys.len());
            let mut from = Vec::with_capacity(rows.keys.len());
            for (row, (key, value)) in (0u32..).zip(rows.keys.into_iter().zip(rows.values)) {
                for value in f(&key, value) {
                    made.push(key.clone(), value);
                    from.push(row);
                }
            }
            Ok(columns.gather(&from).with_pairs(made))
        })
    }

    /// A new key for each row; the value stays.
    pub fn select_key<K2: Data>(&self, f: impl Fn(&K, &V) -> K2 + Send + Sync + 'static) -> Stream<K2, V> {
        self.then("select-key", true, move |chunk| {
            let (rows, columns) = chunk.into_pairs::<K, V>()?;
            let keys = rows.keys.iter().zip(&rows.values).map(|(key, value)| f(key, value)).collect();
            Ok(columns.with_pairs(Pairs { keys, values: rows.values }))
        })
    }

    /// Shows each row to `look` as it passes. It may be shown again after a crash: what it does is not exactly-once.
    #[must_use]
    pub fn peek(&self, look: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        self.then("peek", false, move |chunk| {
            let rows = chunk.pairs::<K, V>()?;
            rows.keys.iter().zip(&rows.values).for_each(|(key, value)| look(key, value));
            Ok(chunk)
        })
    }

    /// Shows each row to `act`, and ends there. As with [`Stream::peek`], a row may be shown again after a crash.
    pub fn for_each(&self, act: impl Fn(&K, &V) + Send + Sync + 'static) {
        self.handle.route("for-each", move |_, chunk| {
            let rows = chunk.pairs::<K, V>()?;
            rows.keys.iter().zip(&rows.values).for_each(|(key, value)| act(key, value));
            Ok(())
        });
    }

    /// Splits the rows: each goes to the first branch whose test it passes.
    #[must_use]
    pub fn split(&self) -> Split<K, V> {
        Split { stream: self.clone(), tests: Vec::new() }
    }

    /// The rows of both streams, in the order of processing.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut graph = self.handle.graph.borrow_mut();
        let name = graph.free_name("merge");
        let inputs = [self.handle.port, other.handle.port];
        let port = graph.operator(name, OperatorSpec::new("merge", || Pass), &inputs);
        Self { handle: Handle::new(self.handle.graph.clone(), port), rekeyed: self.rekeyed || other.rekeyed }
    }

    /// Groups by the present key. After a step that changed it, the rows go through the repartition topic of the aggregation's store.
    #[must_use]
    pub fn group_by_key(&self) -> Grouped<K, V> {
        Grouped { stream: self.clone(), repartition: None }
    }

    /// Groups by a new key; rows go through the topic `<app>-<name>-repartition`, once for all aggregations of the grouping.
    pub fn group_by<K2: Data>(
        &self,
        name: &str,
        f: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> Grouped<K2, V> {
        Grouped { stream: self.select_key(f), repartition: Some(NamedRepartition::new(name)) }
    }
}

impl<K: Serde, V: Serde> Stream<K, V> {
    /// Writes the rows to `topic`.
    pub fn to(&self, topic: &str) {
        let mut graph = self.handle.graph.borrow_mut();
        let name = graph.free_name(&format!("to-{topic}"));
        graph.sink(name, SinkSpec::new(topic, RowWriter::<K, V>::new), self.handle.port);
    }

    /// Sends the rows through the topic `<app>-<name>-repartition`, so that rows of equal keys come together. It has as many
    /// partitions as the topics that its rows are joined with, else as the widest topic upstream.
    #[must_use]
    pub fn repartition(&self, name: &str) -> Self {
        self.repartition_to(name, None)
    }

    /// As [`Stream::repartition`], with a given number of partitions.
    #[must_use]
    pub fn repartition_to(&self, name: &str, partitions: Option<i32>) -> Self {
        let port = self.handle.graph.borrow_mut().repartition(
            name,
            RowWriter::<K, V>::new,
            RowReader::<K, V>::internal,
            partitions,
            self.handle.port,
        );
        Self::new(self.handle.graph.clone(), port)
    }
}

impl<K: Serde, V: Serde> Stream<K, Option<V>> {
    /// The last value of each key as a table, kept in `store`; `None` deletes. After a step that changed the key, rows go
    /// through `<app>-<store>-repartition` first.
    pub fn to_table(&self, store: StoreSpec) -> Table<K, V> {
        let input = if self.rekeyed { self.repartition(&store.name) } else { self.clone() };
        let graph = &input.handle.graph;
        let name = Arc::clone(&store.name);
        let wants_old = super::table::WantsOld::default();
        let flag = wants_old.clone();
        let spec =
            OperatorSpec::new("table", move || TableUpsert::new(TypedTable::<K, V>::new(flag.clone())));
        graph.borrow_mut().add_store(store);
        let port = graph.borrow_mut().operator(
            format!("table-{name}"),
            spec.store(Arc::clone(&name)),
            &[input.handle.port],
        );
        Table::stored(Handle::<K, Change<V>>::new(graph.clone(), port), name, wants_old)
    }
}

/// Lets rows pass: where two streams become one.
struct Pass;

impl Operator for Pass {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, chunk: Chunk) -> Result<()> {
        ctx.forward(chunk);
        Ok(())
    }
}

type Test<K, V> = Box<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// A stream being split into branches; finish it with [`Split::default_branch`] or [`Split::no_default`].
pub struct Split<K, V> {
    stream: Stream<K, V>,
    tests: Vec<Test<K, V>>,
}

impl<K: Data, V: Data> Split<K, V> {
    /// Adds a branch for the rows that pass `test` and passed no test before.
    #[must_use]
    pub fn branch(mut self, test: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.tests.push(Box::new(test));
        self
    }

    /// The branches in order, and last the rows that passed no test.
    #[must_use]
    pub fn default_branch(self) -> Vec<Stream<K, V>> {
        self.finish(true)
    }

    /// The branches in order; rows that passed no test end here.
    #[must_use]
    pub fn no_default(self) -> Vec<Stream<K, V>> {
        self.finish(false)
    }

    fn finish(self, default: bool) -> Vec<Stream<K, V>> {
        let branches = u16::try_from(self.tests.len() + usize::from(default)).unwrap_or(u16::MAX);
        let Self { stream, tests } = self;
        let port = stream.handle.route("split", move |ctx, chunk| {
            let rows = chunk.pairs::<K, V>()?;
            let branch_of =
                |key, value| tests.iter().position(|test| test(key, value)).unwrap_or(tests.len());
            let chosen: Vec<_> =
                rows.keys.iter().zip(&rows.values).map(|(key, value)| branch_of(key, value)).collect();
            for branch in 0..branches {
                let mask: Vec<_> = chosen.iter().map(|chosen| *chosen == usize::from(branch)).collect();
                if mask.contains(&true) {
                    let mut part = chunk.clone();
                    part.retain(&mask)?;
                    ctx.forward_to(branch, part);
                }
            }
            Ok(())
        });
        let branch = |number| Stream {
            handle: Handle::new(stream.handle.graph.clone(), port.side(number)),
            rekeyed: stream.rekeyed,
        };
        (0..branches).map(branch).collect()
    }
}
