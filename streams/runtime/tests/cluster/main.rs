//! Applications on a real log: results, crashes, restores, several workers, ends that pass on.

mod closing;
mod faults;
mod restoring;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use millstream_client::{ConsumerRecord, NewTopic};
use millstream_streams::dsl::{Emit, Late, Serde, StreamBuilder, Tumbling, Windowed, millis, store};
use millstream_streams::{ProcessingGuarantee, StreamsConfig, Summary, Topology};
use support::{Cluster, PATIENCE, on_every_door, text};

/// An input is never idle in a test.
const NEVER_MS: u64 = 1_000_000;

/// Words by number of occurrences, in one topology with two subtopologies.
fn word_count(cluster: &Cluster) -> Topology {
    let builder = StreamBuilder::new();
    builder
        .stream::<Option<String>, String>(&cluster.name("lines"))
        .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by("by-word", |_, word| word.clone())
        .count(store("counts"))
        .to_stream()
        .to(&cluster.name("word-counts"));
    builder.build().unwrap()
}

/// Key, value, timestamp.
type Row = (String, String, i64);

fn lines(count: usize) -> (Vec<Row>, BTreeMap<String, u64>) {
    let words = ["to", "be", "or", "not", "that", "is", "the", "question"];
    let mut counts = BTreeMap::<String, u64>::new();
    let mut rows = Vec::new();
    for n in 0..count {
        let line: Vec<_> = (0..1 + n % 5).map(|w| words[(n * 7 + w * 3) % words.len()]).collect();
        line.iter().for_each(|word| *counts.entry((*word).to_owned()).or_default() += 1);
        rows.push((format!("k{}", n % 10), line.join(" "), n as i64));
    }
    (rows, counts)
}

/// The last value of each key.
fn latest(records: &[ConsumerRecord]) -> BTreeMap<String, u64> {
    let pair = |record: &ConsumerRecord| {
        Some((text(record.key.as_ref()), u64::decode(record.value.as_ref()?).unwrap()))
    };
    records.iter().filter_map(pair).collect()
}

async fn run_to_end(
    cluster: &Cluster,
    topology: Topology,
    config: StreamsConfig,
    inputs: &[&str],
) -> Summary {
    let finite = inputs.iter().map(|topic| cluster.name(topic)).collect();
    let app = cluster.app(topology, StreamsConfig { finite_inputs: finite, ..config });
    let control = app.control();
    for topic in inputs {
        cluster.end(&control, topic).await;
    }
    let outcome = cluster.env.timeout(PATIENCE, app.run()).await;
    let summary =
        outcome.unwrap_or_else(|_| panic!("still running; counters {:#?}", control.counters())).unwrap();
    assert!(summary.drained);
    summary
}

#[test]
fn words_are_counted_to_the_end_of_the_input() {
    on_every_door(async |cluster| {
        cluster.create(&[("lines", 3), ("word-counts", 2)]).await;
        let (rows, counts) = lines(1_000);
        cluster.write("lines", rows).await;
        let config = StreamsConfig { threads: 2, ..cluster.config("words") };
        let summary = run_to_end(&cluster, word_count(&cluster), config.clone(), &["lines"]).await;
        assert_eq!(latest(&cluster.read("word-counts").await), counts);
        assert_eq!(summary.counters[&*cluster.name("lines")].rows_in, 1_000);
        assert_eq!(summary.counters["count-counts"].rows_in, counts.values().sum::<u64>());

        let again = run_to_end(&cluster, word_count(&cluster), config, &["lines"]).await;
        assert!(
            again.counters.values().all(|node| node.rows_in == 0),
            "nothing is new: {:?}",
            again.counters
        );
    });
}

/// What was read of a repartition topic goes, and nothing that is still to be read.
#[test]
fn what_was_read_of_a_repartition_topic_is_deleted() {
    on_every_door(async |cluster| {
        cluster.create(&[("lines", 2), ("word-counts", 1)]).await;
        let (rows, counts) = lines(300);
        cluster.write("lines", rows).await;
        let config = StreamsConfig { repartition_purge_interval_ms: 1, ..cluster.config("purged") };
        let app = cluster.app(word_count(&cluster), config);
        let control = app.control();
        let total = i64::try_from(counts.values().sum::<u64>()).unwrap();
        let purged = async {
            // A deletion follows a commit, so there has to be something to commit until all is deleted.
            for extra in 0.. {
                if cluster.deleted_of("purged-by-word-repartition").await >= total {
                    break;
                }
                cluster.write("lines", [("k".to_owned(), "more".to_owned(), 400 + extra)]).await;
                cluster.env.sleep(support::LOOK).await;
            }
            control.stop();
        };
        let (outcome, ()) = cluster
            .env
            .timeout(PATIENCE, futures::future::join(app.run(), purged))
            .await
            .expect("what was read goes");
        outcome.unwrap();
        let mut counted = latest(&cluster.read("word-counts").await);
        counted.remove("more");
        assert_eq!(counted, counts);
    });
}

#[test]
fn at_least_once_counts_too() {
    on_every_door(async |cluster| {
        cluster.create(&[("lines", 2), ("word-counts", 1)]).await;
        let (rows, counts) = lines(300);
        cluster.write("lines", rows).await;
        let processing_guarantee = ProcessingGuarantee::AtLeastOnce;
        let config = StreamsConfig { processing_guarantee, ..cluster.config("words") };
        run_to_end(&cluster, word_count(&cluster), config, &["lines"]).await;
        assert_eq!(latest(&cluster.read("word-counts").await), counts);
    });
}

/// A copy of each row, and windows that are emitted once, when they close; late rows on the side.
fn copy_and_windows(cluster: &Cluster) -> Topology {
    let builder = StreamBuilder::new();
    let rows = builder.stream::<String, String>(&cluster.name("rows"));
    rows.to(&cluster.name("copy"));
    rows.group_by("by-value", |_, value| value.clone())
        .window(Tumbling::of(millis(100)))
        .emit(Emit::OnClose)
        .late(Late::side_output(cluster.name("late")))
        .count(store("windows"))
        .to_stream()
        .to(&cluster.name("closed"));
    builder.build().unwrap()
}

fn rows(from: usize, to: usize) -> Vec<Row> {
    (from..to).map(|n| (format!("{n:06}"), format!("v{}", n % 7), n as i64)).collect()
}

/// Windows as `key@start`, each with every count that was written for it.
fn windows(records: &[ConsumerRecord]) -> BTreeMap<String, Vec<u64>> {
    let mut windows = BTreeMap::<String, Vec<u64>>::new();
    for record in records {
        let key = Windowed::<String>::decode(record.key.as_ref().unwrap()).unwrap();
        let count = u64::decode(record.value.as_ref().unwrap()).unwrap();
        windows.entry(format!("{}@{}", key.key, key.window.start)).or_default().push(count);
    }
    windows
}

fn expected_windows(rows: &[Row]) -> BTreeMap<String, Vec<u64>> {
    let mut windows = BTreeMap::<String, Vec<u64>>::new();
    for (_, value, at) in rows {
        windows.entry(format!("{value}@{}", at / 100 * 100)).or_insert_with(|| vec![0])[0] += 1;
    }
    windows
}

/// Runs the application and drops it, without any goodbye, once it has taken in `rows` more rows (or is done).
async fn crash_after(cluster: &Cluster, topology: Topology, config: StreamsConfig, rows: u64) {
    let app = cluster.app(topology, config);
    let control = app.control();
    let source = cluster.name("rows");
    let came_so_far = async {
        while control.counters().get(&*source).is_none_or(|node| node.rows_in < rows) {
            cluster.env.sleep(Duration::from_millis(1)).await;
        }
    };
    let crash = cluster.env.timeout(PATIENCE, Box::pin(came_so_far));
    match select(Box::pin(app.run()), Box::pin(crash)).await {
        Either::Left((ended, _)) => panic!("it should run until it is dropped: {ended:?}"),
        Either::Right((reached, _)) => reached.expect("rows arrive"),
    }
}

#[test]
fn crashes_lose_nothing_and_repeat_nothing() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 2), ("copy", 1), ("closed", 1), ("late", 1)]).await;
        let total = 6_000;
        let config = StreamsConfig {
            commit_interval_ms: 20,
            max_poll_records: 100,
            idle_timeout_ms: NEVER_MS,
            ..cluster.config("crashing")
        };
        let producer_rows = rows(0, total);
        cluster.write("rows", producer_rows.clone()).await;
        for round in 0..8 {
            let threads = 1 + round % 2;
            let config = StreamsConfig { threads, ..config.clone() };
            let after = 1 + cluster.env.random_below(700);
            crash_after(&cluster, copy_and_windows(&cluster), config, after).await;
        }
        run_to_end(&cluster, copy_and_windows(&cluster), config, &["rows"]).await;
        let mut copied: Vec<_> =
            cluster.read("copy").await.iter().map(|record| text(record.key.as_ref())).collect();
        copied.sort();
        let all: Vec<_> = producer_rows.iter().map(|(key, ..)| key.clone()).collect();
        assert_eq!(copied, all);
        assert_eq!(windows(&cluster.read("closed").await), expected_windows(&producer_rows));
        assert_eq!(cluster.read("late").await.len(), 0, "each partition is in order");
    });
}

#[test]
fn tasks_move_between_processes_under_load() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 4), ("copy", 1), ("closed", 1), ("late", 1)]).await;
        let all = rows(0, 4_000);
        cluster.write("rows", all[..2_000].iter().cloned()).await;
        let base = StreamsConfig {
            commit_interval_ms: 20,
            max_poll_records: 50,
            idle_timeout_ms: NEVER_MS,
            ..cluster.config("handover")
        };
        let in_dir = |name: &str| StreamsConfig { state_dir: cluster.dir.path().join(name), ..base.clone() };
        let first = cluster.app(copy_and_windows(&cluster), in_dir("first"));
        let control = first.control();
        let others = async {
            while cluster.read("copy").await.len() < 300 {}
            cluster.write("rows", all[2_000..].iter().cloned()).await;
            let goodbye = async {
                while cluster.read("copy").await.len() < 3_000 {}
                control.stop();
            };
            let second = run_to_end(&cluster, copy_and_windows(&cluster), in_dir("second"), &["rows"]);
            futures::join!(second, goodbye).0
        };
        let (first, _) = futures::join!(first.run(), others);
        assert!(!first.unwrap().drained);
        let mut copied: Vec<_> =
            cluster.read("copy").await.iter().map(|row| text(row.key.as_ref())).collect();
        copied.sort();
        assert_eq!(copied, all.iter().map(|(key, ..)| key.clone()).collect::<Vec<_>>());
        assert_eq!(windows(&cluster.read("closed").await), expected_windows(&all));
        assert_eq!(cluster.read("late").await.len(), 0, "each partition is in order");
    });
}

#[test]
fn a_partition_without_rows_holds_windows_up_until_it_is_idle() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 3), ("copy", 1), ("closed", 1), ("late", 1)]).await;
        let one_key = |at: i64| ("key".to_owned(), "v".to_owned(), at);
        cluster.write("rows", [5, 20, 250].map(one_key)).await;
        let config = StreamsConfig { commit_interval_ms: 20, idle_timeout_ms: 300, ..cluster.config("idle") };
        let app = cluster.app(copy_and_windows(&cluster), config);
        let control = app.control();
        let closed = async {
            while cluster.read("closed").await.is_empty() {}
            control.stop();
        };
        let patient = cluster.env.timeout(PATIENCE, Box::pin(closed));
        let (outcome, closed) = futures::join!(app.run(), patient);
        closed.expect("the window closes though two partitions are empty");
        assert!(!outcome.unwrap().drained);
        let expected = BTreeMap::from([("v@0".to_owned(), vec![2])]);
        assert_eq!(windows(&cluster.read("closed").await), expected);
    });
}

#[test]
fn a_lost_state_directory_is_restored_from_the_changelog() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 1), ("copy", 1), ("closed", 1), ("late", 1)]).await;
        let all = rows(0, 1_000);
        cluster.write("rows", all[..550].iter().cloned()).await;
        let config = cluster.config("moving");
        let app = cluster.app(copy_and_windows(&cluster), config.clone());
        let control = app.control();
        let done = async {
            while cluster.read("copy").await.len() < 550 {}
            control.stop();
        };
        let (outcome, ()) = futures::join!(app.run(), done);
        assert!(!outcome.unwrap().drained);
        std::fs::remove_dir_all(&config.state_dir).unwrap();
        cluster.write("rows", all[550..].iter().cloned()).await;
        run_to_end(&cluster, copy_and_windows(&cluster), config, &["rows"]).await;
        assert_eq!(windows(&cluster.read("closed").await), expected_windows(&all));
    });
}

#[test]
fn a_full_uncommitted_layer_commits_at_once() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 1), ("counts", 1)]).await;
        cluster.write("rows", rows(0, 50)).await;
        let builder = StreamBuilder::new();
        let rows = builder.stream::<String, String>(&cluster.name("rows"));
        rows.group_by_key().count(store("by-key")).to_stream().to(&cluster.name("counts"));
        let config = StreamsConfig {
            commit_interval_ms: 600_000,
            transaction_timeout_ms: 700_000,
            max_uncommitted_bytes: 1,
            ..cluster.config("full")
        };
        let app = cluster.app(builder.build().unwrap(), config);
        let control = app.control();
        let seen = async {
            while cluster.read("counts").await.len() < 50 {}
            control.stop();
        };
        let (outcome, seen) = futures::join!(app.run(), cluster.env.timeout(PATIENCE, Box::pin(seen)));
        seen.expect("the counts are committed long before the interval is over");
        outcome.unwrap();
    });
}

#[test]
fn a_missing_topic_is_named() {
    on_every_door(async |cluster| {
        let error = cluster.app(word_count(&cluster), cluster.config("none")).run().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&cluster.name("lines")) && text.contains("create it first"), "{text}");
    });
}

#[test]
fn two_processes_share_the_work() {
    on_every_door(async |cluster| {
        let cluster = Arc::new(cluster);
        cluster.create(&[("lines", 4), ("word-counts", 2)]).await;
        let (rows, counts) = lines(2_000);
        cluster.write("lines", rows).await;
        let process = |number: usize| {
            let state_dir = cluster.dir.path().join(format!("process-{number}"));
            let config = StreamsConfig { state_dir, ..cluster.config("shared") };
            run_to_end(&cluster, word_count(&cluster), config, &["lines"])
        };
        let (a, b) = futures::join!(process(0), process(1));
        assert_eq!(latest(&cluster.read("word-counts").await), counts);
        let rows_in =
            |summary: &Summary| summary.counters.get(&*cluster.name("lines")).map_or(0, |node| node.rows_in);
        assert!(rows_in(&a) + rows_in(&b) >= 2_000);
    });
}

/// A record that its topic refuses was lost in silence at least once, and tried again for ever exactly once.
#[test]
fn an_output_that_is_refused_for_good_ends_the_application() {
    on_every_door(async |cluster| {
        cluster.create(&[("lines", 1)]).await;
        let small = NewTopic::new(&*cluster.name("out"), 1).with_config("max.message.bytes", "300");
        cluster.client().admin().create_topics(&[small]).await.unwrap();
        let long = "x".repeat(2_000);
        let row = |value: &str, at| ("k".to_owned(), value.to_owned(), at);
        cluster.write("lines", [row("short", 1), row(&long, 2), row("short", 3)]).await;
        for (name, processing_guarantee) in
            [("once", ProcessingGuarantee::ExactlyOnce), ("least", ProcessingGuarantee::AtLeastOnce)]
        {
            let builder = StreamBuilder::new();
            let lines = builder.stream::<String, String>(&cluster.name("lines"));
            lines.map_values(|_, line| line.clone()).to(&cluster.name("out"));
            let config = StreamsConfig { processing_guarantee, max_poll_records: 1, ..cluster.config(name) };
            let app = cluster.app(builder.build().unwrap(), config);
            let outcome = cluster.env.timeout(PATIENCE, Box::pin(app.run())).await;
            let error = outcome.expect("it ends").unwrap_err().to_string();
            assert!(error.contains(&format!("{}-0", cluster.name("out"))), "{name}: {error}");
        }
    });
}
