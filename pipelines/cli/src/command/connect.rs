//! `millstream connect`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use millstream_env::Env;

use crate::command::run;

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

/// A file without steps is a set of connectors: the same grammar, the same runner.
pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    match args.action {
        Action::Run(args) => run::execute(args, env).await,
    }
}
