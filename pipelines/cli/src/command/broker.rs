//! `millstream broker`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use millstream_env::Env;
use millstream_node::{NodeConfig, serve};

use crate::screen;
use crate::signal::{Signals, give_up};

/// What the listener for controllers is called that --controller makes.
const CONTROLLER: &str = "CONTROLLER";

/// Arguments of `broker`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where everything is kept [default: log.dirs of --config, else millstream-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The address where clients are served; port 0 picks a free one [default: listeners of --config, else localhost:9092]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// This node's number in a cluster (node.id)
    #[arg(long, value_name = "N")]
    node_id: Option<i32>,

    /// Be a controller of a cluster, which others reach here; without --join, the first of them. Without --listen, be nothing else
    #[arg(long, value_name = "HOST:PORT")]
    controller: Option<String>,

    /// Join the cluster whose controllers are here: one HOST:PORT or several with commas between. Without --controller, as a broker
    /// only
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,

    /// A properties file, with Kafka's names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// One property, with Kafka's name; it wins over the file
    #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
    set: Vec<(String, String)>,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not key=value"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let mut config = NodeConfig::new("millstream-data");
    if let Some(file) = &args.config {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
        config.apply_properties(&name, &text)?;
    }
    if let Some(data) = &args.data {
        config.set("log.dirs", &data.to_string_lossy())?;
    }
    if let Some(listen) = &args.listen {
        config.set("listeners", &format!("PLAINTEXT://{listen}"))?;
    }
    if let Some(node_id) = args.node_id {
        config.set("node.id", &node_id.to_string())?;
    }
    if let Some(controller) = &args.controller {
        let clients = args.listen.as_ref().map(|listen| format!("PLAINTEXT://{listen},"));
        config.set("listeners", &format!("{}{CONTROLLER}://{controller}", clients.unwrap_or_default()))?;
        config
            .set("process.roles", if args.listen.is_some() { "broker,controller" } else { "controller" })?;
        config.set("controller.listener.names", CONTROLLER)?;
        config.set("controller.quorum.auto.join.enable", &args.join.is_some().to_string())?;
        config.set("controller.quorum.bootstrap.servers", args.join.as_ref().unwrap_or(controller))?;
    } else if let Some(join) = &args.join {
        config.set("process.roles", "broker")?;
        config.set("controller.listener.names", CONTROLLER)?;
        config.set("controller.quorum.bootstrap.servers", join)?;
    }
    for (key, value) in &args.set {
        config.set(key, value)?;
    }
    if config.listen().is_empty() {
        config.set("listeners", "PLAINTEXT://localhost:9092")?;
    }
    let mut signals = Signals::listen()?;
    let began = env.elapsed();
    let node = serve(env.clone(), config).await.context("starting the broker")?;
    let took_ms = (env.elapsed() - began).as_millis();
    screen::line(format_args!(
        "listening on {} (started in {took_ms} ms)",
        node.local_addr().unwrap_or("no address")
    ));
    let failed = {
        let (failed, asked) = (Box::pin(node.failed()), Box::pin(signals.wait()));
        match futures::future::select(asked, failed).await {
            futures::future::Either::Left(_) => None,
            futures::future::Either::Right((why, _)) => Some(why),
        }
    };
    if let Some(why) = failed {
        return Err(why.into()); // others have taken over, or will: there is nothing to hand over
    }
    screen::note("stopping; once more ends at once");
    let second = Box::pin(signals.wait());
    match futures::future::select(Box::pin(node.shutdown()), second).await {
        futures::future::Either::Left((stopped, _)) => stopped.context("stopping the broker")?,
        futures::future::Either::Right(_) => give_up(),
    }
    Ok(ExitCode::SUCCESS)
}
