//! What the operators mean, through the test driver: the traps that Kafka gets wrong or leaves open, and crashes.

use std::ops::Bound;

use millstream_record::Millis;
use millstream_streams_core::dsl::{
    Emit, Hopping, Late, Serde, StreamBuilder, Tumbling, Windowed, millis, store,
};
use millstream_streams_core::{Header, StreamsError, TestDriver};
use proptest::prelude::*;

fn driver(build: impl FnOnce(&StreamBuilder)) -> TestDriver {
    let builder = StreamBuilder::new();
    build(&builder);
    TestDriver::new(builder.build().unwrap()).unwrap()
}

fn pipe(driver: &mut TestDriver, topic: &str, rows: &[(&str, &str, i64)]) {
    for (key, value, at) in rows {
        driver.pipe(topic, &(*key).to_owned(), &(*value).to_owned(), *at).unwrap();
    }
}

/// Output rows as `key=value@timestamp`.
fn read<K: Serde + std::fmt::Debug, V: Serde + std::fmt::Debug>(
    driver: &mut TestDriver,
    topic: &str,
) -> Vec<String> {
    let rows = driver.read::<K, V>(topic).unwrap();
    rows.into_iter().map(|row| format!("{:?}={:?}@{}", row.key, row.value, row.timestamp_ms)).collect()
}

fn read_windows(driver: &mut TestDriver) -> Vec<String> {
    let rows = driver.read::<Windowed<String>, u64>("out").unwrap();
    rows.iter().map(|row| format!("{}@{}={}", row.key.key, row.key.window.start, row.value)).collect()
}

fn window_count(windows: impl Into<millstream_streams_core::dsl::WindowSpec>, emit: Emit) -> TestDriver {
    let windows = windows.into();
    driver(|t| {
        t.stream::<String, String>("in")
            .group_by_key()
            .window(windows)
            .emit(emit)
            .late(Late::side_output("late"))
            .count(store("counts"))
            .to_stream()
            .to("out");
    })
}

#[test]
fn a_jump_of_stream_time_loses_no_window() {
    let mut driver = window_count(Tumbling::of(millis(10)).grace(millis(5)), Emit::OnClose);
    pipe(&mut driver, "in", &[("a", "", 1), ("a", "", 3), ("a", "", 24)]);
    assert_eq!(read_windows(&mut driver), ["a@0=2"]);
}

#[test]
fn a_result_has_the_headers_of_its_row_on_update_and_none_on_close() {
    for (emit, expected) in [(Emit::OnUpdate, 1), (Emit::OnClose, 0)] {
        let mut driver = window_count(Tumbling::of(millis(10)), emit);
        let bytes = |text: &str| text.to_owned().to_bytes().unwrap();
        let header = vec![Header::new("trace", "7")];
        driver.pipe_record("in", bytes("a"), bytes(""), 1, header).unwrap();
        driver.end_inputs().unwrap();
        let headers: Vec<_> = driver.read_records("out").iter().map(|record| record.headers.len()).collect();
        assert_eq!(headers, [expected], "{emit:?}");
    }
}

#[test]
fn windows_close_in_order_of_start_and_key_and_at_the_end_of_input() {
    let mut driver = window_count(Tumbling::of(millis(10)), Emit::OnClose);
    pipe(&mut driver, "in", &[("b", "", 1), ("a", "", 2), ("c", "", 11), ("a", "", 35)]);
    assert_eq!(read_windows(&mut driver), ["a@0=1", "b@0=1", "c@10=1"]);
    driver.end_inputs().unwrap();
    assert_eq!(read_windows(&mut driver), ["a@30=1"]);
    pipe(&mut driver, "in", &[("a", "", 36)]);
    assert_eq!(read_windows(&mut driver), [""; 0], "a window that the end closed does not open again");
    assert_eq!(driver.counters("count-counts").late, 1);
}

#[test]
fn the_end_of_input_closes_windows_of_any_grace() {
    for grace in [millis(5), std::time::Duration::MAX] {
        let mut driver = window_count(Tumbling::of(millis(10)).grace(grace), Emit::OnClose);
        pipe(&mut driver, "in", &[("a", "", 3), ("a", "", 14)]);
        driver.end_inputs().unwrap();
        assert_eq!(read_windows(&mut driver), ["a@0=1", "a@10=1"], "{grace:?}");
    }
}

#[test]
fn late_rows_are_counted_and_kept() {
    let mut driver = window_count(Tumbling::of(millis(10)).grace(millis(5)), Emit::OnUpdate);
    pipe(
        &mut driver,
        "in",
        &[("a", "x", 1), ("a", "x", 14), ("a", "in time", 9), ("a", "x", 15), ("a", "late", 9)],
    );
    assert_eq!(read_windows(&mut driver), ["a@0=1", "a@10=1", "a@0=2", "a@10=2"]);
    assert_eq!(read::<String, String>(&mut driver, "late"), [r#""a"="late"@9"#]);
    assert_eq!(driver.counters("count-counts").late, 1);
}

#[test]
fn a_hopping_row_can_be_half_late() {
    let mut driver = window_count(Hopping::of(millis(10), millis(5)), Emit::OnUpdate);
    pipe(&mut driver, "in", &[("a", "", 12), ("a", "half", 8)]);
    assert_eq!(read_windows(&mut driver), ["a@5=1", "a@10=1", "a@5=2"]);
    assert_eq!(read::<String, String>(&mut driver, "late"), [r#""a"="half"@8"#]);
}

#[test]
fn null_keys_and_values_are_dropped_and_counted() {
    let mut driver = driver(|t| {
        let rows = t.stream::<Option<String>, Option<String>>("in");
        rows.group_by_key().window(Tumbling::of(millis(10))).count(store("windowed"));
        rows.group_by_key().count(store("plain"));
        t.stream::<String, String>("strict").to("out");
    });
    let none = None::<String>;
    driver.pipe("in", &none, &Some("x".to_owned()), 1).unwrap();
    driver.pipe("in", &Some("a".to_owned()), &none, 1).unwrap(); // Kafka's tumbling windows count this one
    driver.pipe("strict", &none, &"x".to_owned(), 1).unwrap();
    for node in ["count-windowed", "count-plain"] {
        assert_eq!((driver.counters(node).dropped, driver.counters(node).rows_out), (2, 0), "{node}");
    }
    assert_eq!(driver.counters("strict").dropped, 1);
}

#[test]
fn a_result_is_as_new_as_its_newest_row() {
    let mut driver =
        driver(|t| t.stream::<String, String>("in").group_by_key().count(store("n")).to_stream().to("out"));
    pipe(&mut driver, "in", &[("a", "", 7), ("a", "", 3)]);
    assert_eq!(read::<String, u64>(&mut driver, "out"), [r#""a"=1@7"#, r#""a"=2@7"#]);
    let kept = driver.value::<_, u64>("n", &"a".to_owned()).unwrap().unwrap();
    assert_eq!((kept.value, kept.timestamp_ms), (2, 7));
}

/// Adds numbers up from 100; a sum of 100 is none.
fn sum_or_none(sum: Option<i64>, value: &i64) -> Option<i64> {
    sum.map(|sum| sum + value).filter(|sum| *sum != 100)
}

#[test]
fn an_aggregate_that_becomes_null_is_deleted_and_begins_anew() {
    let rows = [(5i64, 1), (-5, 2), (7, 3), (1, 4), (-8, 5)].map(|(n, at)| ("a".to_owned(), n, at));
    let build = || {
        driver(|t| {
            let grouped = t.stream::<String, i64>("in").group_by_key();
            let sums = grouped.aggregate(store("sums"), || Some(100), |sum, _, n| sum_or_none(sum, n));
            sums.to_stream().to("out");
            sums.filter(|_, _| true).to_stream().to("changes");
        })
    };
    let mut driver = build();
    let mut stored = Vec::new();
    for (key, n, at) in &rows {
        driver.pipe("in", key, n, *at).unwrap();
        stored.push(driver.value::<_, i64>("sums", key).unwrap().map(|row| row.value));
    }
    assert_eq!(stored, [Some(105), None, Some(107), Some(108), None]);
    let expected = ["=Some(105)@1", "=None@2", "=Some(107)@3", "=Some(108)@4", "=None@5"];
    for topic in ["out", "changes"] {
        let expected = expected.map(|row| format!("\"a\"{row}"));
        assert_eq!(read::<String, Option<i64>>(&mut driver, topic), expected, "{topic}");
    }
    for (count, last) in [(2, "\"a\"=None@2"), (4, "\"a\"=Some(108)@4")] {
        let mut driver = build().in_chunks();
        driver.pipe_all("in", rows[..count].iter().cloned()).unwrap();
        assert_eq!(read::<String, Option<i64>>(&mut driver, "out"), [last], "one chunk");
        let found = driver.value::<_, i64>("sums", &"a".to_owned()).unwrap().map(|row| row.value);
        assert_eq!(found, stored[count - 1]);
    }
}

#[test]
fn a_window_whose_aggregate_became_null_is_not_emitted_on_close() {
    for (name, emit, commit) in [
        ("in the store", Emit::OnUpdate, true),
        ("at hand", Emit::OnClose, false),
        ("both", Emit::OnClose, true),
    ] {
        let mut driver = driver(|t| {
            let windows = t.stream::<String, i64>("in").group_by_key().window(Tumbling::of(millis(10)));
            let sums = windows.emit(emit).aggregate(store("sums"), || Some(100), |s, _, n| sum_or_none(s, n));
            sums.to_stream().to("out");
        });
        if !commit {
            driver = driver.manual_commit();
        }
        for (key, n, at) in
            [("a", 5i64, 1), ("a", -5, 2), ("b", 5, 3), ("b", -5, 4), ("b", 6, 5), ("c", 1, 6)]
        {
            driver.pipe("in", &key.to_owned(), &n, at).unwrap();
        }
        driver.commit().unwrap();
        let entries = |driver: &TestDriver| {
            let all = driver.store("sums").unwrap().range(Bound::Unbounded, Bound::Unbounded);
            all.filter(|entry| entry.as_ref().unwrap().0.len() > 8).count()
        };
        assert_eq!(entries(&driver), 2, "{name}");
        driver.end_inputs().unwrap();
        let rows = driver.read::<Windowed<String>, Option<i64>>("out").unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.key.key.as_str(), row.value)).collect();
        let last = [("b", Some(106)), ("c", Some(101))];
        match emit {
            Emit::OnClose => assert_eq!(rows, last, "{name}"),
            Emit::OnUpdate => {
                let first = [("a", Some(105)), ("a", None), ("b", Some(105)), ("b", None)];
                assert_eq!(rows, [&first[..], &last].concat(), "{name}");
            }
        }
    }
}

#[test]
fn a_table_filter_deletes_only_what_it_forwarded() {
    let mut driver = driver(|t| {
        let table = t.table::<String, String>("in", store("table"));
        table
            .filter(|_, value| value.len() > 1)
            .map_values(|_, value| value.len() as u64)
            .to_stream()
            .to("out");
    });
    pipe(&mut driver, "in", &[("a", "x", 1), ("a", "xx", 2), ("a", "y", 3), ("a", "z", 4)]);
    driver.pipe("in", &"b".to_owned(), &None::<String>, 5).unwrap();
    assert_eq!(read::<String, Option<u64>>(&mut driver, "out"), [r#""a"=Some(2)@2"#, r#""a"=None@3"#]);
}

#[test]
fn a_join_drops_rows_without_a_value_and_counts_them() {
    type Text = Option<String>;
    let mut driver = driver(|t| {
        let table = t.table::<Text, String>("table", store("table"));
        let rows = t.stream::<Text, Text>("in");
        rows.join_table(&table, |_, value, found| format!("{value:?}{found}")).to("inner");
        rows.left_join_table(&table, |_, value, found| format!("{value:?}{found:?}")).to("left");
    });
    pipe(&mut driver, "table", &[("a", "x", 1)]);
    for key in [Some("a".to_owned()), Some("b".to_owned()), None] {
        driver.pipe("in", &key, &None::<String>, 2).unwrap();
    }
    driver.pipe("in", &None::<String>, &Some("w".to_owned()), 3).unwrap();
    assert_eq!(read::<Text, String>(&mut driver, "inner"), [""; 0]);
    assert_eq!(read::<Text, String>(&mut driver, "left"), [r#"None="Some(\"w\")None"@3"#]);
    assert_eq!(driver.counters("join-table-table").dropped, 4);
    assert_eq!(driver.counters("left-join-table-table").dropped, 3, "a null key alone goes on");
}

#[test]
fn joins_see_the_table_through_its_filters() {
    let mut driver = driver(|t| {
        let table = t.table::<Option<String>, String>("table", store("table"));
        let long = table.filter(|_, value| value.len() > 1).map_values(|_, value| value.len() as u64);
        let rows = t.stream::<Option<String>, String>("in");
        rows.join_table(&long, |_, value, found: u64| format!("{value}{found}")).to("inner");
        rows.left_join_table(&long, |_, value, found: Option<u64>| format!("{value}{found:?}")).to("left");
    });
    pipe(&mut driver, "table", &[("a", "long", 50), ("b", "s", 50)]);
    pipe(&mut driver, "in", &[("a", "x", 1), ("b", "y", 2), ("c", "z", 3)]);
    driver.pipe("in", &None::<String>, &"w".to_owned(), 4).unwrap();
    assert_eq!(read::<String, String>(&mut driver, "inner"), [r#""a"="x4"@1"#]);
    assert_eq!(
        read::<Option<String>, String>(&mut driver, "left"),
        [
            r#"Some("a")="xSome(4)"@1"#,
            r#"Some("b")="yNone"@2"#,
            r#"Some("c")="zNone"@3"#,
            r#"None="wNone"@4"#,
        ]
    );
    assert_eq!(driver.counters("join-table-table").dropped, 1, "the null key, in the inner join only");
}

#[test]
fn broken_records_stop_the_task_and_say_where() {
    let mut driver = driver(|t| t.stream::<String, i64>("in").to("out"));
    let error = driver.pipe("in", &"k".to_owned(), &"text".to_owned(), 1).unwrap_err();
    assert!(matches!(&error, StreamsError::Deserialize { offset: 0, .. }), "{error}");
    assert_eq!(error.to_string(), "in-0 offset 0: cannot decode i64: 4 bytes instead of 8");
}

#[test]
fn times_before_1970_pass_a_repartition() {
    let mut driver = driver(|t| {
        t.stream_at::<String, i64>("in", |_, value, _| Millis(*value))
            .group_by("by", |key, _| key.clone())
            .window(Tumbling::of(millis(10)))
            .emit(Emit::OnClose)
            .count(store("counts"))
            .to_stream()
            .to("out");
    });
    for time in [-86_400_000i64, -86_399_999, -11, -1, 3] {
        driver.pipe("in", &"a".to_owned(), &time, 5).unwrap();
    }
    driver.end_inputs().unwrap();
    assert_eq!(read_windows(&mut driver), ["a@-86400000=2", "a@-20=1", "a@-10=1", "a@0=1"]);
    assert_eq!(driver.counters("by-repartition-source").rows_out, 5);
}

#[test]
fn a_record_of_the_user_without_a_timestamp_stops_the_task() {
    let mut driver = driver(|t| t.stream::<String, String>("in").to("out"));
    let error = driver.pipe("in", &"a".to_owned(), &String::new(), -1).unwrap_err().to_string();
    assert!(error.starts_with("in-0 offset 0: the record has no timestamp"), "{error}");
}

#[test]
fn all_that_is_made_of_one_grouping_shares_its_repartition() {
    let builder = StreamBuilder::new();
    let grouped = builder.stream::<String, i64>("in").group_by("by", |_, n| format!("{}", n % 2));
    grouped.count(store("counts")).to_stream().to("out");
    grouped.reduce(store("sums"), |sum, n| sum + n).to_stream().to("sums");
    let windows = grouped.clone().window(Tumbling::of(millis(10)));
    windows.count(store("windows")).to_stream().to("windows");
    let topology = builder.build().unwrap();
    assert_eq!(topology.repartitions().len(), 1);
    let mut driver = TestDriver::new(topology).unwrap();
    for n in 1..=3i64 {
        driver.pipe("in", &"a".to_owned(), &n, n).unwrap();
    }
    assert_eq!(driver.counters("by-repartition-sink").rows_out, 3);
    assert_eq!(read::<String, u64>(&mut driver, "out"), ["\"1\"=1@1", "\"0\"=1@2", "\"1\"=2@3"]);
    assert_eq!(read::<String, i64>(&mut driver, "sums"), ["\"1\"=1@1", "\"0\"=2@2", "\"1\"=4@3"]);
    assert_eq!(driver.read_records("windows").len(), 3);
}

#[test]
fn every_problem_of_a_topology_is_told_at_once() {
    let builder = StreamBuilder::new();
    let rows = builder.stream::<String, String>("in");
    let table = rows.group_by_key().count(store("same"));
    builder
        .stream::<String, String>("in")
        .group_by_key()
        .window(Hopping::of(millis(5), millis(9)))
        .count(store("same"));
    rows.select_key(|_, value| value.clone()).join_table(&table, |_, _, count: u64| count);
    let Err(StreamsError::Topology { problems }) = builder.build() else { panic!("it is invalid") };
    let expected = [
        "topic \"in\" is read by two sources",
        "two stores are named",
        "5 ms long and 9 ms apart",
        "its key was changed",
    ];
    for part in expected {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part:?} in {problems:#?}");
    }
}

#[test]
fn a_topology_is_described() {
    let builder = StreamBuilder::new();
    let users = builder.table::<String, String>("users", store("users"));
    let rows = builder.stream::<Option<String>, String>("clicks");
    let clicks = rows.group_by("by-user", |_, value| value.clone()).count(store("clicks-by-user"));
    clicks
        .to_stream()
        .left_join_table(&users, |_, count, name: Option<String>| format!("{count:?} {name:?}"))
        .to("out");
    let topology = builder.build().unwrap();
    assert_eq!(topology.describe(), DESCRIBED);
    assert_eq!(topology.to_mermaid(), DRAWN);
    assert_eq!(topology.subtopologies()[0].copartitioned.len(), 1);
    assert_eq!(topology.subtopologies()[0].copartitioned[0].len(), 2, "users and the repartition topic");
}

const DESCRIBED: &str = include_str!("golden/clicks.txt");
const DRAWN: &str = include_str!("golden/clicks.mmd");

#[derive(Clone, Debug)]
enum Action {
    Pipe { key: u8, at: i64 },
    Commit,
    Crash,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0u8..4, 0i64..200).prop_map(|(key, at)| Action::Pipe { key, at }),
        1 => Just(Action::Commit),
        1 => Just(Action::Crash),
    ];
    prop::collection::vec(action, 1..60)
}

proptest! {
    /// Outputs are the same whether a task ran through or crashed anywhere: state, stream time and positions are one.
    #[test]
    fn crashes_change_nothing(actions in actions(), grace in 0u64..30) {
        let windows = Tumbling::of(millis(20)).grace(millis(grace));
        let build = || window_count(windows, Emit::OnClose).manual_commit();
        let (mut crashing, mut smooth) = (build(), build());
        for action in &actions {
            match action {
                Action::Pipe { key, at } => {
                    let key = format!("k{key}");
                    crashing.pipe("in", &key, &String::new(), *at).unwrap();
                    smooth.pipe("in", &key, &String::new(), *at).unwrap();
                }
                Action::Commit => crashing.commit().unwrap(),
                Action::Crash => crashing.crash().unwrap(),
            }
        }
        crashing.end_inputs().unwrap();
        smooth.end_inputs().unwrap();
        prop_assert_eq!(read_windows(&mut crashing), read_windows(&mut smooth));
        prop_assert_eq!(read::<String, String>(&mut crashing, "late"), read::<String, String>(&mut smooth, "late"));
    }
}
