//! `millstream graph`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use millstream_env::Env;
use millstream_plan::{GraphFormat, graph};

use crate::pipeline::FileArgs;
use crate::screen;

/// Arguments of `graph`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,

    /// The language of the graph
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For Markdown and web pages
    Mermaid,
    /// For Graphviz
    Dot,
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let plan = args.file.plan(&env, &BTreeMap::new()).await?;
    let format = match args.format {
        Format::Mermaid => GraphFormat::Mermaid,
        Format::Dot => GraphFormat::Dot,
    };
    screen::line(graph(&plan, format, &|_| None).trim_end());
    Ok(ExitCode::SUCCESS)
}
