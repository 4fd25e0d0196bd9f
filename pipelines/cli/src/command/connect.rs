//! `millstream connect`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Subcommand;
use futures::future::{Either, select};
use millstream_connect_runtime::{Daemon, Outcome, RuntimeError, WorkerEnv, stop_signal};
use millstream_env::Env;

use crate::command::run::{self, conclude};
use crate::door::Door;
use crate::pipeline::drawable;
use crate::run::{Progress, Report, SINKS, STOPPING, client_log};
use crate::signal::{Signals, give_up};
use crate::{screen, signal};

/// Arguments of `connect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the sources and sinks of a file until Ctrl-C or the end of their input
    Run(run::Args),
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let Action::Run(args) = args.action;
    let began = env.elapsed();
    let daemon = args.file.daemon()?;
    let (door, data) = args.open(&env, daemon.name(), daemon.bootstrap()).await?;
    let outcome = attend(&daemon, &door, &data).await;
    let closed = door.close().await;
    let outcome = outcome.map_err(|error| drawable(error, &args.file))?;
    closed?;
    let stopped = outcome == Outcome::Stopped;
    let report = Report::of_connectors(daemon.source_statuses(), daemon.sink_statuses(), stopped);
    conclude(&report, env.elapsed() - began);
    Ok(signal::code(true))
}

/// Runs the daemon and hears Ctrl-C: the first asks it to commit and stop, the second ends the process.
async fn attend(daemon: &Daemon, door: &Door, data: &Path) -> Result<Outcome, RuntimeError> {
    let mut signals = Signals::listen().map_err(|error| RuntimeError::log("starting", error, false))?;
    let worker = WorkerEnv {
        env: door.env.clone(),
        log: Arc::new(client_log(door)),
        namespace: daemon.name().to_owned(),
        state_dir: data.join(SINKS),
    };
    let progress = Progress::start(&door.env);
    let statuses = daemon.source_statuses().chain(daemon.sink_statuses());
    progress.watch(statuses, None);
    let (stopper, stop) = stop_signal();
    let mut running = Box::pin(daemon.run(worker, stop));
    let mut asked = false;
    let outcome = loop {
        match select(running, Box::pin(signals.wait())).await {
            Either::Left((outcome, _)) => break outcome,
            Either::Right(_) if asked => give_up(),
            Either::Right((_, rest)) => {
                screen::note(STOPPING);
                stopper.stop();
                asked = true;
                running = rest;
            }
        }
    };
    progress.finish();
    outcome
}
