//! Rows, names and addresses that are refused.

use super::*;

#[test]
fn a_row_that_a_deferred_constraint_refuses_is_named() {
    let postgres = Postgres::start();
    postgres.query(
        "CREATE TABLE parents (id bigint PRIMARY KEY); INSERT INTO parents SELECT generate_series(0, 49);
         DELETE FROM parents WHERE id IN (13, 20);
         CREATE TABLE children (id bigint REFERENCES parents DEFERRABLE INITIALLY DEFERRED, name text)",
    );
    for (mode, name) in [("insert", "test.insert"), ("upsert", "test.upsert")] {
        let settings = format!("table = 'children'\nmode = '{mode}'\nkey = 'id'");
        let mut world = World::new(&postgres, &settings, &batch(0, &[], false).rows);
        world.input.name = name.into();
        let (mut task, _) = world.start().unwrap();
        let refused = put_skipping(&mut *task, (0..50).map(|n| (n, Some("abc"))).collect());
        let ids: Vec<_> = refused.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [13, 20], "{mode}");
        assert!(refused[0].1.contains("Key (id)=(13) is not present in table \"parents\""), "{refused:?}");
        assert_eq!(postgres.query("SELECT count(*), min(id), max(id) FROM children"), ["48|0|49"], "{mode}");
        postgres.query("TRUNCATE children; CREATE UNIQUE INDEX IF NOT EXISTS by_id ON children (id)");
    }
}

#[test]
fn a_row_that_a_trigger_or_the_key_of_the_table_refuses_is_named() {
    let postgres = Postgres::start();
    postgres.query(
        "CREATE TABLE guarded (id bigint, name text);
         CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF NEW.name = 'boom' THEN RAISE EXCEPTION 'no %', NEW.name; END IF; RETURN NEW; END $$;
         CREATE TRIGGER guard BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION guard()",
    );
    let world = World::new(&postgres, "table = 'guarded'", &batch(0, &[], false).rows);
    let (mut task, _) = world.start().unwrap();
    let refused = put_skipping(&mut *task, vec![(1, Some("a")), (2, Some("boom")), (3, Some("c"))]);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].0 == 2 && refused[0].1.contains("no boom"), "{refused:?}");
    assert_eq!(postgres.query("SELECT id FROM guarded ORDER BY id"), ["1", "3"]);
    // No partition of the table takes it.
    postgres.query(
        "CREATE TABLE parts (id bigint PRIMARY KEY, name text) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    );
    let mut world = World::new(&postgres, "table = 'parts'", &batch(0, &[], false).rows);
    world.input.name = "test.parts".into();
    let (mut task, _) = world.start().unwrap();
    let refused = put_skipping(&mut *task, vec![(1, None), (10, None), (2, None)]);
    assert_eq!(refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [10], "{refused:?}");
    assert_eq!(postgres.query("SELECT id FROM part ORDER BY id"), ["1", "2"]);
    // Two keys of the input that are one key of the table (SQLSTATE 21000): neither is refused by itself, and the later one stands.
    postgres.query("CREATE TABLE numbers (name bigint PRIMARY KEY, id bigint)");
    let settings = "table = 'numbers'\nmode = 'upsert'\nkey = 'name'";
    let mut world = World::new(&postgres, settings, &batch(0, &[], false).rows);
    world.input.name = "test.numbers".into();
    let (mut task, _) = world.start().unwrap();
    let rows = vec![(1, Some("1")), (2, Some("2")), (3, Some("01")), (4, Some("4"))];
    assert_eq!(put_skipping(&mut *task, rows), []);
    assert_eq!(postgres.query("SELECT name, id FROM numbers ORDER BY name"), ["1|3", "2|2", "4|4"]);
}

/// Counts what is sent: time would depend on the machine.
#[test]
fn refused_rows_are_found_by_halving_all_at_once() {
    const ROWS: i64 = 1024;
    let postgres = Postgres::start();
    postgres.query("CREATE SEQUENCE tried");
    // A sequence keeps what rolled back transactions took of it.
    let table = |name: &str, good: &str| {
        format!(
            "CREATE TABLE {name} (id bigint UNIQUE, name text);
             CREATE FUNCTION {name}_guard() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('tried'); IF NOT ({good}) THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER guard BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_guard()"
        )
    };
    for (name, good, mode) in [
        ("every", "false", "insert"),
        ("sparse", "NEW.id % 100 <> 7", "insert"),
        ("staged", "NEW.id % 2 = 0", "upsert"),
        ("nothing", "false", "upsert"),
    ] {
        postgres.query(&table(name, good));
        postgres.query("SELECT setval('tried', 1)");
        let settings = format!("table = '{name}'\nmode = '{mode}'\nkey = 'id'");
        let mut world = World::new(&postgres, &settings, &batch(0, &[], false).rows);
        world.input.name = format!("test.{name}");
        let (mut task, _) = world.start().unwrap();
        let refused = put_skipping(&mut *task, (0..ROWS).map(|n| (n, None)).collect());
        let sql = format!("SELECT count(*) FROM generate_series(0, {}) id WHERE NOT ({good})", ROWS - 1);
        let expected = postgres.query(&sql.replace("NEW.", ""));
        assert_eq!([refused.len().to_string()], expected[..], "{name}");
        let written = postgres.query(&format!("SELECT count(*) FROM {name}"));
        assert_eq!(written, [(ROWS as usize - refused.len()).to_string()], "{name}");
        let tried: i64 = postgres.query("SELECT last_value FROM tried").concat().parse().unwrap();
        assert!(tried <= ROWS * 12, "{name}: {tried} rows were tried for {ROWS}");
    }
}

#[test]
fn a_refused_row_leaves_the_one_before_it_of_the_same_key() {
    let postgres = Postgres::start();
    postgres.query("CREATE TABLE held (id bigint UNIQUE, name text CHECK (name <> 'bad'))");
    let settings = "table = 'held'\nmode = 'upsert'\nkey = 'id'";
    let world = World::new(&postgres, settings, &batch(0, &[], false).rows);
    let (mut task, _) = world.start().unwrap();
    let rows = [(1, "a"), (2, "bad"), (1, "b"), (1, "bad"), (2, "bad"), (3, "c"), (1, "bad")];
    let rows = rows.map(|(id, name)| (id, Some(name)));
    let ConnectError::BadRows(refused) = block_on(task.put(batch(0, &rows, false))).unwrap_err() else {
        panic!("rows are refused")
    };
    assert_eq!(refused.iter().map(|refused| refused.row).collect::<Vec<_>>(), [1, 3, 4, 6]);
    assert_eq!(postgres.query("SELECT * FROM held"), [""; 0], "they are dealt with first");
    assert_eq!(put_skipping(&mut *task, rows.to_vec()).len(), 4);
    assert_eq!(postgres.query("SELECT * FROM held ORDER BY id"), ["1|b", "3|c"]);
}

#[test]
fn names_that_postgres_or_the_sink_cannot_have_are_refused() {
    let postgres = Postgres::start();
    let rows = batch(0, &[], false).rows;
    let mut world = World::new(&postgres, "table = 'seen'", &rows);
    postgres.query("CREATE TABLE behind (id bigint, name text); CREATE VIEW seen AS SELECT * FROM behind");
    assert!(world.refusal().contains("Postgres table public.seen: it is a view"), "{}", world.refusal());
    postgres.query("CREATE MATERIALIZED VIEW kept AS SELECT * FROM behind");
    world.settings = "table = 'kept'".into();
    assert!(world.refusal().contains("it is a materialized view"), "{}", world.refusal());
    let long = "ä".repeat(32);
    world.settings = format!("table = '{long}'");
    assert!(world.refusal().contains(&format!("'{long}' has 64 bytes")), "{}", world.refusal());
    let named = |name: &str| {
        of(vec![("id", Arc::new(Int64Array::from(vec![1]))), (name, Arc::new(Int64Array::from(vec![2])))])
    };
    world.settings = "table = 'named'".into();
    world.input.schema = named(&long).rows.schema();
    assert!(world.refusal().contains(&format!("column '{long}' has 64 bytes")), "{}", world.refusal());
    world.input.schema = named(OPERATION).rows.schema();
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(named(OPERATION))).unwrap();
    assert_eq!(postgres.query("SELECT * FROM named"), ["1|2"], "COPY into the table itself has no such need");
    world.settings = "table = 'named'\nmode = 'upsert'\nkey = 'id'".into();
    assert!(world.refusal().contains("column '_millstream_op' of the input"), "{}", world.refusal());
    postgres.query("CREATE TABLE staged (id numeric, _millstream_op bigint)");
    (world.settings, world.input.name) = ("table = 'staged'".into(), "test.staged".into());
    assert!(world.refusal().contains("column _millstream_op of the input"), "{}", world.refusal());
}

#[test]
fn an_incomplete_address_is_refused_at_once() {
    let mut postgres = Postgres::start();
    postgres.query("CREATE ROLE asked LOGIN PASSWORD 'secret'");
    let file = postgres.query("SHOW hba_file").concat();
    postgres.query(&format!(
        "COPY (VALUES ('host all asked 127.0.0.1/32 scram-sha-256'), ('host all all 127.0.0.1/32 trust')) TO '{file}'"
    ));
    postgres.kill_and_restart();
    let world = World::new(&postgres, "table = 'x'", &batch(0, &[], false).rows);
    let refused = |url: &str| world.start_at(url).map(|_| ()).unwrap_err();
    let error = refused(&postgres.url().replace("postgres@", "asked@"));
    assert!(!error.is_retriable(), "{error}");
    let text = error.to_string();
    assert!(text.contains("password missing; mend the key `url`"), "{text}");
    let error = refused(&postgres.url().replace("postgres@", "asked:wrong@"));
    assert!(!error.is_retriable() && error.to_string().contains("password authentication failed"), "{error}");
    for (url, reason) in [("", "url names no host"), ("hello", "url is no address of a database")] {
        let error = refused(url);
        assert!(matches!(error, ConnectError::Config(_)) && error.to_string().contains(reason), "{error}");
    }
    // A host that does not answer may come back.
    assert!(refused("postgres://postgres@127.0.0.1:1/postgres").is_retriable());
}

#[test]
fn a_table_that_somebody_has_locked_is_not_waited_for_in_silence() {
    let postgres = Postgres::start();
    let world = World::new(&postgres, "table = 'locked'", &batch(0, &[], false).rows);
    let (mut task, _) = world.start().unwrap();
    postgres.query("ALTER ROLE postgres SET lock_timeout = '10ms'");
    let (mut hasty, _) = world.start().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connecting = async { tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await };
    let (holder, driver) = runtime.block_on(connecting).unwrap();
    runtime.spawn(driver);
    runtime.block_on(holder.batch_execute("BEGIN; LOCK TABLE locked")).unwrap();
    let error = block_on(hasty.put(batch(0, &[(1, None)], false))).unwrap_err();
    let text = error.to_string();
    assert!(
        error.is_retriable() && text.contains("lock timeout") && text.contains("pg_stat_activity"),
        "{text}"
    );
    runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
    block_on(task.put(batch(0, &[(1, None)], false))).unwrap();
}
