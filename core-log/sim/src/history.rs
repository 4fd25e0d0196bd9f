//! What clients saw, and whether a correct log could have shown it.
//!
//! The checker knows nothing of the simulator: workloads on real processes record into the same [`History`]. Every value is
//! written at most once by its workload, so a value names its send.
//!
//! Rules, each a [`Breach`] when broken:
//! 1. A record acknowledged with acks=all is in the log at the offset it was acknowledged with.
//! 2. An idempotent producer's record is there at most once, and records of one producer in one partition stand in send order.
//! 3. What one reader saw at an offset, every reader sees there, to the end: nothing read vanishes or changes.
//! 4. Nothing is read that nobody sent.
//! 5. A committed transaction is there whole, an aborted one is never read by a read-committed reader.
//! 6. A group's committed offset, once acknowledged, is never answered lower.
//! 7. A search skips nothing: from an offset the next record is read, for a time the first record that is not older is found.
//! 8. The end of a partition that a client was told is never told it lower.
//! 9. In one generation of a group no two members are assigned the same partition.
//! 10. A commit is refused that was made in an older generation than one in which, before it was sent, a member was assigned
//!     anything: a member that has not noticed may go on working, but what it commits does not count.
//! 11. Who is assigned a partition goes on at what was committed there before, or behind it.

mod breach;

use std::collections::{BTreeMap, BTreeSet};

pub use breach::Breach;

/// A partition, numbered by the workload.
pub type Partition = u32;
/// The payload of a record: unique in a history.
pub type Value = u64;
/// A transaction, numbered by the workload.
pub type Txn = u64;

/// How a record was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// Where to.
    pub partition: Partition,
    /// Which producer; its sends to one partition are ordered by `order`.
    pub producer: u32,
    /// Position among the producer's sends.
    pub order: u64,
    /// Whether the broker drops repeats of it.
    pub idempotent: bool,
    /// Whether an answer promises durability (acks=all).
    pub durable: bool,
    /// The transaction that it belongs to.
    pub txn: Option<Txn>,
}

/// How a transaction ended, as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// EndTxn(commit) was answered without an error.
    Committed,
    /// EndTxn(abort) was answered, or the producer was fenced before it asked to commit.
    Aborted,
}

/// What a reader looked for in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// The first record at or behind this offset.
    From(i64),
    /// The first record with this timestamp, in milliseconds, or a later one.
    Since(i64),
}

/// What the clients of a run did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records sent.
    pub sent: u64,
    /// Records acknowledged.
    pub acked: u64,
    /// Records that consumers were given.
    pub reads: u64,
    /// Transactions whose commit was answered.
    pub committed: u64,
    /// Transactions whose abort was answered.
    pub aborted: u64,
    /// Offset commits of groups that were answered.
    pub offset_commits: u64,
    /// Assignments that members of groups were given.
    pub assignments: u64,
    /// Commits that were sent by members which a newer generation had left behind, and refused.
    pub fenced_commits: u64,
    /// Changes of settings that were answered.
    pub settings_changed: u64,
    /// Searches by offset or time that found a record.
    pub searches: u64,
}

/// Everything that the clients of one run did and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    sends: BTreeMap<Value, Send>,
    acks: BTreeMap<Value, i64>,
    outcomes: BTreeMap<Txn, Outcome>,
    reads: BTreeMap<(Partition, i64), Value>,
    committed_reads: BTreeMap<Value, (Partition, i64)>,
    commits: BTreeMap<(String, Partition), i64>,
    /// Who was assigned a partition in a generation of a group.
    owners: BTreeMap<(String, i32, Partition), u64>,
    /// The newest generation of a group in which anybody was assigned anything.
    generations: BTreeMap<String, i32>,
    log_start: BTreeMap<Partition, i64>,
    searches: Vec<(Partition, Sought, i64)>,
    counts: Counts,
    breaches: Vec<Breach>,
}

impl History {
    /// A record is about to be sent. Call it before the send: an unanswered one may still be in the log.
    pub fn sent(&mut self, value: Value, send: Send) {
        self.counts.sent += 1;
        let again = self.sends.insert(value, send);
        assert!(again.is_none(), "the workload sent {value} twice");
    }

    /// The broker acknowledged a record.
    pub fn acked(&mut self, value: Value, offset: i64) {
        self.counts.acked += 1;
        self.acks.insert(value, offset);
    }

    /// A transaction ended, and its producer knows how. One that it does not know about may have ended either way.
    pub fn ended(&mut self, txn: Txn, outcome: Outcome) {
        match outcome {
            Outcome::Committed => self.counts.committed += 1,
            Outcome::Aborted => self.counts.aborted += 1,
        }
        self.outcomes.insert(txn, outcome);
    }

    /// A consumer was given a record.
    pub fn read(&mut self, partition: Partition, offset: i64, value: Value, read_committed: bool) {
        self.counts.reads += 1;
        if self.sends.get(&value).is_none_or(|send| send.partition != partition) {
            self.breaches.push(Breach::Invented { partition, offset, value });
        }
        if read_committed {
            self.committed_reads.insert(value, (partition, offset)); // judged at the end: the abort may come after the read
        }
        match self.reads.insert((partition, offset), value) {
            Some(was) if was != value => {
                self.breaches.push(Breach::Changed { partition, offset, was, is: Some(value) });
            }
            _ => {}
        }
    }

    /// A group's offset commit was acknowledged.
    pub fn committed(&mut self, group: &str, partition: Partition, offset: i64) {
        self.counts.offset_commits += 1;
        let known = self.commits.entry((group.to_owned(), partition)).or_insert(offset);
        *known = offset.max(*known);
    }

    /// The least that a group's committed offset may be answered with from now on. Ask before the question is sent: what is
    /// committed meanwhile may be in the answer, but need not be.
    pub fn floor(&self, group: &str, partition: Partition) -> i64 {
        self.commits.get(&(group.to_owned(), partition)).copied().unwrap_or(-1)
    }

    /// A group's committed offset was asked for when its [`History::floor`] was `committed`, and answered; -1 is none.
    pub fn answered(&mut self, group: &str, partition: Partition, committed: i64, answered: i64) {
        if answered < committed {
            let group = group.to_owned();
            self.breaches.push(Breach::WentBack { group, partition, committed, answered });
        }
    }

    /// A member of a group was assigned partitions in a generation.
    pub fn assigned(
        &mut self,
        group: &str,
        generation: i32,
        member: u64,
        partitions: impl IntoIterator<Item = Partition>,
    ) {
        self.counts.assignments += 1;
        let newest = self.generations.entry(group.to_owned()).or_insert(generation);
        *newest = generation.max(*newest);
        for partition in partitions {
            let owner = *self.owners.entry((group.to_owned(), generation, partition)).or_insert(member);
            if owner != member {
                let (group, members) = (group.to_owned(), [owner, member]);
                self.breaches.push(Breach::Shared { group, generation, partition, members });
            }
        }
    }

    /// The newest generation of a group in which anybody was assigned anything. Ask before a commit is sent.
    pub fn generation(&self, group: &str) -> i32 {
        self.generations.get(group).copied().unwrap_or(-1)
    }

    /// A member of `generation` sent a commit when [`History::generation`] was `newest`, and was told whether it is accepted. One that
    /// has no generation commits for itself, outside of the group.
    pub fn commit_judged(&mut self, group: &str, generation: i32, newest: i32, accepted: bool) {
        if generation < 0 || generation >= newest {
            return;
        }
        if accepted {
            self.breaches.push(Breach::NotFenced { group: group.to_owned(), generation, newest });
        } else {
            self.counts.fenced_commits += 1;
        }
    }

    /// A member read its first record in a partition since it was assigned to it, when its [`History::floor`] was `committed`.
    pub fn took_up(&mut self, group: &str, partition: Partition, committed: i64, from: i64) {
        if from < committed {
            let group = group.to_owned();
            self.breaches.push(Breach::TookUpTooEarly { group, partition, committed, from });
        }
    }

    /// A change of settings was answered.
    pub fn changed_settings(&mut self) {
        self.counts.settings_changed += 1;
    }

    /// Retention moved the start of a partition: offsets before it are no longer promised.
    pub fn log_start(&mut self, partition: Partition, offset: i64) {
        let start = self.log_start.entry(partition).or_insert(offset);
        *start = offset.max(*start);
    }

    /// A reader of uncommitted records looked for `sought` and was led to offset `found`.
    pub fn searched(&mut self, partition: Partition, sought: Sought, found: i64) {
        self.counts.searches += 1;
        self.searches.push((partition, sought, found));
    }

    /// A client that was told `was` as the end of a partition is told `is`. Which clients share what they were told is for the
    /// workload to say: only one that knows the newest leader can hold it against an older one.
    pub fn ended_at(&mut self, partition: Partition, was: i64, is: i64) {
        if is < was {
            self.breaches.push(Breach::Shrunk { partition, was, is });
        }
    }

    /// How much was done and seen.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What bit rot may not do: a record may be refused, but what is shown was sent, and is what was shown before.
    pub fn check_after_rot(&self, all: &Contents) -> Vec<Breach> {
        let mut breaches = self.breaches.clone();
        for (partition, offset, value) in all.iter() {
            if self.sends.get(&value).is_none_or(|send| send.partition != partition) {
                breaches.push(Breach::Invented { partition, offset, value });
            }
            match self.reads.get(&(partition, offset)) {
                Some(&was) if was != value => {
                    breaches.push(Breach::Changed { partition, offset, was, is: Some(value) });
                }
                _ => {}
            }
        }
        breaches
    }

    /// Judges the run against the final content of every partition, each read to its end after all faults healed:
    /// `committed` by a read-committed reader, `all` by a read-uncommitted one.
    pub fn check(&self, all: &Contents, committed: &Contents) -> Vec<Breach> {
        let mut breaches = self.breaches.clone();
        self.check_acks(all, committed, &mut breaches);
        self.check_reads(all, &mut breaches);
        self.check_order(all, &mut breaches);
        self.check_transactions(committed, &mut breaches);
        self.check_searches(all, &mut breaches);
        breaches
    }

    fn start_of(&self, partition: Partition) -> i64 {
        self.log_start.get(&partition).copied().unwrap_or(0)
    }

    fn aborted(&self, send: &Send) -> bool {
        send.txn.is_some_and(|txn| self.outcomes.get(&txn) == Some(&Outcome::Aborted))
    }

    fn check_acks(&self, all: &Contents, committed: &Contents, breaches: &mut Vec<Breach>) {
        for (value, offset) in &self.acks {
            let Some(send) = self.sends.get(value) else { continue };
            if !send.durable || *offset < self.start_of(send.partition) {
                continue;
            }
            // A transaction's record may be dropped from view by an abort, never from the log itself.
            let view = match send.txn {
                Some(txn) if self.outcomes.get(&txn) == Some(&Outcome::Committed) => committed,
                _ => all,
            };
            let found = view.at(send.partition, *offset);
            if found != Some(*value) {
                let (value, offset, partition) = (*value, *offset, send.partition);
                breaches.push(Breach::Lost { value, partition, offset, found });
            }
        }
    }

    fn check_reads(&self, all: &Contents, breaches: &mut Vec<Breach>) {
        for (&(partition, offset), &was) in &self.reads {
            let is = all.at(partition, offset);
            if offset >= self.start_of(partition) && is != Some(was) {
                breaches.push(Breach::Changed { partition, offset, was, is });
            }
        }
    }

    fn check_order(&self, all: &Contents, breaches: &mut Vec<Breach>) {
        for (&partition, records) in &all.0 {
            let mut places: BTreeMap<Value, Vec<i64>> = BTreeMap::new();
            let mut last: BTreeMap<u32, (u64, Value)> = BTreeMap::new();
            for (&offset, &(value, _)) in records {
                let Some(send) = self.sends.get(&value).filter(|send| send.partition == partition) else {
                    breaches.push(Breach::Invented { partition, offset, value });
                    continue;
                };
                let seen = places.entry(value).or_default();
                seen.push(offset);
                if !send.idempotent || seen.len() > 1 {
                    continue;
                }
                match last.insert(send.producer, (send.order, value)) {
                    Some((order, later)) if order > send.order => {
                        breaches.push(Breach::Reordered { partition, earlier: value, later });
                    }
                    _ => {}
                }
            }
            for (value, offsets) in places {
                if offsets.len() > 1 && self.sends.get(&value).is_some_and(|send| send.idempotent) {
                    breaches.push(Breach::Repeated { value, partition, offsets });
                }
            }
        }
    }

    /// What the partitions hold at the end judges earlier searches too: nothing that could be read then is gone now, and what
    /// came later stands behind it.
    fn check_searches(&self, all: &Contents, breaches: &mut Vec<Breach>) {
        for &(partition, sought, found) in &self.searches {
            let Some(records) = all.0.get(&partition) else { continue };
            let start = self.start_of(partition);
            let right = match sought {
                Sought::From(offset) if offset < start => continue,
                Sought::From(offset) => records.range(offset..).next(),
                // What is found may be the marker of a transaction, which no consumer is given.
                Sought::Since(time) => records
                    .range(start..)
                    .find(|(offset, record)| record.1 >= time && **offset <= found)
                    .or_else(|| records.range(found..).next()),
            };
            let exact = records.contains_key(&found) || matches!(sought, Sought::From(_));
            let Some((&right, record)) = right else { continue };
            let too_early = matches!(sought, Sought::Since(time) if right == found && record.1 < time);
            if (exact && right != found) || right < found || too_early {
                breaches.push(Breach::Misled { partition, sought, found, right });
            }
        }
    }

    fn check_transactions(&self, committed: &Contents, breaches: &mut Vec<Breach>) {
        let visible: BTreeMap<Value, (Partition, i64)> =
            committed.iter().map(|(p, o, v)| (v, (p, o))).collect();
        let mut shown: BTreeSet<Txn> = BTreeSet::new();
        for (&value, &(partition, offset)) in visible.iter().chain(&self.committed_reads) {
            let Some(send) = self.sends.get(&value) else { continue };
            let breach = Breach::AbortedRead { partition, offset, value };
            if self.aborted(send) && !breaches.contains(&breach) {
                breaches.push(breach);
            }
            shown.extend(send.txn);
        }
        // One whose outcome its producer never learned is all or nothing too: of what was acknowledged, all shows or none.
        for (value, send) in &self.sends {
            let Some(txn) = send.txn else { continue };
            let known = self.outcomes.get(&txn) == Some(&Outcome::Committed);
            let Some(offset) = self.acks.get(value) else { continue };
            let whole = known || shown.contains(&txn);
            if whole && *offset >= self.start_of(send.partition) && !visible.contains_key(value) {
                breaches.push(Breach::Torn { txn, missing: *value });
            }
        }
    }
}

/// What partitions hold, by offset: values with their timestamps in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Contents(BTreeMap<Partition, BTreeMap<i64, (Value, i64)>>);

impl Contents {
    /// Puts in one record.
    pub fn put(&mut self, partition: Partition, offset: i64, value: Value, timestamp_ms: i64) {
        self.0.entry(partition).or_default().insert(offset, (value, timestamp_ms));
    }

    fn at(&self, partition: Partition, offset: i64) -> Option<Value> {
        self.0.get(&partition)?.get(&offset).map(|(value, _)| *value)
    }

    fn iter(&self) -> impl Iterator<Item = (Partition, i64, Value)> + '_ {
        self.0.iter().flat_map(|(p, records)| records.iter().map(move |(o, (v, _))| (*p, *o, *v)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(order: u64) -> Send {
        Send { partition: 0, producer: 1, order, idempotent: true, durable: true, txn: None }
    }

    fn contents(records: &[(i64, Value)]) -> Contents {
        let mut all = Contents::default();
        for (offset, value) in records {
            all.put(0, *offset, *value, 1000 + *offset);
        }
        all
    }

    fn check(
        build: impl FnOnce(&mut History),
        all: &[(i64, Value)],
        committed: &[(i64, Value)],
    ) -> Vec<String> {
        let mut history = History::default();
        for value in 0..3 {
            history.sent(value, send(value));
        }
        for value in 10..12 {
            history.sent(value, Send { txn: Some(1), producer: 2, ..send(value) });
        }
        build(&mut history);
        let name = |b: &Breach| b.to_string().split(':').next().unwrap_or_default().to_owned();
        history.check(&contents(all), &contents(committed)).iter().map(name).collect()
    }

    #[test]
    fn each_rule_catches_its_breach_and_nothing_else() {
        let whole = [(0, 0), (1, 1), (2, 2)];
        assert!(check(|h| (0..3).for_each(|v| h.acked(v, v as i64)), &whole, &whole).is_empty());
        assert_eq!(check(|h| h.acked(2, 2), &whole[..2], &whole[..2]), ["lost"]);
        assert_eq!(check(|_| (), &[(0, 0), (1, 1), (2, 1)], &[]), ["repeated"]);
        assert_eq!(check(|_| (), &[(0, 1), (1, 0)], &[]), ["reordered"]);
        assert_eq!(check(|h| h.read(0, 2, 2, false), &whole[..2], &[]), ["changed"]);
        assert_eq!(check(|_| (), &[(0, 77)], &[]), ["invented"]);
        let back = |h: &mut History| {
            h.committed("g", 0, 5);
            h.answered("g", 0, h.floor("g", 0), 5);
            h.answered("g", 0, h.floor("g", 0), 4);
        };
        assert_eq!(check(back, &[], &[]), ["went back"]);
        let shrinks = |h: &mut History| {
            h.ended_at(0, 5, 5);
            h.ended_at(0, 5, 4);
        };
        assert_eq!(check(shrinks, &[], &[]), ["shrunk"]);
        let search = |sought: Sought, found: i64| {
            let misled = check(|h| h.searched(0, sought, found), &whole, &whole);
            misled.first().map(|name| name.as_str() == "misled").unwrap_or_default()
        };
        assert!(!search(Sought::From(1), 1) && search(Sought::From(1), 2) && search(Sought::From(1), 0));
        assert!(!search(Sought::Since(1001), 1) && search(Sought::Since(1001), 2));
        assert!(search(Sought::Since(1001), 0) && !search(Sought::Since(1002), 2));
        let gone = |h: &mut History| {
            h.acked(0, 0);
            h.log_start(0, 1);
        };
        assert!(check(gone, &whole[1..], &whole[1..]).is_empty());
    }

    #[test]
    fn transactions_are_whole_or_unseen() {
        let acked = |h: &mut History| {
            h.acked(10, 0);
            h.acked(11, 1);
        };
        let log = [(0, 10), (1, 11)];
        let with = |outcome: Option<Outcome>, seen: &[(i64, Value)]| {
            check(
                |h| {
                    acked(h);
                    outcome.into_iter().for_each(|o| h.ended(1, o));
                },
                &log,
                seen,
            )
        };
        assert!(with(Some(Outcome::Committed), &log).is_empty());
        assert!(with(Some(Outcome::Aborted), &[]).is_empty());
        assert!(with(None, &log).is_empty() && with(None, &[]).is_empty());
        assert_eq!(with(None, &log[..1]), ["torn"]);
        assert_eq!(with(Some(Outcome::Committed), &log[..1]), ["lost", "torn"]);
        assert_eq!(with(Some(Outcome::Aborted), &log), ["aborted read", "aborted read"]);
    }
}
