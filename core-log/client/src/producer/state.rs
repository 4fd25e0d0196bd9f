//! All that a producer knows, behind one short lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_record::{BatchOptions, Millis, ProducerEpoch, TopicPartition, record_size_upper_bound};

use super::Delivery;
use super::queue::{Common, Identity, NOBODY, Queue};
use super::transaction::{Phase, Transaction};
use crate::{ClientError, ProducerConfig, ProducerRecord, Result};

/// Index of a partition's queue.
pub(super) type Slot = usize;

#[derive(Debug)]
pub(super) struct State {
    /// Partition to slot, topic by topic; -1's place is the sticky choice.
    topics: BTreeMap<Arc<str>, Topic>,
    pub queues: Vec<Queue>,
    /// Slots with batches anywhere in them.
    pub active: BTreeSet<Slot>,
    pub identity: Identity,
    /// Why an idempotent producer has no identity yet.
    pub unidentified: Option<ClientError>,
    pub transaction: Transaction,
    /// Flushes under way: nothing lingers then.
    pub hurrying: usize,
    /// `send`s that wait for memory: nothing lingers then either.
    pub starving: usize,
    pub closed: bool,
    /// Why the producer cannot go on.
    pub fatal: Option<ClientError>,
    next_ticket: u64,
    /// Where the last record went: the next one is likely to go there, too.
    recent: Option<(Arc<str>, i32, Slot)>,
    /// How many partitions a topic has by a version of the metadata: what was asked for last.
    counted: Option<(Arc<str>, u64, i32)>,
}

#[derive(Debug, Default)]
struct Topic {
    slots: BTreeMap<i32, Slot>,
    sticky: Sticky,
}

/// The partition that records without key go to, until a batch's worth of bytes went there (KIP-794).
#[derive(Debug, Default)]
struct Sticky {
    partition: Option<i32>,
    bytes: usize,
}

/// A record's place: its delivery, and whether the sender should look.
pub(super) struct Placed {
    pub delivery: Delivery,
    pub wake: bool,
}

impl State {
    pub(super) fn new(config: &ProducerConfig) -> Self {
        Self {
            topics: BTreeMap::new(),
            queues: Vec::new(),
            active: BTreeSet::new(),
            identity: NOBODY,
            unidentified: None,
            transaction: Transaction::new(config.transactional_id.is_some()),
            hurrying: 0,
            starving: 0,
            closed: false,
            fatal: None,
            next_ticket: 0,
            recent: None,
            counted: None,
        }
    }

    /// Whether records may be sent now.
    pub(super) fn check_sendable(&self) -> Result<()> {
        if self.closed {
            return Err(ClientError::Closed { what: "producer" });
        }
        if let Some(error) = &self.fatal {
            return Err(error.clone());
        }
        self.transaction.check_open()
    }

    /// How many partitions a topic has, if that was asked for last.
    pub(super) fn counted(&self, topic: &Arc<str>, version: u64) -> Option<i32> {
        let (its_topic, its_version, count) = self.counted.as_ref()?;
        (Arc::ptr_eq(its_topic, topic) && *its_version == version).then_some(*count)
    }

    pub(super) fn set_counted(&mut self, topic: &Arc<str>, version: u64, count: i32) {
        self.counted = Some((Arc::clone(topic), version, count));
    }

    /// The partition for a record without key: the sticky one, or another once that had its share.
    pub(super) fn sticky(
        &mut self,
        topic: &Arc<str>,
        partitions: i32,
        bytes: usize,
        batch_size: usize,
        random: impl FnOnce(u64) -> u64,
    ) -> i32 {
        let sticky = &mut self.topics.entry(Arc::clone(topic)).or_default().sticky;
        match sticky.partition.filter(|partition| *partition < partitions && sticky.bytes < batch_size) {
            Some(partition) => {
                sticky.bytes += bytes;
                partition
            }
            None => {
                let chosen = random(partitions.unsigned_abs().into()) as i32;
                *sticky = Sticky { partition: Some(chosen), bytes };
                chosen
            }
        }
    }

    /// Puts a record into its partition's batch.
    pub(super) fn place(
        &mut self,
        config: &ProducerConfig,
        record: &ProducerRecord,
        partition: i32,
        timestamp: Millis,
        now: impl FnOnce() -> Duration,
    ) -> Result<Placed> {
        let options = BatchOptions {
            codec: config.compression,
            transactional: config.transactional_id.is_some(),
            ..BatchOptions::default()
        };
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let bytes = record_size_upper_bound(key, value, &record.headers);
        let slot = self.slot(&record.topic, partition);
        let queue = self.queues.get_mut(slot).expect("slots are indices of queues");
        let full_before = queue.full.len();
        let draft = queue.room(bytes, config.batch_size, options, now);
        let index = draft.builder.record_count();
        draft.builder.append(timestamp, key, value, &record.headers).map_err(|source| {
            ClientError::Record {
                partition: TopicPartition::new(Arc::clone(&record.topic), partition),
                source,
            }
        })?;
        draft.common.memory += bytes;
        let delivery = draft.common.outcome.delivery(index, timestamp);
        let full = draft.builder.size_bytes() >= config.batch_size;
        if full && let Some(draft) = queue.open.take() {
            queue.full.push_back(draft);
        }
        // A first record starts the linger; a full batch ends it. Between them the sender has nothing to learn.
        let wake = index == 0 || queue.full.len() > full_before;
        let queue_partition = &queue.partition;
        self.transaction.touch(queue_partition);
        self.active.insert(slot);
        Ok(Placed { delivery, wake })
    }

    fn slot(&mut self, topic: &Arc<str>, partition: i32) -> Slot {
        if let Some((recent, its_partition, slot)) = &self.recent
            && Arc::ptr_eq(recent, topic)
            && *its_partition == partition
        {
            return *slot;
        }
        let known = self.topics.get(topic).and_then(|topic| topic.slots.get(&partition)).copied();
        let slot = known.unwrap_or_else(|| {
            let slot = self.queues.len();
            self.queues.push(Queue::new(TopicPartition::new(Arc::clone(topic), partition)));
            self.topics.entry(Arc::clone(topic)).or_default().slots.insert(partition, slot);
            slot
        });
        self.recent = Some((Arc::clone(topic), partition, slot));
        slot
    }

    pub(super) fn partition(&self, slot: Slot) -> Option<&TopicPartition> {
        self.queues.get(slot).map(|queue| &queue.partition)
    }

    pub(super) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// Takes the queue out of the active ones once it has nothing left.
    pub(super) fn settle(&mut self, slot: Slot) {
        if self.queues.get(slot).is_none_or(Queue::is_idle) {
            self.active.remove(&slot);
        }
    }

    /// The next epoch, for batches that need a new run of sequences (KIP-360); an exhausted epoch needs a new id, which the
    /// sender asks for.
    pub(super) fn bump_epoch(&mut self) {
        self.identity = match self.identity.epoch.0.checked_add(1) {
            Some(epoch) if epoch < i16::MAX => Identity { epoch: ProducerEpoch(epoch), ..self.identity },
            _ => NOBODY,
        };
    }

    /// Takes out every batch that is not in flight, and says whether one of them had been sent.
    pub(super) fn drop_unsent(&mut self) -> (Vec<Common>, bool) {
        let (mut dropped, mut was_sent) = (Vec::new(), false);
        for slot in self.active.clone() {
            if let Some(queue) = self.queues.get_mut(slot) {
                let (batches, sent) = queue.drop_unsent();
                dropped.extend(batches);
                was_sent |= sent;
            }
            self.settle(slot);
        }
        (dropped, was_sent)
    }

    /// Takes out every batch, in flight or not.
    pub(super) fn drop_all(&mut self) -> Vec<Common> {
        let (mut dropped, _) = self.drop_unsent();
        for slot in std::mem::take(&mut self.active) {
            if let Some(queue) = self.queues.get_mut(slot) {
                dropped.extend(queue.in_flight.drain(..).map(|batch| batch.common));
            }
        }
        dropped
    }

    /// Deliveries that stand for all batches under way.
    pub(super) fn unfinished(&self) -> Vec<Delivery> {
        let queues = self.active.iter().filter_map(|slot| self.queues.get(*slot));
        let outcomes = queues.flat_map(|queue| {
            let sent = queue.in_flight.iter().chain(&queue.retry).map(|batch| &batch.common);
            sent.chain(queue.full.iter().chain(&queue.open).map(|draft| &draft.common))
        });
        outcomes.map(|common| common.outcome.delivery_of_all()).collect()
    }

    /// Whether a batch is on its way.
    pub(super) fn in_flight(&self) -> bool {
        self.active.iter().any(|slot| self.queues.get(*slot).is_some_and(|queue| !queue.in_flight.is_empty()))
    }

    /// The producer cannot go on.
    pub(super) fn fail(&mut self, error: ClientError) {
        if self.fatal.is_none() {
            let fatal = if error.is_fatal() { error } else { ClientError::Fatal { cause: Arc::new(error) } };
            self.fatal = Some(fatal);
        }
    }

    /// A record of the transaction failed.
    pub(super) fn fail_transaction(&mut self, cause: ClientError) {
        if matches!(self.transaction.phase, Phase::Open | Phase::Committing) {
            self.transaction.phase = Phase::Failed(Arc::new(cause));
        }
    }
}
