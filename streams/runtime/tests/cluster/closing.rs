//! Windows that close together leave in several transactions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millstream_client::ConsumerRecord;
use millstream_streams::dsl::{Emit, StreamBuilder, Tumbling, millis, store};
use millstream_streams::{AppError, StreamsConfig, StreamsControl, Topology};

use super::support::{Cluster, PATIENCE, on_every_door};
use super::{Row, run_to_end, windows};

/// Windows that are open when the input ends, each of one row: several times what one turn closes at most.
const OPEN: usize = 24_000;

/// Counts rows by key and window; `each` is told how many results have left so far.
fn counts(cluster: &Cluster, each: impl Fn(usize) + Send + Sync + 'static) -> Topology {
    let builder = StreamBuilder::new();
    let left = AtomicUsize::new(0);
    builder
        .stream::<String, String>(&cluster.name("rows"))
        .group_by_key()
        .window(Tumbling::of(millis(100)).grace(Duration::from_secs(1_000_000)))
        .emit(Emit::OnClose)
        .count(store("windows"))
        .to_stream()
        .map_values(move |_, count| {
            each(left.fetch_add(1, Ordering::Relaxed) + 1);
            count
        })
        .to(&cluster.name("closed"));
    builder.build().unwrap()
}

fn rows() -> Vec<Row> {
    (0..OPEN).map(|n| (format!("{n:06}"), String::new(), n as i64)).collect()
}

fn expected() -> BTreeMap<String, Vec<u64>> {
    rows().into_iter().map(|(key, _, at)| (format!("{key}@{}", at / 100 * 100), vec![1])).collect()
}

/// Transactions in an output of one partition: where one ends there is a marker, which is no record.
fn transactions(records: &[ConsumerRecord]) -> usize {
    records.windows(2).filter(|pair| pair[1].offset.0 > pair[0].offset.0 + 1).count() + 1
}

/// Commits are due by bytes long before all windows have left.
fn small_commits(cluster: &Cluster) -> StreamsConfig {
    StreamsConfig {
        commit_interval_ms: 5_000,
        max_uncommitted_bytes: 20_000,
        finite_inputs: vec![cluster.name("rows")],
        ..cluster.config("closing")
    }
}

/// Everything closed in one transaction, which took longer than the broker waits for one: in every attempt, for ever.
#[test]
fn windows_that_close_together_leave_in_several_transactions() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 1), ("closed", 1)]).await;
        cluster.write("rows", rows()).await;
        run_to_end(&cluster, counts(&cluster, |_| {}), small_commits(&cluster), &["rows"]).await;
        let closed = cluster.read("closed").await;
        assert_eq!(windows(&closed), expected());
        let transactions = transactions(&closed);
        assert!(transactions >= 5, "{transactions} transactions");
    });
}

/// What was committed before a stop or a crash in the midst is not written again, and the rest is, in the same order.
#[test]
fn an_application_that_ends_while_windows_close_goes_on_with_the_others() {
    /// Results after which it ends: more than one turn makes, and two turns more are fewer than there are.
    const MIDST: usize = 6_000;
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 1), ("closed", 1)]).await;
        cluster.write("rows", rows()).await;
        let mut before = 0;
        for crash in [true, false] {
            let stop = Arc::new(OnceLock::<StreamsControl>::new());
            let told = Arc::clone(&stop);
            let topology = counts(&cluster, move |left| match (left == MIDST, crash) {
                (false, _) => {}
                (true, true) => panic!("a crash while windows close: this test wants it"),
                (true, false) => told.get().into_iter().for_each(StreamsControl::stop),
            });
            let app = cluster.app(topology, small_commits(&cluster));
            let control = stop.get_or_init(|| app.control());
            cluster.end(control, "rows").await;
            let outcome = cluster.env.timeout(PATIENCE, app.run()).await.expect("it ends");
            match crash {
                true => assert!(matches!(outcome, Err(AppError::WorkerLost(0))), "{outcome:?}"),
                false => assert!(!outcome.unwrap().drained),
            }
            let closed = cluster.read("closed").await.len();
            assert!((before + 1..OPEN).contains(&closed), "crash {crash}: {closed} windows have left");
            before = closed;
        }
        run_to_end(&cluster, counts(&cluster, |_| {}), small_commits(&cluster), &["rows"]).await;
        let closed = cluster.read("closed").await;
        assert_eq!(windows(&closed), expected());
        assert!(closed.is_sorted_by_key(|record| record.timestamp), "windows leave in order");
    });
}
