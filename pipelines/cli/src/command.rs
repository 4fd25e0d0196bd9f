//! The commands.

mod bench;
mod broker;
mod check;
mod cluster;
mod connect;
mod consume;
mod graph;
mod groups;
mod produce;
mod reset;
mod run;
mod topics;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use millstream_env::Env;

/// A command with its arguments.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline until its input ends or Ctrl-C
    Run(run::Args),
    /// Check a pipeline file without running it
    Check(check::Args),
    /// Draw a pipeline
    Graph(graph::Args),
    /// Remove what a pipeline keeps, so that it starts from the beginning
    Reset(reset::Args),
    /// Run a broker that speaks Kafka's protocol
    Broker(broker::Args),
    /// List, create, describe, alter and delete topics
    Topics(topics::Args),
    /// Write lines of standard input to a topic
    Produce(produce::Args),
    /// Write records of a topic to standard output
    Consume(consume::Args),
    /// List, describe and delete consumer groups
    Groups(groups::Args),
    /// Show a cluster, add and remove members, move replicas
    Cluster(cluster::Args),
    /// Run connectors without a pipeline
    Connect(connect::Args),
    /// Measure a log: produce, consume, latency
    Bench(bench::Args),
}

impl Command {
    /// Whether it runs until it is stopped, with nobody who looks on all the time.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self, Self::Broker(_) | Self::Connect(_))
    }

    /// Carries it out.
    pub(crate) async fn execute(self, env: Env) -> Result<ExitCode> {
        match self {
            Self::Run(args) => run::execute(args, env).await,
            Self::Check(args) => check::execute(args, env).await,
            Self::Graph(args) => graph::execute(args, env).await,
            Self::Reset(args) => reset::execute(args, env).await,
            Self::Broker(args) => broker::execute(args, env).await,
            Self::Topics(args) => topics::execute(args, env).await,
            Self::Produce(args) => produce::execute(args, env).await,
            Self::Consume(args) => consume::execute(args, env).await,
            Self::Groups(args) => groups::execute(args, env).await,
            Self::Cluster(args) => cluster::execute(args, env).await,
            Self::Connect(args) => connect::execute(args, env).await,
            Self::Bench(args) => bench::execute(args, env).await,
        }
    }
}
