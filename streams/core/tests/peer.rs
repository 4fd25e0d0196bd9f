//! Generated scripts through our topologies and through Kafka's own `TopologyTestDriver`: the outputs must be equal.
//! Needs the peer (`PEER_DIR`, as in `./verify`); without it each test says that it did not run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use millstream_streams_core::dsl::{Emit, Hopping, StreamBuilder, Tumbling, Windowed, millis, store};
use millstream_streams_core::{Header, TestDriver, Topology};
use serde_json::{Value, json};

/// Records in one script; a JVM start costs more than all of them.
const RECORDS: usize = 400;
const SEEDS: u64 = 2;

/// A small generator: scripts must be the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<'a>(&mut self, from: &[Option<&'a str>]) -> Option<&'a str> {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// What a script is made of.
struct Script {
    topics: &'static [&'static str],
    keys: &'static [Option<&'static str>],
    values: &'static [Option<&'static str>],
    /// Timestamps grow by up to so much, and now and then lie back by up to twice this.
    step_ms: u64,
    headers: bool,
}

impl Script {
    fn lines(&self, seed: u64) -> Vec<Value> {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut now = 0;
        (0..RECORDS)
            .map(|n| {
                now += random.below(self.step_ms + 1);
                let back = if random.below(3) == 0 { random.below(2 * self.step_ms + 1) } else { 0 };
                let topic = self.topics[usize::try_from(random.below(self.topics.len() as u64)).unwrap()];
                let (key, value) = (random.pick(self.keys), random.pick(self.values));
                let ts = now.saturating_sub(back);
                let mut line = json!({"op": "pipe", "topic": topic, "key": key, "value": value, "ts": ts});
                if self.headers && random.below(4) == 0 {
                    line["headers"] = json!({"n": n.to_string()});
                }
                line
            })
            .collect()
    }
}

fn check(topology: &str, options: &[&str], script: &Script, build: impl Fn(&StreamBuilder)) {
    let Some(peer) = std::env::var_os("PEER_DIR").map(PathBuf::from) else {
        let _ = writeln!(std::io::stderr(), "not run: {topology} against Kafka's driver (set PEER_DIR)");
        return;
    };
    for seed in 1..=SEEDS {
        let lines = script.lines(seed);
        let builder = StreamBuilder::new();
        build(&builder);
        let ours = ours(builder.build().unwrap(), &lines);
        let theirs = theirs(&peer, topology, options, &lines);
        assert!(!theirs.is_empty(), "{topology}: the script produced nothing");
        for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours, theirs, "{topology} {options:?} seed {seed}, output {at}");
        }
        assert_eq!(ours.len(), theirs.len(), "{topology} {options:?} seed {seed}");
    }
}

fn ours(topology: Topology, lines: &[Value]) -> Vec<Value> {
    let mut driver = TestDriver::new(topology).unwrap();
    let bytes = |value: &Value| value.as_str().map(|text| Bytes::copy_from_slice(text.as_bytes()));
    for line in lines {
        let headers = line["headers"].as_object().into_iter().flatten();
        let headers =
            headers.map(|(name, value)| Header::new(name.clone(), value.as_str().unwrap().to_owned()));
        let (topic, at) = (line["topic"].as_str().unwrap(), line["ts"].as_i64().unwrap());
        driver.pipe_record(topic, bytes(&line["key"]), bytes(&line["value"]), at, headers.collect()).unwrap();
    }
    let text = |bytes: Option<Bytes>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let topics: Vec<_> = driver.output_topics().map(str::to_owned).collect();
    let mut outputs = Vec::new();
    for topic in topics {
        for record in driver.read_records(&topic) {
            let headers = record.headers.into_iter().map(|h| (h.key.to_string(), json!(text(h.value))));
            outputs.push(json!({
                "topic": topic, "key": text(record.key), "value": text(record.value), "ts": record.timestamp.0,
                "headers": headers.collect::<serde_json::Map<_, _>>(),
            }));
        }
    }
    outputs
}

fn theirs(peer: &Path, topology: &str, options: &[&str], lines: &[Value]) -> Vec<Value> {
    let mut child = Command::new(peer.join("peer.sh"))
        .env_remove("PEER_DIR")
        .arg("streams")
        .arg(topology)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let script: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let writer = std::thread::Builder::new().spawn(move || input.write_all(script.as_bytes())).unwrap();
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "the peer failed on {topology}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

type Text = Option<String>;

const KEYS: &[Option<&str>] = &[Some("a"), Some("b"), Some("c"), Some("d"), None];
const VALUES: &[Option<&str>] = &[Some("ax"), Some("by"), Some("cz"), Some("ab"), Some("b")];
const NULLABLE: &[Option<&str>] = &[Some("ax"), Some("by"), Some(""), None];
const LINES: &[Option<&str>] = &[Some("to be or not to be"), Some("be"), Some("Not TO"), Some("or")];

fn window_name(windowed: &Windowed<Text>) -> String {
    let key = windowed.key.as_deref().unwrap_or("null");
    format!("{key}@{}/{}", windowed.window.start, windowed.window.end)
}

#[test]
fn stateless_steps_agree() {
    let script = Script { topics: &["in"], keys: KEYS, values: NULLABLE, step_ms: 10, headers: true };
    check("map-filter", &[], &script, |t| {
        t.stream::<Text, Text>("in")
            .filter(|_, value| value.as_ref().is_some_and(|value| !value.is_empty()))
            .map(|key, value| (key.or(value.clone()), value.map(|value| value.to_uppercase())))
            .to("out");
    });
    let script = Script { values: VALUES, ..script };
    check("split", &[], &script, |t| {
        let branches = t
            .stream::<Text, String>("in")
            .split()
            .branch(|_, value| value.starts_with('a'))
            .branch(|_, value| value.starts_with('b'))
            .default_branch();
        for (branch, topic) in branches.iter().zip(["out-s-a", "out-s-b", "out-s-z"]) {
            branch.to(topic);
        }
    });
    check("repartition", &[], &script, |t| {
        t.stream::<Text, String>("in").select_key(|_, value| value.clone()).repartition("rp").to("out");
    });
}

#[test]
fn aggregates_by_key_agree() {
    let script = Script { topics: &["in"], keys: KEYS, values: LINES, step_ms: 10, headers: true };
    check("wordcount", &[], &script, |t| {
        t.stream::<Text, String>("in")
            .flat_map_values(|_, line| line.to_lowercase().split(' ').map(str::to_owned).collect::<Vec<_>>())
            .group_by("by-word", |_, word| word.clone())
            .count(store("counts"))
            .to_stream()
            .map_values(|_, count| count.map(|count| count.to_string()))
            .to("out");
    });
    let script = Script { values: NULLABLE, ..script };
    check("reduce", &[], &script, |t| {
        t.stream::<Text, Text>("in")
            .group_by_key()
            .reduce(store("reduced"), |all, next| {
                Some(format!("{}|{}", all.unwrap(), next.as_ref().unwrap()))
            })
            .to_stream()
            .to("out");
    });
}

#[test]
fn windows_agree() {
    let script = Script { topics: &["in"], keys: KEYS, values: VALUES, step_ms: 400, headers: true };
    let count = |windows: millstream_streams_core::dsl::WindowSpec, emit| {
        move |t: &StreamBuilder| {
            t.stream::<Text, String>("in")
                .group_by_key()
                .window(windows)
                .emit(emit)
                .count(store("counts"))
                .to_stream()
                .map(|key, count| (window_name(&key), count.unwrap().to_string()))
                .to("out");
        }
    };
    for grace in [0, 300, 2_000] {
        let options = format!("grace={grace}");
        let (tumbling, grace) = (Tumbling::of(millis(1_000)).grace(millis(grace)), millis(grace));
        check("tumbling", &[&options], &script, count(tumbling.into(), Emit::OnUpdate));
        for advance in [500, 300] {
            let hopping = Hopping::of(millis(1_000), millis(advance)).grace(grace);
            let advance = format!("advance={advance}");
            check("hopping", &[&options, &advance], &script, count(hopping.into(), Emit::OnUpdate));
        }
        // A result of a closed window carries no headers here: those of its last row are not part of the state.
        let script = Script { headers: false, ..script };
        check("tumbling-final", &[&options], &script, count(tumbling.into(), Emit::OnClose));
    }
}

#[test]
fn stream_table_joins_agree() {
    let script = Script { topics: &["in", "in2"], keys: KEYS, values: NULLABLE, step_ms: 10, headers: true };
    check("stream-table", &[], &script, |t| {
        let table = t.table::<Text, String>("in2", store("table"));
        let text = |value: Text| value.unwrap_or_else(|| "null".to_owned());
        t.stream::<Text, Text>("in")
            .left_join_table(&table, move |_, value, found| format!("{}+{}", text(value), text(found)))
            .to("out");
    });
}
