//! Links that break: before a request arrives, or after it took effect and before its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytestring::ByteString;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::{
    Client, ClientConfig, ConsumerConfig, IsolationLevel, OffsetAndMetadata, Offsets, ProducerConfig,
    ProducerRecord,
};
use millstream_env::Env;
use millstream_protocol::{
    ApiKey, CallError, Ctx, Dial, DialError, Endpoint, Link, Receipt, Request, Service,
};
use millstream_record::{Offset, TopicPartition};

use super::{Door, bytes, values};

/// One request in so many breaks its link.
const ONE_IN: u64 = 12;

/// A door whose links break.
struct FlakyDial {
    env: Env,
    inner: Arc<dyn Dial>,
    chance: Arc<Chance>,
}

/// A repeatable sequence of accidents.
struct Chance(AtomicU64);

impl Chance {
    fn one_in(&self, n: u64) -> bool {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        (x >> 11).is_multiple_of(n)
    }
}

struct FlakyLink {
    env: Env,
    inner: Arc<dyn Link>,
    chance: Arc<Chance>,
    broken: Arc<AtomicBool>,
}

fn broken() -> CallError {
    CallError::Disconnected { peer: "flaky".into(), reason: "the test broke it".into() }
}

impl Dial for FlakyDial {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let (env, chance) = (self.env.clone(), Arc::clone(&self.chance));
        let inner = self.inner.dial(endpoint);
        async move {
            let link = FlakyLink { env, inner: inner.await?, chance, broken: Arc::default() };
            Ok(Arc::new(link) as Arc<dyn Link>)
        }
        .boxed()
    }
}

impl Service for FlakyLink {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        let breaks = self.chance.one_in(ONE_IN);
        if self.is_closed() || (breaks && self.chance.one_in(2)) {
            self.broken.store(true, Ordering::SeqCst);
            return Receipt::from(broken());
        }
        let answer = self.inner.call(ctx, request);
        let (completer, receipt) = Receipt::pending();
        let link_broken = Arc::clone(&self.broken);
        if breaks {
            link_broken.store(true, Ordering::SeqCst);
        }
        self.env.spawn("flaky", async move {
            let answer = answer.await;
            // Answers that were under way when the link broke are lost with it.
            completer.complete(if link_broken.load(Ordering::SeqCst) { Err(broken()) } else { answer });
        });
        receipt
    }
}

impl Link for FlakyLink {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.inner.supports(api)
    }

    fn is_closed(&self) -> bool {
        self.broken.load(Ordering::SeqCst) || self.inner.is_closed()
    }
}

impl Door {
    /// The same door, with links that break by this seed.
    pub(super) fn flaky(&self, seed: u64) -> Self {
        let chance = Arc::new(Chance(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)));
        let dial = FlakyDial { env: self.env.clone(), inner: Arc::clone(&self.dial), chance };
        let config = ClientConfig {
            allow_auto_create_topics: false,
            retry_backoff_ms: 5,
            retry_backoff_max_ms: 50,
            ..ClientConfig::new(vec![self.bootstrap.clone()])
        };
        let client = Client::new(self.env.clone(), Arc::new(dial), config);
        Self { client, ..self.clone() }
    }
}

/// An idempotent producer's records are there once and in order, however often its links break.
pub(crate) async fn idempotence(door: &Door) {
    const RECORDS: usize = 3_000;
    for seed in 1..=3 {
        let topic = door.topic("flaky", 2).await;
        let config = ProducerConfig { batch_size: 500, linger_ms: 0, ..ProducerConfig::default() };
        let producer = door.flaky(seed).client.producer(config).unwrap();
        let mut deliveries = Vec::new();
        for n in 0..RECORDS {
            let record = ProducerRecord::new(Arc::clone(&topic), bytes(n)).with_partition((n % 2) as i32);
            deliveries.push(producer.send(record).await.unwrap());
        }
        producer.flush().await.unwrap();
        for (delivery, n) in deliveries.into_iter().zip(0..) {
            delivery.await.unwrap_or_else(|error| panic!("record {n}, seed {seed}: {error}"));
        }
        let mut consumer = door.flaky(seed + 100).reader(ConsumerConfig::default());
        let partitions = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
        consumer.assign(partitions.clone()).unwrap();
        let found = door.read(&mut consumer, RECORDS).await;
        for (p, partition) in partitions.iter().enumerate() {
            let expected: Vec<_> = (p..RECORDS).step_by(2).map(|n| n.to_string()).collect();
            assert_eq!(values(&found[partition]), expected, "seed {seed}");
        }
    }
}

/// Transactions through links that break: each input is answered by one output, whatever had to be aborted on the way.
pub(crate) async fn exactly_once(door: &Door) {
    const RECORDS: i64 = 60;
    let (input, output) = (door.topic("flaky-in", 1).await, door.topic("flaky-out", 1).await);
    let (from, to) =
        (TopicPartition::new(Arc::clone(&input), 0), TopicPartition::new(Arc::clone(&output), 0));
    let feeder = door.client.producer(super::producer_config()).unwrap();
    for n in 0..RECORDS {
        drop(feeder.send(ProducerRecord::new(Arc::clone(&input), bytes(n))).await.unwrap());
    }
    feeder.close().await.unwrap();
    let flaky = door.flaky(7);
    let group = ByteString::from(&*door.name("group"));
    let read_committed = ConsumerConfig {
        isolation_level: IsolationLevel::ReadCommitted,
        max_poll_records: 7,
        group_id: Some(group.clone()),
        ..ConsumerConfig::default()
    };
    let producer = flaky
        .client
        .producer(ProducerConfig { linger_ms: 1, ..ProducerConfig::transactional(&*door.name("flaky-txn")) });
    let producer = producer.unwrap();
    producer.init_transactions().await.unwrap();
    let mut consumer = flaky.reader(read_committed.clone());
    consumer.assign([from.clone()]).unwrap();
    let mut done = Offset(0);
    let until = door.env.elapsed() + super::PATIENCE;
    while done.0 < RECORDS {
        assert!(door.env.elapsed() < until, "only {done} of {RECORDS} were done");
        let Some(polled) = consumer.poll(std::time::Duration::from_millis(500)).await.unwrap().pop() else {
            continue;
        };
        producer.begin_transaction().unwrap();
        for record in &polled.records {
            let echo = ProducerRecord::new(Arc::clone(&output), record.value.clone().unwrap());
            drop(producer.send(echo).await.unwrap());
        }
        let offsets = Offsets::from([(from.clone(), OffsetAndMetadata::new(polled.next_offset))]);
        let group = consumer.group_metadata();
        let committed = async {
            producer.send_offsets_to_transaction(&offsets, &group).await?;
            producer.commit_transaction().await
        };
        match committed.await {
            Ok(()) => done = polled.next_offset,
            Err(error) if error.requires_abort() => {
                producer.abort_transaction().await.unwrap();
                consumer.seek(&from, done).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    let admin = door.client.admin();
    assert_eq!(admin.group_offsets(group).await.unwrap()[&from].offset, Offset(RECORDS));
    let mut consumer = door.reader(ConsumerConfig { group_id: None, ..read_committed });
    consumer.assign([to.clone()]).unwrap();
    let found = door.read(&mut consumer, RECORDS as usize).await;
    assert_eq!(values(&found[&to]), (0..RECORDS).map(|n| n.to_string()).collect::<Vec<_>>());
}
