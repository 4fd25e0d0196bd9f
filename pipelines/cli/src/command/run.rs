//! `millstream run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use millstream_env::Env;

use crate::door::Door;
use crate::pipeline::FileArgs;
use crate::run::Runner;
use crate::{screen, signal};

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,

    /// Where the log and the state are kept [default: .millstream/<name>]
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

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let began = env.elapsed();
    // First without what the log knows: it names the log, and its mistakes are told before anything is opened.
    let plan = args.file.plan(&env, &BTreeMap::new()).await?;
    let data = std::path::absolute(args.data.unwrap_or_else(|| default_data(&plan.name)))?;
    let door = match args.bootstrap.as_deref().or(plan.bootstrap.as_deref()) {
        Some(bootstrap) => Door::remote(env.clone(), bootstrap)?,
        None => Door::embedded(env.clone(), &data).await?,
    };
    let known = crate::run::known_tables(&door, &plan).await?;
    let plan = if known.is_empty() { plan } else { args.file.plan(&env, &known).await? };
    let outcome = Runner::new(&door, plan, data.join("state")).run().await;
    let closed = door.close().await;
    let report = outcome?;
    closed?;
    match report.is_empty() {
        true => screen::line(
            "nothing new: every source was read to its end before, and every row is where it belongs",
        ),
        false => screen::line(report.table(env.elapsed() - began)),
    }
    Ok(signal::code(true))
}
