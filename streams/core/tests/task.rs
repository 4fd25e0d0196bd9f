//! A task as the runtime drives it: whose turn it is, what waits for what, what a commit holds. Rows are Arrow here, as a
//! SQL front end would have them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use millstream_record::{Millis, Offset};
use millstream_streams_core::kernel::{
    Emit, Fold, Group, KeyColumn, LATE_PORT, Pick, WindowAggregate, WindowOptions,
};
use millstream_streams_core::rule::TimeWindows;
use millstream_streams_core::task::Gate;
use millstream_streams_core::{
    Chunk, Decoded, Deserializer, InputRecord, MemoryStore, Operator, OperatorContext, OperatorSpec,
    OutputRecord, Result, Rows, Serializer, SinkSpec, SourceSpec, Store, StoreSpec, StreamsError, Task,
    TaskId, TopicName, Topology, TopologyBuilder,
};
use proptest::prelude::*;

const TASK: TaskId = TaskId { subtopology: 0, partition: 0 };

fn batch(values: Vec<i64>) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values))]).unwrap()
}

fn column(chunk: &Chunk) -> Result<&Int64Array> {
    Ok(chunk.batch()?.column(0).as_any().downcast_ref().expect("the column of these tests"))
}

/// Values are numbers as text.
struct Numbers;

impl Deserializer for Numbers {
    fn deserialize(&mut self, records: Vec<InputRecord>) -> Result<Decoded> {
        let number = |record: &InputRecord| {
            std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse::<i64>().unwrap()
        };
        let rows = batch(records.iter().map(number).collect());
        let timestamps = records.iter().map(|record| record.timestamp).collect();
        let offsets = records.iter().map(|record| record.offset).collect();
        Ok(Decoded { chunk: Some(Chunk::arrow(rows, timestamps, offsets)), ..Decoded::default() })
    }
}

impl Serializer for Numbers {
    fn serialize(&mut self, _: &Arc<str>, chunk: Chunk, records: &mut Vec<OutputRecord>) -> Result<()> {
        for (row, timestamp) in chunk.timestamps.iter().enumerate() {
            let value = column(&chunk)?.value(row).to_string();
            records.push(OutputRecord {
                key: None,
                partition_key: None,
                value: Some(value.into()),
                timestamp: *timestamp,
                headers: Vec::new(),
            });
        }
        Ok(())
    }
}

/// Writes down the length of each chunk as a row, to see how runs are cut.
struct Lengths;

impl Operator for Lengths {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, chunk: Chunk) -> Result<()> {
        let rows = batch(vec![chunk.len() as i64]);
        ctx.forward(Chunk::arrow(rows, vec![chunk.timestamps[0]], vec![chunk.offsets[0]]));
        Ok(())
    }
}

/// Sums of numbers by their last digit, batch-wise: all picks of a slot at once.
struct Sums;

impl Fold for Sums {
    type State = i64;

    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        column(chunk)?.values().iter().for_each(|n| keys.push(&[(n % 10) as u8]));
        Ok(())
    }
    fn init(&mut self) -> Result<i64> {
        Ok(0)
    }
    fn load(&mut self, bytes: &Bytes) -> Result<i64> {
        Ok(i64::from_be_bytes(bytes.as_ref().try_into().map_err(StreamsError::user)?))
    }
    fn save(&mut self, state: &mut i64, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.extend_from_slice(&state.to_be_bytes());
        Ok(())
    }
    fn fold(&mut self, states: &mut [i64], chunk: &Chunk, picks: &[Pick]) -> Result<()> {
        let values = column(chunk)?;
        for (slot, state) in states.iter_mut().enumerate() {
            let mine = picks.iter().filter(|pick| pick.slot as usize == slot);
            *state += mine.map(|pick| values.value(pick.row as usize)).sum::<i64>();
        }
        Ok(())
    }
    fn emit(&mut self, groups: Vec<Group<'_, i64>>) -> Result<Rows> {
        Ok(Rows::Arrow(batch(groups.iter().map(|group| *group.state).collect())))
    }
}

fn user(topic: &str) -> TopicName {
    TopicName::User(topic.into())
}

/// Two inputs, `a` and `b`, merged into chunk lengths.
fn two_inputs(bootstrap: bool) -> Task {
    let mut topology = TopologyBuilder::new();
    let a = SourceSpec::new(["a"], || Numbers);
    let a = topology.source("a", if bootstrap { a.bootstrap() } else { a });
    let b = topology.source("b", SourceSpec::new(["b"], || Numbers));
    let both = topology.operator("lengths", OperatorSpec::new("lengths", || Lengths), &[a, b]);
    topology.sink("out", SinkSpec::new("out", || Numbers), both);
    let inputs = [(user("a"), Offset(0)), (user("b"), Offset(0))];
    Task::new(Arc::new(topology.build().unwrap()), TASK, "app", Vec::new(), &inputs).unwrap()
}

fn add(task: &mut Task, topic: &str, timestamps: &[i64]) {
    let position = task.positions().into_iter().find(|(name, ..)| *name == user(topic)).unwrap().1;
    let from = position.0 + task.buffered_rows(&user(topic)) as i64;
    let record = |(offset, at): (i64, &i64)| InputRecord {
        offset: Offset(offset),
        timestamp: Millis(*at),
        key: None,
        value: Some(at.to_string().into()),
        headers: Vec::new(),
    };
    let records: Vec<_> = (from..).zip(timestamps).map(record).collect();
    let next = Offset(from + records.len() as i64);
    task.add_records(&user(topic), records, next).unwrap();
    task.observe_log_end(&user(topic), next).unwrap();
}

/// Outputs as `value@timestamp`.
fn outputs(task: &mut Task) -> Vec<String> {
    while task.process(Millis(0)).unwrap() {}
    let text = |record: OutputRecord| {
        format!("{}@{}", std::str::from_utf8(&record.value.unwrap()).unwrap(), record.timestamp)
    };
    task.take_outputs().into_iter().flat_map(|(_, records)| records).map(text).collect()
}

#[test]
fn the_oldest_head_goes_first_and_cuts_the_run_of_the_other() {
    let mut task = two_inputs(false);
    add(&mut task, "a", &[1, 2, 5, 9]);
    add(&mut task, "b", &[3, 4, 6]);
    assert_eq!(outputs(&mut task), ["2@1", "2@3", "1@5", "1@6", "1@9"]);
}

#[test]
fn among_equal_heads_the_first_declared_goes_first_also_within_a_run() {
    let mut task = two_inputs(false);
    add(&mut task, "a", &[10, 10, 20]);
    add(&mut task, "b", &[5, 10, 20, 21]);
    assert_eq!(outputs(&mut task), ["1@5", "2@10", "1@10", "1@20", "2@20"]);
}

#[test]
fn an_empty_input_is_waited_for_while_it_is_known_to_have_more() {
    let mut task = two_inputs(false);
    add(&mut task, "a", &[5]);
    assert_eq!(outputs(&mut task), [""; 0], "nothing is known about b");
    task.observe_log_end(&user("b"), Offset(1)).unwrap();
    assert_eq!(outputs(&mut task), [""; 0], "b has a record that is not here yet");
    add(&mut task, "b", &[1]);
    assert_eq!(outputs(&mut task), ["1@1", "1@5"]);
}

#[test]
fn a_bootstrap_input_is_read_to_its_gate_first() {
    let mut task = two_inputs(true);
    add(&mut task, "b", &[1, 2]);
    add(&mut task, "a", &[50]);
    assert_eq!(outputs(&mut task), ["1@50"], "the gate is not known yet, so b is held");
    task.set_gate(&user("a"), Gate::At(Offset(3))).unwrap();
    task.observe_log_end(&user("a"), Offset(3)).unwrap();
    assert_eq!(outputs(&mut task), [""; 0]);
    add(&mut task, "a", &[60, 70, 80]);
    assert_eq!(outputs(&mut task), ["2@60", "2@1", "1@80"], "the run ends at the gate");
}

#[test]
fn a_finite_bootstrap_input_opens_its_gate_at_its_end() {
    let mut task = two_inputs(true);
    add(&mut task, "b", &[1]);
    add(&mut task, "a", &[50]);
    task.end_input(&user("a"), Offset(1)).unwrap();
    assert_eq!(outputs(&mut task), ["1@50", "1@1"]);
    assert!(!task.is_drained(), "b has no end");
    task.end_input(&user("b"), Offset(1)).unwrap();
    assert!(task.is_drained());
}

/// Rows of `a` at these offsets; their values are the offsets, too.
fn add_at(task: &mut Task, offsets: std::ops::Range<i64>) {
    let record = |offset: i64| InputRecord {
        offset: Offset(offset),
        timestamp: Millis(offset),
        key: None,
        value: Some(offset.to_string().into()),
        headers: Vec::new(),
    };
    let next = Offset(offsets.end);
    task.observe_log_end(&user("a"), next).unwrap();
    task.add_records(&user("a"), offsets.map(record).collect(), next).unwrap();
}

fn position_of_a(task: &Task) -> i64 {
    task.positions().into_iter().find(|(name, ..)| *name == user("a")).unwrap().1.0
}

/// The topic was deleted and made anew, or its log was cut off: what is committed is what was consumed of the log that there is.
#[test]
fn a_position_goes_back_with_its_log() {
    let mut task = two_inputs(false);
    task.observe_log_end(&user("b"), Offset(0)).unwrap();
    add_at(&mut task, 0..50);
    assert_eq!(outputs(&mut task), ["50@0"]);
    assert_eq!(position_of_a(&task), 50);
    add_at(&mut task, 0..10);
    assert_eq!(position_of_a(&task), 0, "none of the new rows is processed");
    assert_eq!(outputs(&mut task), ["10@0"]);
    assert_eq!(position_of_a(&task), 10);
    task.observe_log_end(&user("a"), Offset(4)).unwrap();
    task.add_records(&user("a"), Vec::new(), Offset(4)).unwrap();
    assert_eq!(position_of_a(&task), 4, "a log that holds nothing but control records goes back, too");
}

#[test]
fn rows_that_the_log_lost_do_not_hide_those_that_came_instead() {
    let mut task = two_inputs(false);
    add_at(&mut task, 0..50); // waits, since nothing is known about b
    add_at(&mut task, 30..40);
    assert_eq!(position_of_a(&task), 0);
    task.end_input(&user("b"), Offset(1)).unwrap();
    let one = |offset| InputRecord {
        offset: Offset(offset),
        timestamp: Millis(44),
        key: None,
        value: Some("1".into()),
        headers: Vec::new(),
    };
    task.add_records(&user("b"), vec![one(0)], Offset(1)).unwrap();
    assert!(task.process(Millis(0)).unwrap());
    assert_eq!(position_of_a(&task), 30, "the rows up to 44 are of the log that was lost");
    assert_eq!(outputs(&mut task).len(), 4, "0..45 of a, b, the rest of a, and what came instead");
    assert_eq!(position_of_a(&task), 40);
}

#[test]
fn a_gate_opens_though_the_log_went_back_below_it() {
    let mut task = two_inputs(true);
    task.set_gate(&user("a"), Gate::At(Offset(50))).unwrap();
    add_at(&mut task, 0..20);
    add(&mut task, "b", &[1]);
    assert_eq!(outputs(&mut task), ["20@0"]);
    add_at(&mut task, 0..10);
    assert_eq!(outputs(&mut task), ["10@0", "1@1"]);
}

fn windowed(emit: Emit) -> Arc<Topology> {
    windowed_with(emit, 0, 1000)
}

/// Keeps the states of `at_hand` windows at hand.
fn windowed_with(emit: Emit, grace_ms: i64, at_hand: usize) -> Arc<Topology> {
    let options = WindowOptions { windows: TimeWindows::new(10, 10).unwrap(), grace_ms, emit };
    let mut topology = TopologyBuilder::new();
    topology.add_store(StoreSpec::new("sums"));
    let rows = topology.source("in", SourceSpec::new(["in"], || Numbers));
    let spec =
        OperatorSpec::new("sum", move || WindowAggregate::new(Sums, options).at_hand(at_hand)).store("sums");
    let sums = topology.operator("sum", spec, &[rows]);
    topology.sink("out", SinkSpec::new("out", || Numbers), sums);
    topology.sink("late", SinkSpec::new("late", || Numbers), sums.side(LATE_PORT));
    Arc::new(topology.build().unwrap())
}

fn start(topology: &Arc<Topology>, base: Box<dyn Store>, from: i64) -> Task {
    Task::new(Arc::clone(topology), TASK, "app", vec![base], &[(user("in"), Offset(from))]).unwrap()
}

#[test]
fn a_commit_holds_one_changelog_record_for_each_changed_key() {
    let topology = windowed(Emit::OnUpdate);
    let mut task = start(&topology, Box::new(MemoryStore::default()), 0);
    add(&mut task, "in", &[1, 2, 1]);
    add(&mut task, "in", &[1]);
    while task.process(Millis(0)).unwrap() {}
    let commit = task.prepare_commit().unwrap();
    assert_eq!(commit.offsets, [(user("in"), Offset(4), String::new())]);
    assert_eq!(commit.changelog.len(), 3, "two groups and the stream time");
    assert!(commit.changelog.iter().all(|(store, _, value)| &**store == "sums" && value.is_some()));
    assert_eq!(
        commit.outputs.iter().map(|(_, records)| records.len()).sum::<usize>(),
        3,
        "one for each chunk and group"
    );
    task.fold().unwrap();
    assert_eq!(task.prepare_commit().unwrap().changelog, []);
}

type Outputs = Vec<(TopicName, Vec<OutputRecord>)>;

/// Commits, and starts again from there with the rest of `rows`.
fn restarted(topology: &Arc<Topology>, mut task: Task, rows: &[i64], made: &mut Outputs) -> Task {
    let commit = task.prepare_commit().unwrap();
    made.extend(commit.outputs);
    task.fold().unwrap();
    let from = commit.offsets[0].1.0;
    let mut task = start(topology, task.into_bases().remove(0), from);
    add(&mut task, "in", &rows[from as usize..]);
    task
}

/// Windows that are due together leave in turns, with exact commits in between, and no row is taken before the last has left.
#[test]
fn windows_that_close_together_leave_in_bounded_turns() {
    const LIMIT: usize = 100;
    let check = |emit: Emit, at_hand: usize, jump: bool, restarts: bool| {
        let case = format!("{emit:?}, {at_hand} at hand, jump {jump}, restarts {restarts}");
        let topology = windowed_with(emit, 1_000_000, at_hand);
        let mut task = start(&topology, Box::new(MemoryStore::default()), 0);
        let mut rows: Vec<i64> = (0..2_000).collect(); // each is a window and a key of its own
        add(&mut task, "in", &rows);
        while task.process_some(Millis(0), LIMIT).unwrap() > 0 {}
        let (mut made, mut first) = (Outputs::new(), Outputs::new());
        task = restarted(&topology, task, &rows, &mut first);
        match jump {
            true => rows.extend([5_000_000, 7]), // the last one is late, by windows that have not left yet
            false => task.end_input(&user("in"), Offset(2_000)).unwrap(),
        }
        add(&mut task, "in", &rows[2_000..]);
        let mut turns = 0;
        loop {
            let worked = match jump {
                true => task.process_some(Millis(0), LIMIT).unwrap(),
                false => task.close_some(Millis(0), LIMIT).unwrap(),
            };
            if worked == 0 {
                break;
            }
            turns += 1;
            let bytes = task.uncommitted_bytes();
            assert!(bytes < 100_000, "{case}: {bytes} bytes in one turn");
            let taken = made.len();
            if restarts {
                task = restarted(&topology, task, &rows, &mut made);
                (!jump).then(|| task.end_input(&user("in"), Offset(2_000)).unwrap());
            } else {
                made.extend(task.prepare_commit().unwrap().outputs);
                task.fold().unwrap();
            }
            let records: usize = made[taken..].iter().map(|(_, records)| records.len()).sum();
            assert!(records <= 2 * LIMIT + 2, "{case}: {records} records in one turn");
            if restarts
                && !jump
                && task.store("sums").unwrap().range(Bound::Unbounded, Bound::Unbounded).count() < 2
            {
                break; // a task that starts anew has not closed, though nothing is left to emit
            }
        }
        let of = |topic: &str, outputs: &Outputs| -> Vec<i64> {
            let mine = outputs.iter().filter(|(name, _)| *name == user(topic));
            let records = mine.flat_map(|(_, records)| records);
            records
                .map(|record| String::from_utf8_lossy(record.value.as_ref().unwrap()).parse().unwrap())
                .collect()
        };
        let late: &[i64] = if jump { &[7] } else { &[] };
        assert_eq!(of("late", &made), late, "{case}");
        let mut expected = rows[..2_000].to_vec();
        if emit == Emit::OnUpdate {
            expected = if jump { vec![5_000_000] } else { Vec::new() };
        }
        assert!(of("out", &made) == expected, "{case}: {:?}", of("out", &made));
        assert!(turns >= 10, "{case}: {turns} turns");
    };
    for emit in [Emit::OnClose, Emit::OnUpdate] {
        for (jump, restarts) in [(true, false), (true, true), (false, false), (false, true)] {
            check(emit, 10, jump, restarts);
            check(emit, 10_000, jump, restarts);
        }
    }
}

proptest! {
    /// However rows are cut into chunks, however few windows a turn closes, and wherever in the midst of that the task is restarted:
    /// closed windows and late rows are the same.
    #[test]
    fn chunking_and_restarts_change_no_closed_window(
        rows in prop::collection::vec(0i64..120, 1..120),
        cuts in prop::collection::vec((1usize..20, any::<bool>()), 1..60),
        grace_ms in 0i64..60,
        at_hand in 0usize..6,
        limit in 1usize..6,
    ) {
        let topology = windowed_with(Emit::OnClose, grace_ms, 1000);
        let mut whole = start(&topology, Box::new(MemoryStore::default()), 0);
        let topology = windowed_with(Emit::OnClose, grace_ms, at_hand);
        rows.iter().for_each(|row| add(&mut whole, "in", &[*row]));
        let mut parts = start(&topology, Box::new(MemoryStore::default()), 0);
        let (mut made, mut at) = (Vec::new(), 0);
        let mut cuts = cuts.iter().cycle();
        while let Some((length, restart)) = cuts.next().filter(|_| at < rows.len()) {
            let end = (at + length).min(rows.len());
            add(&mut parts, "in", &rows[at..end]);
            at = end;
            for _ in 0..*length {
                parts.process_some(Millis(0), limit).unwrap();
            }
            if *restart {
                parts = restarted(&topology, parts, &rows[..at], &mut made);
            }
        }
        let end = Offset(rows.len() as i64);
        while !parts.is_closed() {
            parts.end_input(&user("in"), end).unwrap();
            let (length, restart) = cuts.next().unwrap();
            for _ in 0..*length {
                if parts.process_some(Millis(0), limit).unwrap() == 0 {
                    parts.close_some(Millis(0), limit).unwrap();
                }
            }
            if *restart && !parts.is_closed() {
                parts = restarted(&topology, parts, &rows, &mut made);
            }
        }
        whole.end_input(&user("in"), end).unwrap();
        while whole.process(Millis(0)).unwrap() {}
        prop_assert!(whole.is_drained() && parts.is_drained());
        whole.close(Millis(0)).unwrap();
        let mut all = [whole, parts].map(|mut task| task.prepare_commit().unwrap().outputs).to_vec();
        made.extend(all.pop().unwrap());
        let by_topic = |outputs: Outputs| {
            let mut topics = BTreeMap::<_, Vec<_>>::new();
            for (topic, records) in outputs {
                topics.entry(topic).or_default().extend(records);
            }
            topics
        };
        prop_assert_eq!(by_topic(made), by_topic(all.pop().unwrap()));
    }
}
