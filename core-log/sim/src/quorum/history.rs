//! [`History`]: what every member read and what every proposer was told, and the rules between them.

use std::collections::{BTreeMap, BTreeSet};

use millstream_machine::metadata::{Committed, ProposeError, Record};
use millstream_record::{LeaderEpoch, Offset};

/// What is known, and what was wrong with it.
#[derive(Debug, Default)]
pub struct History {
    /// Every batch that any member read, by its offset.
    batches: BTreeMap<Offset, Committed>,
    /// Proposals that were told to be committed: value, end.
    acked: Vec<(String, Offset)>,
    /// Proposals that were told to be void.
    void: BTreeSet<String>,
    /// Broken promises.
    breaches: Vec<String>,
    /// Times that a member read a snapshot.
    snapshots: u64,
    /// Who was seen to lead in which epoch.
    leaders: BTreeMap<LeaderEpoch, u16>,
}

/// The values in a batch; in one that a world proposed all records have the same.
fn values_of(batch: &Committed) -> BTreeSet<String> {
    let value = |record: &Record| match record {
        Record::Config(config) => config.value.as_ref().map(ToString::to_string),
        _ => None,
    };
    batch.records.iter().filter_map(value).collect()
}

impl History {
    /// `member` read `batch`.
    pub fn saw(&mut self, member: u16, batch: &Committed) {
        if batch.snapshot {
            self.snapshots += 1;
            return;
        }
        if let Some(known) = self.batches.get(&batch.base) {
            let same = known.end == batch.end && known.epoch == batch.epoch && known.records == batch.records;
            if !same {
                self.breaches.push(format!(
                    "member {member} read another batch at {}: {known:?}, {batch:?}",
                    batch.base
                ));
            }
            return;
        }
        if values_of(batch).len() > 1 {
            self.breaches.push(format!("the batch at {} is of several proposals", batch.base));
        }
        self.batches.insert(batch.base, batch.clone());
    }

    /// `member` says that it leads in `epoch`.
    pub fn leads(&mut self, member: u16, epoch: LeaderEpoch) {
        let first = *self.leaders.entry(epoch).or_insert(member);
        if first != member {
            self.breaches.push(format!("members {first} and {member} both lead in epoch {epoch}"));
        }
    }

    /// What became of the proposal of `value`.
    pub fn answered(&mut self, value: &str, answer: &Result<Offset, ProposeError>) {
        match answer {
            Ok(end) => self.acked.push((value.to_owned(), *end)),
            Err(
                ProposeError::NotLeader { .. } | ProposeError::EpochEnded { .. } | ProposeError::Busy { .. },
            ) => {
                self.void.insert(value.to_owned());
            }
            Err(_) => {}
        }
    }

    /// Proposals that were acknowledged.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Snapshots that members read.
    pub fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// Epochs in which somebody was seen to lead.
    pub fn epochs(&self) -> usize {
        self.leaders.len()
    }

    /// Every broken promise, once all is over.
    pub fn check(&self) -> Vec<String> {
        let mut breaches = self.breaches.clone();
        let mut epoch = LeaderEpoch(-1);
        let mut counts: BTreeMap<String, (u64, Offset)> = BTreeMap::new();
        for batch in self.batches.values() {
            if batch.epoch < epoch {
                breaches.push(format!("epoch {} at {} follows epoch {epoch}", batch.epoch, batch.base));
            }
            epoch = batch.epoch;
            for value in values_of(batch) {
                let seen = counts.entry(value).or_insert((0, batch.end));
                seen.0 += 1;
            }
        }
        for (value, end) in &self.acked {
            match counts.get(value) {
                Some((1, at)) if at == end => {}
                Some((1, at)) => breaches.push(format!("{value} was acknowledged at {end} but is at {at}")),
                Some((n, _)) => breaches.push(format!("{value} took effect {n} times")),
                None => breaches.push(format!("{value} was acknowledged at {end} and is lost")),
            }
        }
        breaches.extend(
            self.void
                .iter()
                .filter(|value| counts.contains_key(*value))
                .map(|value| format!("{value} was void and took effect")),
        );
        breaches
    }
}
