//! Aggregation by key and window.

use std::ops::Bound;

use bytes::Bytes;
use millstream_record::{Millis, Offset};

use super::groups::{Groups, Taken};
use super::layout::Layout;
use super::{Fold, Group, KeyColumn, LATE_PORT, split_stored};
use crate::chunk::{Chunk, Columns};
use crate::counter::Counter;
use crate::error::{Result, StreamsError};
use crate::operator::{Epoch, Operator, OperatorContext, Times};
use crate::rule::{TimeWindows, Window, is_closed};
use crate::store::Store;
use crate::{BEGINNING_OF_TIME, END_OF_TIME};

/// When a window's result is emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// With every chunk that changes it.
    #[default]
    OnUpdate,
    /// Once, when it closes. Unlike Kafka's `EmitStrategy.onWindowClose`, no result is lost when stream time jumps, and a result has
    /// no headers: those of a window's last row are not kept with its state.
    OnClose,
}

/// The windows of a [`WindowAggregate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowOptions {
    /// Length and distance.
    pub windows: TimeWindows,
    /// How long after its end a window still takes rows, in stream time.
    pub grace_ms: i64,
    /// When to emit.
    pub emit: Emit,
}

/// Rows in one chunk of results when many windows close in one call.
const CLOSE_CHUNK_ROWS: usize = 4096;
/// The store key under which an operator keeps its stream time. Keys of windows are longer than a window's start.
const TIME_KEY: &[u8] = &[0xff];
const START_BYTES: usize = 8;
/// Open windows whose states are kept at hand, at most.
const AT_HAND: usize = 16 * 1024;

/// A key of the store and what is under it.
type Entry = (Bytes, Bytes);

/// Folds rows by key and window. Declares one store, whose keys are window start (so that windows close by a scan from the
/// front) and key bytes.
///
/// A row is late when at least one of its windows has closed; it is counted once and sent to [`LATE_PORT`], and its other windows
/// still take it. Stream time and the end of the last closed window are kept in the store: after a restart the same rows
/// are late, and windows closed by the end of a finite input never open again.
///
/// Where rows come over several ways ([`crate::ways`]) a row is late by the stream time of its own, and windows close by the
/// watermark: the least of all ways. Closed is closed then too, so a row of a way that was idle may be late by that.
///
/// Windows that are due leave in order of start and key, as many in one call as its context allows; the others follow with the next
/// ones. Whether a row is late does not depend on that: a window that is due is closed, emitted or not. What has left is not in
/// the store any more, so a commit in between is exact, and who reads the store goes on with what is due there.
///
/// What is emitted on close only is kept at hand until a commit: a window that opens and closes between two commits never
/// reaches the store. With more open windows than [`WindowAggregate::at_hand`] says, states go to the store with every chunk, until it
/// holds no window.
pub struct WindowAggregate<F: Fold> {
    layout: Layout,
    fold: F,
    options: WindowOptions,
    time: StreamTime,
    saved: StreamTime,
    /// No window in the store begins before this; none when the store has no window.
    first_start: Option<Millis>,
    /// Windows are due that have not left.
    has_more: bool,
    /// While windows in the store are due: the key of the first one that has not left.
    next_due: Option<Bytes>,
    /// The latest end of the windows that were closed since the start.
    last_end: Millis,
    keys: KeyColumn,
    /// All open windows, or those of one chunk.
    groups: Groups<F::State>,
    all_at_hand: bool,
    most_at_hand: usize,
}

/// What lateness is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StreamTime {
    /// The maximum timestamp of the rows taken so far; where they come over several ways, the watermark.
    now: Millis,
    /// Windows that end here or earlier were closed by the end of input.
    closed_to: Millis,
}

impl<F: Fold> WindowAggregate<F> {
    /// Aggregates with `fold` over `options.windows`.
    pub fn new(fold: F, options: WindowOptions) -> Self {
        let time = StreamTime { now: BEGINNING_OF_TIME, closed_to: BEGINNING_OF_TIME };
        let (size, advance) = (options.windows.size_ms(), options.windows.advance_ms());
        let layout =
            fold.layout().map(|layout| format!("{layout} in windows of {size} ms every {advance} ms"));
        Self {
            layout: Layout::new(layout),
            fold,
            options,
            time,
            saved: time,
            first_start: None,
            has_more: false,
            next_due: None,
            last_end: BEGINNING_OF_TIME,
            keys: KeyColumn::default(),
            groups: Groups::new(),
            all_at_hand: options.emit == Emit::OnClose,
            most_at_hand: AT_HAND,
        }
    }

    /// Keeps the states of `windows` open windows at hand, at most.
    #[must_use]
    pub fn at_hand(mut self, windows: usize) -> Self {
        self.most_at_hand = windows;
        self
    }

    /// Distributes the rows over their windows; the mask tells which rows are late.
    fn assign(&mut self, ctx: &mut OperatorContext<'_>, chunk: &Chunk) -> Result<Vec<bool>> {
        let mut late = vec![false; chunk.len()];
        let mut store_key = Vec::new();
        let mut dropped = 0;
        let several_ways = ctx.several_ways();
        for (row, is_late) in late.iter_mut().enumerate() {
            let Some(key) = self.keys.get(row) else {
                dropped += 1;
                continue;
            };
            let timestamp = chunk.timestamps[row];
            let time = if several_ways {
                StreamTime { now: self.time.now.max(chunk.stream_time_of(row)), ..self.time }
            } else {
                self.time.now = self.time.now.max(timestamp);
                self.time
            };
            for window in self.options.windows.of(timestamp) {
                if time.is_closed(window, self.options.grace_ms) {
                    *is_late = true;
                    continue;
                }
                store_key.clear();
                store_key.extend_from_slice(&start_bytes(window.start));
                store_key.extend_from_slice(key);
                let store: Option<&dyn Store> = if self.all_at_hand { None } else { Some(ctx.store(0)) };
                self.groups.add(&mut self.fold, store, &store_key, row, timestamp)?;
                self.first_start =
                    Some(self.first_start.map_or(window.start, |first| first.min(window.start)));
            }
        }
        ctx.count(Counter::Dropped, dropped);
        ctx.count(Counter::Late, late.iter().filter(|late| **late).count() as u64);
        Ok(late)
    }

    /// With too many windows at hand all go to the store, and come to hand chunk by chunk from now on.
    fn bound_at_hand(&mut self, ctx: &mut OperatorContext<'_>) -> Result<()> {
        if self.all_at_hand && self.groups.len() > self.most_at_hand {
            self.groups.save(&mut self.fold, ctx.store(0))?;
            self.groups.clear();
            self.all_at_hand = false;
        }
        Ok(())
    }

    /// Takes windows that stream time has passed out, in order of start and key, and emits them if so asked: as many as the call may.
    fn close(&mut self, ctx: &mut OperatorContext<'_>, stream_time: Millis) -> Result<()> {
        let mut left = ctx.limit();
        while let Some(first) = self.first_start {
            self.has_more = self.is_due(first, stream_time);
            if !self.has_more || left == 0 {
                return Ok(());
            }
            let count = left.min(CLOSE_CHUNK_ROWS);
            left -= match self.all_at_hand {
                true => self.close_at_hand(ctx, stream_time, count)?,
                false => self.close_stored(ctx, first, stream_time, count)?,
            };
        }
        self.has_more = false;
        self.all_at_hand = self.options.emit == Emit::OnClose; // the store holds no window
        self.groups.clear();
        Ok(())
    }

    /// Whether the window that begins at `start` is to leave. Beside those that stream time has passed these are the ones that the
    /// end of an earlier input has closed, and that had not left when the task stopped.
    fn is_due(&self, start: Millis, stream_time: Millis) -> bool {
        StreamTime { now: stream_time, ..self.time }
            .is_closed(self.options.windows.at(start), self.options.grace_ms)
    }

    /// Closes the first windows at hand, `count` of them at most; answers how many.
    fn close_at_hand(
        &mut self,
        ctx: &mut OperatorContext<'_>,
        stream_time: Millis,
        count: usize,
    ) -> Result<usize> {
        let (windows, grace_ms) = (self.options.windows, self.options.grace_ms);
        let time = StreamTime { now: stream_time, ..self.time };
        let is_due = |start: Millis| time.is_closed(windows.at(start), grace_ms);
        let mut due = self.groups.take_due(count, |store_key| start_of(store_key).is_some_and(is_due));
        self.first_start = self.groups.keys().filter_map(start_of).min();
        for taken in &due {
            self.note_end(&taken.store_key);
            if taken.stored {
                ctx.store(0).delete(&taken.store_key)?;
            }
        }
        if !due.is_empty() {
            ctx.forward(self.emit_closed(&mut due)?);
        }
        Ok(due.len())
    }

    /// Closes the first windows of the store, `count` of them at most; answers how many.
    fn close_stored(
        &mut self,
        ctx: &mut OperatorContext<'_>,
        first: Millis,
        stream_time: Millis,
        count: usize,
    ) -> Result<usize> {
        let due = self.due(ctx, first, stream_time, count)?;
        let closed = due.len();
        for (store_key, _) in &due {
            self.note_end(store_key);
            ctx.store(0).delete(store_key)?;
        }
        if self.options.emit == Emit::OnClose && !due.is_empty() {
            let mut taken = Vec::with_capacity(due.len());
            for (store_key, stored) in due {
                let (timestamp, bytes) = split_stored(&stored)?;
                let state = self.fold.load(&bytes)?;
                taken.push(Taken { store_key: store_key.into(), timestamp, state, stored: true });
            }
            ctx.forward(self.emit_closed(&mut taken)?);
        }
        Ok(closed)
    }

    fn note_end(&mut self, store_key: &[u8]) {
        let end = start_of(store_key).map(|start| self.options.windows.at(start).end);
        self.last_end = end.map_or(self.last_end, |end| self.last_end.max(end));
    }

    /// The first entries of the store that are due, `count` of them at most. Notes where to go on.
    fn due(
        &mut self,
        ctx: &mut OperatorContext<'_>,
        first: Millis,
        stream_time: Millis,
        count: usize,
    ) -> Result<Vec<Entry>> {
        let mut due = Vec::new();
        // Not from the front, nor from the first key of the start: these are full of what this epoch deleted.
        let next = self.next_due.take().filter(|next| start_of(next) == Some(first));
        let from = next.unwrap_or_else(|| Bytes::copy_from_slice(&start_bytes(first)));
        self.first_start = None;
        for entry in ctx.store(0).range(Bound::Included(&from), Bound::Unbounded) {
            let (store_key, stored) = entry?;
            let Some(start) = start_of(&store_key) else { continue };
            let is_due = self.is_due(start, stream_time);
            if !is_due || due.len() == count {
                self.first_start = Some(start);
                self.next_due = is_due.then_some(store_key); // behind a window that is open there may come rows before its key
                break;
            }
            due.push((store_key, stored));
        }
        Ok(due)
    }

    fn emit_closed(&mut self, due: &mut [Taken<F::State>]) -> Result<Chunk> {
        let mut columns = Columns::with_capacity(due.len());
        let windows = self.options.windows;
        let mut groups = Vec::with_capacity(due.len());
        for taken in due {
            columns.timestamps.push(taken.timestamp);
            columns.offsets.push(Offset(-1));
            let (key, window) = describe(windows, &taken.store_key);
            groups.push(Group { key, window, state: &mut taken.state, old: None });
        }
        Ok(columns.with(self.fold.emit(groups)?))
    }
}

impl<F: Fold> Operator for WindowAggregate<F> {
    fn restore(&mut self, ctx: &mut OperatorContext<'_>) -> Result<()> {
        self.layout.compare(ctx.store(0))?;
        if let Some(bytes) = ctx.store(0).get(TIME_KEY)? {
            self.time = StreamTime::decode(&bytes)?;
            self.saved = self.time;
        }
        self.first_start = None;
        self.groups.clear();
        self.all_at_hand = self.options.emit == Emit::OnClose;
        for entry in ctx.store(0).range(Bound::Unbounded, Bound::Unbounded) {
            let (store_key, stored) = entry?;
            let Some(start) = start_of(&store_key) else { continue };
            self.first_start.get_or_insert(start);
            if !self.all_at_hand || self.groups.len() == self.most_at_hand {
                self.all_at_hand = false;
                self.groups.clear();
                break;
            }
            self.groups.load(&mut self.fold, &store_key, &stored)?;
        }
        self.next_due = None;
        self.has_more = self.first_start.is_some_and(|first| self.is_due(first, self.time.now));
        Ok(())
    }

    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, mut chunk: Chunk) -> Result<()> {
        self.keys.clear();
        self.fold.keys(&chunk, &mut self.keys)?;
        match self.all_at_hand {
            true => self.groups.begin_chunk(),
            false => self.groups.clear(),
        }
        let late = self.assign(ctx, &chunk)?;
        if !self.groups.is_untouched() {
            self.groups.fold(&mut self.fold, &chunk)?;
            match self.all_at_hand {
                true => self.groups.let_go_of_deleted(&self.fold, ctx.store(0))?,
                false => self.groups.save(&mut self.fold, ctx.store(0))?,
            }
            if self.options.emit == Emit::OnUpdate {
                let windows = self.options.windows;
                let results = self.groups.emit(&mut self.fold, &chunk, |key| describe(windows, key))?;
                ctx.forward(results);
            }
        }
        if late.contains(&true) {
            chunk.retain(&late)?;
            ctx.side_output(LATE_PORT, chunk);
        }
        if !ctx.several_ways() {
            self.close(ctx, self.time.now)?;
        }
        self.bound_at_hand(ctx)
    }

    fn on_time(&mut self, ctx: &mut OperatorContext<'_>, times: Times) -> Result<()> {
        if times.stream == END_OF_TIME {
            self.time.now = times.watermark.map_or(self.time.now, |watermark| watermark.max(self.time.now));
            if self.time.now != BEGINNING_OF_TIME {
                let last = self.options.windows.of(self.time.now).last();
                self.time.closed_to =
                    self.time.closed_to.max(last.map_or(self.time.now, |window| window.end));
            }
            self.close(ctx, END_OF_TIME)?;
            self.time.closed_to = self.time.closed_to.max(self.last_end);
            return Ok(());
        }
        // Else windows close by this operator's own stream time, row by row; here those for which there was no room.
        self.time.now = times.watermark.map_or(self.time.now, |watermark| watermark.max(self.time.now));
        self.close(ctx, self.time.now)
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn uncommitted_bytes(&self) -> usize {
        self.groups.changed_bytes()
    }

    /// Results to come are of windows that are open: of rows no older than the start of the first one.
    fn watermark(&mut self, watermark: Millis) -> Millis {
        let first_end = watermark.plus_ms(self.options.grace_ms.saturating_neg()).plus_ms(1);
        first_end.plus_ms(-self.options.windows.size_ms())
    }

    fn on_epoch(&mut self, ctx: &mut OperatorContext<'_>, _epoch: Epoch) -> Result<()> {
        if self.all_at_hand {
            self.groups.save(&mut self.fold, ctx.store(0))?;
        }
        self.layout.note(ctx.store(0))?;
        if self.saved != self.time {
            ctx.store(0).put(TIME_KEY, &self.time.encode())?;
            self.saved = self.time;
        }
        Ok(())
    }
}

impl StreamTime {
    fn is_closed(self, window: Window, grace_ms: i64) -> bool {
        is_closed(window.end, self.now, grace_ms) || window.end <= self.closed_to
    }

    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.now.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.closed_to.0.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let both: [u8; 16] = bytes.try_into().map_err(|_| StreamsError::Decode {
            what: "stream time",
            reason: format!("{} bytes instead of 16", bytes.len()),
        })?;
        let (now, closed_to) = both.split_at(8);
        let number = |half: &[u8]| Millis(i64::from_be_bytes(half.try_into().expect("half of 16 bytes")));
        Ok(Self { now: number(now), closed_to: number(closed_to) })
    }
}

/// A window's start such that bytes sort as times do.
fn start_bytes(start: Millis) -> [u8; START_BYTES] {
    (start.0 ^ i64::MIN).to_be_bytes()
}

fn start_of(store_key: &[u8]) -> Option<Millis> {
    store_key.first_chunk::<START_BYTES>().map(|bytes| Millis(i64::from_be_bytes(*bytes) ^ i64::MIN))
}

/// Splits a store key into key bytes and window.
fn describe(windows: TimeWindows, store_key: &[u8]) -> (&[u8], Option<Window>) {
    let key = store_key.get(START_BYTES..).unwrap_or_default();
    (key, start_of(store_key).map(|start| windows.at(start)))
}
