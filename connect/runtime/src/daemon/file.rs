//! The file of a daemon: `[worker]`, `[source.x]`, `[sink.x]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_connect_api::config::{
    Span, Table, Type, Value, ValueKind, parse_toml, resolve_references, suggest,
};
use millstream_connect_api::convert::CONVERTERS;
use millstream_connect_api::{Config, ConfigDef, Key, Problem, Registry};

use super::{Lookup, Sink, Source};
use crate::Status;

/// How often sinks commit, unless `[worker] commit_interval` says otherwise (`offset.flush.interval.ms`, which Kafka sets to a minute).
const COMMIT_INTERVAL: &str = "5s";
/// Most letters that a name may have: it becomes a part of topic names, which end at 249.
const MAX_NAME: usize = 60;

/// Keys that every source and sink has here.
fn common_keys() -> ConfigDef {
    ConfigDef::new()
        .key(Key::one_of("converter", CONVERTERS).default_str("json").doc("Form of the records' values."))
        .key(
            Key::string("on_error")
                .default_str("fail")
                .check(|setting| match setting.value.as_str() {
                    Some("fail" | "skip") => Ok(()),
                    Some(text) if text.strip_prefix("dlq:").is_some_and(|topic| !topic.is_empty()) => Ok(()),
                    _ => Err("it is fail, skip or dlq:<topic>".into()),
                })
                .doc("What happens to input that is no row: fail, skip, or dlq:<topic>."),
        )
}

fn source_keys() -> ConfigDef {
    common_keys()
        .key(Key::string("topic").doc("Topic to write; the name of the source when left out."))
        .key(Key::integer("partitions", 1, 10_000).doc("Partitions to create the topic with."))
}

fn sink_keys() -> ConfigDef {
    common_keys()
        .key(Key::strings("topic").required().doc("Topic to read, or several of equal columns."))
        .key(Key::new("columns", Type::Map(Box::new(Type::ColumnType))).doc(
            "Columns of the records of a topic that no source of Millstream wrote, and their types: columns = { id = \"int64\", name = \"string\" }",
        ))
}

fn worker_keys() -> ConfigDef {
    ConfigDef::new()
        .key(
            Key::string("name")
                .required()
                .check(|setting| check_name(setting.value.as_str().unwrap_or_default()))
                .doc("Name of this daemon, under which positions and groups are kept."),
        )
        .key(Key::string("bootstrap").doc("host:port of the cluster."))
        .key(Key::duration("commit_interval").default_str(COMMIT_INTERVAL).doc("How often sinks commit."))
}

/// Names are parts of ids of transactions, of groups and of paths.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!("'{name}' is no name: use 1 to {MAX_NAME} of a-z, 0-9, _ and -"));
    }
    Ok(())
}

/// The sections of a daemon's file.
pub(super) struct File {
    pub(super) name: String,
    pub(super) bootstrap: Option<String>,
    pub(super) commit_interval: Duration,
    pub(super) sources: Vec<Source>,
    pub(super) sinks: Vec<Sink>,
}

/// Reads `text`, in which relative paths are taken from `base`.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read(
    text: &str,
    base: &Path,
    registry: &Registry,
    lookup: Lookup<'_>,
) -> Result<File, Vec<Problem>> {
    let mut root = parse_toml(text)?;
    let mut problems = Vec::new();
    resolve_references(&mut root, lookup, &mut problems);
    let mut sections = Sections { base, problems };
    let (sources, sinks) = (root.take("source"), root.take("sink"));
    let worker = match root.take("worker") {
        Some(entry) => sections
            .keep(section(entry.value).and_then(|(table, span)| worker_keys().resolve(&table, Some(span)))),
        None => {
            let help = "add a section: [worker] with name = \"...\"";
            sections.problems.push(Problem::at(None, "there is no [worker] section").help(help));
            None
        }
    };
    for (name, entry) in &root.entries {
        let problem = Problem::at(entry.key_span, format!("unknown section '{name}'"));
        let near = suggest(name, ["worker", "source", "sink"]).unwrap_or("worker, source or sink");
        sections.problems.push(problem.help(format!("did you mean '{near}'?")));
    }
    let sources = sections.each(sources, |at, name, table, span| at.source(registry, name, table, span));
    let sinks = sections.each(sinks, |at, name, table, span| at.sink(registry, name, table, span));
    match worker {
        Some(worker) if sections.problems.is_empty() => Ok(File {
            name: worker.str("name").to_owned(),
            bootstrap: worker.str_opt("bootstrap").map(str::to_owned),
            commit_interval: worker.duration("commit_interval"),
            sources,
            sinks,
        }),
        _ => Err(sections.problems),
    }
}

/// Reads sections and gathers what is wrong with them.
struct Sections<'a> {
    base: &'a Path,
    problems: Vec<Problem>,
}

impl Sections<'_> {
    fn keep<T>(&mut self, result: Result<T, Vec<Problem>>) -> Option<T> {
        result.map_err(|mut problems| self.problems.append(&mut problems)).ok()
    }

    /// Reads each table below `[source]` or `[sink]`.
    fn each<T>(
        &mut self,
        entry: Option<millstream_connect_api::config::Entry>,
        read: impl Fn(&mut Self, &str, Table, Span) -> Option<T>,
    ) -> Vec<T> {
        let Some(entry) = entry else { return Vec::new() };
        let Some((tables, _)) = self.keep(section(entry.value)) else { return Vec::new() };
        let mut found = Vec::new();
        for (name, entry) in tables.entries {
            if let Err(reason) = check_name(&name) {
                self.problems.push(Problem::at(entry.key_span, reason));
            }
            if let Some((table, span)) = self.keep(section(entry.value)) {
                found.extend(read(self, &name, table, span));
            }
        }
        found
    }

    fn source(&mut self, registry: &Registry, name: &str, table: Table, span: Span) -> Option<Source> {
        let (kind, table) = self.kind(table, span)?;
        let Some(connector) = registry.source(&kind.0) else {
            self.unknown_kind(
                "source",
                &kind,
                registry.similar_source(&kind.0),
                registry.source_names().collect(),
            );
            return None;
        };
        let (config, common) = self.settings(connector.definition(), source_keys(), table, span)?;
        Some(Source {
            name: name.to_owned(),
            connector: Arc::clone(connector),
            config,
            common,
            status: Status::new(),
        })
    }

    fn sink(&mut self, registry: &Registry, name: &str, table: Table, span: Span) -> Option<Sink> {
        let (kind, table) = self.kind(table, span)?;
        let Some(connector) = registry.sink(&kind.0) else {
            self.unknown_kind("sink", &kind, registry.similar_sink(&kind.0), registry.sink_names().collect());
            return None;
        };
        let (config, common) = self.settings(connector.definition(), sink_keys(), table, span)?;
        Some(Sink {
            name: name.to_owned(),
            connector: Arc::clone(connector),
            config,
            common,
            status: Status::new(),
        })
    }

    /// Takes `type` out of a section.
    fn kind(&mut self, mut table: Table, span: Span) -> Option<((String, Span), Table)> {
        match table.take("type").map(|entry| entry.value) {
            Some(Value { kind: ValueKind::String(kind), span }) => Some(((kind, span), table)),
            Some(other) => {
                self.problems
                    .push(Problem::at(other.span, format!("type is {}, not a string", other.kind.noun())));
                None
            }
            None => {
                self.problems.push(Problem::at(span, "'type' is missing").help("such as type = \"file\""));
                None
            }
        }
    }

    fn unknown_kind(&mut self, what: &str, kind: &(String, Span), near: Option<&str>, all: Vec<&str>) {
        let problem = Problem::at(kind.1, format!("there is no {what} of type '{}'", kind.0));
        self.problems.push(match near {
            Some(near) => problem.help(format!("did you mean '{near}'?")),
            None => problem.help(format!("types are {}", all.join(", "))),
        });
    }

    /// Checks the connector's keys and ours as one table, so that suggestions know both, and splits the result.
    fn settings(
        &mut self,
        theirs: ConfigDef,
        ours: ConfigDef,
        table: Table,
        span: Span,
    ) -> Option<(Config, Config)> {
        let mut own = Table::default();
        for key in ours.keys().filter(|key| theirs.keys().all(|theirs| theirs.name != key.name)) {
            if let Some(entry) = table.entries.get(&key.name) {
                own.insert(key.name.clone(), entry.key_span, entry.value.clone());
            }
        }
        let common = self.keep(ours.clone().resolve(&own, Some(span)));
        let whole = theirs.with(ours).relative_to(self.base).resolve(&table, Some(span));
        let problems = &mut self.problems;
        let config = whole
            .map_err(|found| {
                for problem in
                    found.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>()
                {
                    problems.push(problem);
                }
            })
            .ok();
        Some((config?, common?))
    }
}

fn section(value: Value) -> Result<(Table, Span), Vec<Problem>> {
    match value.kind {
        ValueKind::Table(table) => Ok((table, value.span)),
        other => {
            Err(vec![Problem::at(value.span, format!("a section was expected, this is {}", other.noun()))])
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_connect_api::config::Reference;

    use super::*;
    use crate::Daemon;

    fn problems(text: &str) -> Vec<String> {
        let lookup = |_: &Reference| Ok(None);
        match Daemon::parse(Path::new("d.toml"), text, &Registry::new(), &lookup) {
            Err(error) => error.to_string().split("; ").map(str::to_owned).collect(),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        assert_eq!(
            problems(
                "[worker]\nnam = 'x'\n[sourc.a]\ntype = 'file'\n[sink.b]\ntype = 'fil'\n[sink.c]\npath = 'x'\n"
            ),
            [
                "d.toml: 2:1: unknown key 'nam' (did you mean 'name'?)",
                "1:1: 'name' is missing (Name of this daemon, under which positions and groups are kept.)",
                "3:2: unknown section 'sourc' (did you mean 'source'?)",
                "6:8: there is no sink of type 'fil' (types are )",
                "7:1: 'type' is missing (such as type = \"file\")",
            ]
        );
        assert_eq!(problems("[worker]\nname = 'x'\n"), [""; 0]);
        assert_eq!(problems("a = \n").len(), 1);
        assert_eq!(
            problems("[worker]\nname = '../x'\n[source.'A b']\ntype = 'file'\n"),
            [
                "d.toml: 2:8: 'name': '../x' is no name: use 1 to 60 of a-z, 0-9, _ and -",
                "3:9: 'A b' is no name: use 1 to 60 of a-z, 0-9, _ and -",
                "4:8: there is no source of type 'file' (types are )",
            ]
        );
    }
}
