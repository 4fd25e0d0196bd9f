//! What a worker survives, and what ends it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::ProducerConfig;
use millstream_protocol::messages::EndTxnResponse;
use millstream_protocol::{
    ApiKey, Ctx, Dial, DialError, Endpoint, ErrorCode, Link, Receipt, Request, Response, Service,
};
use millstream_streams::dsl::{Serde, StreamBuilder, store};
use millstream_streams::{AppError, StreamsConfig, Topology};
use millstream_streams_core::StoreSpec;

use super::support::{Cluster, LOOK, PATIENCE, on_every_door, text};

fn copy(cluster: &Cluster) -> Topology {
    let builder = StreamBuilder::new();
    let rows = builder.stream::<String, String>(&cluster.name("rows"));
    rows.map_values(|_, value| value.clone()).to(&cluster.name("copy"));
    builder.build().unwrap()
}

/// Rows whose keys are these numbers.
async fn write(cluster: &Cluster, numbers: std::ops::Range<usize>) {
    cluster.write("rows", numbers.map(|n| (format!("{n:03}"), "v".to_owned(), n as i64))).await;
}

/// Waits until the copy has so many rows, and says which.
async fn copied(cluster: &Cluster, count: usize) -> Vec<String> {
    let all = async {
        loop {
            let rows = cluster.read("copy").await;
            if rows.len() >= count {
                return rows.iter().map(|row| text(row.key.as_ref())).collect();
            }
        }
    };
    let mut keys: Vec<String> = cluster.env.timeout(PATIENCE, Box::pin(all)).await.expect("rows are copied");
    keys.sort();
    keys
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:03}")).collect()
}

/// The names under which the producers of an application register.
async fn transactional_ids(cluster: &Cluster, application: &str) -> BTreeSet<String> {
    let group = cluster.name(application);
    let described = cluster.client().admin().describe_groups(&[&group]).await.unwrap();
    let members = described.into_iter().flat_map(|group| group.members);
    members.filter_map(|member| Some(format!("{group}-{}", member.group_instance_id?))).collect()
}

/// The broker does to a producer whose transaction took too long what it does when another takes over its name: a newer epoch.
#[test]
fn a_worker_that_lost_its_transaction_goes_on_with_another_producer() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 2), ("copy", 1)]).await;
        let config = StreamsConfig { commit_interval_ms: 20, threads: 2, ..cluster.config("fenced") };
        let app = cluster.app(copy(&cluster), config);
        let control = app.control();
        let others = async {
            for round in 0..4 {
                write(&cluster, round * 50..(round + 1) * 50).await;
                assert_eq!(copied(&cluster, (round + 1) * 50).await, numbered((round + 1) * 50));
                let ids = transactional_ids(&cluster, "fenced").await;
                assert_eq!(ids.len(), 2, "{ids:?}");
                for id in ids {
                    let usurper = cluster.client().producer(ProducerConfig::transactional(id)).unwrap();
                    usurper.init_transactions().await.unwrap();
                }
            }
            write(&cluster, 200..250).await;
            assert_eq!(copied(&cluster, 250).await, numbered(250));
            control.stop();
        };
        let (outcome, ()) = futures::join!(app.run(), others);
        outcome.unwrap();
    });
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Two processes that take one another's name do not fence each other for ever: the group lets one of them stay.
#[test]
fn of_two_processes_with_the_same_state_one_ends_and_says_why() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 2), ("copy", 1)]).await;
        let config = StreamsConfig { commit_interval_ms: 20, ..cluster.config("twins") };
        let first = cluster.app(copy(&cluster), config.clone());
        let control = first.control();
        write(&cluster, 0..10).await;
        let done = async {
            copied(&cluster, 10).await;
            control.stop();
        };
        futures::join!(first.run(), done).0.unwrap();
        let twin = StreamsConfig { state_dir: cluster.dir.path().join("copied"), ..config.clone() };
        copy_dir(&config.state_dir, &twin.state_dir);
        let (ended, written) = (Cell::new(false), Cell::new(false));
        let process = async |config: StreamsConfig| {
            let app = cluster.app(copy(&cluster), config);
            let control = app.control();
            let outcome = app.run();
            let stopped = async {
                while !written.get() {
                    cluster.env.sleep(LOOK).await;
                }
                control.stop();
            };
            let outcome = async {
                let outcome = outcome.await;
                ended.set(true);
                outcome
            };
            futures::join!(outcome, stopped).0
        };
        let rows = async {
            let mut count = 10;
            while !ended.get() {
                write(&cluster, count..count + 10).await;
                count += 10;
                assert_eq!(copied(&cluster, count).await, numbered(count));
            }
            written.set(true);
        };
        let both = async { futures::join!(process(config), process(twin), rows) };
        let (a, b, ()) = cluster.env.timeout(PATIENCE, Box::pin(both)).await.expect("one of them ends");
        let (failure, other) = if a.is_err() { (a, b) } else { (b, a) };
        assert!(matches!(failure, Err(AppError::Twin { .. })), "{failure:?}");
        other.unwrap();
    });
}

/// A cluster that refuses every commit of a transaction.
struct RefusesCommits<T: ?Sized>(Arc<T>);

impl Dial for RefusesCommits<dyn Dial> {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let link = self.0.dial(endpoint);
        async move { Ok(Arc::new(RefusesCommits(link.await?)) as Arc<dyn Link>) }.boxed()
    }
}

impl Service for RefusesCommits<dyn Link> {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        match request {
            Request::EndTxn(end) if end.committed => {
                let error_code = ErrorCode::InvalidProducerEpoch.code();
                Response::EndTxn(EndTxnResponse { error_code, ..Default::default() }).into()
            }
            other => self.0.call(ctx, other),
        }
    }
}

impl Link for RefusesCommits<dyn Link> {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.0.supports(api)
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// It is tried again, with a new producer each time, but not for ever.
#[test]
fn an_application_that_fails_in_every_epoch_ends_and_says_so() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 1), ("copy", 1)]).await;
        write(&cluster, 0..10).await;
        let config = StreamsConfig { commit_interval_ms: 20, ..cluster.config("doomed") };
        let refusing = Arc::new(RefusesCommits(cluster.dial()));
        let app = cluster.app_through(refusing, copy(&cluster), config.clone());
        let outcome = cluster.env.timeout(PATIENCE, app.run()).await.expect("it ends");
        let error = outcome.unwrap_err();
        assert!(matches!(error, AppError::GaveUp { failures: 11, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("11 failures in a row") && text.contains("transaction.timeout.ms"), "{text}");
        // Nothing of it was committed, and nothing stands in the way of the next run.
        let app = cluster.app(copy(&cluster), config);
        let control = app.control();
        let done = async {
            assert_eq!(copied(&cluster, 10).await, numbered(10));
            control.stop();
        };
        futures::join!(app.run(), done).0.unwrap();
    });
}

/// A deleted input came back empty, by the very question of the application that missed it.
#[test]
fn an_input_that_is_deleted_is_named_and_stays_away() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 2)]).await;
        let app = cluster.app(copy(&cluster), cluster.config("orphan"));
        write(&cluster, 0..10).await; // nobody created "copy": what is written may come into being by that
        let rows = cluster.name("rows");
        let admin = cluster.client().admin();
        let delete = async {
            while !admin.list_topics().await.unwrap().iter().any(|topic| **topic == cluster.name("copy")) {
                cluster.env.sleep(LOOK).await;
            }
            copied(&cluster, 10).await;
            admin.delete_topics(&[&rows]).await.unwrap();
        };
        let ended = async { futures::join!(app.run(), delete).0 };
        let outcome = cluster.env.timeout(PATIENCE, Box::pin(ended)).await.expect("it ends");
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(&rows) && error.contains("deleted"), "{error}");
        let left = admin.list_topics().await.unwrap();
        assert!(!left.iter().any(|topic| **topic == rows), "{left:?}");
    });
}

/// A store without a changelog was emptied by each rebalance, and by each epoch that failed.
#[test]
fn a_task_that_stays_keeps_its_stores_without_a_changelog() {
    on_every_door(async |cluster| {
        let counts = |name, spec: StoreSpec| {
            let builder = StreamBuilder::new();
            let rows = builder.stream::<String, String>(&cluster.name(&format!("{name}-rows")));
            let counts = rows.group_by_key().count(spec.without_changelog());
            counts.to_stream().to(&cluster.name(&format!("{name}-counts")));
            let config = StreamsConfig { commit_interval_ms: 20, ..cluster.config(name) };
            (builder.build().unwrap(), config)
        };
        for (name, spec) in [("disk", store("counts")), ("memory", store("counts").in_memory())] {
            let (input, output) = (format!("{name}-rows"), format!("{name}-counts"));
            cluster.create(&[(&input, 1), (&output, 1)]).await;
            let five_rows = async || {
                cluster.write(&input, (0..5).map(|n| ("all".to_owned(), "v".to_owned(), n))).await;
            };
            let (topology, config) = counts(name, spec.clone());
            let app = cluster.app(topology, config.clone());
            let control = app.control();
            let group = cluster.name(name);
            let second_of = cluster.dir.path().join(format!("second-{name}"));
            let (topology, config) = counts(name, spec);
            let second = cluster.app(topology, StreamsConfig { state_dir: second_of, ..config });
            let second_control = second.control();
            let count_is = async |count: u64| {
                while cluster
                    .read(&output)
                    .await
                    .last()
                    .is_none_or(|last| u64::decode(last.value.as_ref().unwrap()).unwrap() != count)
                {
                }
            };
            let is_member = async |members: usize| {
                let admin = cluster.client().admin();
                loop {
                    let described = admin.describe_groups(&[&group]).await.unwrap();
                    if described[0].members.len() == members && described[0].state == "Stable" {
                        return;
                    }
                    cluster.env.sleep(LOOK).await;
                }
            };
            let others = async {
                count_is(5).await;
                let joining = async {
                    is_member(2).await;
                    five_rows().await;
                    count_is(10).await;
                    second_control.stop();
                };
                futures::join!(second.run(), joining).0.unwrap();
                let id = transactional_ids(&cluster, name).await.pop_first().unwrap();
                let usurper = cluster.client().producer(ProducerConfig::transactional(id)).unwrap();
                usurper.init_transactions().await.unwrap();
                five_rows().await;
                count_is(15).await;
                control.stop();
            };
            five_rows().await;
            let all = async { futures::join!(app.run(), others).0 };
            cluster.env.timeout(PATIENCE, Box::pin(all)).await.expect("counts go on").unwrap();
        }
    });
}

/// All rows of a poll were one run, so that a step which took long for each outlasted transactions and sessions, over and over.
#[test]
fn a_slow_step_commits_between_its_rows() {
    on_every_door(async |cluster| {
        cluster.create(&[("rows", 1), ("copy", 1)]).await;
        write(&cluster, 0..20).await;
        let builder = StreamBuilder::new();
        let rows = builder.stream::<String, String>(&cluster.name("rows"));
        let env = cluster.env.clone();
        let slow = rows.map_values(move |_, value| {
            let began = env.elapsed();
            while env.elapsed() - began < Duration::from_millis(30) {
                std::hint::spin_loop(); // the step's work
            }
            value.clone()
        });
        slow.to(&cluster.name("copy"));
        let config = StreamsConfig { commit_interval_ms: 20, ..cluster.config("slow") };
        let app = cluster.app(builder.build().unwrap(), config);
        let control = app.control();
        let done = async {
            copied(&cluster, 20).await;
            control.stop();
        };
        futures::join!(app.run(), done).0.unwrap();
        let rows = cluster.read("copy").await;
        let transactions = rows.last().unwrap().offset.0 + 1 - 19; // each but the last has left its marker before that row
        assert!(transactions >= 10, "{transactions} transactions");
    });
}
