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
