//! `millstream run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use futures::future::{Either, select};
use millstream_env::Env;

use crate::door::Door;
use crate::pipeline::FileArgs;
use crate::run::{Report, Runner};
use crate::{screen, signal};

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) file: FileArgs,

    /// Where the log and the state are kept [default: .millstream/NAME]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Run on this Millstream or Kafka cluster instead of a log in this process
    #[arg(long, short = 'b', value_name = "HOST:PORT")]
    bootstrap: Option<String>,
}

/// Where a pipeline's data is when nobody says otherwise.
pub(crate) fn default_data(name: &str) -> PathBuf {
    Path::new(".millstream").join(name)
}

impl Args {
    /// Opens the log that `name` runs on: where the command says, else where the file says, else in the folder of its data, which
    /// is returned too.
    pub(super) async fn open(
        &self,
        env: &Env,
        name: &str,
        from_file: Option<&str>,
    ) -> Result<(Door, PathBuf)> {
        let data = std::path::absolute(self.data.clone().unwrap_or_else(|| default_data(name)))?;
        let door = match self.bootstrap.as_deref().or(from_file) {
            Some(bootstrap) => Door::remote(env.clone(), bootstrap)?,
            None => Door::embedded(env.clone(), &data).await?,
        };
        Ok((door, data))
    }
}

/// Says what a run came to.
pub(super) fn conclude(report: &Report, took: Duration) {
    match report.is_empty() {
        true => screen::line("nothing new: every source is at its end, and every row is where it belongs"),
        false => screen::line(report.table(took)),
    }
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let began = env.elapsed();
    // First without what the log knows: it names the log, and its mistakes are told before anything is opened.
    let plan = args.file.plan(&env, &BTreeMap::new()).await?;
    let (door, data) = args.open(&env, &plan.name, plan.bootstrap.as_deref()).await?;
    let known = crate::run::known_tables(&door, &plan).await?;
    let plan = if known.is_empty() { plan } else { args.file.plan(&env, &known).await? };
    let outcome = {
        let running = Box::pin(Runner::new(&door, plan, &data).run());
        match select(running, Box::pin(door.failed())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((why, _)) => return Err(why), // it cannot be closed either
        }
    };
    let closed = door.close().await;
    let report = outcome?;
    closed?;
    conclude(&report, env.elapsed() - began);
    Ok(signal::code(true))
}
