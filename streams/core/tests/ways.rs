//! Rows of several partitions that meet behind a repartition: what is late, and what a window holds, depends on the rows of each
//! partition and on nothing else: not on which task was faster, how rows are cut, or who crashed.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::{Millis, Offset};
use millstream_streams_core::dsl::Serde;
use millstream_streams_core::dsl::{Emit, Late, StreamBuilder, Tumbling, Windowed, millis, store};
use millstream_streams_core::ways::Ways;
use millstream_streams_core::{
    InputRecord, MemoryStore, OutputRecord, Store, Task, TaskId, TopicName, Topology,
};
use proptest::prelude::*;

const IDLE_MS: i64 = 1_000;
const SIZE: i64 = 20;

/// A row of the input: partition, key, timestamp.
type Row = (i32, u8, i64);

/// Tasks of a topology over a log of several partitions. What a task writes is there for others once it is committed.
struct Cluster {
    topology: Arc<Topology>,
    ways: Ways,
    widths: BTreeMap<TopicName, i32>,
    log: BTreeMap<(TopicName, i32), Vec<InputRecord>>,
    tasks: BTreeMap<TaskId, Running>,
    wall: Millis,
    finite: bool,
    /// The ends of the inputs are known.
    ended: bool,
}

struct Running {
    task: Option<Task>,
    /// Offset, and what is kept of times, of each input at the last commit.
    committed: BTreeMap<TopicName, (Offset, String)>,
    handed: BTreeMap<TopicName, usize>,
    pending: Vec<(TopicName, OutputRecord)>,
    ended: bool,
}

impl Cluster {
    /// Inputs have `partitions`; repartition topics have what they ask for.
    fn new(topology: Topology, partitions: i32, finite: bool) -> Self {
        let topology = Arc::new(topology);
        let inputs = topology.subtopologies().iter().flat_map(|part| &part.inputs);
        let mut widths: BTreeMap<_, _> = inputs.map(|topic| (topic.clone(), partitions)).collect();
        for repartition in topology.repartitions() {
            widths.insert(repartition.topic.clone(), repartition.partitions.unwrap_or(partitions));
        }
        let tasks_of =
            |part: usize| topology.subtopologies()[part].inputs.iter().map(|topic| widths[topic]).max();
        let ways = Ways::of(&topology, |part| usize::try_from(tasks_of(part).unwrap()).unwrap());
        let ids = (0..topology.subtopologies().len()).flat_map(|subtopology| {
            (0..tasks_of(subtopology).unwrap()).map(move |partition| TaskId { subtopology, partition })
        });
        let ids: Vec<_> = ids.collect();
        let mut cluster = Self {
            topology: Arc::clone(&topology),
            ways,
            widths,
            log: BTreeMap::new(),
            tasks: BTreeMap::new(),
            wall: Millis(0),
            finite,
            ended: false,
        };
        for id in ids {
            let stores = topology.subtopologies()[id.subtopology].stores.len();
            let bases = (0..stores).map(|_| Box::new(MemoryStore::default()) as Box<dyn Store>).collect();
            cluster.start(id, bases, BTreeMap::new());
        }
        cluster
    }

    fn start(
        &mut self,
        id: TaskId,
        bases: Vec<Box<dyn Store>>,
        committed: BTreeMap<TopicName, (Offset, String)>,
    ) {
        let topics = &self.topology.subtopologies()[id.subtopology].inputs;
        let at = |topic: &TopicName| committed.get(topic).map_or(Offset(0), |(offset, _)| *offset);
        let inputs: Vec<_> = topics.iter().map(|topic| (topic.clone(), at(topic))).collect();
        let task = Task::new(Arc::clone(&self.topology), id, "app", bases, &inputs).unwrap();
        let mut task = task.with_ways(&self.ways, IDLE_MS);
        for (topic, (_, times)) in &committed {
            task.restore_times(topic, times).unwrap();
        }
        for topic in topics.iter().filter(|_| self.finite) {
            let end = self.log.get(&(topic.clone(), id.partition)).map_or(0, Vec::len);
            task.observe_log_end(topic, Offset(i64::try_from(end).unwrap())).unwrap();
            task.expect_end(topic).unwrap();
        }
        let handed = inputs.into_iter().map(|(topic, at)| (topic, usize::try_from(at.0).unwrap())).collect();
        let running = Running { task: Some(task), committed, handed, pending: Vec::new(), ended: false };
        self.tasks.insert(id, running);
    }

    fn append(&mut self, topic: &TopicName, partition: i32, record: OutputRecord) {
        let records = self.log.entry((topic.clone(), partition)).or_default();
        records.push(InputRecord {
            offset: Offset(i64::try_from(records.len()).unwrap()),
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        });
    }

    fn pipe(&mut self, row: Row) {
        self.pipe_to("in", row);
    }

    fn pipe_to(&mut self, topic: &str, (partition, key, at): Row) {
        let key = format!("k{key}").to_bytes().unwrap();
        let record = OutputRecord {
            key,
            partition_key: None,
            value: at.to_bytes().unwrap(),
            timestamp: Millis(at),
            headers: Vec::new(),
        };
        self.append(&TopicName::User(topic.into()), partition, record);
    }

    /// Hands `id` up to `records` records of each input in two fetches, and lets it process some runs of them, which are
    /// short, so that windows that are due together leave in several.
    fn work(&mut self, id: TaskId, records: usize, runs: usize) {
        let wall = self.wall;
        let running = self.tasks.get_mut(&id).unwrap();
        let task = running.task.as_mut().unwrap();
        for (topic, handed) in &mut running.handed {
            let all = self.log.get(&(topic.clone(), id.partition)).map(Vec::as_slice).unwrap_or_default();
            let mut some: Vec<_> = all[*handed..].iter().take(records).cloned().collect();
            let offset = |count: usize| Offset(i64::try_from(count).unwrap());
            task.observe_log_end(topic, offset(all.len())).unwrap();
            for fetch in [some.split_off(some.len() / 2), some].into_iter().rev() {
                *handed += fetch.len();
                task.add_records(topic, fetch, offset(*handed)).unwrap();
            }
        }
        let mut done = 0;
        while done < runs && task.process_some(wall, 1 + runs % 4).unwrap() > 0 {
            done += 1;
        }
        task.advance(wall).unwrap();
        for (topic, records) in task.take_outputs() {
            running.pending.extend(records.into_iter().map(|record| (topic.clone(), record)));
        }
    }

    fn commit(&mut self, id: TaskId) {
        let running = self.tasks.get_mut(&id).unwrap();
        let commit = running.task.as_mut().unwrap().prepare_commit().unwrap();
        running.task.as_mut().unwrap().fold().unwrap();
        running.committed.extend(commit.offsets.into_iter().map(|(topic, at, times)| (topic, (at, times))));
        running.ended |= running.task.as_ref().unwrap().is_closed();
        let mut outputs = std::mem::take(&mut running.pending);
        for (topic, records) in commit.outputs {
            outputs.extend(records.into_iter().map(|record| (topic.clone(), record)));
        }
        for (topic, record) in outputs {
            let width = self.widths.get(&topic).copied().unwrap_or(1);
            let bytes = record.partition_key.as_ref().or(record.key.as_ref()).cloned().unwrap_or_default();
            let partition = bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>() % width;
            self.append(&topic, partition, record);
        }
        for (topic, record) in commit.marks {
            (0..self.widths[&topic]).for_each(|partition| self.append(&topic, partition, record.clone()));
        }
    }

    fn crash(&mut self, id: TaskId) {
        let running = self.tasks.get_mut(&id).unwrap();
        let (bases, committed) = (running.task.take().unwrap().into_bases(), running.committed.clone());
        let ended = running.ended; // that is committed
        self.start(id, bases, committed);
        self.tasks.get_mut(&id).unwrap().ended = ended;
    }

    /// Tells a task the ends that are known: those of the input once it is `ended`, and of repartition topics once all who write
    /// them have closed and committed that. It begins to close when it has come to all of them.
    fn close_if_due(&mut self, id: TaskId) {
        if !self.ended {
            return;
        }
        let has_ended = |topic: &TopicName| {
            let made = self.topology.repartitions().iter().find(|made| made.topic == *topic);
            made.is_none_or(|made| {
                self.tasks.iter().all(|(id, task)| id.subtopology != made.written_by || task.ended)
            })
        };
        let topics: Vec<_> =
            self.tasks[&id].handed.keys().filter(|topic| has_ended(topic)).cloned().collect();
        let wall = self.wall;
        let running = self.tasks.get_mut(&id).unwrap();
        let task = running.task.as_mut().unwrap();
        for topic in topics {
            let all = self.log.get(&(topic.clone(), id.partition)).map_or(0, Vec::len);
            task.end_input(&topic, Offset(i64::try_from(all).unwrap())).unwrap();
        }
        if task.is_drained() && !task.is_closed() {
            task.close_some(wall, 2).unwrap();
        }
    }

    /// Goes on in the order that `order` says until every task has closed.
    fn end(&mut self, order: &[usize]) {
        self.ended = true;
        let ids: Vec<_> = self.tasks.keys().copied().collect();
        for step in 0..10_000 {
            if self.tasks.values().all(|task| task.ended) {
                return;
            }
            let (id, then) = order.get(step).map_or((step, 2), |drawn| (drawn % 8, drawn / 8 % 6));
            let id = ids[id % ids.len()];
            self.work(id, 1 + ids.len() * 3, usize::MAX);
            if then != 3 {
                self.close_if_due(id); // else the ends are heard of later than what was written before them
            }
            match then {
                0 => self.crash(id),
                1 => {}
                _ => self.commit(id),
            }
        }
        panic!("it does not end");
    }

    /// Every task starts anew, as in the next run of an application that has ended.
    fn next_run(&mut self) {
        self.ended = false;
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.crash(id);
            self.tasks.get_mut(&id).unwrap().ended = false;
        }
    }

    fn act(&mut self, actions: &[Action]) {
        let ids: Vec<_> = self.tasks.keys().copied().collect();
        for action in actions {
            match action {
                Action::Work { task, records, runs } => self.work(ids[task % ids.len()], *records, *runs),
                Action::Commit { task } => self.commit(ids[task % ids.len()]),
                Action::Crash { task } => self.crash(ids[task % ids.len()]),
            }
        }
    }

    /// The records of a topic, as text, sorted.
    fn read<K: Serde + std::fmt::Debug, V: Serde + std::fmt::Debug>(&self, topic: &str) -> Vec<String> {
        let records =
            self.log.get(&(TopicName::User(topic.into()), 0)).map(Vec::as_slice).unwrap_or_default();
        let row = |record: &InputRecord| {
            let key = K::decode(record.key.as_ref().unwrap()).unwrap();
            let value = V::decode(record.value.as_ref().unwrap()).unwrap();
            assert!(record.headers.is_empty(), "a header of ours got out: {record:?}");
            format!("{key:?} {value:?}")
        };
        let mut rows: Vec<_> = records.iter().map(row).collect();
        rows.sort();
        rows
    }
}

/// Counts rows by key in windows, behind one repartition or two.
fn counting(grace_ms: u64, hops: usize) -> Topology {
    let t = StreamBuilder::new();
    let mut stream = t.stream::<String, i64>("in").filter(|_, at| at % 7 != 3);
    for hop in 0..hops {
        stream = stream.repartition_to(&format!("hop-{hop}"), Some(2 + i32::try_from(hop).unwrap()));
    }
    let windows = Tumbling::of(millis(SIZE.unsigned_abs())).grace(millis(grace_ms));
    let windowed = stream.group_by_key().window(windows).emit(Emit::OnClose).late(Late::side_output("late"));
    windowed.count(store("counts")).to_stream().to("out");
    t.build().unwrap()
}

/// What [`counting`] means: each partition is on its own.
fn expected(rows: &[Row], grace_ms: i64) -> (Vec<String>, Vec<String>) {
    let (mut counts, mut late) = (BTreeMap::<_, u64>::new(), Vec::new());
    let mut newest = BTreeMap::new();
    for (partition, key, at) in rows {
        let newest = newest.entry(*partition).or_insert(*at);
        *newest = (*newest).max(*at); // also with rows that the filter takes away
        if at % 7 == 3 {
            continue;
        }
        let start = at / SIZE * SIZE;
        if start + SIZE <= *newest - grace_ms {
            late.push(format!("{:?} {at:?}", format!("k{key}")));
        } else {
            *counts.entry((format!("k{key}"), start)).or_default() += 1;
        }
    }
    let result = |((key, start), count)| {
        let read =
            Windowed::<String>::decode(&Windowed { key, window: window(start) }.to_bytes().unwrap().unwrap());
        format!("{:?} {count:?}", read.unwrap())
    };
    let mut counts: Vec<_> = counts.into_iter().map(result).collect();
    counts.sort();
    late.sort();
    (counts, late)
}

fn window(start: i64) -> millstream_streams_core::rule::Window {
    millstream_streams_core::rule::Window { start: Millis(start), end: Millis(start + SIZE) }
}

#[derive(Clone, Debug)]
enum Action {
    Work { task: usize, records: usize, runs: usize },
    Commit { task: usize },
    Crash { task: usize },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let task = 0usize..8;
    let action = prop_oneof![
        6 => (task.clone(), 1usize..12, 1usize..4).prop_map(|(task, records, runs)| Action::Work { task, records, runs }),
        3 => task.clone().prop_map(|task| Action::Commit { task }),
        1 => task.prop_map(|task| Action::Crash { task }),
    ];
    prop::collection::vec(action, 0..120)
}

/// Who works when the ends are known, and what then.
fn order() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..60, 0..200)
}

/// Rows of three partitions, each out of order by up to 30.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0i32..3, 0u8..4, 0i64..12, 0i64..30);
    prop::collection::vec(row, 1..80).prop_map(|rows| {
        let mut clock = [0i64, 0, 0];
        let row = |(partition, key, step, back): (i32, u8, i64, i64)| {
            let clock = &mut clock[usize::try_from(partition).unwrap()];
            *clock += step;
            (partition, key, (*clock - back).max(0))
        };
        rows.into_iter().map(row).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever the tasks do, and when: the counts and the late rows are those of each partition on its own.
    #[test]
    fn what_is_late_depends_on_the_input_alone(
        rows in rows(), actions in actions(), order in order(), grace_ms in 0u64..40, hops in 1usize..3,
    ) {
        let mut cluster = Cluster::new(counting(grace_ms, hops), 3, true);
        rows.iter().for_each(|row| cluster.pipe(*row));
        cluster.act(&actions);
        cluster.end(&order);
        let (counts, late) = expected(&rows, i64::try_from(grace_ms).unwrap());
        prop_assert_eq!(cluster.read::<Windowed<String>, u64>("out"), counts);
        prop_assert_eq!(cluster.read::<String, i64>("late"), late);
    }

    /// So it is in the next run, after windows were closed by the end of the first one.
    #[test]
    fn the_next_run_depends_on_the_input_alone(
        runs in [rows(), rows()], one in [actions(), actions()], other in [actions(), actions()],
        orders in [order(), order(), order(), order()], grace_ms in 0u64..40,
    ) {
        let mut results = Vec::new();
        for (actions, orders) in [(one, &orders[..2]), (other, &orders[2..])] {
            let mut cluster = Cluster::new(counting(grace_ms, 1), 3, true);
            for ((rows, actions), order) in runs.iter().zip(actions).zip(orders) {
                cluster.next_run();
                rows.iter().for_each(|row| cluster.pipe(*row));
                cluster.act(&actions);
                cluster.end(order);
            }
            results.push((cluster.read::<Windowed<String>, u64>("out"), cluster.read::<String, i64>("late")));
        }
        prop_assert_eq!(&results[0], &results[1]);
    }

    /// Windows over the results of windows: nothing is late by the work of the first.
    #[test]
    fn results_of_windows_are_not_late_for_larger_windows(
        rows in rows(), others in rows(), actions in actions(), order in order(), grace_ms in 0u64..40,
    ) {
        let t = StreamBuilder::new();
        let stream = t.stream::<String, i64>("in").filter(|_, at| at % 7 != 3).repartition_to("first", Some(2));
        let stream = stream.merge(&t.stream("other").filter(|_, at| at % 7 != 3));
        let windows = Tumbling::of(millis(SIZE.unsigned_abs())).grace(millis(grace_ms));
        let counted = stream.group_by_key().window(windows).emit(Emit::OnClose).count(store("counts"));
        let again = counted.to_stream().map(|_, count| ("all".to_owned(), count.unwrap_or_default())).repartition_to("second", Some(1));
        let larger = again.group_by_key().window(Tumbling::of(millis(5 * SIZE.unsigned_abs())));
        let sums = larger.emit(Emit::OnClose).late(Late::side_output("late")).reduce(store("sums"), |sum, n| sum + n);
        sums.to_stream().map(|_, sum| ("all".to_owned(), sum.unwrap_or_default())).to("out");
        let mut cluster = Cluster::new(t.build().unwrap(), 3, true);
        rows.iter().for_each(|row| cluster.pipe(*row));
        others.iter().for_each(|row| cluster.pipe_to("other", *row));
        cluster.act(&actions);
        cluster.end(&order);
        prop_assert_eq!(cluster.read::<String, u64>("late"), Vec::<String>::new());
        let sums = cluster.read::<String, u64>("out");
        let sum = |row: &String| row.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
        let kept = |rows: &[Row]| {
            let late = expected(rows, i64::try_from(grace_ms).unwrap()).1.len();
            rows.iter().filter(|row| row.2 % 7 != 3).count() - late
        };
        let kept = kept(&rows) + kept(&others);
        prop_assert_eq!(sums.iter().map(sum).sum::<usize>(), kept);
    }
}

fn turn(cluster: &mut Cluster) {
    let ids: Vec<_> = cluster.tasks.keys().copied().collect();
    for id in ids {
        cluster.work(id, usize::MAX, usize::MAX);
        if cluster.tasks[&id].task.as_ref().unwrap().has_news() {
            cluster.commit(id);
        }
    }
    let readers: Vec<_> = cluster.tasks.keys().copied().filter(|id| id.subtopology > 0).collect();
    readers.into_iter().for_each(|id| cluster.commit(id));
}

#[test]
fn a_window_waits_for_the_partition_that_is_furthest_behind() {
    let mut cluster = Cluster::new(counting(0, 1), 3, true);
    [(0, 1, 5), (1, 1, 6), (0, 1, 44), (1, 1, 46)].into_iter().for_each(|row| cluster.pipe(row));
    turn(&mut cluster);
    assert_eq!(cluster.read::<Windowed<String>, u64>("out"), [""; 0], "partition 2 may have older rows");
    cluster.pipe((2, 1, 8));
    turn(&mut cluster);
    assert_eq!(cluster.read::<Windowed<String>, u64>("out"), [""; 0], "it is at 8");
    cluster.pipe((2, 1, 26));
    turn(&mut cluster);
    let out = cluster.read::<Windowed<String>, u64>("out");
    assert_eq!(out.len(), 1, "{out:?}");
    assert!(out[0].ends_with(" 3"), "{out:?}");
    assert_eq!(cluster.read::<String, i64>("late"), [""; 0]);
}

#[test]
fn rows_that_a_filter_takes_away_move_time() {
    let mut cluster = Cluster::new(counting(0, 1), 3, false);
    [(0, 1, 5), (1, 1, 6), (0, 1, 44), (1, 1, 46)].into_iter().for_each(|row| cluster.pipe(row));
    cluster.pipe((2, 1, 45)); // none of those behind the filter comes from there
    turn(&mut cluster);
    let out = cluster.read::<Windowed<String>, u64>("out");
    assert!(out.len() == 1 && out[0].ends_with(" 2"), "{out:?}");
}

#[test]
fn an_idle_partition_holds_nobody_up_and_is_late_by_what_closed_meanwhile() {
    let mut cluster = Cluster::new(counting(0, 1), 3, false);
    [(0, 1, 5), (1, 1, 6), (0, 1, 44), (1, 1, 46)].into_iter().for_each(|row| cluster.pipe(row));
    turn(&mut cluster);
    assert_eq!(cluster.read::<Windowed<String>, u64>("out"), [""; 0], "partition 2 is not idle yet");
    cluster.wall = Millis(IDLE_MS / 2);
    cluster.pipe((0, 1, 47));
    cluster.pipe((1, 1, 48));
    turn(&mut cluster);
    assert_eq!(cluster.read::<Windowed<String>, u64>("out"), [""; 0], "nor now");
    cluster.wall = Millis(IDLE_MS);
    turn(&mut cluster);
    let out = cluster.read::<Windowed<String>, u64>("out");
    assert!(out.len() == 1 && out[0].ends_with(" 2"), "{out:?}");
    cluster.pipe((2, 1, 7));
    cluster.pipe((2, 1, 41));
    turn(&mut cluster);
    assert_eq!(cluster.read::<String, i64>("late"), [r#""k1" 7"#], "its window has been told");
    for (partition, at) in [(0, 99), (1, 99)] {
        cluster.pipe((partition, 1, at));
    }
    turn(&mut cluster);
    assert_eq!(
        cluster.read::<Windowed<String>, u64>("out").len(),
        1,
        "partition 2 takes part again, and is at 41"
    );
    cluster.wall = Millis(3 * IDLE_MS);
    turn(&mut cluster);
    let out = cluster.read::<Windowed<String>, u64>("out");
    assert!(out.len() == 2 && out.iter().any(|row| row.ends_with(" 5")), "{out:?}");
}

#[test]
fn one_partition_writes_nothing_but_rows() {
    let mut cluster = Cluster::new(counting(0, 2), 1, true);
    [(0, 1, 5), (0, 1, 44), (0, 1, 4)].into_iter().for_each(|row| cluster.pipe(row));
    cluster.end(&[]);
    let topic = |name: &str| TopicName::Internal(format!("{name}-repartition").into());
    let first: Vec<_> = (0..2).filter_map(|at| cluster.log.get(&(topic("hop-0"), at))).flatten().collect();
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|record| record.headers.is_empty() && record.value.is_some()));
    assert_eq!(cluster.read::<String, i64>("late"), [r#""k1" 4"#]);
}
