//! The flights pipeline killed on its way into files and into Postgres: the same command goes on, and every row comes out once.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use millstream_connector_postgres::testing::Postgres;
use millstream_env::{Env, HostRuntime};
use millstream_sim::random::Random;

use crate::KILLS;
use crate::example::{Example, Rows};
use crate::process::{LOOK, PATIENCE, Process, seeded};

/// Changes of the output that are waited for at most: with files, one is made, grows, gets its name; then comes the next.
const CHANGES_MAX: u64 = 6;

/// When to kill.
enum Moment {
    /// Some time after the start.
    After(Duration),
    /// As soon as the output has changed so often.
    Output(u64),
}

impl Moment {
    /// Half of them anywhere in a run that takes `whole`, half of them where it hurts.
    fn of(random: &mut Random, whole: Duration) -> Self {
        if random.one_in(2) {
            Self::After(whole.mul_f64(random.below(1_000) as f64 / 1_000.0))
        } else {
            Self::Output(1 + random.below(CHANGES_MAX))
        }
    }
}

/// Kills pipelines.
struct Killer {
    runtime: tokio::runtime::Runtime,
    env: Env,
    random: Random,
}

impl Killer {
    fn new() -> Self {
        let (runtime, env) = HostRuntime::start("test", 1).unwrap();
        Self { random: seeded(&env), runtime, env }
    }

    /// One example after another is run to its end, through kills; each is judged at its end.
    fn kill(
        &mut self,
        example: impl Fn() -> Example,
        output: impl Fn(&Example) -> String,
        judge: impl Fn(&Example),
    ) {
        let began = self.env.elapsed();
        judge_twice(&example(), &judge);
        let whole = (self.env.elapsed() - began) / 2;
        let mut kills = 0;
        while kills < KILLS {
            let example = example();
            while kills < KILLS {
                let moment = Moment::of(&mut self.random, whole);
                if !self.run_and_kill(&example, &moment, || output(&example)) {
                    break;
                }
                kills += 1;
            }
            judge_twice(&example, &judge);
        }
    }

    /// Runs `example` and kills it at `moment`. False when it ended before, as it should.
    fn run_and_kill(&self, example: &Example, moment: &Moment, output: impl Fn() -> String) -> bool {
        let began = self.env.elapsed();
        let (mut was, mut changes) = (output(), 0);
        let mut process = Process::start(example.command());
        loop {
            let passed = self.env.elapsed() - began;
            let (step, due) = match moment {
                Moment::After(duration) => (duration.saturating_sub(passed), passed >= *duration),
                Moment::Output(enough) => (LOOK, changes >= *enough),
            };
            if due {
                process.kill();
                return true;
            }
            if let Some(status) = self.runtime.block_on(process.ended(&self.env, step)) {
                assert!(status.success(), "{status}");
                return false;
            }
            assert!(passed < PATIENCE, "the pipeline neither writes nor ends");
            let is = output();
            changes += u64::from(is != was);
            was = is;
        }
    }
}

/// Runs an example to its end, and once more to see that it had ended.
fn judge_twice(example: &Example, judge: impl Fn(&Example)) {
    example.run();
    judge(example);
    let again = example.run();
    assert!(again.starts_with("nothing new"), "{again}");
    judge(example);
}

/// Names and sizes of what a folder holds.
fn listing(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: &std::fs::DirEntry| entry.metadata().map_or(0, |metadata| metadata.len());
    let mut lines: Vec<_> =
        entries.map(|entry| format!("{:?} {}\n", entry.file_name(), size(&entry))).collect();
    lines.sort();
    lines.concat()
}

#[test]
fn a_killed_pipeline_goes_on_into_files() {
    let out = |example: &Example| listing(&example.folder.path().join("out"));
    let judge = |example: &Example| {
        assert_eq!(example.rows(), example.expected());
        assert!(!out(example).contains(".tmp"), "{}", out(example));
    };
    Killer::new().kill(|| Example::new(&[], |text| text), out, judge);
}

#[test]
fn a_killed_pipeline_goes_on_into_postgres() {
    let postgres = Postgres::start();
    let number = Cell::new(0);
    let name = || format!("delays_{}", number.get());
    let example = || {
        number.set(number.get() + 1);
        into_postgres(&postgres, &name())
    };
    // It grows while a transaction is still open.
    let size =
        |_: &Example| postgres.query(&format!("SELECT pg_relation_size(to_regclass('{}'))", name())).concat();
    let judge = |example: &Example| assert_eq!(table(&postgres, &name()), example.expected());
    Killer::new().kill(example, size, judge);
}

/// The example with a table instead of files.
fn into_postgres(postgres: &Postgres, table: &str) -> Example {
    Example::new(&[], |text| {
        let (head, _) = text.split_once("[sink.files]").expect("the example has a sink of files");
        let url = postgres.url();
        // A name of its own: progress in Postgres is kept by pipeline and sink, and belongs to one log.
        let head = head.replace("name = \"flights\"", &format!("name = \"{table}\""));
        format!(
            "{head}[sink.table]\ntype = \"postgres\"\nfrom = \"delays\"\nurl = \"{url}\"\ntable = \"{table}\"\n"
        )
    })
}

/// The rows of a table; each of them once.
fn table(postgres: &Postgres, table: &str) -> Rows {
    let sql = format!(
        "SELECT airline, extract(epoch FROM hour)::bigint, flights, mean_delay, max_delay FROM {table}"
    );
    let mut rows = Rows::new();
    for line in postgres.query(&sql) {
        let [airline, hour, flights, mean, max] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        let key = (airline.to_owned(), hour.parse().unwrap());
        let value = (flights.parse().unwrap(), mean.parse().unwrap(), max.parse().unwrap());
        assert_eq!(rows.insert(key, value), None, "{line} is there twice");
    }
    rows
}
