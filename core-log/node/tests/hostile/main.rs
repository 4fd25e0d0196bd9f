//! Bytes that nobody meant well with, at a whole node over TCP, where clients are served and where controllers are: others are answered
//! within a second meanwhile, and the process grows by less than 256 MiB. `MILLSTREAM_SEED` repeats a run.

mod maker;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use maker::{Made, Rng};
use millstream_env::testing::{private_port, until};
use millstream_env::{Env, HostRuntime, Stream};
use millstream_net::TcpDial;
use millstream_node::{NodeConfig, serve};
use millstream_protocol::messages::create_topics::CreatableTopic;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic};
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_protocol::messages::{
    CreateTopicsRequest, DescribeClusterRequest, FetchRequest, MetadataRequest, ProduceRequest, Rpc,
};
use millstream_protocol::versions::Audience;
use millstream_protocol::{ApiKey, Ctx, Dial, Endpoint, Link};
use millstream_protocol_codegen::schema::{Kind, Message};
use millstream_protocol_codegen::table;
use millstream_record::{BatchBuilder, BatchOptions, Compression, Millis, TopicId, patch};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the good client writes to, and what the attackers write to.
const GOOD: &str = "good";
const PREY: &str = "prey";
/// What others wait for their answer at most, whatever happens beside them.
const WITHIN_US: u64 = 1_000_000;
const MAX_GROWTH_KIB: u64 = 256 * 1024;
/// Bound for anything else that the test waits for.
const PATIENCE: Duration = Duration::from_secs(20);
/// An attacker does not wait longer than this for an answer.
const SHORT: Duration = Duration::from_millis(100);
/// What a bomb decompresses to.
const BOMB_BYTES: usize = 600 << 20;
/// Attackers at once.
const ATTACKERS: usize = 24;

/// Memory is the process's: one attack after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// The node's address and what the good client noted.
struct World {
    env: Env,
    address: String,
    over: AtomicBool,
    rounds: AtomicUsize,
    slowest_us: AtomicU64,
    most_kib: AtomicU64,
}

#[test]
fn hostile_bytes_neither_slow_others_down_nor_fill_the_memory() {
    let _alone = ALONE.lock();
    let (runtime, env) = HostRuntime::start("hostile-node", 2).unwrap();
    let mut rng = seeded(&env);
    let dir = TempDir::new().unwrap();
    runtime.block_on(async {
        let mut config = NodeConfig::new(dir.path());
        config.set("listeners", "PLAINTEXT://127.0.0.1:0").unwrap();
        let node = serve(env.clone(), config).await.unwrap();
        let world = World::at(&env, node.local_addr().unwrap());
        let [topic_id, prey] = [world.create_topic(GOOD).await, world.create_topic(PREY).await];
        // Their own memory does not count.
        let frames = vec![requests(Audience::Clients, &mut rng), batches(prey), crowded()];
        let good = Arc::clone(&world);
        world.stand(frames, &mut rng, async move { good.good_client(topic_id).await }).await;
        node.shutdown().await.unwrap();
    });
}

#[test]
fn nor_do_they_where_controllers_are_served() {
    let _alone = ALONE.lock();
    let (runtime, env) = HostRuntime::start("hostile-node", 2).unwrap();
    let mut rng = seeded(&env);
    let dir = TempDir::new().unwrap();
    runtime.block_on(async {
        let (clients, controllers) = (private_port(), private_port());
        let mut config = NodeConfig::new(dir.path());
        let listeners = format!("PLAINTEXT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controllers}");
        for (key, value) in [
            ("node.id", "1"),
            ("listeners", &listeners),
            ("controller.listener.names", "CONTROLLER"),
            ("controller.quorum.bootstrap.servers", &format!("127.0.0.1:{controllers}")),
        ] {
            config.set(key, value).unwrap();
        }
        let node = serve(env.clone(), config).await.unwrap();
        let world = World::at(&env, &format!("127.0.0.1:{controllers}"));
        let frames = vec![requests(Audience::Controllers, &mut rng)];
        let good = Arc::clone(&world);
        let clients = Endpoint::new("127.0.0.1", clients);
        // It answers no client before it has caught up with its own metadata.
        let dial = TcpDial::new(env.clone());
        let answers = async || {
            let Ok(link) = dial.dial(clients.clone()).await else { return false };
            link.call(Ctx::local("test".into()), MetadataRequest::default().into()).await.is_ok()
        };
        until(&env, "clients are answered", answers).await;
        world.stand(frames, &mut rng, async move { good.good_neighbour(clients).await }).await;
        drop(node); // what was asked of it in due form it may have done: it need not be a controller any more
    });
}

fn seeded(env: &Env) -> Rng {
    let seed = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| env.random());
    say(format_args!("MILLSTREAM_SEED={seed}"));
    Rng::new(seed)
}

fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}"); // a test without a terminal says nothing
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Millis(1), None, Some(b"value"), &[]).unwrap();
    builder.build().unwrap().to_vec()
}

fn produce(topic: &'static str, topic_id: TopicId, records: Vec<u8>) -> ProduceRequest {
    let partition = PartitionProduceData { index: 0, records: Some(Bytes::from(records)) };
    let topic = TopicProduceData { name: topic.into(), topic_id, partition_data: vec![partition] };
    ProduceRequest { acks: -1, timeout_ms: 1000, topic_data: vec![topic], ..ProduceRequest::default() }
}

impl World {
    fn at(env: &Env, address: &str) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            address: address.to_owned(),
            over: AtomicBool::new(false),
            rounds: AtomicUsize::new(0),
            slowest_us: AtomicU64::new(0),
            most_kib: AtomicU64::new(0),
        })
    }

    /// Attacks, and holds what `good` finds meanwhile against the promise.
    async fn stand(
        &self,
        frames: Vec<Vec<Bytes>>,
        rng: &mut Rng,
        good: impl Future<Output = ()> + Send + 'static,
    ) {
        self.slowest_us.store(0, Ordering::Relaxed);
        let before = resident_kib();
        let (done, good_is_done) = futures::channel::oneshot::channel();
        self.env.spawn("good client", async move {
            good.await;
            let _ = done.send(());
        });
        self.attack(frames, rng).await;
        good_is_done.await.expect("the good client was answered");
        let grown = self.most_kib.load(Ordering::Relaxed).saturating_sub(before);
        let slowest = Duration::from_micros(self.slowest_us.load(Ordering::Relaxed));
        let rounds = self.rounds.load(Ordering::Relaxed);
        say(format_args!("{rounds} rounds, the slowest answer after {slowest:?}, {grown} KiB more memory"));
        assert!(grown < MAX_GROWTH_KIB, "memory grew by {grown} KiB");
        assert!(rounds >= 20, "the good client was answered {rounds} times only");
    }

    async fn dial(&self) -> Arc<dyn Link> {
        TcpDial::new(self.env.clone()).dial(Endpoint::parse(&self.address).unwrap()).await.unwrap()
    }

    async fn connect(&self) -> Box<dyn Stream> {
        self.env.connect(&self.address).await.unwrap()
    }

    async fn call<R: Rpc>(&self, link: &Arc<dyn Link>, request: R) -> R::Response {
        let (api, began) = (R::API.name(), self.env.elapsed());
        let receipt = link.call(Ctx::local("test".into()), request.into());
        let answer = self.env.timeout(PATIENCE, receipt).await.expect("an answer").unwrap();
        let took = u64::try_from((self.env.elapsed() - began).as_micros()).unwrap();
        self.slowest_us.fetch_max(took, Ordering::Relaxed);
        assert!(took < WITHIN_US, "{api} was answered after {took} us");
        answer.try_into().unwrap()
    }

    async fn create_topic(&self, name: &'static str) -> TopicId {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: 1,
            replication_factor: 1,
            ..CreatableTopic::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..CreateTopicsRequest::default() };
        let made = self.call(&self.dial().await, request).await;
        assert_eq!(made.topics[0].error_code, 0);
        made.topics[0].topic_id
    }

    /// Writes, reads back and asks for metadata, on an old and a new connection, until the attack is over.
    async fn good_client(&self, topic_id: TopicId) {
        let old = self.dial().await;
        while !self.over.load(Ordering::Relaxed) {
            let produced = self.call(&old, produce(GOOD, topic_id, batch())).await;
            let written = &produced.responses[0].partition_responses[0];
            assert_eq!(written.error_code, 0, "{:?}", written.error_message);
            let new = self.dial().await;
            self.call(&new, MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() }).await;
            let partition = FetchPartition {
                fetch_offset: written.base_offset,
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            };
            let topic = FetchTopic { topic: GOOD.into(), topic_id, partitions: vec![partition] };
            let fetched = self.call(&new, FetchRequest { topics: vec![topic], ..Default::default() }).await;
            let read = &fetched.responses[0].partitions[0];
            assert_eq!(read.error_code, 0);
            assert!(read.records.as_ref().unwrap().ends_with(b"value\0"));
            self.rounds.fetch_add(1, Ordering::Relaxed);
            self.most_kib.fetch_max(resident_kib(), Ordering::Relaxed);
        }
    }

    /// Asks where controllers are served who is there, on an old and a new connection, and beside it what clients ask, until the attack is
    /// over.
    async fn good_neighbour(&self, clients: Endpoint) {
        let [old, clients] = [Endpoint::parse(&self.address).unwrap(), clients]
            .map(|endpoint| TcpDial::new(self.env.clone()).dial(endpoint));
        let (old, clients) = (old.await.unwrap(), clients.await.unwrap());
        while !self.over.load(Ordering::Relaxed) {
            for link in [&old, &self.dial().await] {
                let request =
                    DescribeClusterRequest { endpoint_type: 2, ..DescribeClusterRequest::default() };
                let answer = self.call(link, request).await;
                assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
            }
            let request = MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() };
            self.call(&clients, request).await;
            self.rounds.fetch_add(1, Ordering::Relaxed);
            self.most_kib.fetch_max(resident_kib(), Ordering::Relaxed);
        }
    }

    async fn attack(&self, frames: Vec<Vec<Bytes>>, rng: &mut Rng) {
        let drips: Vec<_> = (0..50).map(|at| self.drip(at)).collect();
        let half_open = self.half_open().await;
        let short = async {
            for frames in frames {
                self.each(frames).await;
            }
            self.bogus_correlation_ids(rng).await;
            self.long_frames().await;
            self.over.store(true, Ordering::Relaxed);
        };
        futures::future::join(short, join_all(drips)).await;
        drop(half_open);
    }

    /// Sends each of `frames` on a connection of its own.
    async fn each(&self, frames: Vec<Bytes>) {
        futures::stream::iter(frames).for_each_concurrent(ATTACKERS, |bytes| self.send(bytes)).await;
    }

    async fn send(&self, bytes: Bytes) {
        let mut stream = self.connect().await;
        let talk = async {
            if stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok() {
                let mut some = vec![0; 16 * 1024];
                while stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
            }
        };
        let _ = self.env.timeout(SHORT, talk).await; // a closed connection is an answer too
    }

    /// Announces a request and sends a byte of it now and then.
    async fn drip(&self, at: u32) {
        let mut stream = self.connect().await;
        let announced = if at.is_multiple_of(2) { 100 << 20 } else { 100 };
        let mut next: &[u8] = &u32::to_be_bytes(announced);
        while !self.over.load(Ordering::Relaxed) && stream.write_all(next).await.is_ok() {
            next = &[0];
            self.env.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Connections that say nothing, or stop within the first frame.
    async fn half_open(&self) -> Vec<Box<dyn Stream>> {
        let mut open = Vec::new();
        let beginnings: [&[u8]; 6] =
            [&[], &[0], &[0, 0, 0], &[0, 0, 0, 9], &[6, 0x40, 0, 0, 0], &[0, 0, 1, 0, 0, 3, 0, 1]];
        for at in 0..300 {
            let mut stream = self.connect().await;
            stream.write_all(beginnings[at % beginnings.len()]).await.unwrap();
            open.push(stream);
        }
        open
    }

    /// Every answer carries its request's id, however odd, in the order of the requests.
    async fn bogus_correlation_ids(&self, rng: &mut Rng) {
        let ids: Vec<i32> = (0..5000).map(|at| if at % 3 == 0 { -1 } else { rng.next() as i32 }).collect();
        let (mut read, mut write) = tokio::io::split(self.connect().await);
        let asking = async {
            for id in &ids {
                let mut body = vec![0, ApiKey::ApiVersions as u8, 0, 0];
                body.extend(id.to_be_bytes());
                body.extend([0xff, 0xff]);
                write.write_all(&frame(&body)).await.unwrap();
            }
        };
        let answered = async {
            for id in &ids {
                let size = read.read_i32().await.unwrap();
                let mut answer = vec![0; usize::try_from(size).unwrap()];
                read.read_exact(&mut answer).await.unwrap();
                assert_eq!(answer[..4], id.to_be_bytes());
            }
        };
        let both = futures::future::join(asking, answered);
        self.env.timeout(PATIENCE, both).await.expect("all are answered");
    }

    /// Frames of the greatest length, with all of their bytes but the last one, more together than the node may hold.
    async fn long_frames(&self) {
        let one = async || {
            let mut stream = self.connect().await;
            let length: usize = 100 << 20;
            stream.write_all(&u32::try_from(length).unwrap().to_be_bytes()).await.unwrap();
            let part = vec![0u8; 1 << 20];
            for _ in 0..length / part.len() - 1 {
                if stream.write_all(&part).await.is_err() {
                    break;
                }
            }
        };
        let all = join_all((0..4).map(|_| one()));
        let _ = self.env.timeout(Duration::from_secs(3), all).await; // those that got no room still wait
    }
}

/// Of every API in every version: lengths that lie, frames cut off, bytes at random.
fn requests(audience: Audience, rng: &mut Rng) -> Vec<Bytes> {
    let table = table::load(&millstream_protocol_codegen::table_dir()).unwrap();
    let served = |message: &&Message| message.kind == Kind::Request && of_key(audience, message).is_some();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut apis = 0;
    for message in table.iter().filter(served) {
        apis += 1;
        let (first, last) = of_key(audience, message).unwrap();
        for version in first..=last {
            let made = Made::new(message, version, rng);
            frames.extend(made.with_hostile_lengths().iter().map(|body| frame(body)));
            frames.push(frame(&made.bytes));
            let cut = rng.below(made.bytes.len());
            frames.push(frame(&made.bytes[..cut])); // a whole frame, not a whole request
            let whole = frame(&made.bytes);
            frames.push(whole[..rng.below(whole.len())].to_vec()); // not a whole frame
            let mut random = made.bytes[..made.bytes.len().min(14)].to_vec();
            let length = rng.below(200);
            random.extend(rng.bytes(length));
            frames.push(frame(&random));
        }
    }
    assert_eq!(apis, audience.told().len(), "every API that is served is in the table");
    for _ in 0..500 {
        let length = rng.below(100);
        frames.push(rng.bytes(length));
        let length = rng.below(100);
        frames.push(frame(&rng.bytes(length)));
    }
    frames.into_iter().map(Bytes::from).collect()
}

fn of_key(audience: Audience, message: &Message) -> Option<(i16, i16)> {
    audience.served(ApiKey::from_code(message.key?)?)
}

fn encoded<R: Rpc>(request: R, version: i16) -> Vec<u8> {
    use bytes::Buf;
    let mut segments = millstream_protocol::frames::encode_request(7, None, request.into(), version).unwrap();
    frame(&segments.copy_to_bytes(segments.remaining()))
}

/// Record batches with a good CRC and a hostile field in the header, at each of its places.
fn batches(topic_id: TopicId) -> Vec<Bytes> {
    let good = batch();
    let mut all = Vec::new();
    for at in 0..good.len() - 4 {
        for lie in [[0x7f, 0xff, 0xff, 0xff], [0xff; 4], [0x80, 0, 0, 0], [0, 0, 0, 4]] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&lie);
            if at != 17 {
                patch::refresh_crc(&mut bad).unwrap();
            }
            all.push(encoded(produce(PREY, topic_id, bad), 13).into());
        }
    }
    // And one whose record is nothing but zeros, compressed to next to nothing.
    let zstd = BatchOptions { codec: Compression::Zstd.into(), ..BatchOptions::default() };
    let mut bomb = BatchBuilder::new(zstd);
    bomb.append(Millis(1), None, Some(&vec![0; BOMB_BYTES]), &[]).unwrap();
    let bomb = Bytes::from(encoded(produce(PREY, topic_id, bomb.build().unwrap().to_vec()), 13));
    all.extend(std::iter::repeat_n(bomb, ATTACKERS));
    all
}

/// Requests that are right, and hold very many entries for their bytes: as many as a build without optimisation gets through.
fn crowded() -> Vec<Bytes> {
    let (entries, topics) = (10_000u32, 500u32);
    let listed = |api: ApiKey, version: u8, entries: u32| {
        let mut body = vec![0, api as u8, 0, version, 0, 0, 0, 1, 0xff, 0xff];
        body.extend(entries.to_be_bytes());
        body
    };
    let empty_names = |api, version| {
        let mut body = listed(api, version, entries);
        body.extend(vec![0; 2 * entries as usize]);
        body
    };
    let mut create = listed(ApiKey::CreateTopics, 2, topics);
    for at in 0..topics {
        create.extend([0, 8]);
        create.extend(format!("{at:08}").bytes());
        create.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    create.extend([0, 0, 0x10, 0, 1]); // only validated
    let bodies = [empty_names(ApiKey::Metadata, 1), empty_names(ApiKey::DescribeGroups, 0), create];
    bodies.iter().flat_map(|body| std::iter::repeat_n(Bytes::from(frame(body)), ATTACKERS / 3)).collect()
}
