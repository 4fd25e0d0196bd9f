//! Grouped streams, without windows.

use std::sync::Arc;

use super::fold::TypedFold;
use super::table::WantsOld;
use super::{Change, Handle, Serde, Stream, Table, WindowSpec, WindowedStream};
use crate::kernel::KeyAggregate;
use crate::store::StoreSpec;
use crate::topology::OperatorSpec;

/// A stream whose rows of equal keys are together, ready to be aggregated. Rows with a null key, or a null value, are left
/// out and counted.
pub struct Grouped<K, V> {
    pub(super) stream: Stream<K, V>,
    /// Name of the repartition, where the grouping gave one.
    pub(super) repartition: Option<String>,
}

impl<K: Serde, V: Serde> Grouped<K, V> {
    /// The number of rows of each key.
    pub fn count(&self, store: StoreSpec) -> Table<K, u64> {
        self.fold("count", store, |count: Option<u64>, _, _| count.unwrap_or(0) + 1)
    }

    /// Combines the values of each key; the first value is the first result.
    pub fn reduce(
        &self,
        store: StoreSpec,
        combine: impl Fn(V, &V) -> V + Send + Sync + 'static,
    ) -> Table<K, V> {
        self.fold("reduce", store, move |state, _, value| match state {
            Some(state) => combine(state, value),
            None => value.clone(),
        })
    }

    /// Folds the rows of each key, beginning with `init()`. A null result (`None`, where `A` is an option) deletes:
    /// the next row begins with `init()` again.
    pub fn aggregate<A: Serde>(
        &self,
        store: StoreSpec,
        init: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(A, &K, &V) -> A + Send + Sync + 'static,
    ) -> Table<K, A> {
        self.fold("aggregate", store, move |state, key, value| add(state.unwrap_or_else(&init), key, value))
    }

    /// Groups by window too.
    pub fn window(&self, windows: impl Into<WindowSpec>) -> WindowedStream<K, V> {
        WindowedStream::new(self.clone(), windows.into())
    }

    fn fold<A: Serde>(
        &self,
        kind: &str,
        store: StoreSpec,
        step: impl Fn(Option<A>, &K, &V) -> A + Send + Sync + 'static,
    ) -> Table<K, A> {
        let input = self.partitioned(&store.name);
        let name = Arc::clone(&store.name);
        let (step, wants_old) = (Arc::new(step), WantsOld::default());
        let flag = wants_old.clone();
        let spec = OperatorSpec::new(kind, move || {
            KeyAggregate::new(TypedFold::<K, V, A, K, _>::new(
                step.clone(),
                |key, _| K::decode(key),
                flag.clone(),
            ))
        });
        let mut graph = input.handle.graph.borrow_mut();
        graph.add_store(store);
        let port =
            graph.operator(format!("{kind}-{name}"), spec.store(Arc::clone(&name)), &[input.handle.port]);
        Table::stored(Handle::<K, Change<A>>::new(input.handle.graph.clone(), port), name, wants_old)
    }

    /// The stream, repartitioned if its key has changed: under the grouping's name, else under that of the store.
    pub(super) fn partitioned(&self, store: &str) -> Stream<K, V> {
        if !self.stream.rekeyed {
            return self.stream.clone();
        }
        self.stream.repartition(self.repartition.as_deref().unwrap_or(store))
    }
}

impl<K, V> Clone for Grouped<K, V> {
    fn clone(&self) -> Self {
        Self { stream: self.stream.clone(), repartition: self.repartition.clone() }
    }
}
