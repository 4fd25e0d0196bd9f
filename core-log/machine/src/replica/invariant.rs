//! What is true of a replica after every step.

use millstream_record::{NodeId, Offset};

/// The part of a replica that its invariants are about.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) end: Offset,
    pub(super) high_watermark: Offset,
    pub(super) last_stable: Offset,
    pub(super) own_durable: Offset,
    pub(super) first_waiting: Option<Offset>,
    pub(super) waiting: usize,
    pub(super) deadlines: usize,
    pub(super) isr: &'a [NodeId],
}

/// Names the first invariant that does not hold.
pub(super) fn check(view: View<'_>) -> Result<(), &'static str> {
    let rules = [
        (view.last_stable <= view.high_watermark, "the last stable offset is never above the high watermark"),
        (view.high_watermark <= view.end, "the high watermark is never above the end of the log"),
        (view.own_durable <= view.end, "no more can be durable than was written"),
        (
            view.isr.is_empty() || view.high_watermark <= view.own_durable,
            "nobody reads what this broker has not fsynced",
        ),
        (view.first_waiting.is_none_or(|end| end > view.high_watermark), "who is durable does not wait"),
        (view.waiting == view.deadlines, "every waiter has a deadline"),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}
