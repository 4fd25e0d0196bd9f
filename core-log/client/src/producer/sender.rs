//! The producer's task: brings batches to the leaders of their partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millstream_protocol::messages::init_producer_id::InitProducerIdRequest;
use millstream_protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millstream_protocol::{CallError, Endpoint, ErrorCode, Link, Response};
use millstream_record::{ProducerEpoch, ProducerId, TopicPartition};

use super::Shared;
use super::queue::{Identity, NOBODY, Next};
use super::state::Slot;
use super::transaction::Phase;
use crate::metadata::{Leader, Metadata};
use crate::retry::retry;
use crate::{ClientError, Result};

/// What the task waits for, apart from time and callers.
enum Event {
    Linked { node: i32, link: Result<Arc<dyn Link>> },
    Answered { node: i32, endpoint: Endpoint, link: Arc<dyn Link>, asked: Asked, answer: Answer },
    Refreshed,
    Identified(Result<Identity>),
    Added(BTreeSet<TopicPartition>, Result<()>),
}

type Answer = Result<Response, CallError>;

/// What was in a request: its batches, and the metadata that it was made with. A newer one may have lost a topic whose id the answer
/// names.
pub(super) struct Asked {
    pub batches: Vec<(Slot, u64)>,
    pub metadata: Arc<Metadata>,
}

/// A leader, as the task sees it.
#[derive(Default)]
struct Node {
    link: Option<Arc<dyn Link>>,
    dialling: bool,
    in_flight: usize,
    /// Monotonic time before which it is not dialled again.
    dial_at: Duration,
}

struct Sender {
    shared: Arc<Shared>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    nodes: BTreeMap<i32, Node>,
    refreshing: bool,
    identifying: bool,
    /// Where the walk over the partitions begins, so that none is always last.
    turn: usize,
}

/// Batches that may go to a node now.
struct Ready {
    leader: Leader,
    slots: Vec<Slot>,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut sender = Sender {
        shared,
        events: FuturesUnordered::new(),
        nodes: BTreeMap::new(),
        refreshing: false,
        identifying: false,
        turn: 0,
    };
    sender.run().await;
}

impl Sender {
    async fn run(&mut self) {
        loop {
            let shared = Arc::clone(&self.shared);
            let wake = shared.wake.notified();
            let Some(until) = self.step() else { return };
            let sleep = shared.cluster.env.sleep_until(until);
            tokio::select! {
                biased;
                Some(event) = self.events.next(), if !self.events.is_empty() => self.handle(event),
                () = wake => {}
                () = sleep => {}
            }
        }
    }

    /// Does what can be done now, and tells when to look again; `None` once the producer is closed.
    fn step(&mut self) -> Option<Duration> {
        let shared = Arc::clone(&self.shared);
        let now = shared.cluster.env.elapsed();
        if shared.state.lock().closed {
            return None;
        }
        let mut until = self.expire(now);
        self.tell_coordinator();
        if shared.config.enable_idempotence && shared.state.lock().identity == NOBODY {
            self.ask_identity();
            return Some(until);
        }
        let metadata = shared.cluster.metadata();
        let (ready, later, leaderless) = self.ready(now, &metadata);
        until = until.min(later);
        if leaderless || (!shared.state.lock().active.is_empty() && shared.cluster.is_stale()) {
            self.refresh(metadata.version);
        }
        for ready in ready.into_values() {
            until = until.min(self.serve(now, ready));
        }
        Some(until)
    }

    /// Fails what waits too long; tells when the next batch will have done so.
    fn expire(&mut self, now: Duration) -> Duration {
        let shared = &self.shared;
        let patience = Duration::from_millis(shared.config.delivery_timeout_ms);
        let mut next = Duration::MAX;
        let mut expired = Vec::new();
        let mut state = shared.state.lock();
        for slot in state.active.clone() {
            let Some(queue) = state.queues.get_mut(slot) else { continue };
            let due = queue.oldest().map(|oldest| oldest.saturating_add(patience));
            if due.is_some_and(|due| due <= now) {
                let (batches, _) =
                    queue.expire(now.saturating_sub(patience).saturating_add(Duration::from_nanos(1)));
                let what = format!("delivering to {}", queue.partition);
                let last = queue.last_error.take().or_else(|| state.unidentified.clone());
                let error = ClientError::TimedOut {
                    what,
                    timeout_ms: shared.config.delivery_timeout_ms,
                    last: last.map(Arc::new),
                };
                state.fail_transaction(error.clone());
                expired.push((batches, error));
                state.settle(slot);
            } else if let Some(due) = due {
                next = next.min(due);
            }
        }
        if let Phase::Failed(cause) = &state.transaction.phase {
            // What was not sent of a failed transaction never will be.
            let error = ClientError::AbortRequired { cause: Arc::clone(cause) };
            let (dropped, _) = state.drop_unsent();
            expired.push((dropped, error));
        }
        drop(state);
        for (batches, error) in expired.into_iter().filter(|(batches, _)| !batches.is_empty()) {
            shared.finish_batches(batches, &error);
        }
        next
    }

    /// Tells the transaction's coordinator of new partitions.
    fn tell_coordinator(&mut self) {
        let Some(partitions) = self.shared.state.lock().transaction.take_new() else { return };
        let shared = Arc::clone(&self.shared);
        let told = async move {
            let done = shared.add_partitions(&partitions).await;
            Event::Added(partitions, done)
        };
        self.events.push(told.boxed());
    }

    /// Gets a producer id, when there is something to send.
    fn ask_identity(&mut self) {
        let wanted = {
            let state = self.shared.state.lock();
            matches!(state.transaction.phase, Phase::Plain) && !state.active.is_empty()
        };
        if !wanted || self.identifying {
            return;
        }
        self.identifying = true;
        let shared = Arc::clone(&self.shared);
        self.events.push(async move { Event::Identified(shared.new_identity().await) }.boxed());
    }

    fn refresh(&mut self, seen: u64) {
        if self.refreshing {
            return;
        }
        self.refreshing = true;
        let cluster = Arc::clone(&self.shared.cluster);
        let refreshed = async move {
            if let Err(error) = cluster.refresh(seen).await {
                tracing::debug!(%error, "a producer cannot refresh its metadata; it tries again");
            }
            Event::Refreshed
        };
        self.events.push(refreshed.boxed());
    }

    /// What may be sent now, by leader; when more will be; and whether a leader is not known.
    fn ready(&mut self, now: Duration, metadata: &Metadata) -> (BTreeMap<i32, Ready>, Duration, bool) {
        let config = &self.shared.config;
        let linger = Duration::from_millis(config.linger_ms);
        let state = self.shared.state.lock();
        let hurry =
            state.hurrying > 0 || state.starving > 0 || matches!(state.transaction.phase, Phase::Committing);
        let mut slots: Vec<Slot> = state.active.iter().copied().collect();
        self.turn = if slots.is_empty() { 0 } else { (self.turn + 1) % slots.len() };
        slots.rotate_left(self.turn);
        let (mut ready, mut later, mut leaderless) = (BTreeMap::new(), Duration::MAX, false);
        for slot in slots {
            let Some(queue) = state.queues.get(slot) else { continue };
            if !state.transaction.admits(&queue.partition) {
                continue;
            }
            match queue.ready_at(state.identity, linger, hurry, config.max_in_flight) {
                None => {}
                Some(at) if at > now => later = later.min(at),
                Some(_) => match metadata.leader(&queue.partition.topic, queue.partition.partition) {
                    Some(leader) => ready
                        .entry(leader.node)
                        .or_insert_with(|| Ready { leader, slots: Vec::new() })
                        .slots
                        .push(slot),
                    None => leaderless = true,
                },
            }
        }
        (ready, later, leaderless)
    }

    /// Sends to one leader, or opens the way to it; tells when to look again if neither can be done.
    fn serve(&mut self, now: Duration, ready: Ready) -> Duration {
        let node = self.nodes.entry(ready.leader.node).or_default();
        if node.link.as_ref().is_some_and(|link| link.is_closed()) {
            node.link = None;
            // With acks=0 this is all that a broker says which does not lead any more.
            self.shared.cluster.mark_stale();
        }
        match &node.link {
            Some(link) if node.in_flight < self.shared.config.max_in_flight => {
                let link = Arc::clone(link);
                self.send(ready, link);
            }
            Some(_) => {}
            None if node.dialling => {}
            None if node.dial_at > now => return node.dial_at,
            None => self.dial(ready.leader),
        }
        Duration::MAX
    }

    fn dial(&mut self, leader: Leader) {
        let Leader { node, endpoint, .. } = leader;
        self.nodes.entry(node).or_default().dialling = true;
        let shared = Arc::clone(&self.shared);
        self.events
            .push(async move { Event::Linked { node, link: shared.links.get(&endpoint).await } }.boxed());
    }

    /// One request with a batch of each partition.
    fn send(&mut self, ready: Ready, link: Arc<dyn Link>) {
        let shared = Arc::clone(&self.shared);
        let taken = shared.take_batches(&ready.slots);
        let mut batches = Vec::with_capacity(taken.len());
        let mut topics: BTreeMap<Arc<str>, Vec<PartitionProduceData>> = BTreeMap::new();
        for (slot, partition, next) in taken {
            let Some((ticket, bytes)) = shared.build(slot, next) else { continue };
            batches.push((slot, ticket));
            let data = PartitionProduceData { index: partition.partition, records: Some(bytes) };
            topics.entry(partition.topic).or_default().push(data);
        }
        if batches.is_empty() {
            return;
        }
        let metadata = shared.cluster.metadata();
        let topic = |(name, partition_data): (Arc<str>, _)| TopicProduceData {
            name: (&*name).into(),
            topic_id: metadata.topic_id(&name),
            partition_data,
        };
        let request = ProduceRequest {
            transactional_id: shared.config.transactional_id.clone(),
            acks: shared.config.acks.code(),
            timeout_ms: i32::try_from(shared.cluster.config.request_timeout_ms).unwrap_or(i32::MAX),
            topic_data: topics.into_iter().map(topic).collect(),
        };
        let asked = Asked { batches, metadata };
        let timeout = Duration::from_millis(shared.cluster.config.request_timeout_ms);
        let receipt = shared.links.begin(&link, request, timeout);
        let Leader { node, endpoint, .. } = ready.leader;
        self.nodes.entry(node).or_default().in_flight += 1;
        let answered = async move {
            let answer =
                shared.cluster.env.timeout(timeout, receipt).await.unwrap_or(Err(CallError::TimedOut));
            Event::Answered { node, endpoint, link, asked, answer }
        };
        self.events.push(answered.boxed());
    }

    fn handle(&mut self, event: Event) {
        let shared = Arc::clone(&self.shared);
        match event {
            Event::Refreshed => self.refreshing = false,
            Event::Identified(identity) => {
                self.identifying = false;
                shared.identified(identity);
            }
            Event::Added(partitions, done) => shared.added(partitions, done),
            Event::Linked { node, link } => {
                let backoff = Duration::from_millis(shared.cluster.config.retry_backoff_ms);
                let node = self.nodes.entry(node).or_default();
                node.dialling = false;
                match link {
                    Ok(link) => node.link = Some(link),
                    Err(error) => {
                        tracing::debug!(%error, "a producer cannot reach a leader; it tries again");
                        node.dial_at = shared.cluster.env.elapsed().saturating_add(backoff);
                        shared.cluster.mark_stale();
                    }
                }
            }
            Event::Answered { node, endpoint, link, asked, answer } => {
                let node = self.nodes.entry(node).or_default();
                node.in_flight -= 1;
                let broken = matches!(&answer, Err(error) if error.is_retriable());
                if broken && node.link.as_ref().is_some_and(|open| Arc::ptr_eq(open, &link)) {
                    node.link = None;
                    shared.links.forget(&endpoint, &link);
                    shared.cluster.mark_stale();
                }
                shared.landed(&endpoint, &asked, answer);
            }
        }
        shared.progress.notify_waiters();
    }
}

impl Shared {
    /// Takes a batch of each partition, as many as one request may hold.
    fn take_batches(&self, slots: &[Slot]) -> Vec<(Slot, TopicPartition, Next)> {
        let mut state = self.state.lock();
        let mut bytes = 0;
        let mut taken = Vec::with_capacity(slots.len());
        for &slot in slots {
            let needs_new_epoch =
                state.queues.get(slot).is_some_and(|queue| queue.needs_new_epoch(state.identity));
            if needs_new_epoch && matches!(state.transaction.phase, Phase::Plain) {
                state.bump_epoch();
            }
            if self.config.enable_idempotence && state.identity == NOBODY {
                break; // the epoch ran out, and the sender asks for a new id
            }
            let (ticket, identity) = (state.ticket(), state.identity);
            let Some(queue) = state.queues.get_mut(slot) else { continue };
            let size = queue.next_size();
            if !taken.is_empty() && bytes + size > self.config.max_request_size {
                break;
            }
            if let Some(next) = queue.next(identity, ticket) {
                bytes += size;
                taken.push((slot, queue.partition.clone(), next));
            }
        }
        taken
    }

    /// The bytes of a batch, compressed outside of the lock.
    fn build(&self, slot: Slot, next: Next) -> Option<(u64, Bytes)> {
        let (ticket, builder) = match next {
            Next::Again { ticket, bytes } => return Some((ticket, bytes)),
            Next::Build { ticket, builder } => (ticket, builder),
        };
        let built = builder.build().map(bytes::BytesMut::freeze);
        let mut state = self.state.lock();
        let queue = state.queues.get_mut(slot)?;
        match built {
            Ok(bytes) => {
                queue.built(ticket, bytes.clone());
                Some((ticket, bytes))
            }
            Err(source) => {
                let batch = queue.land(ticket)?;
                queue.renumber(batch.sequence);
                let error = ClientError::Record { partition: queue.partition.clone(), source };
                state.fail_transaction(error.clone());
                state.settle(slot);
                drop(state);
                self.finish_batches(vec![batch.common], &error);
                None
            }
        }
    }

    /// A producer id from any broker, for a producer without transactions.
    async fn new_identity(&self) -> Result<Identity> {
        let (cluster, request) = (
            &self.cluster,
            InitProducerIdRequest {
                transactional_id: None,
                transaction_timeout_ms: i32::MAX,
                producer_id: -1,
                producer_epoch: -1,
                ..InitProducerIdRequest::default()
            },
        );
        let what = "getting a producer id";
        retry(&cluster.env, &cluster.config, what, self.config.delivery_timeout_ms, || async {
            let answer = cluster.ask_any(request.clone()).await;
            let identity = answer.and_then(|answer| match ErrorCode::from_code(answer.error_code) {
                ErrorCode::None => Ok(Identity {
                    id: ProducerId(answer.producer_id),
                    epoch: ProducerEpoch(answer.producer_epoch),
                }),
                code => Err(ClientError::broker("InitProducerId", "an idempotent producer", code)),
            });
            // Records that wait for it so long that they fail say so.
            self.state.lock().unidentified = identity.as_ref().err().cloned();
            identity
        })
        .await
    }

    fn identified(&self, identity: Result<Identity>) {
        match identity {
            Ok(identity) => self.state.lock().identity = identity,
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "an idempotent producer has no id yet; it goes on asking");
            }
            Err(error) => self.give_up(error),
        }
    }

    /// Fails the producer and everything that it holds.
    pub(super) fn give_up(&self, error: ClientError) {
        let (fatal, dropped) = {
            let mut state = self.state.lock();
            state.fail(error);
            (state.fatal.clone().expect("it was just set"), state.drop_all())
        };
        self.finish_batches(dropped, &fatal);
    }

    /// The coordinator knows of partitions, or refuses them.
    fn added(&self, partitions: BTreeSet<TopicPartition>, done: Result<()>) {
        let mut state = self.state.lock();
        state.transaction.adding = false;
        match done {
            Ok(()) => state.transaction.added.extend(partitions),
            Err(error) if error.is_fatal() => {
                drop(state);
                self.give_up(error);
            }
            Err(error) => state.fail_transaction(error),
        }
    }
}
