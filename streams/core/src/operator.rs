//! The operator trait, and what an operator may do.

use millstream_record::Millis;

use crate::chunk::Chunk;
use crate::counter::{Counter, NodeCounters};
use crate::error::Result;
use crate::store::{Layered, Store};

/// One step of a topology, in one task. Built anew for each task by the factory in its `OperatorSpec`; its state is in its
/// stores, all else is cache that a restart may lose.
///
/// Calls come from one thread at a time, in this order: `restore` once, then any number of `on_chunk`, `on_time` and
/// `on_epoch`. An error stops the task; with exactly-once its epoch is aborted.
pub trait Operator: Send {
    /// The stores hold what was last committed: read back what this operator keeps in them besides rows (its stream time).
    ///
    /// # Errors
    /// A store that fails or holds what this operator did not write.
    fn restore(&mut self, ctx: &mut OperatorContext<'_>) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Rows arrive; what comes of them goes to [`OperatorContext::forward`].
    ///
    /// # Errors
    /// A store that fails, rows of the wrong kind, or user code that fails.
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, chunk: Chunk) -> Result<()>;

    /// Time has passed. Stream time [`crate::END_OF_TIME`] says that the inputs have ended: emit what waits for time, as much of it as
    /// [`OperatorContext::limit`] allows.
    ///
    /// # Errors
    /// As [`Operator::on_chunk`].
    fn on_time(&mut self, ctx: &mut OperatorContext<'_>, times: Times) -> Result<()> {
        let _ = (ctx, times);
        Ok(())
    }

    /// Whether results are due that no call had room for ([`OperatorContext::limit`]). Then `on_time` comes again, with the same
    /// times, before the task takes rows or tells time to the operators behind this one. There may be a commit in between, and after a
    /// restart `restore` must find this out anew.
    fn has_more(&self) -> bool {
        false
    }

    /// Memory that the next commit will put into its stores.
    fn uncommitted_bytes(&self) -> usize {
        0
    }

    /// The task is about to commit: write to the stores what must survive. Forwarding is still allowed.
    ///
    /// # Errors
    /// As [`Operator::on_chunk`].
    fn on_epoch(&mut self, ctx: &mut OperatorContext<'_>, epoch: Epoch) -> Result<()> {
        let _ = (ctx, epoch);
        Ok(())
    }

    /// Where rows come over several ways: up to where event time is known to have come behind this operator, when it has come to
    /// `watermark` before it. What it forwards from then on is not older, unless it is late.
    fn watermark(&mut self, watermark: Millis) -> Millis {
        watermark
    }

    /// For an operator that gives rows a time of its own where several ways meet: the highest so far, to be kept over a restart.
    fn own_time(&self) -> Option<Millis> {
        None
    }

    /// Gives back what [`Operator::own_time`] said at the last commit.
    fn restore_own_time(&mut self, time: Millis) {
        let _ = time;
    }

    /// Whether it writes to none of its stores, ever. Where one row reaches two steps that share a store, rows are handed on one
    /// by one unless all of them only read.
    fn only_reads(&self) -> bool {
        false
    }
}

/// The number of a commit of a task, from 1 since the task started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// The three clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The highest timestamp that the task has processed; [`crate::END_OF_TIME`] once its inputs have ended. Operators judge
    /// lateness by their own stream time, not by this one (it runs ahead of what a filter let through).
    pub stream: Millis,
    /// Where rows come over several ways ([`crate::ways`]): how far the last of them is, behind the steps before this operator.
    /// Windows close by it. `None` where they come over one: time there is an operator's own.
    pub watermark: Option<Millis>,
    /// Wall clock.
    pub wall: Millis,
}

/// What an operator acts through.
pub struct OperatorContext<'a> {
    stores: StoreAccess<'a>,
    counters: &'a mut NodeCounters,
    outputs: &'a mut Vec<(u16, Chunk)>,
    several_ways: bool,
    limit: usize,
}

/// The stores of a task with the positions of those that one operator declared.
pub(crate) struct StoreAccess<'a> {
    pub(crate) all: &'a mut [Layered],
    pub(crate) mine: &'a [usize],
}

impl<'a> OperatorContext<'a> {
    pub(crate) fn new(
        stores: StoreAccess<'a>,
        counters: &'a mut NodeCounters,
        outputs: &'a mut Vec<(u16, Chunk)>,
        several_ways: bool,
        limit: usize,
    ) -> Self {
        Self { stores, counters, outputs, several_ways, limit }
    }

    /// How many rows this call may emit because time has passed, at most: what else is due waits for the next call, so that neither
    /// memory nor a transaction has to hold all of it.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether rows come over several ways: then each has the stream time of its own ([`Chunk::stream_time_of`]), and
    /// [`Operator::on_time`] tells the watermark. Else stream time is an operator's own.
    #[must_use]
    pub fn several_ways(&self) -> bool {
        self.several_ways
    }

    /// Hands `chunk` to every node behind the main port (0).
    pub fn forward(&mut self, chunk: Chunk) {
        self.forward_to(0, chunk);
    }

    /// Hands `chunk` to every node behind `port`. Nobody behind it: the chunk is dropped. Empty chunks go nowhere.
    pub fn forward_to(&mut self, port: u16, chunk: Chunk) {
        self.counters.rows_out += chunk.len() as u64;
        self.side_output(port, chunk);
    }

    /// As [`OperatorContext::forward_to`], for rows beside the results (late rows): they do not count as rows out.
    pub fn side_output(&mut self, port: u16, chunk: Chunk) {
        if !chunk.is_empty() {
            chunk.debug_check();
            self.outputs.push((port, chunk));
        }
    }

    /// The `index`-th store that this operator declared.
    ///
    /// # Panics
    /// When the operator declared fewer stores: an error of whoever wrote its `OperatorSpec`.
    pub fn store(&mut self, index: usize) -> &mut dyn Store {
        let at = *self.stores.mine.get(index).expect("the operator declared this store in its OperatorSpec");
        &mut self.stores.all[at]
    }

    /// Counts `count` rows.
    pub fn count(&mut self, counter: Counter, count: u64) {
        self.counters.add(counter, count);
    }
}
