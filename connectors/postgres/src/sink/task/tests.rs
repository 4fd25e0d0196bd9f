//! Against a real Postgres.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema};
use futures::executor::block_on;
use millstream_connect_api::config::parse_toml;
use millstream_connect_api::{Operation, SinkConnector, SinkPartition, TaskContext};
use millstream_record::{Millis, TopicId};

use super::*;
use crate::PostgresSink;
use crate::testing::Postgres;

mod changed;
mod exact;
mod refused;

fn topic() -> TopicPartition {
    TopicPartition::new("t", 0)
}

struct World<'a> {
    postgres: &'a Postgres,
    settings: String,
    input: SinkInput,
    id: TopicId,
    committed: Option<Offset>,
}

impl<'a> World<'a> {
    fn new(postgres: &'a Postgres, settings: &str, rows: &RecordBatch) -> Self {
        let input =
            SinkInput { name: "test.sink".into(), schema: rows.schema(), key: vec![], changelog: false };
        Self { postgres, settings: settings.into(), input, id: TopicId::from_random(1, 1), committed: None }
    }

    fn start(&self) -> Result<(Box<dyn SinkTask>, Option<i64>)> {
        self.start_at(&self.postgres.url())
    }

    fn refusal(&self) -> String {
        self.start().map(|_| ()).unwrap_err().to_string()
    }

    fn start_at(&self, url: &str) -> Result<(Box<dyn SinkTask>, Option<i64>)> {
        let text = format!("url = '{url}'\n{}", self.settings);
        let config = PostgresSink.definition().resolve(&parse_toml(&text).unwrap(), None).unwrap();
        let mut task = PostgresSink.task(&config, &self.input)?;
        let partition = SinkPartition { partition: topic(), topic_id: self.id, committed: self.committed };
        let open = SinkOpen {
            partitions: vec![partition],
            state_dir: "state".into(),
            context: TaskContext::inline(Millis(0)),
        };
        let starts = block_on(task.open(open))?;
        Ok((task, starts.get(&topic()).map(|offset| offset.0)))
    }
}

/// Rows of one partition from offset 0.
fn of(columns: Vec<(&str, ArrayRef)>) -> SinkBatch {
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let offsets = (0..rows.num_rows() as i64).map(Offset).collect();
    SinkBatch { partition: topic(), offsets, rows, operation: None }
}

/// Puts rows as the worker does that skips bad ones: answers their ids and reasons.
fn put_skipping(task: &mut dyn SinkTask, mut rows: Vec<(i64, Option<&str>)>) -> Vec<(i64, String)> {
    match block_on(task.put(batch(0, &rows, false))) {
        Ok(()) => Vec::new(),
        Err(ConnectError::BadRows(refused)) => {
            let named = refused.iter().map(|refused| (rows[refused.row].0, refused.reason.clone())).collect();
            for refused in refused.iter().rev() {
                rows.remove(refused.row);
            }
            block_on(task.put(batch(0, &rows, false))).unwrap();
            named
        }
        Err(other) => panic!("{other}"),
    }
}

/// Rows (id, name) at offsets from `first`; a name of `None` in a changelog is a delete.
fn batch(first: i64, rows: &[(i64, Option<&str>)], changelog: bool) -> SinkBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)))),
        ("name", Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>())),
    ];
    let code = |row: &(i64, Option<&str>)| {
        if row.1.is_none() { Operation::Delete as i8 } else { Operation::Update as i8 }
    };
    SinkBatch {
        partition: topic(),
        offsets: (first..first + rows.len() as i64).map(Offset).collect(),
        rows: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
            .unwrap(),
        operation: changelog.then(|| Int8Array::from_iter_values(rows.iter().map(code))),
    }
}

#[test]
fn every_type_arrives_as_it_was() {
    let postgres = Postgres::start();
    let utc = "+00:00";
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("i8", Arc::new(Int8Array::from(vec![Some(-128), None]))),
        ("i16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None]))),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MAX), None]))),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))),
        ("u32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None]))),
        ("u64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(1.5), None]))),
        ("f64", Arc::new(Float64Array::from(vec![Some(0.1), None]))),
        (
            "dec",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345), None]).with_precision_and_scale(10, 2).unwrap(),
            ),
        ),
        (
            "small",
            Arc::new(Decimal128Array::from(vec![Some(5), None]).with_precision_and_scale(20, 7).unwrap()),
        ),
        ("text", Arc::new(StringArray::from(vec![Some("ä\"'\\\n"), None]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("longer than twelve bytes"), None]))),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None]))),
        ("date", Arc::new(Date32Array::from(vec![Some(-1), None]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(86_399_999_999), None]))),
        (
            "at",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_357_034_400_001), None]).with_timezone(utc)),
        ),
        ("local", Arc::new(TimestampNanosecondArray::from(vec![Some(-1_000), None]))),
        ("took", Arc::new(DurationSecondArray::from(vec![Some(90), None]))),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<types::Int32Type, _, _>([
                Some(vec![Some(1), None]),
                None,
            ])),
        ),
    ];
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let world = World::new(&postgres, "table = 'types'", &rows);
    let (mut task, start) = world.start().unwrap();
    assert_eq!(start, None);
    let batch = SinkBatch { partition: topic(), offsets: vec![Offset(3), Offset(5)], rows, operation: None };
    block_on(task.put(batch)).unwrap();
    assert_eq!(block_on(task.flush()).unwrap()[&topic()], Offset(6));
    let found = postgres.query("SET timezone = 'UTC'; SELECT * FROM types");
    let expected = "t|-128|-32768|2147483647|-9223372036854775808|4294967295|18446744073709551615|1.5|0.1|-123.45|0.0000005|ä\"'\\\n|\
                    longer than twelve bytes|\\x00ff|1969-12-31|23:59:59.999999|2013-01-01 10:00:00.001+00|\
                    1969-12-31 23:59:59.999999|00:01:30|[1, null]";
    assert_eq!(found, [expected, &["NULL"; 20].join("|")]);
}

#[test]
fn inserts_are_exactly_once_through_kills_and_lost_connections() {
    let mut postgres = Postgres::start();
    let settings = "table = 'public.rows'";
    for life in 0..6 {
        let world = World::new(&postgres, settings, &batch(0, &[], false).rows);
        let (mut task, start) = world.start().unwrap();
        let next = start.unwrap_or(0);
        assert_eq!(next, 4 * life, "nothing is lost and nothing repeated");
        block_on(task.put(batch(next, &[(next, Some("a")), (next + 1, None)], false))).unwrap();
        block_on(task.put(batch(
            next + 1,
            &[(next + 1, None), (next + 2, Some("c")), (next + 3, Some("d"))],
            false,
        )))
        .unwrap();
        if life % 2 == 0 {
            drop(task);
            continue; // killed before any offset was committed
        }
        postgres.kill_and_restart();
        let error = block_on(task.put(batch(next + 4, &[(0, None)], false))).unwrap_err();
        assert!(error.is_retriable(), "{error}");
    }
    let found = postgres.query("SELECT id FROM rows ORDER BY id");
    assert_eq!(found, (0..24).map(|n: i64| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn upserts_replace_and_delete_and_the_last_row_of_a_key_wins() {
    let postgres = Postgres::start();
    let mut world =
        World::new(&postgres, "table = 'people'\nmode = 'upsert'\nkey = 'id'", &batch(0, &[], true).rows);
    world.input.changelog = true;
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(0, &[(1, Some("a")), (2, Some("b")), (1, Some("c")), (3, Some("d"))], true)))
        .unwrap();
    block_on(task.put(batch(4, &[(2, None), (3, None), (3, Some("e")), (4, Some("f")), (4, None)], true)))
        .unwrap();
    assert_eq!(postgres.query("SELECT * FROM people ORDER BY id"), ["1|c", "3|e"]);
    // A table whose key is of another type, and which is only a part wider.
    postgres.query("CREATE TABLE other (name varchar(3), id integer UNIQUE, extra text DEFAULT 'x')");
    world.settings = "table = 'other'\nmode = 'upsert'\nkey = 'id'".into();
    world.input.name = "test.other".into();
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(0, &[(1, Some("a")), (1, Some("b")), (7, Some("c"))], true))).unwrap();
    block_on(task.put(batch(3, &[(7, None)], true))).unwrap();
    assert_eq!(postgres.query("SELECT * FROM other"), ["b|1|x"]);
}

#[test]
fn a_row_that_postgres_refuses_is_named() {
    let postgres = Postgres::start();
    postgres.query("CREATE TABLE strict (id bigint CHECK (id <> 13), name varchar(3))");
    let world = World::new(&postgres, "table = 'strict'", &batch(0, &[], false).rows);
    let (mut task, _) = world.start().unwrap();
    let mut rows: Vec<(i64, Option<&str>)> = (0..50).map(|n| (n, Some("abc"))).collect();
    rows[20].1 = Some("too long");
    let refused = put_skipping(&mut *task, rows);
    let ids: Vec<_> = refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [13, 20]);
    assert!(
        refused[0].1.contains("Postgres table public.strict") && refused[0].1.contains("check constraint"),
        "{refused:?}"
    );
    assert!(refused[1].1.contains("value too long for type character varying(3)"), "{refused:?}");
    assert_eq!(postgres.query("SELECT count(*) FROM strict"), ["48"]);
    let mut upsert =
        World::new(&postgres, "table = 'n'\nmode = 'upsert'\nkey = 'name'", &batch(0, &[], false).rows);
    upsert.input.name = "test.upsert".into();
    let (mut task, _) = upsert.start().unwrap();
    let error = block_on(task.put(batch(0, &[(1, Some("a")), (2, None)], false))).unwrap_err();
    assert!(
        matches!(&error, ConnectError::BadRows(rows) if rows.len() == 1 && rows[0].row == 1
            && rows[0].reason == "key column 'name' is null"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_refused_with_what_to_do() {
    let postgres = Postgres::start();
    let mut world = World::new(&postgres, "table = 'x'\nschema = 'fail'", &batch(0, &[], false).rows);
    let refused = |world: &World<'_>| world.start().map(|_| ()).unwrap_err().to_string();
    assert!(
        refused(&world)
            .contains("CREATE TABLE IF NOT EXISTS \"public\".\"x\" (\"id\" bigint, \"name\" text)")
    );
    postgres.query("CREATE TABLE x (id bigint)");
    assert!(
        refused(&world).ends_with("ALTER TABLE \"public\".\"x\" ADD COLUMN \"name\" text"),
        "{}",
        refused(&world)
    );
    world.settings = "table = 'x'\nschema = 'evolve'".into();
    world.start().unwrap();
    world.settings = "table = 'x'\nmode = 'upsert'\nkey = 'id'".into();
    assert!(
        refused(&world).ends_with("CREATE UNIQUE INDEX ON \"public\".\"x\" (\"id\")"),
        "{}",
        refused(&world)
    );
    postgres.query("CREATE TABLE needs (id bigint, name text, more text NOT NULL)");
    world.settings = "table = 'needs'".into();
    assert!(refused(&world).contains("its column more must not be null"), "{}", refused(&world));
    world.settings = "table = 'x'\nmode = 'upsert'\nkey = 'no'".into();
    assert!(refused(&world).contains("the input has no column 'no'"));
    world.settings = "table = 'nowhere.x'".into();
    assert!(refused(&world).contains("schema \"nowhere\" does not exist"), "{}", refused(&world));
    // A second task that has moved on, and a log of another id.
    world.settings = "table = 'moved'".into();
    let (mut first, _) = world.start().unwrap();
    let (mut second, _) = world.start().unwrap();
    block_on(second.put(batch(0, &[(1, None)], false))).unwrap();
    let error = block_on(first.put(batch(0, &[(1, None)], false))).unwrap_err().to_string();
    assert!(error.contains("another one writes under the same name"), "{error}");
    assert_eq!(postgres.query("SELECT count(*) FROM moved"), ["1"]);
    world.id = TopicId::from_random(2, 2);
    assert!(refused(&world).contains("were written from another log"), "{}", refused(&world));
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Null, true)]));
    world.input.schema = schema;
    assert!(refused(&world).contains("there is no Postgres type for column 'id'"), "{}", refused(&world));
}
