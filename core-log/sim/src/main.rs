//! `millstream-sim`: runs worlds from seeds and judges them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use millstream_env::HostRuntime;
use millstream_sim::cluster::ClusterWorld;
use millstream_sim::report::Totals;
use millstream_sim::world::{Outcome, World};
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Seeds that found a failure once, with what it was. They are run by `--named` for ever after.
const NAMED: &str = include_str!("../seeds.txt");
/// The same for worlds of three nodes.
const NAMED_OF_CLUSTERS: &str = include_str!("../cluster-seeds.txt");

/// Every this many seeds, one is run a second time and must leave the same trace hash.
const REPEAT_EVERY: u64 = 20;

/// Runs the real broker and the real client in seeded worlds, with crashes, power loss and broken disks, and checks what the
/// clients saw. Exits with 1 when a promise was broken.
#[derive(Parser)]
#[command(name = "millstream-sim", version)]
struct Args {
    /// Run this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Worlds of three nodes instead of one.
    #[arg(long)]
    cluster: bool,
    /// Print every event of the run to standard error (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run all named seeds (seeds.txt).
    #[arg(long)]
    named: bool,
    /// Run this many fresh seeds.
    #[arg(long, default_value_t = 0)]
    fresh: u64,
    /// First of the fresh seeds; chosen at random when absent, and printed.
    #[arg(long)]
    base: Option<u64>,
    /// A bug was planted: stop at the first failure and exit with 0 when there is one, with 1 when no seed shows it.
    #[arg(long)]
    expect_failure: bool,
    /// Worlds run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(log_filter())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let seeds = match seeds_of(&args) {
        Ok(seeds) => seeds,
        Err(error) => {
            say(&format!("millstream-sim: {error}"));
            return ExitCode::from(2);
        }
    };
    let totals = run_all(&args, &seeds);
    say(&totals.to_string());
    let passed =
        if args.expect_failure { totals.failed() > 0 } else { totals.failed() == 0 && totals.seeds() > 0 };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the nodes log: nothing unless `RUST_LOG` asks, since in these worlds a broken disk is nothing to report.
fn log_filter() -> EnvFilter {
    EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy()
}

fn seeds_of(args: &Args) -> Result<Vec<u64>, String> {
    let mut seeds: Vec<u64> = args.seed.into_iter().collect();
    if args.named {
        seeds.extend(named_seeds(if args.cluster { NAMED_OF_CLUSTERS } else { NAMED })?);
    }
    if args.fresh > 0 {
        let base = match args.base {
            Some(base) => base,
            None => {
                let (_runtime, env) = HostRuntime::start("seed", 1).map_err(|error| error.to_string())?;
                env.random_below(1 << 40)
            }
        };
        say(&format!("fresh seeds {base}..{}", base + args.fresh));
        seeds.extend(base..base + args.fresh);
    }
    if seeds.is_empty() {
        return Err("nothing to run: give --seed N, --named or --fresh N".to_owned());
    }
    Ok(seeds)
}

/// One seed a line, then what it found.
fn named_seeds(named: &str) -> Result<Vec<u64>, String> {
    let seed = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        word.parse().map_err(|_| format!("named seeds: not a seed: {line:?}"))
    };
    named.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(seed).collect()
}

fn run_all(args: &Args, seeds: &[u64]) -> Totals {
    let next = AtomicU64::new(0);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if args.expect_failure && totals.lock().failed() > 0 {
                        return;
                    }
                    let outcome = run_one(args, *seed);
                    let mut totals = totals.lock();
                    if !outcome.failures.is_empty() {
                        let which = if args.cluster { "--cluster " } else { "" };
                        say(&format!(
                            "seed {seed} FAILED (replay: millstream-sim {which}--seed {seed} --trace)"
                        ));
                        for failure in &outcome.failures {
                            say(&format!("    {failure}"));
                        }
                    }
                    totals.add(&outcome);
                }
            });
        }
    });
    totals.into_inner()
}

fn run_one(args: &Args, seed: u64) -> Outcome {
    let world = if args.cluster { ClusterWorld::run } else { World::run };
    let mut outcome = match std::panic::catch_unwind(|| world(seed, args.trace)) {
        Ok(outcome) => outcome,
        Err(panic) => {
            return Outcome {
                failures: vec![format!("panicked: {}", text_of(&*panic))],
                ..Outcome::default()
            };
        }
    };
    if seed.is_multiple_of(REPEAT_EVERY) && !args.trace {
        let again = world(seed, false).trace_hash;
        if again != outcome.trace_hash {
            outcome.failures.push(format!("not repeatable: trace {:x}, then {again:x}", outcome.trace_hash));
        }
    }
    outcome
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{line}"); // a closed pipe must not end a run of hours
}
