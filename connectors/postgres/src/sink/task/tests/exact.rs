//! Columns of another type than the input's: values arrive as they were, or are refused.

use super::*;

#[test]
fn casts_do_not_depend_on_the_settings_of_the_role() {
    let postgres = Postgres::start();
    postgres.query(
        "ALTER ROLE postgres SET timezone = 'America/New_York'; ALTER ROLE postgres SET datestyle = 'German';
         ALTER ROLE postgres SET intervalstyle = 'iso_8601'; ALTER ROLE postgres SET extra_float_digits = -15;
         ALTER ROLE postgres SET bytea_output = 'escape'",
    );
    postgres.query(
        "CREATE TABLE cast_ (zoned timestamp, local timestamptz, text text, took text, float text, bytes text)",
    );
    let noon_us = 1_767_268_800_000_000; // 2026-01-01T12:00:00Z
    let zoned = || Arc::new(TimestampMicrosecondArray::from(vec![noon_us]).with_timezone("+00:00"));
    let rows = of(vec![
        ("zoned", zoned()),
        ("local", Arc::new(TimestampMicrosecondArray::from(vec![noon_us]))),
        ("text", zoned()),
        ("took", Arc::new(DurationSecondArray::from(vec![3_600]))),
        ("float", Arc::new(Float64Array::from(vec![0.1 + 0.2]))),
        ("bytes", Arc::new(BinaryArray::from(vec![&b"\\a"[..]]))),
    ]);
    let world = World::new(&postgres, "table = 'cast_'", &rows.rows);
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(rows)).unwrap();
    assert_eq!(
        postgres.query("SET timezone = 'UTC'; SET datestyle = 'ISO'; SELECT * FROM cast_"),
        [
            "2026-01-01 12:00:00|2026-01-01 12:00:00+00|2026-01-01 12:00:00+00|01:00:00|0.30000000000000004|\\x5c61"
        ]
    );
}

/// For each pair: what the table has, and whether values would lose there.
#[test]
fn types_that_lose_are_refused_and_others_taken() {
    let postgres = Postgres::start();
    postgres.query("CREATE DOMAIN whole AS integer; CREATE DOMAIN positive AS whole CHECK (VALUE > 0)");
    let decimal = |precision, scale| {
        let values = Decimal128Array::from(vec![5]);
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap()) as ArrayRef
    };
    let (cents, whole, large) = (decimal(10, 2), decimal(10, 0), decimal(18, 2));
    let double: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    let real: ArrayRef = Arc::new(Float32Array::from(vec![1.5]));
    let long: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let int: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let micros: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    let millis: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1]).with_timezone("+00:00"));
    let time: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![1]));
    let took: ArrayRef = Arc::new(DurationMillisecondArray::from(vec![1]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let words: ArrayRef = Arc::new(DictionaryArray::<types::Int32Type>::from_iter(["1"]));
    let cases: &[(&ArrayRef, &str, bool)] = &[
        (&double, "smallint", true),
        (&double, "integer", true),
        (&double, "positive", true),
        (&double, "bigint", true),
        (&double, "numeric", true),
        (&double, "real", true),
        (&double, "text", false),
        (&real, "integer", true),
        (&real, "numeric(10,2)", true),
        (&real, "double precision", false),
        (&long, "smallint", false),
        (&long, "positive", false),
        (&long, "numeric", false),
        (&long, "numeric(5,2)", false),
        (&long, "double precision", true),
        (&long, "real", true),
        (&int, "double precision", false),
        (&int, "real", true),
        (&int, "boolean", true),
        (&cents, "integer", true),
        (&whole, "integer", false),
        (&cents, "numeric(10,1)", true),
        (&cents, "numeric(5,2)", false),
        (&cents, "numeric", false),
        (&cents, "double precision", false),
        (&large, "double precision", true),
        (&cents, "real", true),
        (&micros, "date", true),
        (&micros, "time", true),
        (&micros, "timestamptz", false),
        (&micros, "timestamp(3)", true),
        (&millis, "timestamptz(3)", false),
        (&millis, "timestamp(2)", true),
        (&time, "time(3)", true),
        (&time, "interval", false),
        (&time, "interval hour to minute", true),
        (&took, "interval(3)", false),
        (&took, "interval(2)", true),
        (&took, "interval minute to second", false),
        (&took, "time", true),
        (&text, "integer", false),
        (&text, "varchar(3)", false),
        (&text, "name", true),
        (&words, "bigint", false),
    ];
    for (at, (column, sql_type, loses)) in cases.iter().enumerate() {
        let rows = of(vec![("v", Arc::clone(column))]);
        postgres.query(&format!("CREATE TABLE t{at} (v {sql_type})"));
        let mut world = World::new(&postgres, &format!("table = 't{at}'"), &rows.rows);
        world.input.name = format!("test.t{at}");
        let what = format!("{} to {sql_type}", column.data_type());
        match world.start() {
            Ok((mut task, _)) => {
                assert!(!loses, "{what} is taken");
                block_on(task.put(rows)).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            Err(error) => {
                let text = error.to_string();
                assert!(*loses && text.contains("would be rounded or cut"), "{what}: {text}");
            }
        }
    }
    let rows = of(vec![("a b", double)]);
    postgres.query("CREATE TABLE mended (\"a b\" integer)");
    let world = World::new(&postgres, "table = 'mended'", &rows.rows);
    let refused = world.refusal();
    let expected = "Postgres table public.mended: values of column a b (double precision) would be rounded or cut to the table's integer";
    assert!(refused.contains(expected), "{refused}");
    let (_, alter) = refused.split_once("run: ").unwrap();
    postgres.query(alter);
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(rows)).unwrap();
    assert_eq!(postgres.query("SELECT * FROM mended"), ["1.5"]);
}
