//! What a client must be able to do, behind any door. Each scenario makes its own topics and groups, so all may run at once.

mod deletion;
mod faults;
mod groups;
mod large;
mod leaderless;
mod records;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_client::{
    Client, ClientConfig, Consumer, ConsumerConfig, ConsumerRecord, NewTopic, OffsetReset, ProducerConfig,
};
use millstream_env::Env;
use millstream_protocol::{Dial, Endpoint};
use millstream_record::TopicPartition;

/// How long a scenario waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A door and what is needed to go through it.
#[derive(Clone)]
pub(crate) struct Door {
    env: Env,
    dial: Arc<dyn Dial>,
    bootstrap: Endpoint,
    client: Client,
}

impl Door {
    /// The door that `dial` opens, at `bootstrap`.
    pub(crate) fn new(env: Env, dial: Arc<dyn Dial>, bootstrap: Endpoint) -> Self {
        let client = Self::client(&env, &dial, &bootstrap);
        Self { env, dial, bootstrap, client }
    }

    /// The same door, with a client that shares nothing with the other.
    fn apart(&self) -> Self {
        Self { client: Self::client(&self.env, &self.dial, &self.bootstrap), ..self.clone() }
    }

    fn client(env: &Env, dial: &Arc<dyn Dial>, bootstrap: &Endpoint) -> Client {
        let config =
            ClientConfig { allow_auto_create_topics: false, ..ClientConfig::new(vec![bootstrap.clone()]) };
        Client::new(env.clone(), Arc::clone(dial), config)
    }

    fn name(&self, what: &str) -> Arc<str> {
        format!("suite-{what}-{:016x}", self.env.random()).into()
    }

    async fn topic(&self, what: &str, partitions: i32) -> Arc<str> {
        let name = self.name(what);
        // Some records are of years ago, and brokers of tests look for those often.
        let topic = NewTopic::new(Arc::clone(&name), partitions).with_config("retention.ms", "-1");
        let topic = self.client.admin().ensure_topic(topic).await.unwrap();
        assert_eq!(topic.partitions.len(), partitions as usize);
        name
    }

    fn reader(&self, config: ConsumerConfig) -> Consumer {
        let config = ConsumerConfig { auto_offset_reset: OffsetReset::Earliest, ..config };
        self.client.consumer(config).unwrap()
    }

    /// The records of the next poll that gives any.
    async fn poll_one(&self, consumer: &mut Consumer) -> Vec<ConsumerRecord> {
        consumer.poll(PATIENCE).await.unwrap().remove(0).records
    }

    /// Reads until there are `count` records, and a moment longer, so that one too many is seen too.
    async fn read(
        &self,
        consumer: &mut Consumer,
        count: usize,
    ) -> BTreeMap<TopicPartition, Vec<ConsumerRecord>> {
        let mut found: BTreeMap<TopicPartition, Vec<ConsumerRecord>> = BTreeMap::new();
        let until = self.env.elapsed() + PATIENCE;
        let mut total = 0;
        while total < count {
            assert!(self.env.elapsed() < until, "only {total} of {count} records came: {found:?}");
            for polled in consumer.poll(Duration::from_millis(500)).await.unwrap() {
                total += polled.records.len();
                found.entry(polled.topic_partition).or_default().extend(polled.records);
            }
        }
        for polled in consumer.poll(Duration::from_millis(200)).await.unwrap() {
            assert_eq!(polled.records, [], "more records than were written to {}", polled.topic_partition);
        }
        assert_eq!(total, count);
        found
    }
}

/// Every scenario.
pub(crate) async fn all(door: &Door) {
    records::round_trip(door).await;
    records::without_acks(door).await;
    records::order_and_once(door).await;
    records::seeking(door).await;
    records::an_idle_partition(door).await;
    records::a_paused_partition(door).await;
    records::refusals(door).await;
    records::administration(door).await;
    deletion::of_records(door).await;
    deletion::refusals(door).await;
    groups::commits_are_resumed(door).await;
    groups::a_deleted_topic_stops_no_commit(door).await;
    groups::partitions_are_shared(door, false).await;
    groups::partitions_are_shared(door, true).await;
    transactions::commit_and_abort(door).await;
    transactions::consume_transform_produce(door).await;
    transactions::fencing(door).await;
    leaderless::others_go_on(door).await;
    large::batches_are_split(door).await;
    large::transactions_are_split(door).await;
    large::a_huge_record_fails_alone(door).await;
    large::batches_are_split_through_faults(door).await;
    faults::idempotence(door).await;
    faults::exactly_once(door).await;
}

fn producer_config() -> ProducerConfig {
    ProducerConfig { linger_ms: 1, ..ProducerConfig::default() }
}

fn values(records: &[ConsumerRecord]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(record.value.as_ref().unwrap()).unwrap()).collect()
}

fn bytes(text: impl ToString) -> Bytes {
    text.to_string().into_bytes().into()
}
