//! File to log to file, through the real worker on an embedded broker: exact, also when killed at random moments.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{Client, ClientConfig, IsolationLevel, OffsetAndMetadata, OffsetSpec, Offsets};
use millstream_connect_api::Registry;
use millstream_connect_runtime::{ClientLog, Daemon, RuntimeError, WorkerEnv, stop_signal};
use millstream_connector_file::{FileSink, FileSource};
use millstream_env::testing::until;
use millstream_env::{Env, HostRuntime};
use millstream_node::{Embedded, EmbeddedConfig, embedded};
use millstream_record::{Offset, TopicPartition};

const DAEMON: &str = "
[worker]
name = 'files'
commit_interval = '20ms'

[source.people]
type = 'file'
include = 'in/*.csv'
format = 'csv'
read = 'once'
batch_bytes = '4KiB'
max_line = '1KiB'
columns = { id = 'int64', name = 'string' }
on_error = 'dlq:bad'

[sink.out]
type = 'file'
topic = 'people'
path = 'out/{seq}.ndjson'
roll = { size = '20KiB' }

[sink.bad]
type = 'file'
topic = 'bad'
path = 'bad/{seq}.ndjson'
";

const ROWS: usize = 5000;

fn write_input(folder: &Path) {
    let mut text = String::from("id,name\n");
    for id in 0..ROWS {
        let id_text = if id % 1000 == 999 { "oops".to_owned() } else { id.to_string() };
        text.push_str(&format!("{id_text},name {id}\n"));
    }
    fs::create_dir_all(folder.join("in")).unwrap();
    fs::write(folder.join("in/people.csv"), text).unwrap();
}

async fn start(folder: &Path) -> Embedded {
    embedded(EmbeddedConfig::new(folder.join("log"))).await.unwrap()
}

async fn run(folder: &Path, env: &Env, node: &Embedded, text: &str) -> Result<Vec<u64>, RuntimeError> {
    let registry = Registry::new().with_source(FileSource).with_sink(FileSink);
    let daemon = Daemon::parse(&folder.join("daemon.toml"), text, &registry, &|_| Ok(None))?;
    let client = Client::new(env.clone(), node.dial(), ClientConfig::new(node.bootstrap()));
    let log = Arc::new(ClientLog::new(client, env.clone()));
    let namespace = daemon.name().to_owned();
    let worker = WorkerEnv { env: env.clone(), log, namespace, state_dir: folder.join("state") };
    let (_stopper, stop) = stop_signal();
    daemon.run(worker, stop).await?;
    let statuses = daemon.source_statuses().chain(daemon.sink_statuses());
    Ok(statuses.map(|(_, status)| status.counts().rows).collect())
}

/// All lines of the files in a folder, in the order of their names; only final names may be there.
fn lines(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn check_output(folder: &Path) {
    let expected: Vec<_> = (0..ROWS)
        .filter(|id| id % 1000 != 999)
        .map(|id| format!("{{\"id\":{id},\"name\":\"name {id}\"}}"))
        .collect();
    assert!(lines(&folder.join("out")) == expected, "the rows are not exactly those of the file");
    let bad = lines(&folder.join("bad"));
    assert_eq!(bad.len(), 5, "{bad:?}");
    assert!(
        bad[0].contains("\"line\":1001")
            && bad[0].contains("'oops' is not a int64")
            && bad[0].contains("people.csv"),
        "{}",
        bad[0]
    );
}

#[test]
fn a_daemon_brings_a_file_through_the_log_and_finds_nothing_new_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("file-worker", 2).unwrap();
    write_input(folder.path());
    runtime.block_on(async {
        let node = start(folder.path()).await;
        let bounded = env.timeout(Duration::from_secs(60), run(folder.path(), &env, &node, DAEMON)).await;
        assert_eq!(bounded.expect("it ends").unwrap(), [4995, 4995, 5]);
        check_output(folder.path());
        let before = fs::read_dir(folder.path().join("out")).unwrap().count();
        let again = env.timeout(Duration::from_secs(60), run(folder.path(), &env, &node, DAEMON)).await;
        assert_eq!(again.expect("it ends").unwrap(), [0, 0, 0], "nothing new");
        assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), before);
        node.shutdown().await.unwrap();
    });
}

/// What a sink had still to read may be gone from its topic: it goes on behind, and comes to its end.
#[test]
fn a_sink_whose_records_were_deleted_comes_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("file-worker", 2).unwrap();
    write_input(folder.path());
    runtime.block_on(async {
        let node = start(folder.path()).await;
        let bounded = env.timeout(Duration::from_secs(60), run(folder.path(), &env, &node, DAEMON)).await;
        assert_eq!(bounded.expect("it ends").unwrap(), [4995, 4995, 5]);
        node.shutdown().await.unwrap();
        let config = EmbeddedConfig::new(folder.path().join("log"))
            .with("log.retention.ms", "1")
            .with("log.roll.ms", "1")
            .with("log.retention.check.interval.ms", "20");
        let node = embedded(config).await.unwrap();
        let client = Client::new(env.clone(), node.dial(), ClientConfig::new(node.bootstrap()));
        let (admin, people) = (client.admin(), TopicPartition::new("people", 0));
        let wanted = BTreeMap::from([(people.clone(), OffsetSpec::Earliest)]);
        until(&env, "retention takes all of it", async || {
            let found = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap();
            found[&people].as_ref().unwrap().unwrap().offset.0 >= 4995
        })
        .await;
        let position = OffsetAndMetadata::new(Offset(5));
        let positions = Offsets::from([(people.clone(), position)]);
        admin.alter_group_offsets("connect-files-out", &positions).await.unwrap();
        fs::remove_dir_all(folder.path().join("out")).unwrap(); // the names of its files would tell that it had read all
        let again = env.timeout(Duration::from_secs(60), run(folder.path(), &env, &node, DAEMON)).await;
        assert_eq!(again.expect("it ends").unwrap(), [0, 0, 0], "there is nothing left to read");
        node.shutdown().await.unwrap();
    });
}

#[test]
fn killed_at_random_moments_it_goes_on_and_the_output_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("file-worker", 2).unwrap();
    write_input(folder.path());
    let mut lives = 0;
    loop {
        lives += 1;
        // The broker and the worker die together, as in one process; each life is a little longer.
        let done = runtime.block_on(async {
            let node = start(folder.path()).await;
            let life = Duration::from_millis(20 + 40 * lives + env.random_below(60));
            let ended = env.timeout(life, run(folder.path(), &env, &node, DAEMON)).await;
            match ended {
                Ok(outcome) => {
                    outcome.unwrap();
                    true
                }
                Err(_) => false,
            }
        });
        if done {
            break;
        }
        assert!(lives < 60, "it never ends");
    }
    check_output(folder.path());
}

/// What a value is must not change on its way: empty and null, what is no finite number, and every digit.
#[test]
fn values_come_out_as_they_went_in() {
    const VALUES: &str = "
[worker]
name = 'values'

[source.values]
type = 'file'
include = 'in.csv'
format = 'csv'
read = 'once'
columns = { s = 'string', f = 'float64', n = 'int64', d = 'decimal(20,2)', t = 'timestamp(ns)' }

[sink.csv]
type = 'file'
topic = 'values'
path = 'csv/{seq}.csv'

[sink.json]
type = 'file'
topic = 'values'
path = 'json/{seq}.ndjson'
";
    let text = [
        "s,f,n,d,t",
        "\"\",NaN,9223372036854775807,123456789012345678.90,2020-01-01T00:00:00.123456789Z",
        ",inf,,,",
        "\"a,\"\"b\"\"\",-inf,-1,-0.01,1969-12-31T23:59:59Z",
        ",1.5,0,0.00,",
    ];
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), text.join("\n") + "\n").unwrap();
    let (runtime, env) = HostRuntime::start("file-worker", 2).unwrap();
    runtime.block_on(async {
        let node = start(folder.path()).await;
        let bounded = env.timeout(Duration::from_secs(60), run(folder.path(), &env, &node, VALUES)).await;
        assert_eq!(bounded.expect("it ends").unwrap(), [4, 4, 4]);
        node.shutdown().await.unwrap();
    });
    assert_eq!(lines(&folder.path().join("csv")), text);
    let json = lines(&folder.path().join("json"));
    assert_eq!(
        json,
        [
            r#"{"s":"","f":"NaN","n":9223372036854775807,"d":123456789012345678.90,"t":"2020-01-01T00:00:00.123456789Z"}"#,
            r#"{"f":"Infinity"}"#,
            r#"{"s":"a,\"b\"","f":"-Infinity","n":-1,"d":-0.01,"t":"1969-12-31T23:59:59Z"}"#,
            r#"{"f":1.5,"n":0,"d":0.00}"#,
        ]
    );
}
