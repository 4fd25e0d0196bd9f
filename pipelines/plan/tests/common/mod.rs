//! A platform without an outside world, and pipelines that run on the test driver.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod flights;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_connect_api::config::{Key, Reference, Type};
use millstream_connect_api::{
    Config, ConfigDef, ConnectError, Problem, Registry, Result, SinkConnector, SinkInput, SinkTask,
    SourceConnector, SourceTask, TableSchema, TaskContext, key,
};
use millstream_plan::{Diagnostics, Plan, Platform, compile, lower};
use millstream_record::Millis;
use millstream_streams_core::driver::TestDriver;

/// A source that is told its columns, and is never run.
struct Told;

impl SourceConnector for Told {
    fn name(&self) -> &'static str {
        "file"
    }

    fn definition(&self) -> ConfigDef {
        ConfigDef::new()
            .key(Key::strings("include").required().doc("Files to read."))
            .key(Key::new("columns", Type::Map(Box::new(Type::ColumnType))).required())
    }

    fn tables<'a>(
        &'a self,
        source: &'a str,
        config: &'a Config,
        _known: &'a [TableSchema],
        _context: &'a TaskContext,
    ) -> BoxFuture<'a, Result<Vec<TableSchema>>> {
        let columns = config.map("columns").iter();
        let fields: Vec<_> = columns
            .filter_map(|(name, setting)| Some(Field::new(name, setting.value.as_data_type()?.clone(), true)))
            .collect();
        let missing = config.strings("include").contains(&"missing.csv");
        async move {
            if missing {
                let problem = Problem::at(config.span("include"), "there is no file missing.csv");
                return Err(ConnectError::Config(vec![problem]));
            }
            Ok(vec![TableSchema::append_only(source, Arc::new(Schema::new(fields)))])
        }
        .boxed()
    }

    fn task(&self, _config: &Config, _tables: &[TableSchema]) -> Result<Box<dyn SourceTask>> {
        Err(ConnectError::fatal("test", "never run"))
    }
}

/// A sink that takes rows that are only added, and is never run.
struct Append;

impl SinkConnector for Append {
    fn name(&self) -> &'static str {
        "file"
    }

    fn definition(&self) -> ConfigDef {
        ConfigDef::new().key(Key::string("path").required())
    }

    fn check(&self, config: &Config, input: &SinkInput) -> Vec<Problem> {
        let problem =
            Problem::at(config.span("path"), "a file cannot hold rows that change").help("group by a window");
        if input.changelog { vec![problem] } else { Vec::new() }
    }

    fn task(&self, _config: &Config, _input: &SinkInput) -> Result<Box<dyn SinkTask>> {
        Err(ConnectError::fatal("test", "never run"))
    }
}

fn lookup(reference: &Reference) -> std::result::Result<Option<String>, String> {
    Ok(match reference {
        Reference::Env(name) if name == "DATA" => Some("/data".to_owned()),
        Reference::Secret(name) if name == "dw" => Some("hush".to_owned()),
        _ => None,
    })
}

/// Compiles `text`.
pub fn plan(text: &str) -> std::result::Result<Plan, Diagnostics> {
    let registry = Registry::new().with_source(Told).with_sink(Append);
    let context = TaskContext::inline(Millis(0));
    let dead_letters = Arc::new(Schema::new(vec![Field::new("reason", DataType::Utf8, false)]));
    let platform = Platform {
        registry: &registry,
        lookup: &lookup,
        known: &BTreeMap::new(),
        base: None,
        context: &context,
        dead_letters,
    };
    compile("p.toml", text, &platform).now_or_never().expect("nothing here waits")
}

/// A pipeline on the test driver.
pub struct Run {
    pub plan: Plan,
    pub driver: TestDriver,
}

impl Run {
    /// Compiles and starts `text`.
    pub fn new(text: &str) -> Self {
        let plan = plan(text).unwrap_or_else(|problems| panic!("{problems}"));
        let lowered = lower(&plan, &|_| None).unwrap();
        let driver = TestDriver::new(lowered.topology.unwrap()).unwrap();
        Self { plan, driver }
    }

    /// Feeds a JSON row to a source.
    pub fn row(&mut self, source: &str, json: &str) {
        self.try_row(source, json).unwrap();
    }

    /// The same where it may fail.
    pub fn try_row(&mut self, source: &str, json: &str) -> millstream_streams_core::Result<()> {
        let topic = self.topic(source);
        self.driver.pipe_record(&topic, None, Some(Bytes::copy_from_slice(json.as_bytes())), 0, Vec::new())
    }

    /// Deletes the row of a table whose key is this text.
    pub fn delete(&mut self, source: &str, key_text: &str) {
        let topic = self.topic(source);
        let column: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![key_text]));
        let key = key::encode(&[column]).unwrap().pop();
        self.driver.pipe_record(&topic, key, None, 0, Vec::new()).unwrap();
    }

    fn topic(&self, source: &str) -> String {
        let found = self.plan.sources.iter().find(|s| &*s.table.name == source);
        found.unwrap_or_else(|| panic!("no source {source}")).topic.clone()
    }

    /// New rows of a topic, as JSON.
    pub fn read(&mut self, topic: &str) -> Vec<String> {
        let records = self.driver.read_records(topic);
        let text = |value: Option<Bytes>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
        records.into_iter().map(|record| text(record.value)).collect()
    }
}
