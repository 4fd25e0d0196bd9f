//! From a file to a plan or a daemon: the connectors that this program has, the environment, the secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use millstream_connect_api::config::Reference;
use millstream_connect_api::{Registry, TableSchema, TaskContext, bad_record_schema};
use millstream_connect_runtime::{Daemon, RuntimeError};
use millstream_connector_file::{FileSink, FileSource};
use millstream_connector_postgres::PostgresSink;
use millstream_env::Env;
use millstream_plan::{Diagnostic, Diagnostics, Plan, Platform, compile};

/// A file in TOML.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct FileArgs {
    /// The TOML file
    pub(crate) file: PathBuf,

    /// A folder with a file for each secret; without one, { secret = "a.b" } is $MILLSTREAM_SECRET_A_B
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_SECRETS")]
    secrets: Option<PathBuf>,

    /// A pipe can be read once only.
    #[arg(skip)]
    text: OnceLock<String>,
}

/// What a file is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// Sources, steps and sinks.
    Pipeline,
    /// Sources and sinks alone, as `connect run` takes them.
    Daemon,
    /// Whoever reads it says what is wrong with it.
    Unclear,
}

impl Meant {
    fn of(text: &str) -> Self {
        let Ok(table) = text.parse::<toml::Table>() else { return Self::Unclear };
        let is_daemon = table.contains_key("worker");
        let is_pipeline = table.contains_key("version") || table.contains_key("step");
        match (is_pipeline, is_daemon) {
            (true, false) => Self::Pipeline,
            (false, true) => Self::Daemon,
            _ => Self::Unclear,
        }
    }
}

/// The connectors of this program.
pub(crate) fn registry() -> Registry {
    Registry::new().with_source(FileSource).with_sink(FileSink).with_sink(PostgresSink)
}

impl FileArgs {
    /// Checks the file and makes a plan of it. `known` are the tables that earlier runs fixed, by source.
    pub(crate) async fn plan(&self, env: &Env, known: &BTreeMap<String, Vec<TableSchema>>) -> Result<Plan> {
        let (shown, text, place) = self.read()?;
        if Meant::of(&text) == Meant::Daemon {
            bail!(
                "{shown} is a file of the connect daemon, since it has [worker]: run it with `millstream connect run {shown}`; \
                 a pipeline has version = 1 and name = \"...\" instead"
            );
        }
        let registry = registry();
        let secrets = self.secrets.clone();
        let lookup = move |reference: &Reference| look_up(reference, secrets.as_deref());
        let context = TaskContext::inline(env.now());
        let platform = Platform {
            registry: &registry,
            lookup: &lookup,
            known,
            base: place.parent(),
            context: &context,
            dead_letters: bad_record_schema(),
        };
        Ok(compile(&shown, &text, &platform).await?)
    }

    /// Checks the file as one of `[worker]`, sources and sinks.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        let (shown, text, place) = self.read()?;
        if Meant::of(&text) == Meant::Pipeline {
            bail!(
                "{shown} is a pipeline, since it has `version` or steps: run it with `millstream run {shown}`; a file of the connect \
                 daemon has [worker] instead"
            );
        }
        let lookup = |reference: &Reference| look_up(reference, self.secrets.as_deref());
        Daemon::parse(&place, &text, &registry(), &lookup).map_err(|error| drawable(error, self))
    }

    /// What the file is meant for.
    pub(crate) fn meant(&self) -> Result<Meant> {
        Ok(Meant::of(&self.read()?.1))
    }

    /// Its name to show, its text, and where it is.
    fn read(&self) -> Result<(String, String, PathBuf)> {
        let shown = self.file.display().to_string();
        let text = match self.text.get() {
            Some(text) => text.clone(),
            None => {
                let text = std::fs::read_to_string(&self.file).with_context(|| format!("reading {shown}"))?;
                self.text.get_or_init(|| text).clone()
            }
        };
        let place = match self.file.canonicalize() {
            Ok(place) => place,
            // It could be read, so it is no file of a folder but a pipe, such as /dev/stdin or <(...) of a shell.
            Err(_) => std::env::current_dir().context("finding the current folder")?.join("pipe.toml"),
        };
        Ok((shown, text, place))
    }
}

/// What is wrong with a daemon's file, in the form that is drawn on it; other errors as they are.
pub(crate) fn drawable(error: RuntimeError, file: &FileArgs) -> anyhow::Error {
    let RuntimeError::Config { text, problems, .. } = error else { return error.into() };
    let list = problems.into_iter().map(|problem| Diagnostic::from_problem("config", problem, &(0..0)));
    Diagnostics::new(file.file.display().to_string(), text, list.collect()).into()
}

fn look_up(reference: &Reference, secrets: Option<&Path>) -> Result<Option<String>, String> {
    let name = match reference {
        Reference::Env(name) => return variable(name),
        Reference::Secret(name) => name,
    };
    let Some(folder) = secrets else {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        return variable(&format!("MILLSTREAM_SECRET_{}", name.chars().map(plain).collect::<String>()));
    };
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(format!(
            "'{name}' cannot be the name of a secret: it names a file in {}",
            folder.display()
        ));
    }
    match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("the secret '{name}' cannot be read: {error}")),
    }
}

fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("the environment variable {name} is not UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_files_of_their_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("db.url"), "hush\n").unwrap();
        let find = |name: &str| look_up(&Reference::Secret(name.to_owned()), Some(folder.path()));
        assert_eq!(find("db.url"), Ok(Some("hush".to_owned())));
        assert_eq!(find("other"), Ok(None));
        for name in ["../db.url", "/etc/passwd", "", ".", "a/b"] {
            assert!(find(name).is_err(), "{name}");
        }
    }
}
