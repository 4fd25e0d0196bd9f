//! `millstream check`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use millstream_env::Env;

use crate::pipeline::{FileArgs, Meant};
use crate::screen;

/// Arguments of `check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    if args.file.meant()? == Meant::Daemon {
        let daemon = args.file.daemon()?;
        let (sources, sinks) = (daemon.source_statuses().count(), daemon.sink_statuses().count());
        screen::line(format_args!("{}: good ({sources} sources, {sinks} sinks)", args.file.file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let plan = args.file.plan(&env, &BTreeMap::new()).await?;
    screen::line(format_args!(
        "{}: good ({} sources, {} steps, {} sinks)",
        args.file.file.display(),
        plan.sources.len(),
        plan.steps.len(),
        plan.sinks.len(),
    ));
    Ok(ExitCode::SUCCESS)
}
