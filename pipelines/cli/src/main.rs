//! # `millstream`: the command line
//!
//! Pipelines (`run`, `check`, `graph`, `reset`), the log (`broker`, `cluster`, `topics`, `produce`, `consume`, `groups`), connectors
//! (`connect run`) and measurements (`bench`). One file in `command/` for each; each is a function of its arguments and an
//! [`Env`](millstream_env::Env), so a test can call it without a process.
//!
//! `run` is the composition root of pipelines: [`pipeline`] turns a file into a plan, [`door`] opens the log that it runs on (in this
//! process, or a cluster), and [`run`] starts connectors and the streams app on it and waits for their ends.
//!
//! Results go to standard output, and nothing else does: progress, logs and errors go to standard error.

mod command;
mod door;
mod log;
mod pipeline;
mod placement;
mod report;
mod run;
mod screen;
mod signal;
mod table;

use std::process::ExitCode;

use clap::{ArgAction, Parser};
use millstream_env::HostRuntime;

/// A durable log that speaks Kafka's protocol, connectors, and pipelines in TOML and SQL.
#[derive(Parser)]
#[command(name = "millstream", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: command::Command,

    /// Say more: -v what happens, -vv everything (or set MILLSTREAM_LOG to a filter)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcome =
        HostRuntime::start("millstream", threads).map_err(anyhow::Error::from).and_then(|(runtime, env)| {
            log::to_stderr(cli.verbose, cli.command.is_daemon(), &env);
            let outcome = runtime.block_on(cli.command.execute(env));
            runtime.shutdown_background(); // a command has ended: what still waits, waits for nobody
            outcome
        });
    outcome.unwrap_or_else(|error| {
        report::error(&error);
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
