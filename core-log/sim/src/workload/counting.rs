//! A transactional producer that takes each answer at its word: a batch that was refused for lack of a leader is not written, so after
//! an abort the next transaction uses its sequence numbers again. librdkafka counts so. Our own client never uses a number twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_client::{Client, ClientError, Links};
use millstream_env::Env;
use millstream_net::TcpDial;
use millstream_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, ProduceRequest,
};
use millstream_protocol::{Endpoint, ErrorCode, Rpc};
use millstream_record::{BatchBuilder, BatchOptions, ProducerEpoch, ProducerId};

use super::{Scene, TOPIC};
use crate::history::{Outcome, Partition, Send, Value};

/// A producer that fails is replaced, at most so often.
const REPLACED_MAX: u64 = 60;
/// How often one request is sent.
const TRIES: u64 = 20;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait before the next try.
const PAUSE_MAX_MS: u64 = 300;

/// What became of a batch.
enum Batch {
    /// Its first record is at this offset.
    Written(i64),
    /// Not written, as every answer said.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One incarnation.
struct Counting<'a> {
    scene: &'a Scene,
    env: &'a Env,
    client: &'a Client,
    links: &'a Links,
    transactional_id: &'a str,
    number: u32,
    id: i64,
    epoch: i16,
    /// The next sequence number in each partition.
    next: BTreeMap<Partition, i32>,
    /// Where numbers were used again.
    again: BTreeSet<Partition>,
}

/// Runs transactions until `records` records were sent.
pub async fn count(scene: Scene, partitions: u32, records: u64) {
    let (env, client) = scene.client("counting");
    let links = Links::new(env.clone(), Arc::new(TcpDial::new(env.clone())), "counting".into(), PATIENCE);
    let transactional_id = format!("counting-{}", scene.fresh());
    let mut sent = 0;
    for _ in 0..REPLACED_MAX {
        let mut producer = Counting {
            scene: &scene,
            env: &env,
            client: &client,
            links: &links,
            transactional_id: &transactional_id,
            number: scene.fresh() as u32,
            id: -1,
            epoch: -1,
            next: BTreeMap::new(),
            again: BTreeSet::new(),
        };
        if !producer.begin().await {
            scene.dither(&env, 500).await;
            continue;
        }
        let (mut partition, mut size) = (0, 1);
        let mut goes_on = true;
        while goes_on && sent < records {
            sent += size;
            goes_on = match producer.one(partition, size).await {
                // The next one goes to the same place, and is mostly as long.
                Some(Batch::Refused) => {
                    if scene.sim.below(4) == 0 {
                        size = 1 + scene.sim.below(3);
                    }
                    true
                }
                Some(_) => {
                    partition = scene.sim.below(u64::from(partitions)) as Partition;
                    size = 1 + scene.sim.below(3);
                    true
                }
                None => false,
            };
            scene.dither(&env, 60).await;
        }
        if sent >= records {
            return;
        }
    }
}

impl Counting<'_> {
    /// Whether it has an id and an epoch.
    async fn begin(&mut self) -> bool {
        let request = InitProducerIdRequest {
            transactional_id: Some(self.transactional_id.into()),
            transaction_timeout_ms: 10_000,
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdRequest::default()
        };
        let granted = self.ask_coordinator(request, |answer| answer.error_code).await;
        if let Some(granted) = &granted {
            (self.id, self.epoch) = (granted.producer_id, granted.producer_epoch);
        }
        granted.is_some()
    }

    /// One transaction of one batch; nothing when the producer has to be replaced.
    async fn one(&mut self, partition: Partition, size: u64) -> Option<Batch> {
        let txn = self.scene.fresh();
        let values: Vec<Value> = (0..size).map(|_| self.scene.fresh()).collect();
        let send = |order| Send {
            partition,
            producer: self.number,
            order,
            idempotent: true,
            durable: true,
            txn: Some(txn),
        };
        self.add(partition).await?;
        values.iter().for_each(|&value| self.scene.history.lock().sent(value, send(value)));
        let batch = self.deliver(partition, &values).await;
        let commits = match batch {
            Batch::Written(first) => {
                for (&value, offset) in values.iter().zip(first..) {
                    self.scene.history.lock().acked(value, offset);
                }
                *self.next.entry(partition).or_default() += size as i32;
                self.scene.sim.below(4) != 0
            }
            Batch::Refused => {
                self.again.insert(partition);
                false
            }
            Batch::Unknown => return None,
        };
        let request = EndTxnRequest {
            transactional_id: self.transactional_id.into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            committed: commits,
        };
        self.ask_coordinator(request, |answer| answer.error_code).await?;
        let outcome = if commits { Outcome::Committed } else { Outcome::Aborted };
        self.scene.history.lock().ended(txn, outcome);
        Some(batch)
    }

    async fn add(&self, partition: Partition) -> Option<()> {
        let request = AddPartitionsToTxnRequest {
            transactions: vec![AddPartitionsToTxnTransaction {
                transactional_id: self.transactional_id.into(),
                producer_id: self.id,
                producer_epoch: self.epoch,
                verify_only: false,
                topics: vec![AddPartitionsToTxnTopic {
                    name: TOPIC.into(),
                    partitions: vec![partition as i32],
                }],
            }],
            ..AddPartitionsToTxnRequest::default()
        };
        let code = |answer: &<AddPartitionsToTxnRequest as Rpc>::Response| {
            let added = answer.results_by_transaction.first().and_then(|txn| txn.topic_results.first());
            let added = added.and_then(|topic| topic.results_by_partition.first());
            added.map_or(answer.error_code, |partition| partition.partition_error_code)
        };
        self.ask_coordinator(request, code).await.map(drop)
    }

    /// Sends one batch until it is known to be written, until it is refused and the producer has enough of that, or in vain.
    async fn deliver(&self, partition: Partition, values: &[Value]) -> Batch {
        let batch = self.batch(partition, values);
        let mut may_be_written = false;
        for _ in 0..TRIES {
            if let Some(leader) = self.leader(partition).await {
                let request = ProduceRequest {
                    transactional_id: Some(self.transactional_id.into()),
                    acks: -1,
                    timeout_ms: PATIENCE.as_millis() as i32,
                    topic_data: vec![TopicProduceData {
                        name: TOPIC.into(),
                        topic_id: leader.1,
                        partition_data: vec![PartitionProduceData {
                            index: partition as i32,
                            records: Some(batch.clone()),
                        }],
                    }],
                };
                let answer = self.links.call(&leader.0, request).await;
                let answer = answer.ok().and_then(|answer| {
                    let written = answer.responses.first()?.partition_responses.first()?;
                    Some((ErrorCode::from_code(written.error_code), written.base_offset))
                });
                match answer {
                    Some((ErrorCode::None, first)) => return Batch::Written(first),
                    Some((ErrorCode::NotLeaderOrFollower, _)) => {
                        if !may_be_written && self.scene.sim.below(4) != 0 {
                            return Batch::Refused;
                        }
                    }
                    Some((ErrorCode::UnknownProducerId, _)) if !self.again.contains(&partition) => {
                        panic!("a batch was refused as if its numbers had been used before");
                    }
                    None
                    | Some((ErrorCode::RequestTimedOut | ErrorCode::NotEnoughReplicasAfterAppend, _)) => {
                        may_be_written = true;
                    }
                    Some((code, _)) if code.is_retriable() => {}
                    Some((code, _)) => {
                        tracing::debug!(?code, partition, "a batch is not taken");
                        return Batch::Unknown;
                    }
                }
            }
            self.scene.dither(self.env, PAUSE_MAX_MS).await;
        }
        Batch::Unknown
    }

    fn batch(&self, partition: Partition, values: &[Value]) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions {
            transactional: true,
            producer_id: ProducerId(self.id),
            producer_epoch: ProducerEpoch(self.epoch),
            base_sequence: self.next.get(&partition).copied().unwrap_or(0),
            ..BatchOptions::default()
        });
        for &value in values {
            let payload = self.scene.payload(value);
            let added = builder.append(self.env.now(), None, Some(payload.as_ref()), &[]);
            added.expect("a few hundred bytes fit");
        }
        builder.build().expect("it has records").freeze()
    }

    /// The leader of a partition, and the topic's id, as some broker says.
    async fn leader(&self, partition: Partition) -> Option<(Endpoint, millstream_record::TopicId)> {
        let admin = self.client.admin();
        let mut topics = admin.describe_topics(&[TOPIC]).await.ok()?;
        let topic = topics.remove(TOPIC)?.ok()?;
        let node = topic.partitions.get(partition as usize)?.leader?;
        let cluster = admin.describe_cluster().await.ok()?;
        let broker = cluster.brokers.into_iter().find(|broker| broker.node == node)?;
        Some((broker.endpoint, topic.id))
    }

    async fn coordinator(&self) -> Option<Endpoint> {
        for endpoint in &self.scene.bootstrap {
            let request = FindCoordinatorRequest {
                key_type: 1,
                coordinator_keys: vec![self.transactional_id.into()],
                ..FindCoordinatorRequest::default()
            };
            let Ok(answer) = self.links.call(endpoint, request).await else { continue };
            let found = answer.coordinators.into_iter().find(|found| found.error_code == 0);
            if let Some(found) = found {
                return Some(Endpoint { host: found.host, port: u16::try_from(found.port).ok()? });
            }
        }
        None
    }

    /// The answer in which `code` finds no error; asks again for as long as it might come. Every request may be repeated.
    async fn ask_coordinator<R: Rpc + Clone>(
        &self,
        request: R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Option<R::Response> {
        for _ in 0..TRIES {
            if let Some(coordinator) = self.coordinator().await {
                match self.links.call(&coordinator, request.clone()).await {
                    Ok(answer) => match ErrorCode::from_code(code(&answer)) {
                        ErrorCode::None => return Some(answer),
                        refused if refused.is_retriable() => {}
                        refused => {
                            tracing::debug!(api = R::API.name(), ?refused, "the coordinator refuses");
                            return None;
                        }
                    },
                    Err(ClientError::Dial(_) | ClientError::Call { .. }) => {}
                    Err(error) => panic!("the workload's request is wrong: {error}"),
                }
            }
            self.scene.dither(self.env, PAUSE_MAX_MS).await;
        }
        None
    }
}
