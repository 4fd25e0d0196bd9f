//! What a large cluster costs its controllers: the decisions, the records and the memory of so many brokers and partitions, without the
//! machines that they would run on.
//!
//! ```sh
//! cargo run --release -p millstream-node --example scale -- 100 1000000
//! ```
//! docs/scale.md reckons with what it prints.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::time::Duration;

use millstream_env::{Env, HostRuntime};
use millstream_machine::metadata::{Committed, Controller, Image, Liveness, Record, SupportedFeatures};
use millstream_protocol::messages::broker_registration::Feature;
use millstream_protocol::messages::create_topics::CreatableTopic;
use millstream_protocol::messages::{BrokerHeartbeatRequest, BrokerRegistrationRequest, CreateTopicsRequest};
use millstream_record::{LeaderEpoch, Millis, NodeId, Uuid};

/// Partitions of a topic.
const PARTITIONS: i32 = 100;
const REPLICAS: i16 = 3;
/// Topics of a request: as many partitions as one may have.
const TOPICS: usize = 100;
const NOW: Millis = Millis(1_000_000);

/// A controller and what it has decided so far.
struct Stage {
    env: Env,
    controller: Controller,
    liveness: Liveness,
    image: Image,
    bytes: usize,
    records: usize,
}

/// What a step took.
struct Cost {
    deciding: Duration,
    applying: Duration,
    records: usize,
    bytes: usize,
}

impl Stage {
    fn new(env: Env) -> Self {
        let controller = Controller::default();
        let mut stage = Self {
            env,
            controller,
            liveness: Liveness::new(9_000),
            image: Image::default(),
            bytes: 0,
            records: 0,
        };
        let records = stage.controller.bootstrap(&stage.image);
        stage.commit(records);
        stage.liveness.lead(NOW, &stage.image);
        stage
    }

    /// Through bytes and back, as from the log.
    fn commit(&mut self, records: Vec<Record>) -> (Duration, usize) {
        let stored: Vec<_> = records.iter().map(|record| record.encode().expect("it is encoded")).collect();
        let bytes = stored.iter().map(|record| record.len()).sum();
        let (applied, took) = timed(&self.env, || {
            let decoded = stored.iter().map(|bytes| Record::decode(bytes.clone()).expect("it is decoded"));
            let base = self.image.end();
            let end = base.plus(i64::try_from(records.len()).expect("it fits"));
            let batch =
                Committed { base, end, epoch: LeaderEpoch(1), snapshot: false, records: decoded.collect() };
            let mut next = self.image.clone(); // readers go on with the one before
            next.apply_batch(&batch).expect("what was decided fits");
            next
        });
        self.image = applied;
        self.liveness.observe(NOW, &self.image);
        self.bytes += bytes;
        self.records += records.len();
        (took, bytes)
    }

    fn step(&mut self, decide: impl FnOnce(&mut Self) -> Vec<Record>) -> Cost {
        let (records, deciding) = timed(&self.env.clone(), || decide(self));
        let count = records.len();
        let (applying, bytes) = self.commit(records);
        Cost { deciding, applying, records: count, bytes }
    }

    fn start(&mut self, broker_id: i32) {
        let feature = |(name, min_supported_version, max_supported_version): (&'static str, i16, i16)| {
            Feature { name: name.into(), min_supported_version, max_supported_version }
        };
        let id = u64::try_from(broker_id).expect("it is positive");
        let request = BrokerRegistrationRequest {
            broker_id,
            incarnation_id: Uuid::from_random(id, 1),
            log_dirs: vec![Uuid::from_random(id, 2)],
            features: SupportedFeatures::default().iter().map(feature).collect(),
            ..BrokerRegistrationRequest::default()
        };
        let decision = self.controller.register_broker(&self.image, &self.liveness, NOW, &request);
        self.commit(decision.records);
        let records = self.beat(broker_id);
        self.commit(records);
    }

    fn beat(&mut self, broker_id: i32) -> Vec<Record> {
        let request = BrokerHeartbeatRequest {
            broker_id,
            broker_epoch: self.image.broker(NodeId(broker_id)).expect("it is registered").epoch,
            current_metadata_offset: self.image.end().0 - 1,
            ..BrokerHeartbeatRequest::default()
        };
        self.liveness.heard(NOW, &request);
        self.controller.heartbeat(&self.image, &self.liveness, &request).records
    }
}

fn timed<T>(env: &Env, work: impl FnOnce() -> T) -> (T, Duration) {
    let began = env.elapsed();
    let done = work();
    (done, env.elapsed() - began)
}

/// Resident memory of this process in bytes; 0 where the kernel does not say.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).map_or(0, |kib| kib << 10)
}

fn row(what: &str, cost: &Cost) {
    let Cost { deciding, applying, records, bytes } = cost;
    println!(
        "| {what} | {records} | {:.1} | {:.1} | {:.1} |",
        *bytes as f64 / 1e6,
        ms(*deciding),
        ms(*applying)
    );
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<i32>().expect("a number"));
    let (brokers, partitions) = (args.next().unwrap_or(100), args.next().unwrap_or(1_000_000));
    let (_runtime, env) = HostRuntime::start("scale", 1).expect("threads can be started");
    let mut stage = Stage::new(env);
    (1..=brokers).for_each(|broker| stage.start(broker));
    let before = resident();

    println!(
        "{brokers} brokers, {partitions} partitions in topics of {PARTITIONS}, {REPLICAS} replicas each\n"
    );
    println!("| step | records | MB | deciding, ms | applying, ms |\n| --- | ---: | ---: | ---: | ---: |");
    let names: Vec<String> =
        (0..partitions / PARTITIONS).map(|number| format!("topic-{number:06}")).collect();
    let (mut requests, mut seed) = (Vec::new(), 0);
    for names in names.chunks(TOPICS) {
        let topic = |name: &String| CreatableTopic {
            name: name.as_str().into(),
            num_partitions: PARTITIONS,
            replication_factor: REPLICAS,
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest {
            topics: names.iter().map(topic).collect(),
            ..CreateTopicsRequest::default()
        };
        requests.push(stage.step(|stage| {
            let mut next = || {
                seed += 1;
                Uuid::from_random(seed * 0x9E37_79B9, seed)
            };
            stage.controller.create_topics(&stage.image, &request, &mut next).records
        }));
    }
    if let (Some(first), Some(last)) = (requests.first(), requests.last()) {
        row("creating the first partitions, in one request", first);
        row("creating the last, in one request", last);
    }
    let held = resident().saturating_sub(before);
    let beats = stage.step(|stage| (1..=brokers).flat_map(|broker| stage.beat(broker)).collect());
    row("a heartbeat of each broker", &beats);
    let fenced = stage.step(|stage| stage.controller.fence(&stage.image, &[NodeId(1)]).records);
    row("one broker is lost", &fenced);
    let back = stage.step(|stage| stage.controller.balance_leaders(&stage.image).records);
    row("a look at who should lead", &back);
    let (encoded, encoding) = timed(&stage.env, || {
        let records = stage.image.to_records();
        records.map(|record| record.encode().expect("it is encoded")).collect::<Vec<_>>()
    });
    let snapshot: usize = encoded.iter().map(|record| record.len()).sum();
    let (whole, reading) = timed(&stage.env, || {
        let records = encoded.iter().map(|bytes| Record::decode(bytes.clone()).expect("it is decoded"));
        let batch = Committed {
            base: millstream_record::Offset(0),
            end: stage.image.end(),
            epoch: LeaderEpoch(1),
            snapshot: true,
            records: records.collect(),
        };
        let mut image = Image::default();
        image.apply_batch(&batch).expect("it fits");
        image
    });
    assert_eq!(whole.topics().len(), stage.image.topics().len(), "nothing is left out");
    drop(whole);
    println!(
        "\nmemory of the image: {:.0} MB, {} bytes a partition\nsnapshot: {} records, {:.1} MB; writing it took {:.0} ms, reading it {:.0} ms",
        held as f64 / 1e6,
        held / usize::try_from(partitions).expect("it is positive"),
        encoded.len(),
        snapshot as f64 / 1e6,
        ms(encoding),
        ms(reading)
    );
}
