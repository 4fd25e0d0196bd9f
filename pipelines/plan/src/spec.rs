//! The shape of a pipeline file: which sections there are, and the keys that every one of a kind has.
//!
//! A [`Spec`] is the text, resolved (`env`, `secret`) and divided; the keys that belong to a connector are still untyped.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use millstream_connect_api::Config;
use millstream_connect_api::config::{
    ConfigDef, Key, Reference, Span, Table, Value, ValueKind, parse_toml, resolve_references, suggest,
};

use crate::diagnostic::Diagnostic;
use crate::sql::SqlText;

/// The only version of the grammar so far.
const VERSION: i64 = 1;
/// Most letters that a name may have: it becomes a part of topic names, which end at 249.
const MAX_NAME: usize = 60;
/// Most partitions that a source's topic may be asked to have.
const MAX_PARTITIONS: i64 = 1024;
/// Sections with nodes, singular as in the file.
const SECTIONS: [&str; 3] = ["source", "step", "sink"];
/// How `on_error` names the sink that keeps bad input.
const DEAD_LETTERS: &str = "dlq:";

/// What `{ env = "X" }` and `{ secret = "x" }` stand for: the value, none when there is none, or why it cannot be told.
pub type Lookup<'a> = &'a (dyn Fn(&Reference) -> Result<Option<String>, String> + Sync);

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Each row once, whatever fails.
    #[default]
    ExactlyOnce,
    /// Each row once or, after a failure, again.
    AtLeastOnce,
}

/// A file, divided.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name of the pipeline.
    pub name: String,
    /// How results are written.
    pub delivery: Delivery,
    /// `[log] bootstrap`: the cluster that the pipeline runs on; none is the embedded one.
    pub bootstrap: Option<String>,
    /// `[source.x]`, in the order of the file.
    pub sources: Vec<Section>,
    /// `[step.x]`, in the order of the file.
    pub steps: Vec<StepSection>,
    /// `[sink.x]`, in the order of the file.
    pub sinks: Vec<Section>,
}

/// A section whose keys belong to a connector, besides the common ones.
#[derive(Clone, Debug)]
pub struct Section {
    /// `x` of `[source.x]`.
    pub name: String,
    /// Where the name stands.
    pub name_span: Range<usize>,
    /// Where the section stands.
    pub span: Span,
    /// Its keys.
    pub table: Table,
}

/// A step.
#[derive(Clone, Debug)]
pub struct StepSection {
    /// `x` of `[step.x]`.
    pub name: String,
    /// Where the name stands.
    pub name_span: Range<usize>,
    /// Its SQL.
    pub sql: SqlText,
    /// `time = { column, lateness }`.
    pub time: Option<TimeSpec>,
}

/// The instant of a row, and how far behind the newest one it may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeSpec {
    /// The column that holds it.
    pub column: String,
    /// Where the column is named.
    pub span: Range<usize>,
    /// How far behind.
    pub lateness: Duration,
}

/// What becomes of input that is no row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The run stops and says where.
    #[default]
    Fail,
    /// It is counted and left out.
    Skip,
    /// It is kept in the sink of this name.
    Sink(String, Range<usize>),
}

impl Spec {
    /// Reads `text`. What is wrong is pushed to `problems`; what is right is returned all the same, so that later stages find
    /// their own mistakes too. None when the text is no TOML.
    pub fn read(text: &str, lookup: Lookup<'_>, problems: &mut Vec<Diagnostic>) -> Option<Self> {
        let whole = 0..0;
        let mut root = match parse_toml(text) {
            Ok(root) => root,
            Err(found) => {
                problems.extend(found.into_iter().map(|p| Diagnostic::from_problem("syntax", p, &whole)));
                return None;
            }
        };
        let mut found = Vec::new();
        resolve_references(&mut root, &lookup, &mut found);
        problems.extend(found.into_iter().map(|p| Diagnostic::from_problem("unresolved", p, &whole)));

        let mut reader = Reader { text, problems };
        let [sources, steps, sinks] = SECTIONS.map(|section| reader.sections(&mut root, section));
        let spec = reader.top(&root);
        reader.unique_names(&[&sources, &steps, &sinks]);
        let steps = steps.into_iter().filter_map(|section| reader.step(section)).collect();
        Some(Self { sources, steps, sinks, ..spec })
    }
}

struct Reader<'a> {
    text: &'a str,
    problems: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn top(&mut self, root: &Table) -> Spec {
        let known = ["version", "name", "delivery", "log"];
        for (name, entry) in &root.entries {
            if !known.contains(&name.as_str()) {
                let near = suggest(name, known.into_iter().chain(SECTIONS));
                let help = match near {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("keys here are {}, {}", known.join(", "), SECTIONS.join(", ")),
                };
                let span = entry.key_span.start..entry.key_span.end;
                self.problems
                    .push(Diagnostic::new("unknown-key", span, format!("unknown key '{name}'")).help(help));
            }
        }
        let mut given = root.clone();
        given.entries.retain(|name, _| known.contains(&name.as_str()));
        let config = self.resolve(&TOP, &given, Span::default());
        let text = |key: &str| config.as_ref().and_then(|config| config.str_opt(key)).map(str::to_owned);
        let log = config.as_ref().and_then(|config| config.table_opt("log"));
        Spec {
            name: text("name").unwrap_or_default(),
            delivery: match text("delivery").as_deref() {
                Some("at_least_once") => Delivery::AtLeastOnce,
                _ => Delivery::ExactlyOnce,
            },
            bootstrap: log.and_then(|log| log.str_opt("bootstrap")).map(str::to_owned),
            sources: Vec::new(),
            steps: Vec::new(),
            sinks: Vec::new(),
        }
    }

    fn resolve(&mut self, def: &ConfigDef, table: &Table, span: Span) -> Option<Config> {
        let found = def.resolve(table, Some(span)).map_err(|found| push(self.problems, found, span)).ok()?;
        Some(found)
    }

    /// Takes `[section.x]` for every x out of `root`.
    fn sections(&mut self, root: &mut Table, section: &str) -> Vec<Section> {
        let Some(entry) = root.take(section) else { return Vec::new() };
        let ValueKind::Table(table) = entry.value.kind else {
            let span = entry.value.span.start..entry.value.span.end;
            let message = format!("'{section}' is {}, not sections", entry.value.kind.noun());
            self.problems
                .push(Diagnostic::new("type", span, message).help(format!("write [{section}.name]")));
            return Vec::new();
        };
        let sections = table.entries.into_iter().filter_map(|(name, entry)| {
            let name_span = entry.key_span.start..entry.key_span.end;
            if let Err(reason) = check_name(&name) {
                self.problems.push(Diagnostic::new("name", name_span.clone(), reason));
            }
            let Value { kind: ValueKind::Table(table), span } = entry.value else {
                let message =
                    format!("[{section}] holds sections, and '{name}' is {}", entry.value.kind.noun());
                let help = format!("write [{section}.name] above it");
                self.problems.push(Diagnostic::new("type", name_span, message).help(help));
                return None;
            };
            Some(Section { name, name_span, span, table })
        });
        sections.collect()
    }

    /// Sources and steps share the names that FROM may say; a sink shares them too, so that a graph has one node of a name.
    fn unique_names(&mut self, sections: &[&[Section]; 3]) {
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for (section, kind) in sections.iter().zip(SECTIONS) {
            for node in *section {
                if let Some((_, first)) = seen.iter().find(|(name, _)| *name == node.name) {
                    let message = format!("'{}' is the name of a {first} already", node.name);
                    let diagnostic = Diagnostic::new("name", node.name_span.clone(), message);
                    self.problems.push(diagnostic.help(format!("give this {kind} another name")));
                } else {
                    seen.push((&node.name, kind));
                }
            }
        }
    }

    fn step(&mut self, section: Section) -> Option<StepSection> {
        let config = self.resolve(&STEP, &section.table, section.span)?;
        let span = config.span("sql").unwrap_or(section.span);
        let sql = SqlText::new(config.str("sql"), self.text, span.start..span.end);
        let time = time_spec(&config);
        Some(StepSection { name: section.name, name_span: section.name_span, sql, time })
    }
}

/// Problems of a section as diagnostics.
pub(crate) fn push(
    problems: &mut Vec<Diagnostic>,
    found: Vec<millstream_connect_api::Problem>,
    section: Span,
) {
    let span = section.start..section.end;
    problems.extend(found.into_iter().map(|problem| {
        let code = if problem.message.starts_with("unknown key") { "unknown-key" } else { "config" };
        Diagnostic::from_problem(code, problem, &span)
    }));
}

/// The `time` of a checked section.
pub(crate) fn time_spec(config: &Config) -> Option<TimeSpec> {
    let time = config.table_opt("time")?;
    let span = time.span("column").unwrap_or_default();
    Some(TimeSpec {
        column: time.str("column").to_owned(),
        span: span.start..span.end,
        lateness: time.duration("lateness"),
    })
}

/// The `on_error` of a checked section.
pub(crate) fn on_error(config: &Config) -> OnError {
    match config.str("on_error") {
        "skip" => OnError::Skip,
        other => match other.strip_prefix(DEAD_LETTERS) {
            Some(sink) => {
                let span = config.span("on_error").unwrap_or_default();
                OnError::Sink(sink.to_owned(), span.start..span.end)
            }
            None => OnError::Fail,
        },
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!(
            "'{name}' is no name: use 1 to {MAX_NAME} of a-z, 0-9, _ and -, since it names topics"
        ));
    }
    Ok(())
}

static TOP: LazyLock<ConfigDef> = LazyLock::new(|| {
    let log = ConfigDef::new()
        .key(Key::string("bootstrap").doc("Where the log is, host:port; left out, it is in this process."));
    ConfigDef::new()
        .key(
            Key::integer("version", VERSION, VERSION)
                .required()
                .doc("The version of this grammar is a line of its own: version = 1"),
        )
        .key(
            Key::string("name")
                .required()
                .doc("The name of the pipeline names its topics and its state.")
                .check(|setting| check_name(setting.value.as_str().unwrap_or_default())),
        )
        .key(Key::one_of("delivery", &["exactly_once", "at_least_once"]).default_str("exactly_once"))
        .key(Key::table("log", log))
});

static STEP: LazyLock<ConfigDef> = LazyLock::new(|| {
    ConfigDef::new()
        .key(Key::string("sql").required().doc("What the step does: sql = '''SELECT ... FROM ...'''"))
        .key(time_key())
});

fn time_key() -> Key {
    let time = ConfigDef::new()
        .key(Key::string("column").required().doc("The column that holds the instant of a row."))
        .key(
            Key::duration("lateness")
                .default_str("0s")
                .doc("How far behind the newest row another one may come and still be counted."),
        );
    Key::table("time", time).doc("The instant of each row, and how late a row may be.")
}

/// The keys of every source; its connector adds others.
pub(crate) fn source_def() -> ConfigDef {
    let table = ConfigDef::new().key(Key::strings("key").required().doc("The columns that tell rows apart."));
    ConfigDef::new()
        .key(Key::string("type").required().doc("What kind of source this is."))
        .key(time_key())
        .key(
            Key::table("table", table)
                .doc("The source is a table: a row replaces the earlier one of its key."),
        )
        .key(
            Key::integer("partitions", 1, MAX_PARTITIONS)
                .default(ValueKind::Integer(1))
                .doc("Partitions of the source's topic."),
        )
        .key(on_error_key())
}

/// The keys of every sink; its connector adds others.
pub(crate) fn sink_def() -> ConfigDef {
    ConfigDef::new()
        .key(Key::string("type").required().doc("What kind of sink this is."))
        .key(
            Key::string("from")
                .doc("The source or step whose rows it takes; none when it keeps bad input only."),
        )
        .key(on_error_key())
}

fn on_error_key() -> Key {
    Key::string("on_error")
        .default_str("fail")
        .doc("What becomes of input that is no row: fail, skip, or dlq:<sink>.")
        .check(|setting| match setting.value.as_str() {
            Some("fail" | "skip") => Ok(()),
            Some(text) if text.strip_prefix(DEAD_LETTERS).is_some_and(|sink| !sink.is_empty()) => Ok(()),
            _ => Err("use \"fail\", \"skip\" or \"dlq:<name of a sink>\"".to_owned()),
        })
}

/// `type = "topic"` as a source: rows of a topic that somebody else writes.
pub(crate) fn topic_source_def() -> ConfigDef {
    use millstream_connect_api::config::Type;
    ConfigDef::new()
        .key(Key::string("topic").required().doc("The topic to read."))
        .key(Key::one_of("format", &["json"]).default_str("json").doc("How values are written."))
        .key(
            Key::new("columns", Type::Map(Box::new(Type::ColumnType)))
                .required()
                .doc("The columns of a row: columns = { id = \"int64\", name = \"string\" }"),
        )
        .key(
            Key::one_of("read", &["follow", "once"])
                .default_str("follow")
                .doc("follow reads on; once stops at the end that the topic has when the run starts."),
        )
}

/// `type = "topic"` as a sink: rows to a topic that somebody else reads.
pub(crate) fn topic_sink_def() -> ConfigDef {
    ConfigDef::new()
        .key(Key::string("topic").required().doc("The topic to write."))
        .key(Key::one_of("format", &["json"]).default_str("json").doc("How values are written."))
        .key(Key::strings("key").doc("The columns of the record's key; by default those of GROUP BY."))
}

/// `type = "print"`: rows as a table on the screen.
pub(crate) fn print_sink_def() -> ConfigDef {
    ConfigDef::new().key(
        Key::integer("rows", 1, 100_000)
            .default(ValueKind::Integer(20))
            .doc("Rows that are shown at most; all are counted."),
    )
}
