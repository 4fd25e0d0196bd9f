//! `type = "print"`: rows as a table on the screen.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_connect_api::{
    Config, ConfigDef, ConnectError, Problem, Result, SinkBatch, SinkConnector, SinkInput, SinkOpen, SinkTask,
};
use millstream_record::{Offset, TopicPartition};

use crate::screen;
use crate::table::Table;

/// Shows rows: all at once when the input ends, as they come when it has no end.
pub(super) struct PrintSink {
    name: String,
    rows: usize,
    finite: bool,
}

impl PrintSink {
    /// The sink `name`, which shows `rows` at most at once.
    pub(super) fn new(name: &str, rows: usize, finite: bool) -> Self {
        Self { name: name.to_owned(), rows, finite }
    }
}

impl SinkConnector for PrintSink {
    fn name(&self) -> &'static str {
        "print"
    }

    fn definition(&self) -> ConfigDef {
        ConfigDef::new()
    }

    fn check(&self, _config: &Config, _input: &SinkInput) -> Vec<Problem> {
        Vec::new()
    }

    fn task(&self, _config: &Config, input: &SinkInput) -> Result<Box<dyn SinkTask>> {
        Ok(Box::new(Printer {
            name: self.name.clone(),
            columns: input.schema.fields().iter().map(|field| column(field)).collect(),
            limit: self.rows,
            finite: self.finite,
            rows: Vec::new(),
            count: 0,
            offsets: BTreeMap::new(),
        }))
    }
}

fn column(field: &arrow::datatypes::Field) -> String {
    let mark = if field.data_type().is_numeric() { ">" } else { "" };
    format!("{mark}{}", field.name())
}

struct Printer {
    name: String,
    columns: Vec<String>,
    limit: usize,
    finite: bool,
    /// Rows to show, as text.
    rows: Vec<Vec<String>>,
    /// Rows that came since the last table, shown or not.
    count: u64,
    offsets: BTreeMap<TopicPartition, Offset>,
}

impl Printer {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong = |error| ConnectError::fatal("showing rows", error);
        let options = FormatOptions::default().with_null("");
        let columns =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).map_err(wrong));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let wanted = self.limit.saturating_sub(self.rows.len()).min(batch.num_rows());
        for row in 0..wanted {
            self.rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
        self.count += batch.num_rows() as u64;
        Ok(())
    }

    fn show(&mut self) -> BTreeMap<TopicPartition, Offset> {
        if self.count > 0 {
            let mut table = Table::new(&self.columns);
            let shown = self.rows.len() as u64;
            self.rows.drain(..).for_each(|row| table.row(row));
            screen::line(format_args!("\n{table}"));
            let rest = self.count - shown;
            let more = if rest > 0 {
                format!(" ({rest} not shown; rows = {} at most)", self.limit)
            } else {
                String::new()
            };
            screen::line(format_args!("{}: {} rows{more}\n", self.name, self.count));
            self.count = 0;
        }
        self.offsets.clone()
    }
}

impl SinkTask for Printer {
    fn open(&mut self, open: SinkOpen) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        let starts: BTreeMap<_, _> = open
            .partitions
            .into_iter()
            .map(|partition| (partition.partition, partition.committed.unwrap_or_default()))
            .collect();
        async move { Ok(starts) }.boxed()
    }

    fn put(&mut self, batch: SinkBatch) -> BoxFuture<'_, Result<()>> {
        let taken = self.take(&batch.rows);
        if let Some(last) = batch.offsets.last() {
            self.offsets.insert(batch.partition, last.plus(1));
        }
        async move { taken }.boxed()
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        let shown = if self.finite { BTreeMap::new() } else { self.show() };
        async move { Ok(shown) }.boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        let shown = self.show();
        async move { Ok(shown) }.boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}
