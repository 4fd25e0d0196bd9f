//! Tables that are changed, dropped or renamed behind the sink's back.

use super::*;

fn ids(postgres: &Postgres, table: &str) -> Vec<String> {
    postgres.query(&format!("SELECT id FROM {table} ORDER BY id"))
}

#[test]
fn a_table_whose_types_change_during_a_run_is_looked_at_anew() {
    let postgres = Postgres::start();
    let at = |us: i64, offset: i64| SinkBatch {
        offsets: vec![Offset(offset)],
        ..of(vec![
            ("n", Arc::new(Int32Array::from(vec![us as i32]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![us]).with_timezone("+00:00"))),
        ])
    };
    postgres.query("CREATE TABLE swapped (n integer, at timestamptz)");
    let world = World::new(&postgres, "table = 'swapped'", &at(0, 0).rows);
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(at(0, 0))).unwrap();
    // The same four bytes are another number there.
    postgres.query("ALTER TABLE swapped ALTER n TYPE real");
    let error = block_on(task.put(at(1_000_000, 1))).unwrap_err();
    assert!(error.is_retriable() && error.to_string().contains("its columns have changed"), "{error}");
    assert!(world.refusal().contains("column n (integer) would be rounded"), "{}", world.refusal());
    postgres.query("ALTER TABLE swapped ALTER n TYPE numeric");
    let (mut task, start) = world.start().unwrap();
    assert_eq!(start, Some(1));
    block_on(task.put(at(1_000_000, 1))).unwrap();
    // Another table stands in the place of the one that was prepared for.
    postgres.query("ALTER TABLE swapped RENAME TO earlier; CREATE TABLE swapped (n numeric, at text)");
    assert!(block_on(task.put(at(2_000_000, 2))).unwrap_err().is_retriable());
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(at(2_000_000, 2))).unwrap();
    // What is no matter to COPY does not stop it.
    postgres.query("ALTER TABLE swapped ALTER n SET DEFAULT 1; CREATE INDEX ON swapped (n)");
    block_on(task.put(at(3_000_000, 3))).unwrap();
    let found = postgres.query(
        "SET timezone = 'UTC'; SELECT n, at::text FROM earlier UNION ALL SELECT n, at FROM swapped ORDER BY n",
    );
    let expected = ["0|1970-01-01 00:00:00+00", "1000000|1970-01-01 00:00:01+00"];
    assert_eq!(found[..2], expected);
    assert_eq!(found[2..], ["2000000|1970-01-01 00:00:02+00", "3000000|1970-01-01 00:00:03+00"]);
}

#[test]
fn a_table_that_is_gone_is_not_made_again_without_its_rows() {
    let postgres = Postgres::start();
    let rows = [(1, None), (2, None)];
    let mut world = World::new(&postgres, "table = 'gone'", &batch(0, &rows, false).rows);
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(0, &rows, false))).unwrap();
    postgres.query("DROP TABLE gone");
    world.committed = Some(Offset(2)); // as the worker commits what flush said
    let error = block_on(task.put(batch(2, &[(3, None)], false))).unwrap_err();
    assert!(error.is_retriable(), "the worker opens the task again, which says how to go on: {error}");
    let refused = world.refusal();
    assert!(
        refused.contains("Postgres table public.gone: it does not exist, though rows of 'test.sink'"),
        "{refused}"
    );
    assert_eq!(postgres.query("SELECT to_regclass('gone')"), ["NULL"], "it was not made");
    let (_, again) = refused.split_once("run: ").unwrap();
    postgres.query(again);
    let (mut task, start) = world.start().unwrap();
    assert_eq!(start, Some(0), "everything is written again, whatever was committed");
    block_on(task.put(batch(0, &[(1, None), (2, None), (3, None)], false))).unwrap();
    assert_eq!(ids(&postgres, "gone"), ["1", "2", "3"]);
    // Killed before the first row: it still begins at the beginning.
    postgres.query(again);
    drop(world.start().unwrap());
    assert_eq!(world.start().unwrap().1, Some(0));
}

#[test]
fn another_table_does_not_go_on_where_the_first_one_stopped() {
    let postgres = Postgres::start();
    let rows = [(1, None), (2, None)];
    let mut world = World::new(&postgres, "table = 'first'", &batch(0, &rows, false).rows);
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(0, &rows, false))).unwrap();
    world.settings = "table = 'second'".into();
    let refused = world.refusal();
    assert!(
        refused
            .contains("earlier rows of 'test.sink' were written to public.first, and would be missing here"),
        "{refused}"
    );
    assert_eq!(postgres.query("SELECT to_regclass('second')"), ["NULL"], "it was not made");
    // It is the same table, renamed.
    postgres.query("ALTER TABLE first RENAME TO second");
    let (_, renamed) = refused.rsplit_once("run: ").unwrap();
    postgres.query(renamed);
    let (mut task, start) = world.start().unwrap();
    assert_eq!(start, Some(2));
    block_on(task.put(batch(2, &[(3, None)], false))).unwrap();
    assert_eq!(ids(&postgres, "second"), ["1", "2", "3"]);
    // It is another one.
    world.settings = "table = 'third'".into();
    let refused = world.refusal();
    let (_, again) = refused.split_once("run: ").unwrap();
    postgres.query(again.split_once("; or").unwrap().0);
    assert_eq!(world.start().unwrap().1, None);
}

#[test]
fn progress_of_an_earlier_version_is_taken_over() {
    let postgres = Postgres::start();
    let rows = [(1, None), (2, None)];
    postgres.query(
        "CREATE TABLE _millstream_progress (connector text, topic text, partition integer, topic_id text NOT NULL,
         next_offset bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (connector, topic, partition))",
    );
    let mut world = World::new(&postgres, "table = 'old'", &batch(0, &rows, false).rows);
    postgres.query(&format!(
        "INSERT INTO _millstream_progress VALUES ('test.sink', 't', 0, '{}', 1), ('test.other', 't', 0, '{0}', 1)",
        world.id
    ));
    assert!(world.refusal().contains("it does not exist"), "{}", world.refusal());
    postgres.query("CREATE TABLE old (id bigint, name text)");
    let (mut task, start) = world.start().unwrap();
    assert_eq!(start, Some(1));
    block_on(task.put(batch(1, &[(2, None)], false))).unwrap();
    assert_eq!(
        postgres.query("SELECT connector, next_offset, table_name FROM _millstream_progress ORDER BY 1"),
        ["test.other|1|NULL", "test.sink|2|public.old"]
    );
    world.settings = "table = 'new'".into();
    assert!(world.refusal().contains("were written to public.old"), "{}", world.refusal());
}
