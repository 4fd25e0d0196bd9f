//! A broker killed under load: what it acknowledged is there, once, at its offset and in order; transactions are whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join, join_all};
use millstream_client::{
    Client, Consumer, ConsumerConfig, Delivery, IsolationLevel, NewTopic, OffsetReset, Producer,
    ProducerConfig, ProducerRecord, Result,
};
use millstream_env::{Env, HostRuntime};
use millstream_record::TopicPartition;
use millstream_sim::history::{Contents, History, Outcome, Send, Value};
use millstream_sim::random::Random;
use millstream_sim::workload::value_of;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::KILLS;
use crate::process::{Broker, PATIENCE, say, seeded};

const TOPIC: &str = "load";
const PARTITIONS: u32 = 4;
const IDEMPOTENT: u32 = 3;
/// Deliveries that a producer may have open.
const OPEN_MAX: usize = 200;
/// Before half of the kills up to 2^9 further records are acknowledged, as often below 16 as above; ...
const ACKS_MAGNITUDES: u64 = 10;
/// ... and before the others up to 2^4 further transactions end.
const ENDS_MAGNITUDES: u64 = 5;
/// Records and transactions without which the test would show little; the seed may have drawn short waits only.
const ACKS_MIN: u64 = 5_000;
const ENDS_MIN: u64 = 20;
const POLL: Duration = Duration::from_millis(300);

/// What the clients of the test share.
#[derive(Clone)]
struct Load {
    history: Arc<Mutex<History>>,
    acks: Arc<watch::Sender<u64>>,
    ends: Arc<watch::Sender<u64>>,
    next: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sends a fresh value to some partition.
    async fn send(
        &self,
        producer: &Producer,
        number: u32,
        txn: Option<u64>,
        random: &mut Random,
    ) -> Result<(Value, Delivery)> {
        let value = self.fresh();
        let partition = random.below(u64::from(PARTITIONS)) as u32;
        let send = Send { partition, producer: number, order: value, idempotent: true, durable: true, txn };
        self.history.lock().sent(value, send);
        let mut payload = vec![value as u8; 8 + random.below(400) as usize];
        payload[..8].copy_from_slice(&value.to_be_bytes());
        let record = ProducerRecord::new(TOPIC, payload).with_partition(partition as i32);
        Ok((value, producer.send(record).await?))
    }

    /// Waits for the outcome of a delivery.
    async fn settle(&self, (value, delivery): (Value, Delivery)) -> Result<()> {
        let offset = delivery.await?.offset;
        self.history.lock().acked(value, offset.expect("a record's offset is known with acks=all").0);
        self.acks.send_modify(|acks| *acks += 1);
        Ok(())
    }
}

/// Sends until the test is over. A restart is no reason for an idempotent producer to fail.
async fn produce(load: Load, client: Client, mut random: Random) {
    let producer =
        client.producer(ProducerConfig { linger_ms: random.below(5), ..ProducerConfig::default() }).unwrap();
    let number = load.fresh() as u32;
    let mut open = VecDeque::new();
    while !load.is_over() {
        open.push_back(load.send(&producer, number, None, &mut random).await.unwrap());
        if open.len() >= OPEN_MAX {
            load.settle(open.pop_front().unwrap()).await.unwrap();
        }
    }
    for delivery in open {
        load.settle(delivery).await.unwrap();
    }
}

/// Runs transactions until the test is over. A producer whose transaction fails is followed by another of the same id.
async fn transact(load: Load, client: Client, mut random: Random) {
    while !load.is_over() {
        let producer = client.producer(ProducerConfig::transactional("teller")).unwrap();
        producer.init_transactions().await.unwrap();
        let number = load.fresh() as u32;
        while !load.is_over() {
            if let Err(error) = transaction(&load, &producer, number, &mut random).await {
                say(format_args!("a transaction has an unknown outcome: {error}"));
                break;
            }
        }
    }
}

async fn transaction(load: &Load, producer: &Producer, number: u32, random: &mut Random) -> Result<()> {
    let txn = load.fresh();
    producer.begin_transaction()?;
    let mut open = Vec::new();
    for _ in 0..1 + random.below(8) {
        open.push(load.send(producer, number, Some(txn), random).await?);
    }
    for delivery in open {
        load.settle(delivery).await?;
    }
    let outcome = if random.one_in(4) {
        producer.abort_transaction().await?;
        Outcome::Aborted
    } else {
        producer.commit_transaction().await?;
        Outcome::Committed
    };
    load.history.lock().ended(txn, outcome);
    load.ends.send_modify(|ends| *ends += 1);
    Ok(())
}

fn reader(client: &Client, isolation_level: IsolationLevel) -> Consumer {
    let config = ConsumerConfig {
        isolation_level,
        auto_offset_reset: OffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).unwrap();
    consumer.assign(partitions()).unwrap();
    consumer
}

fn partitions() -> Vec<TopicPartition> {
    (0..PARTITIONS as i32).map(|partition| TopicPartition::new(TOPIC, partition)).collect()
}

/// Reads along until the test is over: what it saw must stay.
async fn follow(load: Load, client: Client, isolation: IsolationLevel) {
    let mut consumer = reader(&client, isolation);
    while !load.is_over() {
        for batch in consumer.poll(POLL).await.unwrap() {
            let mut history = load.history.lock();
            for record in &batch.records {
                let value = value_of(record.value.as_deref().unwrap()).unwrap();
                let committed = isolation == IsolationLevel::ReadCommitted;
                history.read(batch.topic_partition.partition as u32, record.offset.0, value, committed);
            }
        }
    }
}

/// Everything from the beginning to the end.
async fn read_all(client: Client, isolation: IsolationLevel) -> Contents {
    let mut consumer = reader(&client, isolation);
    let mut contents = Contents::default();
    for (partition, end) in consumer.end_offsets(&partitions()).await.unwrap() {
        while consumer.position(&partition).await.unwrap() < end {
            for batch in consumer.poll(POLL).await.unwrap() {
                for record in &batch.records {
                    let value = value_of(record.value.as_deref().unwrap()).unwrap();
                    let partition = batch.topic_partition.partition as u32;
                    contents.put(partition, record.offset.0, value, record.timestamp.0);
                }
            }
        }
    }
    contents
}

/// Everybody who uses the broker until the test is over.
fn clients(broker: &Broker, load: &Load, random: &mut Random) -> Vec<BoxFuture<'static, ()>> {
    let mut clients: Vec<BoxFuture<'static, ()>> = Vec::new();
    for number in 0..IDEMPOTENT {
        clients.push(produce(load.clone(), broker.client(), random.fork(u64::from(number))).boxed());
    }
    clients.push(transact(load.clone(), broker.client(), random.fork(100)).boxed());
    for isolation in [IsolationLevel::ReadUncommitted, IsolationLevel::ReadCommitted] {
        clients.push(follow(load.clone(), broker.client(), isolation).boxed());
    }
    clients
}

async fn kill(env: &Env, broker: &mut Broker, load: &Load, random: &mut Random) {
    for _ in 0..KILLS {
        let (counter, magnitudes) =
            if random.one_in(2) { (&load.acks, ACKS_MAGNITUDES) } else { (&load.ends, ENDS_MAGNITUDES) };
        let magnitude = random.below(magnitudes);
        let target = *counter.borrow() + random.below(1 << magnitude);
        reach(env, counter, target).await;
        broker.kill_and_restart().await;
    }
    reach(env, &load.acks, ACKS_MIN).await;
    reach(env, &load.ends, ENDS_MIN).await;
    load.over.store(true, Ordering::Relaxed);
}

async fn reach(env: &Env, counter: &watch::Sender<u64>, target: u64) {
    let mut counter = counter.subscribe();
    let reached = env.timeout(PATIENCE, counter.wait_for(|count| *count >= target)).await;
    drop(reached.expect("the load goes on").unwrap());
}

#[test]
fn a_killed_broker_keeps_what_it_acknowledged() {
    let (runtime, env) = HostRuntime::start("test", 2).unwrap();
    runtime.block_on(async {
        let mut random = seeded(&env);
        let mut broker = Broker::start(&env).await;
        let topic = NewTopic::new(TOPIC, PARTITIONS as i32);
        let made = broker.client().admin().create_topics(&[topic]).await.unwrap();
        assert!(made.into_values().all(|made| made.is_ok()));
        let load = Load {
            history: Arc::default(),
            acks: Arc::new(watch::channel(0).0),
            ends: Arc::new(watch::channel(0).0),
            next: Arc::default(),
            over: Arc::default(),
        };
        // In one task, so that a client that panics ends the test.
        let clients = join_all(clients(&broker, &load, &mut random));
        let all = join(clients, kill(&env, &mut broker, &load, &mut random));
        env.timeout(KILLS * PATIENCE, all).await.expect("every client ends");
        let all = read_all(broker.client(), IsolationLevel::ReadUncommitted).await;
        let committed = read_all(broker.client(), IsolationLevel::ReadCommitted).await;
        let history = load.history.lock();
        let counts = history.counts();
        say(format_args!("{counts:?}"));
        assert!(counts.reads > 0 && counts.committed > 0, "this is no load");
        let breaches: Vec<_> = history.check(&all, &committed).iter().map(ToString::to_string).collect();
        assert!(breaches.is_empty(), "{breaches:#?}");
    });
}
