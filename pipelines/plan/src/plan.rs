//! A checked pipeline: a graph that cannot be invalid.
//!
//! Every name in it is that of a node in it, every column exists in the schema it is looked up in, and steps stand behind what
//! they read. Only [`crate::compile`] makes one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use millstream_connect_api::{Config, SinkInput, TableSchema};

use crate::spec::Delivery;
use crate::sql::Query;

/// A checked pipeline.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name; topics are called `<name>.<node>`.
    pub name: String,
    /// How results are written.
    pub delivery: Delivery,
    /// The cluster that the file names.
    pub bootstrap: Option<String>,
    /// What brings rows in, in the order of the file. A connector with several tables is several of these with one config.
    pub sources: Vec<Source>,
    /// What works on rows; each stands behind the steps that it reads.
    pub steps: Vec<Step>,
    /// What takes rows out, in the order of the file.
    pub sinks: Vec<Sink>,
}

/// One relation that a source brings.
#[derive(Clone, Debug)]
pub struct Source {
    /// `x` of `[source.x]`.
    pub section: String,
    /// Its rows and, for a table, its key. The name is what FROM says: that of the section, or `<section>.<table>`.
    pub table: TableSchema,
    /// Whether it is a table, which others join.
    pub is_table: bool,
    /// Where rows come from.
    pub kind: SourceKind,
    /// The topic that holds them.
    pub topic: String,
    /// Partitions of the topic, if it is made.
    pub partitions: i32,
    /// The column that holds a row's instant, and how late it may be.
    pub time: Option<EventTime>,
    /// What becomes of input that is no row.
    pub on_error: BadInput,
}

/// Where the rows of a [`Source`] come from.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// A connector, which writes the topic.
    Connector {
        /// Its type.
        connector: String,
        /// Its settings.
        config: Config,
    },
    /// Somebody else writes the topic.
    Topic {
        /// Whether reading stops at the end that the topic has at the start.
        once: bool,
    },
}

/// A row's instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// Position of the column.
    pub column: usize,
    /// How far behind the newest row another one may come and still be counted.
    pub lateness: Duration,
}

/// What becomes of input that is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadInput {
    /// The run stops and says where.
    Fail,
    /// It is counted and left out.
    Skip,
    /// It is kept in this topic, which a sink reads.
    Topic(String),
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// `x` of `[step.x]`.
    pub name: String,
    /// What it does.
    pub query: Query,
    /// How late a row may be, when it groups by windows.
    pub lateness: Option<Duration>,
    /// The topic of its rows; none when only steps read it.
    pub topic: Option<String>,
}

/// What takes rows out.
#[derive(Clone, Debug)]
pub struct Sink {
    /// `x` of `[sink.x]`.
    pub name: String,
    /// The source or step whose rows it takes; none when it only keeps bad input.
    pub from: Option<String>,
    /// The topics that it reads.
    pub topics: Vec<String>,
    /// Where rows go.
    pub kind: SinkKind,
    /// The rows.
    pub input: SinkInput,
    /// What becomes of rows that it refuses.
    pub on_error: BadInput,
}

/// Where the rows of a [`Sink`] go.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// To a connector.
    Connector {
        /// Its type.
        connector: String,
        /// Its settings.
        config: Config,
    },
    /// To a topic that somebody else reads; the step writes it, no task in between.
    Topic {
        /// The topic.
        topic: String,
        /// The columns of the record's key.
        key: Vec<String>,
    },
    /// To the screen.
    Print {
        /// Rows shown at most.
        rows: usize,
    },
}

impl Plan {
    /// The relation `name`: columns, key and whether its rows change.
    #[must_use]
    pub fn relation(&self, name: &str) -> Option<TableSchema> {
        if let Some(source) = self.sources.iter().find(|source| &*source.table.name == name) {
            return Some(source.table.clone());
        }
        self.steps.iter().find(|step| step.name == name).map(Step::table)
    }

    /// What becomes of records that `sink` cannot decode or refuses. One that reads a topic of others itself, with no step between, does
    /// as its source says unless it says something itself.
    #[must_use]
    pub fn bad_input_of<'a>(&'a self, sink: &'a Sink) -> &'a BadInput {
        let reads = |source: &&Source| {
            matches!(source.kind, SourceKind::Topic { .. })
                && sink.from.as_deref() == Some(&*source.table.name)
        };
        match self.sources.iter().find(reads) {
            Some(source) if sink.on_error == BadInput::Fail => &source.on_error,
            _ => &sink.on_error,
        }
    }

    /// The topic that holds the late rows of the step `step`: rows as the step reads them.
    #[must_use]
    pub fn late_topic(&self, step: &str) -> String {
        format!("{}.{step}.late", self.name)
    }

    /// Sources by section: connectors with several tables have several relations.
    #[must_use]
    pub fn sections(&self) -> BTreeMap<&str, Vec<&Source>> {
        let mut sections: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
        for source in &self.sources {
            sections.entry(&source.section).or_default().push(source);
        }
        sections
    }
}

impl Step {
    /// Its rows.
    #[must_use]
    pub fn table(&self) -> TableSchema {
        TableSchema {
            name: Arc::from(self.name.as_str()),
            schema: SchemaRef::clone(&self.query.schema),
            key: self.query.key.clone(),
            changelog: self.query.updates,
        }
    }
}
