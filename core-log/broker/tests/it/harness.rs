//! A broker on a directory of its own, and short words for what tests ask of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_broker::{Broker, BrokerConfig, ListenerEndpoint};
use millstream_env::{Env, HostRuntime};
use millstream_machine::config::Static;
use millstream_protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use millstream_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use millstream_protocol::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, TopicProduceData,
};
use millstream_protocol::messages::{
    CreateTopicsRequest, FetchRequest, ListOffsetsRequest, ProduceRequest, Rpc,
};
use millstream_protocol::{CallError, Ctx, Dial, DialError, Endpoint, ErrorCode, Link, Receipt, Service};
use millstream_record::{BatchBuilder, BatchOptions, Batches, Millis, ProducerEpoch, ProducerId};
use millstream_storage::{FaultyDisk, RealDisk};
use tempfile::TempDir;

/// Longest wait for anything: a bound for a broken broker, never a pace.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Harness {
    broker: Option<Arc<Broker>>,
    env: Env,
    runtime: tokio::runtime::Runtime,
    dir: TempDir,
    properties: Static,
    /// The real disk, with faults where a test asks for them.
    pub(crate) disk: FaultyDisk,
}

impl Harness {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(properties: &[(&str, &str)]) -> Self {
        let defaults = [
            ("offsets.topic.num.partitions", "2"),
            ("transaction.state.log.num.partitions", "2"),
            ("group.initial.rebalance.delay.ms", "0"),
        ];
        let all = defaults.iter().chain(properties);
        let properties: Static = all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (runtime, env) = HostRuntime::start("broker-test", 2).unwrap();
        let mut harness = Self {
            broker: None,
            env,
            runtime,
            dir: TempDir::new().unwrap(),
            properties,
            disk: FaultyDisk::new(Arc::new(RealDisk)),
        };
        harness.open();
        harness
    }

    fn open(&mut self) {
        let listener = ListenerEndpoint { name: "test".into(), endpoint: Endpoint::new("localhost", 9092) };
        let config = BrokerConfig::from_properties(self.properties.clone(), vec![listener], None);
        let (disk, dir) = (Arc::new(self.disk.clone()), self.dir.path().to_owned());
        let start = Broker::start(self.env.clone(), disk, dir, config, Arc::new(Nobody));
        self.broker = Some(self.runtime.block_on(start).unwrap());
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Stops the broker in order and starts it again.
    pub(crate) fn restart(&mut self) {
        self.restart_after(|_| ());
    }

    /// Stops the broker in order, does something to its directory, and starts it again.
    pub(crate) fn restart_after(&mut self, change: impl FnOnce(&std::path::Path)) {
        let broker = self.broker.take().unwrap();
        self.runtime.block_on(broker.shutdown()).unwrap();
        drop(broker);
        change(self.dir.path());
        self.open();
    }

    /// Drops the broker as a crash of the process would, and starts it again.
    pub(crate) fn crash(&mut self) {
        self.crash_after(|| ());
    }

    /// Crashes, does something to the files, and starts again.
    pub(crate) fn crash_after(&mut self, change: impl FnOnce()) {
        self.broker = None;
        change();
        self.open();
    }

    pub(crate) fn now(&self) -> Millis {
        self.env.now()
    }

    /// Lets others go on before a condition is looked at again.
    pub(crate) fn pause(&self) {
        self.runtime.block_on(self.env.sleep(Duration::from_millis(1)));
    }

    pub(crate) fn ctx(&self) -> Ctx {
        Ctx::local("test".into())
    }

    pub(crate) fn send<R: Rpc>(&self, request: R) -> Receipt {
        self.broker.as_ref().unwrap().call(self.ctx(), request.into())
    }

    pub(crate) fn wait<R: Rpc>(&self, receipt: Receipt) -> Result<R::Response, CallError> {
        let answer =
            self.runtime.block_on(self.env.timeout(PATIENCE, receipt)).expect("an answer in time")?;
        Ok(answer.try_into().expect("the answer of this api"))
    }

    pub(crate) fn call<R: Rpc>(&self, request: R) -> R::Response {
        self.wait::<R>(self.send(request)).unwrap()
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
            name: ByteString::from(*name),
            value: Some((*value).into()),
        };
        let response = self.call(CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.into(),
                num_partitions: partitions,
                replication_factor: 1,
                configs: configs.iter().map(config).collect(),
                ..CreatableTopic::default()
            }],
            ..CreateTopicsRequest::default()
        });
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    }

    pub(crate) fn produce(&self, topic: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
        self.call(produce_request(topic, partition, batch)).responses[0].partition_responses[0].clone()
    }

    /// Produces values in one batch and gives its base offset.
    pub(crate) fn put(&self, topic: &str, partition: i32, values: &[&str]) -> i64 {
        let response = self.produce(topic, partition, batch(values));
        assert_eq!(
            ErrorCode::from_code(response.error_code),
            ErrorCode::None,
            "{:?}",
            response.error_message
        );
        response.base_offset
    }

    pub(crate) fn fetch(&self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        self.call(fetch_request(topic, partition, offset)).responses[0].partitions[0].clone()
    }

    /// Every value from `offset` on.
    pub(crate) fn values(&self, topic: &str, partition: i32, offset: i64) -> Vec<String> {
        let data = self.fetch(topic, partition, offset);
        assert_eq!(ErrorCode::from_code(data.error_code), ErrorCode::None);
        values_of(&data.records.unwrap())
    }

    pub(crate) fn offset(&self, topic: &str, partition: i32, timestamp: i64) -> (ErrorCode, i64) {
        let response = self.call(ListOffsetsRequest {
            topics: vec![ListOffsetsTopic {
                name: topic.into(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition,
                    timestamp,
                    ..ListOffsetsPartition::default()
                }],
            }],
            ..ListOffsetsRequest::default()
        });
        let found = &response.topics[0].partitions[0];
        (ErrorCode::from_code(found.error_code), found.offset)
    }
}

pub(crate) fn produce_request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData { index: partition, records: Some(batch) }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

pub(crate) fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// A batch of records with these values, one millisecond apart from 1,700,000,000,000 on.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    batch_of(values, BatchOptions::default())
}

pub(crate) fn batch_of(values: &[&str], options: BatchOptions) -> Bytes {
    batch_at(Millis(1_700_000_000_000), values, options)
}

pub(crate) fn batch_at(began: Millis, values: &[&str], options: BatchOptions) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (value, at) in values.iter().zip(0..) {
        let time = began.plus_ms(at);
        builder.append(time, Some(b"key"), Some(value.as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap().freeze()
}

pub(crate) fn idempotent(id: i64, epoch: i16, sequence: i32) -> BatchOptions {
    BatchOptions {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
        ..BatchOptions::default()
    }
}

pub(crate) fn values_of(records: &Bytes) -> Vec<String> {
    let mut values = Vec::new();
    for batch in Batches::new(records.clone()) {
        let batch = batch.unwrap();
        if batch.header().attributes.is_control() {
            continue;
        }
        let body = batch.decompress(1 << 20).unwrap();
        for record in batch.records(&body) {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

/// The way to other brokers, where there are none.
pub(crate) struct Nobody;

impl Dial for Nobody {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let reason = "there is only one broker in this test".to_owned();
        async move { Err(DialError::Unreachable { endpoint: endpoint.to_string(), reason }) }.boxed()
    }
}
