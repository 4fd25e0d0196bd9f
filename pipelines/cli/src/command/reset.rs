//! `millstream reset`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use millstream_env::Env;

use crate::pipeline::FileArgs;
use crate::screen;

/// Arguments of `reset`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,

    /// Where the pipeline keeps its log and state [default: .millstream/<name>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Removes the data of a pipeline on the embedded log. What its sinks wrote elsewhere stays.
pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let plan = args.file.plan(&env, &BTreeMap::new()).await?;
    if plan.bootstrap.is_some() {
        bail!("this pipeline runs on a cluster; remove its topics there (millstream topics delete)");
    }
    let data = args.data.unwrap_or_else(|| super::run::default_data(&plan.name));
    let ours = ["log", "state"].iter().any(|part| data.join(part).is_dir());
    if !data.exists() || !ours {
        screen::line(format_args!("{}: there is nothing to remove", data.display()));
        return Ok(ExitCode::SUCCESS);
    }
    for part in ["log", "state"] {
        let folder = data.join(part);
        if folder.is_dir() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
    }
    let _ = std::fs::remove_dir(&data); // something of another's is in it: that stays
    screen::line(format_args!(
        "{}: removed; what sinks wrote stays, and is in the way of the next run until it is moved",
        data.display()
    ));
    Ok(ExitCode::SUCCESS)
}
