//! The flights example against an independent computation: plain Rust over the CSV, sharing nothing with the pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use futures::executor::block_on;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::{Registry, TaskContext};
use millstream_connector_file::{FileSink, FileSource};
use millstream_plan::{Plan, Platform, compile, lower};
use millstream_record::Millis;
use millstream_streams_core::driver::TestDriver;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights").canonicalize().unwrap()
}

fn plan(text: &str) -> Plan {
    let registry = Registry::new().with_source(FileSource).with_sink(FileSink);
    let context = TaskContext::inline(Millis(0));
    let base = folder();
    let platform = Platform {
        registry: &registry,
        lookup: &|_| Ok(None),
        known: &BTreeMap::new(),
        base: Some(&base),
        context: &context,
        dead_letters: Arc::new(Schema::empty()),
    };
    block_on(compile("pipeline.toml", text, &platform)).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The rows of a source, in the order of its file, as the connector would write them.
fn records(plan: &Plan, source: &str) -> (String, Vec<Bytes>) {
    let source = plan.sources.iter().find(|s| s.section == source).unwrap();
    let text = std::fs::read_to_string(folder().join(format!("{}.csv", source.section)))
        .unwrap()
        .replace(",NA", ",");
    let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&source.table.schema))
        .with_header(true)
        .build(text.as_bytes())
        .unwrap();
    let values = reader.flat_map(|rows| JsonConverter.encode(&rows.unwrap()).unwrap()).collect();
    (source.topic.clone(), values)
}

fn run(text: &str) -> (Vec<Value>, TestDriver) {
    let plan = plan(text);
    let mut driver =
        TestDriver::new(lower(&plan, &|_| None).unwrap().topology.unwrap()).unwrap().manual_commit();
    for source in ["airlines", "flights"] {
        let (topic, values) = records(&plan, source);
        for value in values {
            driver.pipe_record(&topic, None, Some(value), 0, Vec::new()).unwrap();
        }
    }
    driver.end_inputs().unwrap();
    let out = driver.read_records("flights.delays");
    let rows =
        out.into_iter().map(|record| serde_json::from_slice(&record.value.unwrap()).unwrap()).collect();
    (rows, driver)
}

/// Count, mean and maximum of the departure delay of flown flights, by airline and hour.
fn expected() -> BTreeMap<(String, String), (i64, f64, i64)> {
    let read = |name: &str| std::fs::read_to_string(folder().join(name)).unwrap();
    let airlines = read("airlines.csv");
    let names: BTreeMap<_, _> = airlines.lines().skip(1).filter_map(|line| line.split_once(',')).collect();
    let mut groups: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
    for line in read("flights.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let (dep_time, dep_delay, carrier, hour) = (fields[3], fields[5], fields[9], fields[18]);
        if dep_time != "NA" {
            let key = (names[carrier].to_owned(), hour.to_owned());
            groups.entry(key).or_default().push(dep_delay.parse().unwrap());
        }
    }
    let summary = |delays: Vec<i64>| {
        let count = i64::try_from(delays.len()).unwrap();
        (count, delays.iter().sum::<i64>() as f64 / count as f64, *delays.iter().max().unwrap())
    };
    groups.into_iter().map(|(key, delays)| (key, summary(delays))).collect()
}

fn found(rows: &[Value]) -> BTreeMap<(String, String), (i64, f64, i64)> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| {
            let figures = (
                row["flights"].as_i64().unwrap(),
                row["mean_delay"].as_f64().unwrap(),
                row["max_delay"].as_i64().unwrap(),
            );
            ((text(row, "airline"), text(row, "hour")), figures)
        })
        .collect()
}

#[test]
fn the_example_equals_a_batch_computation() {
    let text = std::fs::read_to_string(folder().join("pipeline.toml")).unwrap();
    let (rows, driver) = run(&text);
    let expected = expected();
    let found = found(&rows);
    // JSON readers may be off in a double's last bit.
    let same =
        |a: &(i64, f64, i64), b: &(i64, f64, i64)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9 && a.2 == b.2;
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(key, figures)| !found.get(*key).is_some_and(|f| same(f, figures)))
        .take(5)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(rows.len(), expected.len(), "one row for each airline and hour");
    assert_eq!(driver.counters("flights").rows_out, 12_208);
    assert_eq!(driver.counters("delays.group").rows_in, 12_126);
    assert_eq!(driver.counters("delays.group").late, 0);
}

#[test]
fn with_little_lateness_late_rows_are_counted_and_kept() {
    let text = std::fs::read_to_string(folder().join("pipeline.toml")).unwrap();
    let (rows, mut driver) = run(&text.replace("lateness = \"24h\"", "lateness = \"1h\""));
    let late = driver.counters("delays.group").late;
    let kept = driver.read_records("flights.delays.late");
    assert!(late > 0);
    assert_eq!(kept.len() as u64, late);
    let counted: i64 = rows.iter().map(|row| row["flights"].as_i64().unwrap()).sum();
    assert_eq!(counted as u64 + late, 12_126, "a flight is in its window or among the late ones");
    let first: Value = serde_json::from_slice(kept[0].value.as_deref().unwrap()).unwrap();
    assert!(first["airline"].is_string() && first["dep_delay"].is_i64(), "{first}");
}
