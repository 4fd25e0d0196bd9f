//! How records are cut into chunks changes no result: a task that is handed a whole fetch means what one does that is handed
//! record by record, also where two ways of a row meet again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use millstream_record::{Millis, Offset};
use millstream_streams_core::dsl::{
    Emit, Hopping, Late, Serde, Stream, StreamBuilder, Tumbling, millis, store,
};
use millstream_streams_core::{
    InputRecord, MemoryStore, OutputRecord, Store, Task, TaskId, TestDriver, TopicName,
};
use proptest::prelude::*;

type Row = (String, i64, i64);

/// A topology that reads `in`, and writes to `out` and perhaps to `more`.
struct Case {
    name: &'static str,
    /// Every record of the outputs counts. Else the last of each key does: an aggregation tells a key once for each chunk.
    every_record: bool,
    build: fn(&StreamBuilder),
}

fn input(t: &StreamBuilder) -> Stream<String, i64> {
    t.stream("in")
}

/// Even values and odd ones go two ways, which meet again.
fn meeting(stream: &Stream<String, i64>) -> Stream<String, i64> {
    let ways = stream.split().branch(|_, v| v % 2 == 0).default_branch();
    ways[0].map_values(|_, v| v).merge(&ways[1])
}

const CASES: &[Case] = &[
    Case { name: "split and merge", every_record: true, build: |t| meeting(&input(t)).to("out") },
    Case {
        name: "split and merge, the last of each key",
        every_record: true,
        build: |t| {
            let last = meeting(&input(t)).group_by_key().reduce(store("last"), |_, v| *v);
            last.to_stream().to("out");
        },
    },
    Case {
        name: "two filters and merge, in windows",
        every_record: true,
        build: |t| {
            let stream = input(t);
            let (high, low) = (stream.filter(|_, v| *v > 5), stream.filter(|_, v| *v <= 5));
            let windows = high.merge(&low).group_by_key().window(Tumbling::of(millis(10)));
            windows.late(Late::side_output("more")).count(store("counts")).to_stream().to("out");
        },
    },
    Case {
        name: "split and merge behind a step that makes several rows of one",
        every_record: true,
        build: |t| meeting(&input(t).flat_map_values(|_, v| [v, v + 1, v + 2])).to("out"),
    },
    Case {
        name: "a stream merged with itself",
        every_record: true,
        build: |t| {
            let stream = input(t);
            stream.merge(&stream).to("out");
        },
    },
    Case {
        name: "two ways to one topic",
        every_record: true,
        build: |t| {
            let stream = input(t);
            stream.to("out");
            stream.map_values(|_, v| -v).to("out");
        },
    },
    Case {
        name: "a stream joined with its own count",
        every_record: true,
        build: |t| {
            let stream = input(t);
            let counts = stream.group_by_key().count(store("counts"));
            stream.join_table(&counts, |_, v, n| v * 1000 + n as i64).to("out");
        },
    },
    Case {
        name: "a table's changes joined with the table",
        every_record: true,
        build: |t| {
            let table = t.table::<String, i64>("in", store("table"));
            table.to_stream().join_table(&table, |_, v, now| v.unwrap_or(-1) * 1000 + now).to("out");
        },
    },
    Case {
        name: "split and merge behind a repartition",
        every_record: true,
        build: |t| meeting(&input(t).map(|k, v| (format!("{k}{}", v % 3), v)).repartition("by")).to("out"),
    },
    Case {
        name: "two ways that do not meet",
        every_record: false,
        build: |t| {
            let stream = input(t);
            stream.group_by_key().count(store("counts")).to_stream().to("out");
            stream.group_by_key().reduce(store("sums"), |sum, v| sum + v).to_stream().to("more");
        },
    },
    Case {
        name: "two lookups in a table that is fed otherwise",
        every_record: false,
        build: |t| {
            let table = t.table::<String, i64>("table", store("table"));
            let once = input(t).left_join_table(&table, |_, v, _| v);
            let twice = once.left_join_table(&table, |_, v, _| v);
            twice.group_by_key().reduce(store("sums"), |sum, v| sum + v).to_stream().to("out");
        },
    },
    Case {
        name: "windows emitted on close",
        every_record: true,
        build: |t| {
            let windows = Hopping::of(millis(10), millis(5)).grace(millis(3));
            let windows = input(t).group_by_key().window(windows).emit(Emit::OnClose);
            windows.late(Late::side_output("more")).count(store("counts")).to_stream().to("out");
        },
    },
];

/// What a topology makes of rows: the records of its outputs, and the entries of its stores.
#[derive(Debug, PartialEq)]
struct Made {
    outputs: Vec<Vec<InputRecord>>,
    stores: BTreeMap<String, Vec<String>>,
}

fn run(case: &Case, rows: &[Row], in_chunks: bool) -> Made {
    let builder = StreamBuilder::new();
    (case.build)(&builder);
    let topology = builder.build().unwrap();
    let names: Vec<_> = topology.stores().map(|spec| spec.name.to_string()).collect();
    let mut driver = TestDriver::new(topology).unwrap();
    if in_chunks {
        driver = driver.in_chunks();
        driver.pipe_all("in", rows.iter().cloned()).unwrap();
    } else {
        rows.iter().for_each(|(key, value, at)| driver.pipe("in", key, value, *at).unwrap());
    }
    let entries = |driver: &TestDriver, name: &str| {
        let entries = driver.store(name).unwrap().range(Bound::Unbounded, Bound::Unbounded);
        entries.map(|entry| format!("{:?}", entry.unwrap())).collect::<Vec<_>>()
    };
    let stores = names.iter().map(|name| (name.clone(), entries(&driver, name))).collect();
    driver.end_inputs().unwrap();
    let outputs = ["out", "more"].map(|topic| driver.read_records(topic)).to_vec();
    Made { outputs, stores }
}

/// Of each key the last record, without its place among those of other keys.
fn last_of_each_key(made: Made) -> Made {
    let last = |records: Vec<InputRecord>| {
        let mut last = BTreeMap::new();
        for record in records {
            let record = InputRecord { offset: Default::default(), ..record };
            last.insert(record.key.clone(), record);
        }
        last.into_values().collect()
    };
    Made { outputs: made.outputs.into_iter().map(last).collect(), ..made }
}

/// Values of `out` from one chunk of (value, timestamp) under one key.
fn out_of_one_chunk(name: &str, rows: &[(i64, i64)]) -> Vec<i64> {
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let rows: Vec<_> = rows.iter().map(|(value, at)| ("a".to_owned(), *value, *at)).collect();
    let number = |record: &InputRecord| {
        i64::from_be_bytes(record.value.as_deref().unwrap().try_into().expect("a number of 8 bytes"))
    };
    run(case, &rows, true).outputs[0].iter().map(number).collect()
}

#[test]
fn a_merge_keeps_the_order_of_a_chunk() {
    let rows: Vec<_> = (1..=5).map(|n| (n, n)).collect();
    assert_eq!(out_of_one_chunk("split and merge", &rows), [1, 2, 3, 4, 5]);
    let last = out_of_one_chunk("split and merge, the last of each key", &rows[..2]);
    assert_eq!(last.last(), Some(&2));
}

#[test]
fn rows_of_one_chunk_are_not_late_for_going_two_ways() {
    let counts = out_of_one_chunk("two filters and merge, in windows", &[(1, 1), (2, 5), (9, 25), (3, 26)]);
    assert_eq!(counts, [1, 2, 1, 2]);
}

#[test]
fn a_row_finds_in_a_table_what_rows_up_to_it_have_put_there() {
    let rows = [(1, 1), (2, 2), (3, 3)];
    assert_eq!(out_of_one_chunk("a stream joined with its own count", &rows), [1001, 2002, 3003]);
    assert_eq!(out_of_one_chunk("a table's changes joined with the table", &rows), [1001, 2002, 3003]);
}

#[test]
fn chunks_stay_whole_where_ways_do_not_meet() {
    let rows = [(1, 1), (2, 2), (3, 3)];
    assert_eq!(out_of_one_chunk("two ways that do not meet", &rows), [3]);
    assert_eq!(out_of_one_chunk("two lookups in a table that is fed otherwise", &rows), [6]);
}

const TOPICS: [&str; 2] = ["table", "stream"];

/// What a join makes of rows (key, timestamp) of [`TOPICS`] that come in `fetches`: a topic and how many records of it. What those leave
/// comes at the end.
fn joined(table_first: bool, rows: &[Vec<(u8, i64)>; 2], fetches: &[(usize, usize)]) -> Vec<OutputRecord> {
    let t = StreamBuilder::new();
    let early = (!table_first).then(|| t.stream::<String, i64>("stream"));
    let table = t.table::<String, i64>("table", store("table"));
    let stream = early.unwrap_or_else(|| t.stream("stream"));
    stream.left_join_table(&table, |_, v, found| v * 1000 + found.unwrap_or(999)).to("out");
    let topology = t.build().unwrap();
    let name = |topic: usize| TopicName::User(TOPICS[topic].into());
    let inputs: Vec<_> =
        topology.subtopologies()[0].inputs.iter().map(|topic| (topic.clone(), Offset(0))).collect();
    let bases = vec![Box::new(MemoryStore::default()) as Box<dyn Store>];
    let id = TaskId { subtopology: 0, partition: 0 };
    let mut task = Task::new(Arc::new(topology), id, "app", bases, &inputs).unwrap();
    let offset = |at: usize| Offset(i64::try_from(at).unwrap());
    for (topic, rows) in rows.iter().enumerate() {
        task.observe_log_end(&name(topic), offset(rows.len())).unwrap();
    }
    let mut handed = [0usize; 2];
    for (topic, count) in fetches.iter().copied().chain([(0, usize::MAX), (1, usize::MAX)]) {
        let from = handed[topic];
        let until = rows[topic].len().min(from.saturating_add(count));
        let record = |at: usize| {
            let (key, timestamp) = rows[topic][at];
            let (key, value) = (format!("k{key}").to_bytes().unwrap(), (at as i64).to_bytes().unwrap());
            InputRecord { offset: offset(at), timestamp: Millis(timestamp), key, value, headers: Vec::new() }
        };
        task.add_records(&name(topic), (from..until).map(record).collect(), offset(until)).unwrap();
        handed[topic] = until;
        while task.process(Millis(0)).unwrap() {}
    }
    task.take_outputs().into_iter().flat_map(|(_, records)| records).collect()
}

#[test]
fn among_equal_times_the_input_that_was_declared_first_goes_first() {
    let rows = [vec![(1, 10)], vec![(1, 5), (1, 10)]];
    for fetches in [&[(0, 1), (1, 2)][..], &[(0, 1), (1, 1), (1, 1)], &[(1, 1), (0, 1), (1, 1)]] {
        let values = |table_first| {
            let records = joined(table_first, &rows, fetches);
            let values = records.into_iter().map(|record| i64::decode(&record.value.unwrap()).unwrap());
            values.collect::<Vec<_>>()
        };
        assert_eq!(values(true), [999, 1000], "{fetches:?}");
        assert_eq!(values(false), [999, 1999], "{fetches:?}");
    }
}

fn few_times() -> impl Strategy<Value = Vec<(u8, i64)>> {
    prop::collection::vec((0u8..2, 0i64..6), 0..20)
}

proptest! {
    /// Nor does it matter where fetches end, at equal times too.
    #[test]
    fn a_join_finds_the_same_however_its_inputs_are_fetched(
        rows in (few_times(), few_times()),
        fetches in prop::collection::vec((0usize..2, 1usize..5), 0..20),
        table_first in any::<bool>(),
    ) {
        let rows = [rows.0, rows.1];
        prop_assert_eq!(joined(table_first, &rows, &fetches), joined(table_first, &rows, &[]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))] // each runs every topology twice
    #[test]
    fn one_chunk_means_what_its_records_do_one_by_one(
        rows in prop::collection::vec((0u8..3, 0i64..10, -8i64..12), 1..60),
    ) {
        let mut now = 0;
        let rows: Vec<Row> = rows.into_iter().map(|(key, value, step)| {
            now = (now + step).max(0);
            (format!("k{key}"), value, now)
        }).collect();
        for case in CASES {
            let (mut one_by_one, mut chunk) = (run(case, &rows, false), run(case, &rows, true));
            if !case.every_record {
                (one_by_one, chunk) = (last_of_each_key(one_by_one), last_of_each_key(chunk));
            }
            prop_assert_eq!(one_by_one, chunk, "{}", case.name);
        }
    }
}
