//! Chunks: what flows between operators.

use std::any::{Any, type_name};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
pub use millstream_record::Header;
use millstream_record::{Millis, Offset};

use crate::error::{Result, StreamsError};

/// What a typed row may hold. Cloning is needed where one output feeds two operators.
pub trait Data: Clone + Send + 'static {}
impl<T: Clone + Send + 'static> Data for T {}

/// The headers of one row. Shared, since operators pass them on unchanged.
pub type Headers = Arc<[Header]>;

/// A run of rows of one partition, in the order of processing: rows with their timestamps, offsets and headers.
///
/// All columns have one length. A row that an operator makes keeps the offset and headers of the row that caused it;
/// rows made by the passing of time have offset -1 and no headers.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The rows.
    pub rows: Rows,
    /// Event time of each row.
    pub timestamps: Vec<Millis>,
    /// Offset of each row in its input partition.
    pub offsets: Vec<Offset>,
    /// Headers of each row; `None` when no row has any.
    pub headers: Option<Vec<Headers>>,
    /// Where rows of several partitions meet (see [`crate::ways`]): the stream time that the partition each row came from had with
    /// it. `None`: a row's own time.
    pub stream_times: Option<Vec<Millis>>,
}

/// Rows, by front end.
pub enum Rows {
    /// Rows of Rust types: a [`Pairs`] of the DSL.
    Typed(Box<dyn TypedRows>),
    /// Rows of a pipeline. Its schema is fixed by the operator that forwards it.
    Arrow(RecordBatch),
}

/// A column set of Rust values behind `dyn`: one virtual call a chunk, none a row.
pub trait TypedRows: Any + Send {
    /// Number of rows.
    fn len(&self) -> usize;
    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A copy, for a second reader.
    fn copy(&self) -> Box<dyn TypedRows>;
    /// Takes the first `count` rows out.
    fn take_front(&mut self, count: usize) -> Box<dyn TypedRows>;
    /// Keeps the rows whose mask is true.
    fn retain(&mut self, keep: &[bool]);
    /// Name of the concrete type, for errors.
    fn type_name(&self) -> &'static str;
    /// For downcasts.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
}

/// Keys and values of the DSL, as two columns of one length: a step that changes only values moves the keys untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs<K, V> {
    /// Key of each row.
    pub keys: Vec<K>,
    /// Value of each row.
    pub values: Vec<V>,
}

impl<K: Data, V: Data> Pairs<K, V> {
    /// No rows, with room for `capacity`.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { keys: Vec::with_capacity(capacity), values: Vec::with_capacity(capacity) }
    }

    /// Adds a row.
    pub fn push(&mut self, key: K, value: V) {
        self.keys.push(key);
        self.values.push(value);
    }
}

impl<K: Data, V: Data> TypedRows for Pairs<K, V> {
    fn len(&self) -> usize {
        self.keys.len()
    }
    fn copy(&self) -> Box<dyn TypedRows> {
        Box::new(self.clone())
    }
    fn take_front(&mut self, count: usize) -> Box<dyn TypedRows> {
        Box::new(Self {
            keys: take_front(&mut self.keys, count),
            values: take_front(&mut self.values, count),
        })
    }
    fn retain(&mut self, keep: &[bool]) {
        retain(&mut self.keys, keep);
        retain(&mut self.values, keep);
    }
    fn type_name(&self) -> &'static str {
        type_name::<Self>()
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn take_front<T>(from: &mut Vec<T>, count: usize) -> Vec<T> {
    let rest = from.split_off(count.min(from.len()));
    std::mem::replace(from, rest)
}

fn retain<T>(column: &mut Vec<T>, keep: &[bool]) {
    let mut mask = keep.iter();
    column.retain(|_| *mask.next().unwrap_or(&true));
}

impl Rows {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Typed(rows) => rows.len(),
            Self::Arrow(batch) => batch.num_rows(),
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::Typed(rows) => rows.type_name(),
            Self::Arrow(_) => "arrow::RecordBatch",
        }
    }
}

impl Clone for Rows {
    fn clone(&self) -> Self {
        match self {
            Self::Typed(rows) => Self::Typed(rows.copy()),
            Self::Arrow(batch) => Self::Arrow(batch.clone()),
        }
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of {}", self.len(), self.type_name())
    }
}

impl Chunk {
    /// A chunk of typed rows without headers.
    #[must_use]
    pub fn typed<R: TypedRows>(rows: R, timestamps: Vec<Millis>, offsets: Vec<Offset>) -> Self {
        Columns { timestamps, offsets, headers: None, stream_times: None }.with(Rows::Typed(Box::new(rows)))
    }

    /// A chunk of Arrow rows without headers.
    #[must_use]
    pub fn arrow(batch: RecordBatch, timestamps: Vec<Millis>, offsets: Vec<Offset>) -> Self {
        Columns { timestamps, offsets, headers: None, stream_times: None }.with(Rows::Arrow(batch))
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// Headers of `row`, if it has any.
    #[must_use]
    pub fn headers_of(&self, row: usize) -> Option<&Headers> {
        self.headers.as_ref().and_then(|column| column.get(row))
    }

    /// The stream time of the partition that `row` came from, with that row.
    #[must_use]
    pub fn stream_time_of(&self, row: usize) -> Millis {
        let column = self.stream_times.as_ref().unwrap_or(&self.timestamps);
        column[row].max(self.timestamps[row])
    }

    /// The columns' common length, checked; a front end's operator that breaks it is a bug found here.
    pub fn debug_check(&self) {
        debug_assert_eq!(self.rows.len(), self.timestamps.len(), "rows and timestamps");
        debug_assert_eq!(self.offsets.len(), self.timestamps.len(), "offsets and timestamps");
        debug_assert!(self.headers.as_ref().is_none_or(|h| h.len() == self.timestamps.len()), "headers");
        debug_assert!(
            self.stream_times.as_ref().is_none_or(|times| times.len() == self.timestamps.len()),
            "stream times"
        );
    }

    /// The typed rows by reference.
    ///
    /// # Errors
    /// [`StreamsError::RowType`] when the rows are of another type.
    pub fn pairs<K: Data, V: Data>(&self) -> Result<&Pairs<K, V>> {
        let got = self.rows.type_name();
        match &self.rows {
            Rows::Typed(rows) => rows.as_any().downcast_ref(),
            Rows::Arrow(_) => None,
        }
        .ok_or(StreamsError::RowType { expected: type_name::<Pairs<K, V>>(), got })
    }

    /// Takes the typed rows out; the other columns stay behind in the second part.
    ///
    /// # Errors
    /// [`StreamsError::RowType`] when the rows are of another type.
    pub fn into_pairs<K: Data, V: Data>(self) -> Result<(Pairs<K, V>, Columns)> {
        let got = self.rows.type_name();
        let mismatch = || StreamsError::RowType { expected: type_name::<Pairs<K, V>>(), got };
        let Self { rows, timestamps, offsets, headers, stream_times } = self;
        let rows = match rows {
            Rows::Typed(rows) => rows.into_any().downcast::<Pairs<K, V>>().map_err(|_| mismatch())?,
            Rows::Arrow(_) => return Err(mismatch()),
        };
        Ok((*rows, Columns { timestamps, offsets, headers, stream_times }))
    }

    /// The Arrow rows by reference.
    ///
    /// # Errors
    /// [`StreamsError::RowType`] when the rows are typed.
    pub fn batch(&self) -> Result<&RecordBatch> {
        match &self.rows {
            Rows::Arrow(batch) => Ok(batch),
            Rows::Typed(rows) => {
                Err(StreamsError::RowType { expected: "arrow::RecordBatch", got: rows.type_name() })
            }
        }
    }

    /// Takes the first `count` rows out, in order; `self` keeps the rest.
    #[must_use]
    pub fn take_front(&mut self, count: usize) -> Self {
        let count = count.min(self.len());
        let rows = match &mut self.rows {
            Rows::Typed(rows) => Rows::Typed(rows.take_front(count)),
            Rows::Arrow(batch) => {
                let front = batch.slice(0, count);
                *batch = batch.slice(count, batch.num_rows() - count);
                Rows::Arrow(front)
            }
        };
        Self {
            rows,
            timestamps: take_front(&mut self.timestamps, count),
            offsets: take_front(&mut self.offsets, count),
            headers: self.headers.as_mut().map(|column| take_front(column, count)),
            stream_times: self.stream_times.as_mut().map(|column| take_front(column, count)),
        }
    }

    /// Keeps the rows whose mask is true, in order.
    ///
    /// # Errors
    /// What Arrow's filter kernel says about a batch it cannot filter.
    pub fn retain(&mut self, keep: &[bool]) -> Result<()> {
        debug_assert_eq!(keep.len(), self.len(), "one mask bit for each row");
        if keep.iter().all(|kept| *kept) {
            return Ok(());
        }
        match &mut self.rows {
            Rows::Typed(rows) => rows.retain(keep),
            Rows::Arrow(batch) => {
                let mask = arrow::array::BooleanArray::from(keep.to_vec());
                *batch = arrow::compute::filter_record_batch(batch, &mask).map_err(StreamsError::user)?;
            }
        }
        retain(&mut self.timestamps, keep);
        retain(&mut self.offsets, keep);
        if let Some(headers) = &mut self.headers {
            retain(headers, keep);
        }
        if let Some(stream_times) = &mut self.stream_times {
            retain(stream_times, keep);
        }
        Ok(())
    }
}

/// The columns of a chunk beside its rows.
#[derive(Clone, Debug)]
pub struct Columns {
    /// See [`Chunk::timestamps`].
    pub timestamps: Vec<Millis>,
    /// See [`Chunk::offsets`].
    pub offsets: Vec<Offset>,
    /// See [`Chunk::headers`].
    pub headers: Option<Vec<Headers>>,
    /// See [`Chunk::stream_times`].
    pub stream_times: Option<Vec<Millis>>,
}

impl Columns {
    /// Empty columns with room for `capacity` rows.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            timestamps: Vec::with_capacity(capacity),
            offsets: Vec::with_capacity(capacity),
            headers: None,
            stream_times: None,
        }
    }

    /// Puts rows of the same number back.
    #[must_use]
    pub fn with(self, rows: Rows) -> Chunk {
        let Self { timestamps, offsets, headers, stream_times } = self;
        let chunk = Chunk { rows, timestamps, offsets, headers, stream_times };
        chunk.debug_check();
        chunk
    }

    /// Puts typed rows of the same number back.
    #[must_use]
    pub fn with_pairs<K: Data, V: Data>(self, rows: Pairs<K, V>) -> Chunk {
        self.with(Rows::Typed(Box::new(rows)))
    }

    /// Row `from[i]` of these columns, for each i: for steps that make several rows, or none, from one.
    #[must_use]
    pub fn gather(&self, from: &[u32]) -> Self {
        let times = |column: &Vec<Millis>| from.iter().map(|&row| column[row as usize]).collect();
        Self {
            timestamps: times(&self.timestamps),
            stream_times: self.stream_times.as_ref().map(times),
            offsets: from.iter().map(|&row| self.offsets[row as usize]).collect(),
            headers: self
                .headers
                .as_ref()
                .map(|column| from.iter().map(|&row| Arc::clone(&column[row as usize])).collect()),
        }
    }
}
