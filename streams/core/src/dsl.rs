//! The Rust DSL: typed streams and tables.
//!
//! Handles carry two type parameters, key and value. A step moves its closure into the graph, where it becomes an
//! [`crate::Operator`] over typed chunks: one virtual call for each chunk, the closure itself is inlined into the loop over its rows.
//!
//! ```
//! use millstream_streams_core::TestDriver;
//! use millstream_streams_core::dsl::{StreamBuilder, store};
//!
//! let builder = StreamBuilder::new();
//! builder
//!     .stream::<Option<String>, String>("lines")
//!     .flat_map_values(|_, line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
//!     .group_by("by-word", |_, word| word.clone())
//!     .count(store("word-counts"))
//!     .to_stream()
//!     .to("counts");
//!
//! let mut driver = TestDriver::new(builder.build()?)?;
//! driver.pipe("lines", &None::<String>, &"to be or not To be".to_owned(), 0)?;
//! let counts = driver.read::<String, u64>("counts")?;
//! assert_eq!(counts.last().map(|row| (row.key.as_str(), row.value)), Some(("be", 2)));
//! # Ok::<(), millstream_streams_core::StreamsError>(())
//! ```
//!
//! **Nullability is in the types.** `Stream<String, String>` has no null: records of its topic with a null key or value are
//! left out and counted. `Stream<Option<String>, String>` takes null keys. A table's changes as a stream are
//! `Stream<K, Option<V>>`, none for a deletion.
//!
//! **Names are required where state is**: stores, repartitions. A stateless step gets a name of its own accord, which nothing
//! durable depends on.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use millstream_record::Millis;

mod fold;
mod format;
mod grouped;
mod join;
mod serde;
mod step;
mod stream;
mod table;
mod window;

pub use grouped::Grouped;
pub use serde::{Json, Serde};
pub use stream::{Split, Stream};
pub use table::{Change, Table};
pub use window::{Hopping, Late, Tumbling, WindowSpec, Windowed, WindowedStream};

pub use crate::kernel::Emit;

use crate::chunk::Data;
use crate::error::Result;
use crate::store::StoreSpec;
use crate::topology::{Port, SourceSpec, Topology, TopologyBuilder};
use format::RowReader;

/// The graph under construction, shared by the builder and its handles.
pub(crate) type Graph = Rc<RefCell<TopologyBuilder>>;

/// A store named `name`, on disk, with a changelog. Its name is durable: renaming it abandons its content.
pub fn store(name: impl Into<Arc<str>>) -> StoreSpec {
    StoreSpec::new(name)
}

/// Seconds, for windows.
#[must_use]
pub const fn secs(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

/// Milliseconds, for windows.
#[must_use]
pub const fn millis(milliseconds: u64) -> std::time::Duration {
    std::time::Duration::from_millis(milliseconds)
}

/// Where a topology written in the DSL begins.
#[derive(Default)]
pub struct StreamBuilder {
    graph: Graph,
}

impl StreamBuilder {
    /// An empty topology.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The records of `topic` as a stream. Event time is the record's timestamp.
    pub fn stream<K: Serde, V: Serde>(&self, topic: &str) -> Stream<K, V> {
        self.read(topic, RowReader::<K, V>::new)
    }

    /// As [`StreamBuilder::stream`], with the event time taken from the row; the third argument is the record's timestamp.
    pub fn stream_at<K: Serde, V: Serde>(
        &self,
        topic: &str,
        event_time: impl Fn(&K, &V, Millis) -> Millis + Send + Sync + 'static,
    ) -> Stream<K, V> {
        let event_time = Arc::new(event_time);
        self.read(topic, move || RowReader::<K, V>::timed(event_time.clone()))
    }

    /// The records of `topic` as a table: the last value of each key, kept in `store`. A null value deletes. Records with a
    /// null key are left out and counted.
    pub fn table<K: Serde, V: Serde>(&self, topic: &str, store: StoreSpec) -> Table<K, V> {
        self.read(topic, RowReader::<K, Option<V>>::new).to_table(store)
    }

    /// Checks and finishes the topology.
    ///
    /// # Errors
    /// [`crate::StreamsError::Topology`] with every problem found.
    pub fn build(self) -> Result<Topology> {
        std::mem::take(&mut *self.graph.borrow_mut()).build()
    }

    fn read<K: Serde, V: Serde>(
        &self,
        topic: &str,
        reader: impl Fn() -> RowReader<K, V> + Send + Sync + 'static,
    ) -> Stream<K, V> {
        let mut graph = self.graph.borrow_mut();
        let name = graph.free_name(topic);
        let port = graph.source(name, SourceSpec::new([topic], reader));
        Stream::new(self.graph.clone(), port)
    }
}

/// What every handle holds.
pub(crate) struct Handle<K, V> {
    pub(crate) graph: Graph,
    pub(crate) port: Port,
    rows: PhantomData<fn() -> (K, V)>,
}

impl<K: Data, V: Data> Handle<K, V> {
    pub(crate) fn new(graph: Graph, port: Port) -> Self {
        Self { graph, port, rows: PhantomData }
    }
}

impl<K, V> Clone for Handle<K, V> {
    fn clone(&self) -> Self {
        Self { graph: self.graph.clone(), port: self.port, rows: PhantomData }
    }
}
