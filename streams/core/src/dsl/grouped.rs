//! Grouped streams, without windows.

use std::cell::OnceCell;
use std::rc::Rc;
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
    /// The repartition, where the grouping gave it a name.
    pub(super) repartition: Option<Rc<NamedRepartition<K, V>>>,
}

/// A repartition that has a name of its own: there is one, however many aggregations use the grouping.
pub(super) struct NamedRepartition<K, V> {
    name: String,
    made: OnceCell<Stream<K, V>>,
}

impl<K, V> NamedRepartition<K, V> {
    pub(super) fn new(name: &str) -> Rc<Self> {
        Rc::new(Self { name: name.to_owned(), made: OnceCell::new() })
    }
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

    /// The stream, repartitioned if its key has changed: under the grouping's name, once for all that is made of the grouping, else
    /// under that of the store.
    pub(super) fn partitioned(&self, store: &str) -> Stream<K, V> {
        if !self.stream.rekeyed {
            return self.stream.clone();
        }
        match self.repartition.as_deref() {
            Some(NamedRepartition { name, made }) => {
                made.get_or_init(|| self.stream.repartition(name)).clone()
            }
            None => self.stream.repartition(store),
        }
    }
}

impl<K, V> Clone for Grouped<K, V> {
    fn clone(&self) -> Self {
        Self { stream: self.stream.clone(), repartition: self.repartition.clone() }
    }
}
