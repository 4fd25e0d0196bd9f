//! The flights example in a folder of its own, and what its rows must be.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Key: airline and hour in seconds. Value: flights, mean and maximum delay.
pub(crate) type Rows = BTreeMap<(String, i64), (i64, f64, i64)>;

/// A copy of the example in a folder of its own.
pub(crate) struct Example {
    /// Where it is.
    pub(crate) folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Example {
    /// The example with a changed pipeline, run with these further options.
    pub(crate) fn new(options: &[&str], change: impl FnOnce(String) -> String) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights");
        let folder = tempfile::tempdir().unwrap();
        for file in ["flights.csv", "airlines.csv"] {
            std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
        }
        let text = std::fs::read_to_string(from.join("pipeline.toml")).unwrap();
        std::fs::write(folder.path().join("pipeline.toml"), change(text)).unwrap();
        Self { folder, options: options.iter().map(|&option| option.to_owned()).collect() }
    }

    /// The command that runs it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["run", "pipeline.toml"]).args(&self.options).current_dir(self.folder.path());
        command
    }

    /// Runs it to its end, and answers what it prints.
    pub(crate) fn run(&self) -> String {
        let Output { status, stdout, stderr } = self.command().output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{stderr}");
        String::from_utf8(stdout).unwrap()
    }

    /// All that lies in the folder of the output, by name.
    pub(crate) fn out(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("out")) else { return Vec::new() };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The finished files, by name.
    pub(crate) fn parquet(&self) -> Vec<PathBuf> {
        let mut files = self.out();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        files
    }

    /// The rows of the finished files.
    pub(crate) fn rows(&self) -> Rows {
        let mut rows = Rows::new();
        for file in self.parquet() {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap())
                .unwrap()
                .build()
                .unwrap();
            for batch in reader {
                add(&mut rows, &batch.unwrap());
            }
        }
        rows
    }

    /// The same figures by plain Rust over the CSV.
    pub(crate) fn expected(&self) -> Rows {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let airlines = read("airlines.csv");
        let names: BTreeMap<_, _> =
            airlines.lines().skip(1).filter_map(|line| line.split_once(',')).collect();
        let mut groups: BTreeMap<(String, i64), Vec<i64>> = BTreeMap::new();
        for line in read("flights.csv").lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            if fields[3] != "NA" {
                let key = (names[fields[9]].to_owned(), seconds(fields[18]));
                groups.entry(key).or_default().push(fields[5].parse().unwrap());
            }
        }
        let summary = |delays: Vec<i64>| {
            let count = i64::try_from(delays.len()).unwrap();
            (count, delays.iter().sum::<i64>() as f64 / count as f64, *delays.iter().max().unwrap())
        };
        groups.into_iter().map(|(key, delays)| (key, summary(delays))).collect()
    }
}

fn add(rows: &mut Rows, batch: &RecordBatch) {
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let hours = column("hour").as_primitive::<TimestampMicrosecondType>();
    for row in 0..batch.num_rows() {
        let key = (column("airline").as_string::<i32>().value(row).to_owned(), hours.value(row) / 1_000_000);
        let value = (
            column("flights").as_primitive::<Int64Type>().value(row),
            column("mean_delay").as_primitive::<Float64Type>().value(row),
            column("max_delay").as_primitive::<Int64Type>().value(row),
        );
        assert!(column("hour").is_valid(row));
        assert_eq!(rows.insert(key.clone(), value), None, "{key:?} was written twice");
    }
}

/// `2013-01-dayThour:00:00Z` in seconds since 1970.
fn seconds(text: &str) -> i64 {
    const JANUARY_2013: i64 = 1_356_998_400;
    let day: i64 = text[8..10].parse().unwrap();
    let hour: i64 = text[11..13].parse().unwrap();
    assert!(text.starts_with("2013-01-") && text.ends_with(":00:00Z"), "{text}");
    JANUARY_2013 + (day - 1) * 86_400 + hour * 3_600
}
