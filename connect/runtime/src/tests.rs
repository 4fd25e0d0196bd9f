//! Workers on the log in memory: what arrives is exact, wherever they are killed.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use millstream_connect_api::{
    BadRecord, Config, ConfigDef, ConnectError, Polled, Positions, Problem, RefusedRow, SinkBatch,
    SinkConnector, SinkInput, SinkOpen, SinkTask, SourceBatch, SourceConnector, SourceTask, SystemColumns,
    TableSchema, TaskContext,
};
use millstream_env::HostRuntime;
use millstream_record::{Offset, TopicPartition};
use parking_lot::Mutex;
use serde_json::json;

use crate::memory::{MemoryLog, Stored};
use crate::{
    Ends, OnError, Outcome, RetryPolicy, RuntimeError, SinkSpec, SourceSpec, Status, TableTopic, WorkerEnv,
    ends_channel, known_schemas, run_sink, run_source, sink::run_sink_within, stop_signal,
};

/// A source of the numbers below `count`, in batches of `step`; every tenth is bad.
struct Numbers {
    count: i64,
    step: i64,
    /// What the source was told is durable.
    told: Arc<Mutex<Vec<i64>>>,
    ends: bool,
    /// How it fails once it has yielded its numbers.
    fails: Option<fn() -> ConnectError>,
}

struct NumbersTask {
    count: i64,
    step: i64,
    next: i64,
    told: Arc<Mutex<Vec<i64>>>,
    ends: bool,
    fails: Option<fn() -> ConnectError>,
}

fn schema() -> arrow::datatypes::SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
}

fn table() -> TableSchema {
    TableSchema::append_only("numbers", schema())
}

impl SourceConnector for Numbers {
    fn name(&self) -> &'static str {
        "numbers"
    }
    fn definition(&self) -> ConfigDef {
        ConfigDef::new()
    }
    fn tables<'a>(
        &'a self,
        _: &'a str,
        _: &'a Config,
        _: &'a [TableSchema],
        _: &'a TaskContext,
    ) -> BoxFuture<'a, Result<Vec<TableSchema>, ConnectError>> {
        async { Ok(vec![table()]) }.boxed()
    }
    fn task(&self, _: &Config, _: &[TableSchema]) -> Result<Box<dyn SourceTask>, ConnectError> {
        let told = Arc::clone(&self.told);
        let Self { count, step, ends, fails, .. } = *self;
        Ok(Box::new(NumbersTask { count, step, next: -1, told, ends, fails }))
    }
}

impl SourceTask for NumbersTask {
    fn open(&mut self, positions: Positions, _: TaskContext) -> BoxFuture<'_, Result<(), ConnectError>> {
        self.next = positions.get("p").map_or(0, |at| at.as_i64().unwrap());
        async { Ok(()) }.boxed()
    }
    fn poll(&mut self) -> BoxFuture<'_, Result<Polled, ConnectError>> {
        if self.next >= self.count {
            if let Some(fails) = self.fails {
                return async move { Err(fails()) }.boxed();
            }
            let polled = if self.ends { Polled::End } else { Polled::Idle(Duration::from_millis(1)) };
            return async { Ok(polled) }.boxed();
        }
        let numbers = self.next..self.count.min(self.next + self.step);
        self.next = numbers.end;
        let column: ArrayRef =
            Arc::new(Int64Array::from_iter_values(numbers.clone().filter(|n| n % 10 != 9)));
        let bad = numbers.filter(|n| n % 10 == 9).map(|n| BadRecord {
            origin: "numbers.txt".into(),
            line: Some(n as u64),
            reason: "it ends in nine".into(),
            raw: n.to_string().into_bytes(),
        });
        let batch = SourceBatch {
            table: "numbers".into(),
            rows: RecordBatch::try_new(schema(), vec![column]).unwrap(),
            system: SystemColumns::default(),
            partition: "p".into(),
            position: json!(self.next),
            bad: bad.collect(),
            bytes: 8,
        };
        async { Ok(Polled::Batch(batch)) }.boxed()
    }
    fn committed(&mut self, positions: &Positions) -> BoxFuture<'_, Result<(), ConnectError>> {
        self.told.lock().push(positions["p"].as_i64().unwrap());
        async { Ok(()) }.boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// The outside system of [`Collect`]: rows and the offset behind them, as a database would hold both.
#[derive(Default)]
struct Outside {
    rows: Vec<i64>,
    held: Option<Offset>,
    refuse: Vec<i64>,
    /// Hears of the next call of `put`, which then never ends.
    hang: Option<oneshot::Sender<()>>,
}

/// A sink whose rows become durable at flush.
struct Collect(Arc<Mutex<Outside>>);

struct CollectTask {
    outside: Arc<Mutex<Outside>>,
    pending: Vec<i64>,
    next: Option<Offset>,
}

impl SinkConnector for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }
    fn definition(&self) -> ConfigDef {
        ConfigDef::new()
    }
    fn check(&self, _: &Config, _: &SinkInput) -> Vec<Problem> {
        Vec::new()
    }
    fn task(&self, _: &Config, _: &SinkInput) -> Result<Box<dyn SinkTask>, ConnectError> {
        Ok(Box::new(CollectTask { outside: Arc::clone(&self.0), pending: vec![], next: None }))
    }
}

type Held = std::collections::BTreeMap<TopicPartition, Offset>;

impl SinkTask for CollectTask {
    fn open(&mut self, _: SinkOpen) -> BoxFuture<'_, Result<Held, ConnectError>> {
        self.next = self.outside.lock().held;
        let held = self.next.map(|offset| (TopicPartition::new("t", 0), offset)).into_iter().collect();
        async { Ok(held) }.boxed()
    }
    fn put(&mut self, batch: SinkBatch) -> BoxFuture<'_, Result<(), ConnectError>> {
        let numbers: Vec<i64> = batch.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        let mut outside = self.outside.lock();
        if let Some(hears) = outside.hang.take() {
            let _ = hears.send(());
            return std::future::pending().boxed();
        }
        let is_refused = |(_, n): &(usize, &i64)| outside.refuse.contains(*n);
        let named = |(row, _)| RefusedRow { row, reason: "refused".into() };
        let refused: Vec<_> = numbers.iter().enumerate().filter(is_refused).map(named).collect();
        if !refused.is_empty() {
            return async move { Err(ConnectError::BadRows(refused)) }.boxed();
        }
        self.pending.extend(numbers);
        self.next = batch.offsets.last().map(|last| last.plus(1));
        async { Ok(()) }.boxed()
    }
    fn passed(&mut self, read: Held) -> BoxFuture<'_, Result<(), ConnectError>> {
        self.next = self.next.max(read.into_values().next());
        async { Ok(()) }.boxed()
    }
    fn flush(&mut self) -> BoxFuture<'_, Result<Held, ConnectError>> {
        let mut outside = self.outside.lock();
        outside.rows.append(&mut self.pending);
        outside.held = self.next;
        let held = self.next.map(|offset| (TopicPartition::new("t", 0), offset)).into_iter().collect();
        async { Ok(held) }.boxed()
    }
    fn finish(&mut self) -> BoxFuture<'_, Result<Held, ConnectError>> {
        self.flush()
    }
    fn close(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct World {
    runtime: tokio::runtime::Runtime,
    worker: WorkerEnv,
    log: MemoryLog,
    told: Arc<Mutex<Vec<i64>>>,
    outside: Arc<Mutex<Outside>>,
    on_error: OnError,
}

impl World {
    fn new() -> Self {
        let (runtime, env) = HostRuntime::start("connect-test", 2).unwrap();
        let log = MemoryLog::new();
        let worker = WorkerEnv {
            env,
            log: Arc::new(log.clone()),
            namespace: "test".into(),
            state_dir: "state".into(),
        };
        let on_error = OnError::DeadLetters("bad".into());
        Self { runtime, worker, log, told: Arc::default(), outside: Arc::default(), on_error }
    }

    fn source(&self, count: i64, ends: bool) -> SourceSpec {
        let table =
            TableTopic { table: table(), topic: "t".into(), partitions: Some(1), converter: "json".into() };
        SourceSpec {
            name: "numbers".into(),
            connector: Arc::new(Numbers { count, step: 7, told: Arc::clone(&self.told), ends, fails: None }),
            config: Config::default(),
            tables: vec![table],
            on_error: self.on_error.clone(),
            retry: RetryPolicy { timeout: Duration::ZERO, ..RetryPolicy::default() },
        }
    }

    fn run_source(&self, spec: SourceSpec, status: &Status) -> (Result<Outcome, RuntimeError>, Option<Ends>) {
        let (send, ends) = ends_channel();
        let (_stopper, stop) = stop_signal();
        let run = run_source(spec, self.worker.clone(), stop, status.clone(), send);
        let outcome = self.runtime.block_on(self.worker.env.timeout(Duration::from_secs(20), run)).unwrap();
        let ends = ends.borrow().clone();
        (outcome, ends)
    }

    fn run_sink(&self, ends: Ends) -> Result<Outcome, RuntimeError> {
        let (_stopper, stop) = stop_signal();
        let run = run_sink(self.sink(ends), self.worker.clone(), stop, Status::new());
        self.runtime.block_on(self.worker.env.timeout(Duration::from_secs(20), run)).unwrap()
    }

    /// What the sink has buried.
    fn letters(&self) -> Vec<String> {
        let letters = self.log.records("bad").concat();
        let json = letters.iter().map(|letter| letter.value.clone().unwrap());
        let json = json.map(|letter| serde_json::from_slice::<serde_json::Value>(&letter).unwrap());
        let own = json.filter(|letter| letter["connector"] == "collect");
        own.map(|letter| format!("{} {}", letter["line"], letter["raw"].as_str().unwrap())).collect()
    }

    fn sink(&self, ends: Ends) -> SinkSpec {
        SinkSpec {
            name: "collect".into(),
            connector: Arc::new(Collect(Arc::clone(&self.outside))),
            config: Config::default(),
            table: table(),
            topics: vec!["t".into()],
            converter: "json".into(),
            ends: Some({
                let (send, receive) = ends_channel();
                send.send_replace(Some(ends));
                receive
            }),
            on_error: self.on_error.clone(),
            retry: RetryPolicy { timeout: Duration::ZERO, ..RetryPolicy::default() },
            commit_interval: Duration::ZERO,
        }
    }

    fn numbers(&self, topic: &str) -> Vec<i64> {
        let json = |record: &Stored| {
            serde_json::from_slice::<serde_json::Value>(record.value.as_ref().unwrap()).unwrap()
        };
        let number = |value: serde_json::Value| value["n"].as_i64().or(value["line"].as_i64()).unwrap();
        self.log.records(topic).concat().iter().map(|record| number(json(record))).collect()
    }
}

fn good(count: i64) -> Vec<i64> {
    (0..count).filter(|n| n % 10 != 9).collect()
}

fn bad(count: i64) -> Vec<i64> {
    (0..count).filter(|n| n % 10 == 9).collect()
}

#[test]
fn a_drained_source_leaves_rows_dead_letters_positions_and_ends() {
    let world = World::new();
    let status = Status::new();
    let (outcome, ends) = world.run_source(world.source(100, true), &status);
    assert_eq!(outcome.unwrap(), Outcome::Drained);
    assert_eq!((world.numbers("t"), world.numbers("bad")), (good(100), bad(100)));
    // 90 rows, 10 dead letters, a marker each.
    let at = |topic: &str, end| (TopicPartition::new(topic, 0), Offset(end));
    assert_eq!(ends, Some([at("t", 91), at("bad", 11)].into()));
    assert_eq!(world.told.lock().last(), Some(&100));
    assert_eq!((status.counts().rows, status.counts().bad), (90, 10));
    let letter: serde_json::Value =
        serde_json::from_slice(world.log.records("bad")[0][0].value.as_ref().unwrap()).unwrap();
    assert_eq!(letter["connector"], "numbers");
    assert_eq!(
        (&letter["origin"], &letter["line"], &letter["raw"]),
        (&json!("numbers.txt"), &json!(9), &json!("9"))
    );
    let (outcome, again) = world.run_source(world.source(100, true), &Status::new());
    assert_eq!((outcome.unwrap(), again), (Outcome::Drained, ends), "nothing new, and the ends stay");
    assert_eq!(world.numbers("t"), good(100));
    let (outcome, _) = world.run_source(world.source(105, true), &Status::new());
    assert_eq!((outcome.unwrap(), world.numbers("t")), (Outcome::Drained, good(105)));
}

#[test]
fn a_source_killed_at_every_step_writes_every_row_once() {
    for kill in 0..80 {
        let world = World::new();
        world.log.kill_after(kill);
        let _ = world.run_source(world.source(40, true), &Status::new());
        let killed = world.log.revive();
        let durable = world.numbers("t").len();
        assert!(
            world.told.lock().iter().all(|told| good(*told).len() <= durable),
            "told of what is not durable"
        );
        let (outcome, ends) = world.run_source(world.source(40, true), &Status::new());
        assert_eq!(outcome.unwrap(), Outcome::Drained);
        assert!(ends.is_some());
        assert_eq!((world.numbers("t"), world.numbers("bad")), (good(40), bad(40)), "killed at {kill}");
        assert!(killed || kill > 20, "the run has that many steps");
    }
}

#[test]
fn a_sink_killed_at_every_step_holds_every_row_once_and_buries_every_other_once() {
    for kill in 0..80 {
        let world = World::new();
        let (outcome, ends) = world.run_source(world.source(2500, true), &Status::new());
        assert_eq!(outcome.unwrap(), Outcome::Drained);
        let oops =
            |text: &'static str| Stored { key: None, value: Some(Bytes::from_static(text.as_bytes())) };
        world.log.produce("t", 0, [oops("oops"), oops("alas")]);
        let mut ends = ends.unwrap();
        ends.values_mut().for_each(|end| *end = end.plus(3));
        world.outside.lock().refuse = vec![7, 8, 2013];
        world.log.kill_after(kill);
        let first = world.run_sink(ends.clone());
        assert_eq!(world.log.revive(), first.is_err());
        assert_eq!(world.run_sink(ends.clone()).unwrap(), Outcome::Drained);
        let expected: Vec<_> = good(2500).into_iter().filter(|n| ![7, 8, 2013].contains(n)).collect();
        assert_eq!(world.outside.lock().rows, expected, "killed at {kill}");
        let mut letters = world.letters();
        letters.sort();
        let places: Vec<_> = letters.iter().map(|letter| letter.split_once(' ').unwrap().1).collect();
        assert_eq!(
            places,
            ["{\"n\":2013}", "oops", "alas", "{\"n\":7}", "{\"n\":8}"],
            "killed at {kill}: {letters:?}"
        );
        let marks =
            world.runtime.block_on(world.worker.log.table(crate::OFFSETS_TOPIC.into(), Box::new(|_| true)));
        let left =
            marks.unwrap().into_keys().filter(|key| key.windows(7).any(|part| part == b"letters")).count();
        assert_eq!(left, 0, "what is behind the sink is forgotten");
    }
}

#[test]
fn a_sink_that_hangs_is_left_when_it_is_asked_to_stop() {
    let world = World::new();
    let (_, ends) = world.run_source(world.source(100, true), &Status::new());
    let (hears, entered) = oneshot::channel();
    world.outside.lock().hang = Some(hears);
    let (stopper, stop) = stop_signal();
    let spec = world.sink(ends.clone().unwrap());
    let run = run_sink_within(spec, world.worker.clone(), stop, Status::new(), Duration::from_millis(1));
    let run = world.worker.env.timeout(Duration::from_secs(20), run);
    let stopping = async {
        entered.await.unwrap();
        stopper.stop();
    };
    let (outcome, ()) = world.runtime.block_on(async { futures::join!(run, stopping) });
    assert_eq!(outcome.expect("it ends").unwrap(), Outcome::Stopped);
    assert_eq!(world.run_sink(ends.unwrap()).unwrap(), Outcome::Drained);
    assert_eq!(world.outside.lock().rows, good(100), "nothing is lost");
}

#[test]
fn what_a_source_yielded_before_it_failed_is_committed() {
    let world = World::new();
    let mut spec = world.source(100, true);
    let fails: fn() -> ConnectError = || ConnectError::fatal("opening b.csv", "permission denied");
    let told = Arc::clone(&world.told);
    spec.connector = Arc::new(Numbers { count: 50, step: 7, told, ends: true, fails: Some(fails) });
    let error = world.run_source(spec, &Status::new()).0.unwrap_err().to_string();
    assert_eq!(error, "numbers: opening b.csv: permission denied");
    assert_eq!(world.numbers("t"), good(50));
}

#[test]
fn a_source_that_is_stopped_while_it_fails_says_why() {
    let world = World::new();
    let mut spec = world.source(100, true);
    let fails: fn() -> ConnectError = || ConnectError::retriable("opening b.csv", "not yet");
    let told = Arc::clone(&world.told);
    spec.connector = Arc::new(Numbers { count: 50, step: 7, told, ends: true, fails: Some(fails) });
    spec.retry = RetryPolicy { first_delay: Duration::from_secs(1000), ..RetryPolicy::default() };
    spec.retry.max_delay = Duration::from_secs(1000);
    let (send, _ends) = ends_channel();
    let (stopper, stop) = stop_signal();
    let status = Status::new();
    let run = run_source(spec, world.worker.clone(), stop, status.clone(), send);
    let run = world.worker.env.timeout(Duration::from_secs(20), run);
    let stopping = async {
        while status.counts().last_error.is_none() {
            world.worker.env.sleep(Duration::from_millis(1)).await;
        }
        stopper.stop();
    };
    let (outcome, ()) = world.runtime.block_on(async { futures::join!(run, stopping) });
    let error = outcome.expect("it ends").unwrap_err().to_string();
    assert_eq!(error, "numbers: opening b.csv: not yet");
}

#[test]
fn bad_input_fails_the_task_where_none_is_tolerated_and_is_passed_over_where_it_is() {
    let mut world = World::new();
    world.on_error = OnError::Fail;
    let error = world.run_source(world.source(100, true), &Status::new()).0.unwrap_err().to_string();
    assert!(error.starts_with("numbers: numbers.txt:9: it ends in nine; set on_error"), "{error}");
    world.on_error = OnError::Skip;
    let status = Status::new();
    assert_eq!(world.run_source(world.source(100, true), &status).0.unwrap(), Outcome::Drained);
    assert_eq!((world.numbers("t"), status.counts().bad), (good(100), 10));
}

#[test]
fn records_that_are_no_rows_and_rows_that_the_sink_refuses_become_dead_letters() {
    let world = World::new();
    let (_, ends) = world.run_source(world.source(20, true), &Status::new());
    let oops = Stored { key: None, value: Some(Bytes::from("oops")) };
    let null = Stored { key: None, value: None };
    let five = Stored { key: None, value: Some(Bytes::from("{\"n\":500}")) };
    world.log.produce("t", 0, [oops, five, null]);
    world.outside.lock().refuse = vec![7];
    let mut ends = ends.unwrap();
    ends.values_mut().for_each(|end| *end = end.plus(4));
    assert_eq!(world.run_sink(ends).unwrap(), Outcome::Drained);
    let expected: Vec<_> = good(20).into_iter().filter(|n| *n != 7).chain([500]).collect();
    assert_eq!(world.outside.lock().rows, expected);
    let letters = world.log.records("bad").concat();
    let letters: Vec<serde_json::Value> = letters
        .iter()
        .skip(2)
        .map(|letter| serde_json::from_slice(letter.value.as_ref().unwrap()).unwrap())
        .collect();
    let found: Vec<_> = letters
        .iter()
        .map(|letter| (letter["origin"].as_str().unwrap(), letter["raw"].as_str().unwrap()))
        .collect();
    assert_eq!(found, [("t-0", "oops"), ("t-0", ""), ("t-0", "{\"n\":7}")]);
}

#[test]
fn a_second_worker_under_the_same_name_fences_the_first() {
    let world = World::new();
    let (send, _ends) = ends_channel();
    let (_stopper, stop) = stop_signal();
    let first = run_source(world.source(100, true), world.worker.clone(), stop, Status::new(), send);
    let second = world.worker.log.writer("connect-test-numbers".into());
    let outcome = world.runtime.block_on(async {
        // The first polls until it commits; the second takes over before that.
        let (outcome, taken) = futures::join!(first, second);
        taken.unwrap();
        outcome
    });
    match outcome {
        Err(RuntimeError::Fenced { .. }) => assert_eq!(world.numbers("t"), [0; 0]),
        Ok(Outcome::Drained) => assert_eq!(world.numbers("t"), good(100)), // it was done before
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_source_that_is_asked_to_stop_commits_and_ends() {
    let world = World::new();
    let (send, ends) = ends_channel();
    let (stopper, stop) = stop_signal();
    let status = Status::new();
    let run = run_source(world.source(50, false), world.worker.clone(), stop, status.clone(), send);
    assert!(!status.has_caught_up());
    let stopping = async {
        let caught_up = world.worker.env.timeout(Duration::from_secs(20), status.caught_up()).await;
        let rows = status.counts().rows;
        stopper.stop();
        assert_eq!((caught_up, rows), (Ok(()), 45), "it has caught up once all there was is durable");
    };
    let (outcome, ()) = world.runtime.block_on(async { futures::join!(run, stopping) });
    assert_eq!((outcome.unwrap(), ends.borrow().clone()), (Outcome::Stopped, None));
    assert_eq!(world.numbers("t"), good(50));
}

#[test]
fn a_topic_with_rows_of_another_schema_is_refused() {
    let world = World::new();
    world.run_source(world.source(10, true), &Status::new()).0.unwrap();
    let mut spec = world.source(10, true);
    spec.tables[0].table.schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Boolean, true)]));
    let error = world.run_source(spec, &Status::new()).0.unwrap_err().to_string();
    assert!(error.contains("it holds rows of another schema"), "{error}");
    let known = world.runtime.block_on(known_schemas(&world.log)).unwrap();
    assert_eq!(known, [("t".to_owned(), table())]);
}

#[test]
fn a_declared_type_that_holds_all_old_values_is_taken_from_then_on() {
    let world = World::new();
    world.run_source(world.source(10, true), &Status::new()).0.unwrap();
    let mut spec = world.source(10, true);
    let wider = Arc::new(Schema::new(vec![Field::new("n", DataType::Float64, true)]));
    spec.tables[0].table.schema = Arc::clone(&wider);
    world.run_source(spec, &Status::new()).0.unwrap();
    let known = world.runtime.block_on(known_schemas(&world.log)).unwrap();
    assert_eq!(known[0].1.schema, wider);
    let error = world.run_source(world.source(10, true), &Status::new()).0.unwrap_err().to_string();
    assert!(error.contains("'n' was float64 and is int64 now"), "and is not taken back: {error}");
}

#[test]
fn a_daemon_refuses_a_topic_that_there_is_not_and_that_it_does_not_write() {
    let world = World::new();
    let registry = millstream_connect_api::Registry::new().with_sink(Collect(Arc::clone(&world.outside)));
    let text =
        "[worker]\nname = 'd'\n[sink.a]\ntype = 'collect'\ntopic = 'flihgts'\ncolumns = { n = 'int64' }\n";
    let daemon = crate::Daemon::parse("d.toml".as_ref(), text, &registry, &|_| Ok(None)).unwrap();
    let (_stopper, stop) = stop_signal();
    let run = world.worker.env.timeout(Duration::from_secs(20), daemon.run(world.worker.clone(), stop));
    let error = world.runtime.block_on(run).expect("it ends").unwrap_err().to_string();
    assert_eq!(
        error,
        "d.toml: 5:9: there is no topic 'flihgts', and no source of this file writes it (if another program writes it, make it first: \
         millstream topics create flihgts)"
    );
}
