//! Windowed streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use millstream_record::Millis;

use super::fold::TypedFold;
use super::format::RowWriter;
use super::table::WantsOld;
use super::{Change, Grouped, Handle, Serde, Table};
use crate::error::{Result, StreamsError};
use crate::kernel::{Emit, LATE_PORT, WindowAggregate, WindowOptions};
use crate::rule::{TimeWindows, Window};
use crate::store::StoreSpec;
use crate::topology::{OperatorSpec, SinkSpec};
use crate::{BEGINNING_OF_TIME, END_OF_TIME};

/// A key in a window: the key of windowed results. Written as Kafka's time-windowed keys are: the key's bytes, then the window's start
/// (8 bytes, big-endian). Those bytes do not hold the end, so a key read back from a topic has the end of time there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: Window,
}

const START_BYTES: usize = 8;

impl<K: Serde> Serde for Windowed<K> {
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
        let present = self.key.encode(bytes)?;
        if present {
            bytes.put_i64(self.window.start.0);
        }
        Ok(present)
    }

    fn decode(bytes: &Bytes) -> Result<Self> {
        let Some((_, start)) = bytes.split_last_chunk::<START_BYTES>() else {
            let reason = format!("{} bytes are too few for a window's start", bytes.len());
            return Err(StreamsError::Decode { what: "windowed key", reason });
        };
        let window = Window { start: Millis(i64::from_be_bytes(*start)), end: END_OF_TIME };
        Ok(Self { key: K::decode(&bytes.slice(..bytes.len() - START_BYTES))?, window })
    }

    /// All windows of a key go to one partition, that of the key.
    fn partition_key(&self) -> Result<Option<Bytes>> {
        self.key.to_bytes()
    }
}

/// What becomes of rows that come after their window closed. They are always counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Late {
    /// They end here.
    #[default]
    Drop,
    /// They are written to this topic, as they came.
    SideOutput(Arc<str>),
}

impl Late {
    /// Late rows go to `topic`.
    pub fn side_output(topic: impl Into<Arc<str>>) -> Self {
        Self::SideOutput(topic.into())
    }
}

/// Windows of one length that follow each other without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling(WindowSpec);

impl Tumbling {
    /// Windows of `size`.
    #[must_use]
    pub fn of(size: Duration) -> Self {
        Self(WindowSpec { size_ms: to_ms(size), advance_ms: to_ms(size), grace_ms: 0 })
    }

    /// Takes rows until stream time is `grace` past a window's end.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self(WindowSpec { grace_ms: to_ms(grace), ..self.0 })
    }
}

/// Windows of one length that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hopping(WindowSpec);

impl Hopping {
    /// Windows of `size`, one beginning every `advance`.
    #[must_use]
    pub fn of(size: Duration, advance: Duration) -> Self {
        Self(WindowSpec { size_ms: to_ms(size), advance_ms: to_ms(advance), grace_ms: 0 })
    }

    /// Takes rows until stream time is `grace` past a window's end.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self(WindowSpec { grace_ms: to_ms(grace), ..self.0 })
    }
}

/// Windows as the DSL states them; checked when the topology is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpec {
    size_ms: i64,
    advance_ms: i64,
    grace_ms: i64,
}

impl From<Tumbling> for WindowSpec {
    fn from(windows: Tumbling) -> Self {
        windows.0
    }
}

impl From<Hopping> for WindowSpec {
    fn from(windows: Hopping) -> Self {
        windows.0
    }
}

fn to_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A stream grouped by key and window, ready to be aggregated.
#[derive(Clone)]
pub struct WindowedStream<K, V> {
    grouped: Grouped<K, V>,
    windows: WindowSpec,
    emit: Emit,
    late: Late,
}

impl<K: Serde, V: Serde> WindowedStream<K, V> {
    pub(super) fn new(grouped: Grouped<K, V>, windows: WindowSpec) -> Self {
        Self { grouped, windows, emit: Emit::OnUpdate, late: Late::Drop }
    }

    /// When results are emitted: with every update (the default), or once when a window closes.
    #[must_use]
    pub fn emit(mut self, emit: Emit) -> Self {
        self.emit = emit;
        self
    }

    /// What becomes of late rows.
    #[must_use]
    pub fn late(mut self, late: Late) -> Self {
        self.late = late;
        self
    }

    /// The number of rows of each key and window.
    pub fn count(&self, store: StoreSpec) -> Table<Windowed<K>, u64> {
        self.fold("count", store, |count: Option<u64>, _, _| count.unwrap_or(0) + 1)
    }

    /// Combines the values of each key and window; the first value is the first result.
    pub fn reduce(
        &self,
        store: StoreSpec,
        combine: impl Fn(V, &V) -> V + Send + Sync + 'static,
    ) -> Table<Windowed<K>, V> {
        self.fold("reduce", store, move |state, _, value| match state {
            Some(state) => combine(state, value),
            None => value.clone(),
        })
    }

    /// Folds the rows of each key and window, beginning with `init()`. A null result (`None`, where `A` is an option) deletes:
    /// the next row begins with `init()` again.
    pub fn aggregate<A: Serde>(
        &self,
        store: StoreSpec,
        init: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(A, &K, &V) -> A + Send + Sync + 'static,
    ) -> Table<Windowed<K>, A> {
        self.fold("aggregate", store, move |state, key, value| add(state.unwrap_or_else(&init), key, value))
    }

    fn fold<A: Serde>(
        &self,
        kind: &str,
        store: StoreSpec,
        step: impl Fn(Option<A>, &K, &V) -> A + Send + Sync + 'static,
    ) -> Table<Windowed<K>, A> {
        let input = self.grouped.partitioned(&store.name);
        let name = Arc::clone(&store.name);
        let options = self.options(&input.handle.graph, &name);
        let (step, wants_old) = (Arc::new(step), WantsOld::default());
        let flag = wants_old.clone();
        let spec = OperatorSpec::new(format!("windowed-{kind}"), move || {
            let fold = TypedFold::<K, V, A, Windowed<K>, _>::new(step.clone(), windowed::<K>, flag.clone());
            WindowAggregate::new(fold, options)
        });
        let mut graph = input.handle.graph.borrow_mut();
        graph.add_store(store);
        let port =
            graph.operator(format!("{kind}-{name}"), spec.store(Arc::clone(&name)), &[input.handle.port]);
        if let Late::SideOutput(topic) = &self.late {
            let sink = SinkSpec::new(Arc::clone(topic), RowWriter::<K, V>::new);
            graph.sink(format!("{name}-late"), sink, port.side(LATE_PORT));
        }
        let handle = Handle::<Windowed<K>, Change<A>>::new(input.handle.graph.clone(), port);
        Table::stored(handle, name, wants_old)
    }

    fn options(&self, graph: &super::Graph, store: &str) -> WindowOptions {
        let WindowSpec { size_ms, advance_ms, grace_ms } = self.windows;
        let windows = TimeWindows::new(size_ms, advance_ms).unwrap_or_else(|| {
            graph.borrow_mut().problem(format!(
                "the windows of {store:?} are {size_ms} ms long and {advance_ms} ms apart; give a length above zero and \
                 a distance from 1 ms up to the length"
            ));
            TimeWindows::new(1, 1).expect("one millisecond is a window")
        });
        WindowOptions { windows, grace_ms, emit: self.emit }
    }
}

fn windowed<K: Serde>(key: &Bytes, window: Option<Window>) -> Result<Windowed<K>> {
    let always = Window { start: BEGINNING_OF_TIME, end: END_OF_TIME };
    Ok(Windowed { key: K::decode(key)?, window: window.unwrap_or(always) })
}
