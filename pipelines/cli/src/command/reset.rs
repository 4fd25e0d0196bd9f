//! `millstream reset`.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use millstream_env::Env;
use millstream_plan::plan::{Sink, SinkKind};

use crate::door::LOG;
use crate::pipeline::{FileArgs, Meant};
use crate::run::DATA;
use crate::screen;

/// The file in a log that whoever runs it holds a lock on.
const LOCK: &str = ".lock";

/// Arguments of `reset`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,

    /// Where the pipeline keeps its log and state [default: .millstream/NAME]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// How to go on where an earlier run of `sink` wrote: the next run's rows come from another log, so sinks refuse to mix them with
/// the old ones. Those are not removed here, since they may be all that is left of the input.
fn in_the_way(pipeline: &str, sink: &Sink) -> Option<String> {
    let SinkKind::Connector { connector, config } = &sink.kind else { return None };
    match connector.as_str() {
        "file" => Some(format!(
            "the next run refuses to add to its files, {}; move or remove them, or choose another path",
            config.str_opt("path")?
        )),
        "postgres" => {
            let (schema, table) =
                config.str_opt("table").map(|name| name.split_once('.').unwrap_or(("public", name)))?;
            let (schema, table) = (quoted(schema), quoted(table));
            let name = &sink.name;
            Some(format!(
                "the next run refuses to add to its table; to begin anew run: TRUNCATE {schema}.{table}; \
                 DELETE FROM {schema}._millstream_progress WHERE connector = '{pipeline}.{name}';"
            ))
        }
        _ => None,
    }
}

/// A name as SQL takes it, whatever stands in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Locks the log as whoever runs it does, for as long as the file is open. None when no log was ever opened there.
fn hold(log: &Path) -> Result<Option<File>> {
    let path = log.join(LOCK);
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use: the pipeline is running; stop it first (Ctrl-C)", log.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// Whose data is removed.
struct Owner {
    name: String,
    on_cluster: bool,
    sinks: Vec<Sink>,
}

impl Owner {
    async fn of(file: &FileArgs, env: &Env) -> Result<Self> {
        if file.meant()? == Meant::Daemon {
            let daemon = file.daemon()?;
            let on_cluster = daemon.bootstrap().is_some();
            return Ok(Self { name: daemon.name().to_owned(), on_cluster, sinks: Vec::new() });
        }
        let plan = file.plan(env, &BTreeMap::new()).await?;
        Ok(Self { on_cluster: plan.bootstrap.is_some(), name: plan.name, sinks: plan.sinks })
    }
}

/// Removes the data of a pipeline, or of a daemon, on the embedded log. What its sinks wrote elsewhere stays.
pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let owner = Owner::of(&args.file, &env).await?;
    if owner.on_cluster {
        bail!("this file runs on a cluster; remove its topics there (millstream topics delete)");
    }
    let data = args.data.unwrap_or_else(|| super::run::default_data(&owner.name));
    let ours = DATA.iter().any(|part| data.join(part).is_dir());
    if !data.exists() || !ours {
        screen::line(format_args!("{}: there is nothing to remove", data.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let _ours = hold(&data.join(LOG))?;
    // The log goes last, and its lock with it: without it the rest means nothing.
    for part in DATA.into_iter().rev() {
        let folder = data.join(part);
        if folder.is_dir() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
    }
    let _ = std::fs::remove_dir(&data); // something of another's is in it: that stays
    screen::line(format_args!("{}: removed; what sinks wrote stays", data.display()));
    for sink in &owner.sinks {
        if let Some(text) = in_the_way(&owner.name, sink) {
            screen::line(format_args!("sink '{}': {text}", sink.name));
        }
    }
    Ok(ExitCode::SUCCESS)
}
