//! How a fetch waits: parked, without the records that it has seen so far.
//!
//! What it has seen is counted and put down again, since many may wait at once, and long. While it waits it reads only what has come
//! since, and only to count it; once that is enough, or the time is over, everything is read for the answer.

use std::sync::Arc;
use std::time::Duration;

use millstream_env::Pool;
use millstream_protocol::Completer;
use millstream_record::{LeaderEpoch, Offset};

use super::session::{Keep, Place};
use super::{Access, Fetch, Round};
use crate::partition::Sought;

/// How long a fetch that has something, but too little, lets more come before it looks anew, so that a writer of small batches does not
/// have it look for each of them.
const GATHER: Duration = Duration::from_millis(5);

/// What a fetch that waits has seen so far.
struct Tally {
    available: usize,
    /// Places that the next round has to look at.
    again: Vec<u32>,
}

/// Why a wait is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// There is enough, or something that is told at once, or that cannot be judged without being read.
    Due,
    Late,
    /// Nobody waits for the answer any more.
    Unwanted,
}

impl Fetch {
    /// Waits until there is enough, or the time is over, or nobody wants it. `None` when the broker ends meanwhile.
    pub(super) async fn run(mut self, first: Round, completer: &mut Completer) -> Option<(Self, Round)> {
        let place = Arc::clone(&self.shared.parking).try_acquire_owned();
        if place.is_err() {
            return self.complete(first).await;
        }
        let mut round = first;
        // Without a session nothing wakes it yet. Where all is read anew from the disk, that is done on the way.
        let mut is_unwatched = !std::mem::replace(&mut self.waits, true) && !round.is_cold;
        loop {
            (self, round) = self.complete(round).await?;
            if self.is_enough(&round) {
                return Some((self, round));
            }
            let mut tally = Tally { available: round.available, again: round.again };
            drop(round.response);
            let over = if std::mem::take(&mut is_unwatched) {
                let all = self.session.all().collect();
                self.is_due(&mut tally, all).then_some(Over::Due)
            } else {
                None
            };
            let over = match over {
                Some(over) => over,
                None => self.wait(&mut tally, completer).await,
            };
            self.look_again(tally.again);
            match over {
                Over::Due => round = self.round(Access::Warm),
                Over::Late => {
                    let last = self.round(Access::Warm);
                    return self.complete(last).await;
                }
                Over::Unwanted => {
                    if self.keep == Keep::New {
                        self.keep = Keep::No; // nobody would ever use it
                    }
                    return Some((self, Round::default()));
                }
            }
        }
    }

    /// Waits until it is to be read.
    async fn wait(&mut self, tally: &mut Tally, completer: &mut Completer) -> Over {
        let changed = Arc::clone(&self.session.changed);
        let env = self.shared.env.clone();
        loop {
            let left = self.deadline.saturating_sub(env.elapsed());
            let woken = async {
                tokio::select! {
                    biased;
                    () = completer.unwanted() => Over::Unwanted,
                    () = changed.woken() => Over::Due,
                }
            };
            match env.timeout(left, woken).await {
                Err(_) => return Over::Late,
                Ok(Over::Due) => {}
                Ok(over) => return over,
            }
            if tally.available > 0 {
                let left = self.deadline.saturating_sub(env.elapsed());
                env.sleep(GATHER.min(left)).await;
            }
            if self.is_due(tally, Vec::new()) {
                return Over::Due;
            }
        }
    }

    /// Looks at `places`, and those that have changed: whether it is time to read.
    fn is_due(&mut self, tally: &mut Tally, mut places: Vec<u32>) -> bool {
        // Whoever has nothing yet mostly has enough with the first that comes; followers say something of themselves with each look.
        if tally.available == 0 || self.who.replica.is_some() {
            return true;
        }
        self.session.changed.take(&mut places);
        let mut is_due = false;
        for at in places {
            let Some(mut place) = self.session.take(at) else { continue };
            match self.count(at, &mut place) {
                Some(more) => tally.available += more,
                None => is_due = true,
            }
            if !std::mem::replace(&mut place.seen.is_listed, true) {
                tally.again.push(at);
            }
            self.session.put_back(at, place);
        }
        is_due || tally.available >= self.wanted() || self.shared.env.elapsed() >= self.deadline
    }

    /// How much more there is of a partition than when it was last looked at; it wakes this fetch again. `None` where only a round can
    /// tell what to answer.
    fn count(&self, at: u32, place: &mut Place) -> Option<usize> {
        let partition = self.shared.partition(&place.topic, place.topic_id, place.asked.partition).ok()?;
        if self.elsewhere(&partition, &place.asked).is_some() {
            return None;
        }
        place.watches(&partition, self.session.watch_key);
        let (asked, seen) = (&place.asked, &mut place.seen);
        let most = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(self.limit());
        let sought = Sought {
            offset: seen.next.max(Offset(asked.fetch_offset)),
            max_bytes: most.saturating_sub(seen.bytes),
            at_least_one: false,
            reader: self.who.reader,
        };
        let waits = Some(self.waits_for(at, asked));
        let planned = partition.read_plan(sought, LeaderEpoch(asked.current_leader_epoch), waits).ok()?;
        let slices = planned.plan.try_now().ok()??;
        let is_first = seen.bytes == 0 && !slices.bytes.is_empty();
        if is_first && !self.ctx.facts.zstd_allowed {
            return None; // it may have to be told that it cannot read this
        }
        seen.next = slices.next_offset;
        seen.bytes += slices.bytes.len();
        let available = if seen.next < planned.end { most } else { seen.bytes };
        let more = available.saturating_sub(seen.available);
        seen.available += more;
        Some(more)
    }

    /// `round`, or one that waits for the disk where that one would have had to.
    async fn complete(mut self, round: Round) -> Option<(Self, Round)> {
        if !round.is_cold {
            return Some((self, round));
        }
        self.look_again(round.again);
        let env = self.shared.env.clone();
        let read = env.blocking(Pool::Read, move || {
            let round = self.round(Access::Cold);
            (self, round)
        });
        read.await.ok()
    }
}
