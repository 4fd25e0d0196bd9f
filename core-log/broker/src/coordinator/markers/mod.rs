//! Markers on their way: the ends of transactions, from their coordinators to every partition, wherever it is led.
//!
//! A marker is sent until its partition has it below the mark, following the partition's leader; a partition that was deleted
//! needs none. What goes to one broker goes in batches: several requests may be under way, so that a partition which takes
//! long holds up no others.

mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytestring::ByteString;
use millstream_env::TaskGroup;
use millstream_machine::TransactionOutcome;
use millstream_machine::transaction::{Coordinator, Input, Marker};
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic};
use millstream_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use millstream_record::{NodeId, TopicPartition};
use parking_lot::Mutex;

pub(crate) use writer::{Ending, MarkerWriter, WRITE_TIMEOUT};

use super::host::Host;
use crate::peers::Peers;

/// How long a marker waits before it is tried again, where its partition cannot take it yet or nobody leads it.
const RETRY: Duration = Duration::from_millis(50);
/// Requests that may be under way to one broker.
const LANES_PER_BROKER: usize = 4;
/// Partitions that one request names.
const PARTITIONS_PER_REQUEST: usize = 1000;
/// How long a broker may take to answer beyond what it lets a marker wait.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Takes markers to where they belong.
pub(crate) struct Markers {
    writer: MarkerWriter,
    peers: Peers,
    tasks: TaskGroup,
    state: Mutex<State>,
}

/// Bounded by the open transactions of the coordinators here: each partition of each is in it once.
#[derive(Default)]
struct State {
    lanes: BTreeMap<NodeId, Lanes>,
    /// What is tried again after a while.
    parked: Vec<Errand>,
}

#[derive(Default)]
struct Lanes {
    waiting: VecDeque<Errand>,
    running: usize,
    /// Links of lanes that have ended.
    idle: Vec<Peers>,
}

/// One marker on its way to one partition.
#[derive(Clone)]
struct Errand {
    host: Weak<Host<Coordinator>>,
    marker: Arc<Marker>,
    partition: TopicPartition,
}

enum Destination {
    Here,
    At(NodeId),
    /// Nobody leads the partition at the moment.
    Nowhere,
    /// The partition was deleted.
    Gone,
}

impl Markers {
    pub(crate) fn new(writer: MarkerWriter, peers: Peers, tasks: TaskGroup) -> Arc<Self> {
        Arc::new(Self { writer, peers, tasks, state: Mutex::default() })
    }

    /// Has a transaction's end written to all its partitions; the coordinator is told of each.
    pub(super) fn send(self: &Arc<Self>, host: &Arc<Host<Coordinator>>, marker: Marker) {
        let marker = Arc::new(marker);
        for partition in marker.partitions.clone() {
            self.route(Errand { host: Arc::downgrade(host), marker: Arc::clone(&marker), partition });
        }
    }

    fn route(self: &Arc<Self>, errand: Errand) {
        if !errand.is_wanted() {
            return; // the next coordinator of the transaction goes on
        }
        match self.destination(&errand.partition) {
            Destination::Here => {
                let (me, ending) = (Arc::clone(self), Ending::from(&*errand.marker));
                let partition = errand.partition.clone();
                self.writer.write(&partition, ending, move |code| me.settle(errand, code));
            }
            Destination::At(node) => self.enqueue(node, errand),
            Destination::Nowhere => self.park(vec![errand]),
            Destination::Gone => errand.written(),
        }
    }

    fn destination(&self, at: &TopicPartition) -> Destination {
        let image = self.writer.image();
        match image.partition(&at.topic, at.partition).map(|partition| partition.leader) {
            None => Destination::Gone,
            Some(None) => Destination::Nowhere,
            Some(Some(leader)) if leader == self.peers.me() => Destination::Here,
            Some(Some(leader)) => Destination::At(leader),
        }
    }

    fn enqueue(self: &Arc<Self>, node: NodeId, errand: Errand) {
        let starts = {
            let mut state = self.state.lock();
            let lanes = state.lanes.entry(node).or_default();
            lanes.waiting.push_back(errand);
            let starts = lanes.running < LANES_PER_BROKER;
            lanes.running += usize::from(starts);
            starts
        };
        if starts {
            self.tasks.spawn("markers", Arc::clone(self).run_lane(node));
        }
    }

    /// One request after another to one broker, until nothing waits.
    async fn run_lane(self: Arc<Self>, node: NodeId) {
        let left = self.state.lock().lanes.get_mut(&node).and_then(|lanes| lanes.idle.pop());
        let mut links = Some(left.unwrap_or_else(|| self.peers.fork()));
        while let Some(batch) = self.next_batch(node, &mut links) {
            let Some(peers) = &links else { return };
            let within = WRITE_TIMEOUT.saturating_add(ANSWER_MARGIN);
            match peers.ask(node, within, request(&batch)).await {
                Ok(response) => self.take_up(batch, &response),
                Err(_) => self.park(batch),
            }
        }
    }

    /// What the next request to `node` says; none when this lane is not needed any more, which then leaves its links.
    fn next_batch(&self, node: NodeId, peers: &mut Option<Peers>) -> Option<Vec<Errand>> {
        let mut state = self.state.lock();
        let lanes = state.lanes.get_mut(&node)?;
        let mut batch: Vec<Errand> = Vec::new();
        let mut by_producer: BTreeMap<i64, Ending> = BTreeMap::new();
        let mut later = VecDeque::new();
        while batch.len() < PARTITIONS_PER_REQUEST
            && let Some(errand) = lanes.waiting.pop_front()
        {
            let ending = Ending::from(&*errand.marker);
            if !errand.is_wanted() {
                continue;
            }
            // The answer names a marker by its producer alone, so of each there is one in a request.
            if *by_producer.entry(ending.producer_id.0).or_insert(ending) == ending {
                batch.push(errand);
            } else {
                later.push_back(errand);
            }
        }
        lanes.waiting.extend(later);
        if batch.is_empty() {
            lanes.running -= 1;
            lanes.idle.extend(peers.take());
            return None;
        }
        Some(batch)
    }

    fn take_up(self: &Arc<Self>, batch: Vec<Errand>, response: &WriteTxnMarkersResponse) {
        let mut codes: BTreeMap<(i64, &str, i32), ErrorCode> = BTreeMap::new();
        for marker in &response.markers {
            for topic in &marker.topics {
                for one in &topic.partitions {
                    let key = (marker.producer_id, &*topic.name, one.partition_index);
                    codes.insert(key, ErrorCode::from_code(one.error_code));
                }
            }
        }
        for errand in batch {
            let (producer, at) = (errand.marker.producer_id.0, &errand.partition);
            let code = codes.get(&(producer, &*at.topic, at.partition)).copied();
            self.settle(errand, code.unwrap_or(ErrorCode::UnknownServerError));
        }
    }

    /// A leader answered.
    fn settle(self: &Arc<Self>, errand: Errand, code: ErrorCode) {
        match code {
            // A newer epoch of the producer wrote already: the transaction is over there.
            ErrorCode::None | ErrorCode::InvalidProducerEpoch => errand.written(),
            ErrorCode::TransactionCoordinatorFenced => {
                let (id, partition) = (&errand.marker.transactional_id, &errand.partition);
                tracing::info!(%id, %partition, "another coordinator ends this transaction");
            }
            code => {
                tracing::debug!(partition = %errand.partition, %code, "a marker is not written yet; it is tried again");
                self.park(vec![errand]);
            }
        }
    }

    /// Tries again after a while, wherever the partitions are led then.
    fn park(self: &Arc<Self>, errands: Vec<Errand>) {
        let is_first = {
            let mut state = self.state.lock();
            let is_first = state.parked.is_empty();
            state.parked.extend(errands);
            is_first && !state.parked.is_empty()
        };
        if !is_first {
            return; // who parked before wakes these, too
        }
        let me = Arc::clone(self);
        self.tasks.spawn("parked markers", async move {
            me.tasks.env().sleep(RETRY).await;
            let parked = std::mem::take(&mut me.state.lock().parked);
            parked.into_iter().for_each(|errand| me.route(errand));
        });
    }
}

impl Errand {
    /// Whether the coordinator that sent it still is the one.
    fn is_wanted(&self) -> bool {
        self.host.upgrade().is_some_and(|host| host.is_current())
    }

    fn written(self) {
        let Some(host) = self.host.upgrade() else { return };
        host.tell(Input::MarkerWritten {
            transactional_id: self.marker.transactional_id.clone(),
            producer_id: self.marker.producer_id,
            producer_epoch: self.marker.producer_epoch,
            partition: self.partition,
        });
    }
}

/// The request that says what a batch has to say; it holds one end for each producer.
fn request(batch: &[Errand]) -> WriteTxnMarkersRequest {
    let mut by_producer: BTreeMap<i64, (Ending, BTreeMap<&str, Vec<i32>>)> = BTreeMap::new();
    for Errand { marker, partition, .. } in batch {
        let ending = Ending::from(&**marker);
        let (_, topics) =
            by_producer.entry(ending.producer_id.0).or_insert_with(|| (ending, BTreeMap::new()));
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let marker = |(ending, topics): (Ending, BTreeMap<&str, Vec<i32>>)| WritableTxnMarker {
        producer_id: ending.producer_id.0,
        producer_epoch: ending.producer_epoch.0,
        transaction_result: ending.outcome == TransactionOutcome::Commit,
        topics: topics
            .into_iter()
            .map(|(name, partition_indexes)| WritableTxnMarkerTopic {
                name: ByteString::from(name),
                partition_indexes,
            })
            .collect(),
        coordinator_epoch: ending.coordinator_epoch,
        ..WritableTxnMarker::default()
    };
    WriteTxnMarkersRequest { markers: by_producer.into_values().map(marker).collect() }
}
