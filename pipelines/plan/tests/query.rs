//! What steps make of rows: each case is SQL, rows in, rows out.

mod common;

use bytes::Bytes;
use common::Run;
use common::flights::{check, run};

#[test]
fn select_filters_and_computes() {
    check(
        "SELECT upper(carrier) AS c, n + 1 AS m FROM flights",
        &[r#"{"carrier":"ua","n":1}"#],
        &[r#"{"c":"UA","m":2}"#],
    );
    check("SELECT n FROM flights WHERE n > 1", &[r#"{"n":1}"#, r#"{"n":2}"#, "{}"], &[r#"{"n":2}"#]);
    check(
        "SELECT n FROM flights WHERE n IS NULL OR carrier IN ('a', 'b')",
        &[r#"{"n":1}"#, "{}", r#"{"n":3,"carrier":"b"}"#],
        &["{}", r#"{"n":3}"#],
    );
    check(
        "SELECT CASE WHEN n > 1 THEN 'many' ELSE 'one' END AS k, \"Upper\" FROM flights AS f WHERE f.n < 9",
        &[r#"{"n":2,"Upper":"u"}"#],
        &[r#"{"k":"many","Upper":"u"}"#],
    );
    check(
        "SELECT date_trunc('hour', at) AS h, CAST(n AS VARCHAR) AS t FROM flights",
        &[r#"{"at":"2013-01-01T10:20:30Z","n":5}"#],
        &[r#"{"h":"2013-01-01T10:00:00Z","t":"5"}"#],
    );
    check(
        "SELECT extract(year FROM at) AS y, coalesce(n, 0) AS n FROM flights",
        &[r#"{"at":"2013-01-01T10:20:30Z"}"#],
        &[r#"{"y":2013,"n":0}"#],
    );
    check(
        "SELECT * FROM flights",
        &[r#"{"at":"2013-01-01T10:00:00Z","carrier":"ua","n":1,"x":0.5,"Upper":"U"}"#],
        &[r#"{"at":"2013-01-01T10:00:00Z","carrier":"ua","n":1,"x":0.5,"Upper":"U"}"#],
    );
}

#[test]
fn joins_find_the_row_of_the_table() {
    let rows =
        [r#"{"carrier":"UA","n":1}"#, r#"{"carrier":"ZZ","n":2}"#, r#"{"n":3}"#, r#"{"carrier":"AA","n":4}"#];
    check(
        "SELECT f.n, a.name FROM flights f JOIN airlines a ON f.carrier = a.carrier",
        &rows,
        &[r#"{"n":1,"name":"United"}"#, r#"{"n":4,"name":"American"}"#],
    );
    check(
        "SELECT f.n, a.name, a.size FROM flights f LEFT JOIN airlines a ON a.carrier = f.carrier",
        &rows,
        &[r#"{"n":1,"name":"United","size":7}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4,"name":"American"}"#],
    );
    check(
        "SELECT n, name, carrier FROM flights JOIN airlines USING (carrier) WHERE n > 1 AND name <> 'x' AND n + size IS NULL",
        &rows,
        &[r#"{"n":4,"name":"American","carrier":"AA"}"#],
    );
}

#[test]
fn the_newest_row_of_a_table_is_joined_and_a_deleted_one_is_not() {
    let mut run =
        run("", "SELECT n, name FROM flights JOIN airlines USING (carrier)", &[r#"{"carrier":"UA","n":1}"#]);
    run.row("airlines", r#"{"carrier":"UA","name":"United Airlines"}"#);
    run.row("flights", r#"{"carrier":"UA","n":2}"#);
    run.delete("airlines", "UA");
    run.row("flights", r#"{"carrier":"UA","n":3}"#);
    assert_eq!(run.read("p.out"), [r#"{"n":1,"name":"United"}"#, r#"{"n":2,"name":"United Airlines"}"#]);
}

const PER_HOUR: &str = "SELECT carrier, window_start, count(*) AS rows, count(n) AS ns, sum(n) AS total, avg(n) AS mean, max(n) AS most
FROM TUMBLE(flights, at, INTERVAL '1 hour') GROUP BY carrier, window_start";

/// GROUP BY may name an item of SELECT, by its place or its name.
#[test]
fn windows_are_grouped_by_what_select_calls_their_bounds() {
    let rows = [
        r#"{"carrier":"UA","n":1,"at":"2013-01-01T10:10:00Z"}"#,
        r#"{"carrier":"UA","n":4,"at":"2013-01-01T10:50:00Z"}"#,
    ];
    for group in ["1, 2", "w, carrier", "w, 2", "window_start, 2"] {
        let sql = format!(
            "SELECT window_start AS w, carrier, count(*) AS c FROM TUMBLE(flights, at, INTERVAL '1 hour') GROUP BY {group}"
        );
        let mut run = run("time = { column = 'at', lateness = '0s' }", &sql, &rows);
        run.driver.end_inputs().unwrap();
        assert_eq!(run.read("p.out"), [r#"{"w":"2013-01-01T10:00:00Z","carrier":"UA","c":2}"#], "{group}");
    }
}

/// A table may have columns that are called as a window's bounds are.
#[test]
fn columns_of_a_table_are_no_bounds_of_windows() {
    let text = |sql: &str| {
        format!(
            "version = 1\nname = \"p\"\n[source.ev]\ntype = \"topic\"\ntopic = \"ev\"\ncolumns = {{ k = \"string\", at = \"timestamp\" }}\n[source.plans]\ntype = \"topic\"\ntopic = \"plans\"\ncolumns = {{ k = \"string\", window_start = \"timestamp\" }}\ntable = {{ key = [\"k\"] }}\n[step.out]\ntime = {{ column = \"at\", lateness = \"0s\" }}\nsql = '''{sql}'''\n[sink.screen]\ntype = \"print\"\nfrom = \"out\"\n"
        )
    };
    let joined = "FROM TUMBLE(ev, at, INTERVAL '1 hour') AS e JOIN plans ON e.k = plans.k";
    let sql = format!(
        "SELECT e.window_start AS w, plans.window_start AS p, min(plans.window_start) AS m, count(*) AS c {joined} GROUP BY e.window_start, plans.window_start"
    );
    let mut run = Run::new(&text(&sql));
    run.row("plans", r#"{"k":"a","window_start":"2000-01-01T00:00:00Z"}"#);
    run.row("ev", r#"{"k":"a","at":"2013-01-01T10:10:00Z"}"#);
    run.row("ev", r#"{"k":"a","at":"2013-01-01T12:10:00Z"}"#);
    run.row("ev", r#"{"k":"a","at":"2013-01-01T10:20:00Z"}"#);
    assert_eq!(
        run.read("p.out"),
        [r#"{"w":"2013-01-01T10:00:00Z","p":"2000-01-01T00:00:00Z","m":"2000-01-01T00:00:00Z","c":1}"#]
    );
    assert_eq!(run.read("p.out.late"), [r#"{"window_start":"2000-01-01T00:00:00Z"}"#]);
    for (group, expected) in [
        (
            "plans.window_start",
            "windows are for grouping: GROUP BY names neither window_start nor window_end",
        ),
        ("window_start", "'window_start' is a column of more than one relation"),
    ] {
        let refused =
            common::plan(&text(&format!("SELECT count(*) AS c {joined} GROUP BY {group}"))).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

#[test]
fn a_window_gives_one_row_when_it_closes() {
    let time = "time = { column = 'at', lateness = '30m' }";
    let mut run = run(
        time,
        PER_HOUR,
        &[
            r#"{"carrier":"UA","n":1,"at":"2013-01-01T10:10:00Z"}"#,
            r#"{"carrier":"UA","n":4,"at":"2013-01-01T10:50:00Z"}"#,
            r#"{"n":7,"at":"2013-01-01T10:55:00Z"}"#,
            r#"{"carrier":"UA","at":"2013-01-01T11:20:00Z"}"#,
        ],
    );
    assert_eq!(run.read("p.out"), Vec::<String>::new());
    run.row("flights", r#"{"carrier":"UA","n":5,"at":"2013-01-01T10:00:00Z"}"#);
    run.row("flights", r#"{"carrier":"UA","n":9,"at":"2013-01-01T11:30:00Z"}"#);
    assert_eq!(
        run.read("p.out"),
        [
            r#"{"window_start":"2013-01-01T10:00:00Z","rows":1,"ns":1,"total":7,"mean":7.0,"most":7}"#,
            r#"{"carrier":"UA","window_start":"2013-01-01T10:00:00Z","rows":3,"ns":3,"total":10,"mean":3.3333333333333335,"most":5}"#,
        ]
    );
    run.row("flights", r#"{"carrier":"UA","n":5,"at":"2013-01-01T10:59:00Z"}"#);
    assert_eq!(run.read("p.out.late"), [r#"{"carrier":"UA","n":5}"#]); // its time is the record's
    assert_eq!(run.driver.counters("out.group").late, 1);
    run.driver.end_inputs().unwrap();
    assert_eq!(
        run.read("p.out"),
        [
            r#"{"carrier":"UA","window_start":"2013-01-01T11:00:00Z","rows":2,"ns":1,"total":9,"mean":9.0,"most":9}"#,
        ]
    );
}

#[test]
fn a_row_without_time_is_in_no_window() {
    let mut run = run("time = { column = 'at' }", PER_HOUR, &[r#"{"carrier":"UA","n":1}"#]);
    run.driver.end_inputs().unwrap();
    assert_eq!(run.read("p.out"), Vec::<String>::new());
    assert_eq!(run.driver.counters("out.select").dropped, 1);
}

#[test]
fn hopping_windows_overlap() {
    let sql = "SELECT window_start, window_end, count(*) AS n FROM HOP(flights, at, INTERVAL '30 minutes', INTERVAL '1 hour')
GROUP BY window_start, window_end HAVING count(*) > 1";
    let mut run = run(
        "time = { column = 'at' }",
        sql,
        &[r#"{"at":"2013-01-01T10:10:00Z"}"#, r#"{"at":"2013-01-01T10:40:00Z"}"#],
    );
    run.driver.end_inputs().unwrap();
    assert_eq!(
        run.read("p.out"),
        [r#"{"window_start":"2013-01-01T10:00:00Z","window_end":"2013-01-01T11:00:00Z","n":2}"#,]
    );
}

#[test]
fn a_group_without_a_window_gives_changes_by_its_key() {
    let mut run = run(
        "",
        "SELECT carrier, count(*) AS n FROM flights GROUP BY carrier",
        &[r#"{"carrier":"UA"}"#, r#"{"carrier":"UA"}"#, r#"{"carrier":"AA"}"#],
    );
    let table = run.plan.relation("out").unwrap();
    assert!(table.changelog);
    assert_eq!(table.key, ["carrier"]);
    assert_eq!(
        run.read("p.out"),
        [r#"{"carrier":"UA","n":1}"#, r#"{"carrier":"UA","n":2}"#, r#"{"carrier":"AA","n":1}"#]
    );
}

#[test]
fn state_survives_a_crash() {
    let rows = [
        r#"{"carrier":"UA","n":1,"at":"2013-01-01T10:10:00Z"}"#,
        r#"{"carrier":"UA","n":4,"at":"2013-01-01T10:50:00Z"}"#,
    ];
    let mut run = run("time = { column = 'at' }", PER_HOUR, &rows[..1]);
    run.driver.commit().unwrap();
    run.driver.crash().unwrap();
    run.row("flights", rows[1]);
    run.driver.end_inputs().unwrap();
    assert_eq!(
        run.read("p.out"),
        [
            r#"{"carrier":"UA","window_start":"2013-01-01T10:00:00Z","rows":2,"ns":2,"total":5,"mean":2.5,"most":4}"#,
        ]
    );
}

/// Each aggregate over rows folded one by one (each time saved and loaded) equals the known result.
#[test]
fn every_aggregate_resumes_from_its_saved_state() {
    for (call, expected) in [
        ("count(*)", "4"),
        ("count(n)", "3"),
        ("sum(n)", "9"),
        ("avg(x)", "2.0"),
        ("min(carrier)", "\"a\""),
        ("max(at)", "\"2013-01-01T10:00:03Z\""),
        ("var(x)", "2.5"),
        ("var_pop(x)", "1.875"),
        ("stddev(n)", "2.0"),
        ("stddev_pop(x)", "1.3693063937629153"),
        ("covar_samp(n, x)", "3.0"),
        ("covar_pop(n, x)", "2.0"),
        ("corr(n, x)", "1.0"),
        ("regr_slope(x, n)", "0.75"),
        ("regr_intercept(x, n)", "0.25"),
        ("regr_count(x, n)", "3"),
        ("regr_r2(x, n)", "1.0"),
        ("regr_avgx(x, n)", "3.0"),
        ("regr_avgy(x, n)", "2.5"),
        ("regr_sxx(x, n)", "8.0"),
        ("regr_syy(x, n)", "4.5"),
        ("regr_sxy(x, n)", "6.0"),
        ("bit_and(n)", "1"),
        ("bit_or(n)", "7"),
        ("bit_xor(n)", "7"),
        ("bool_and(n > 1)", "false"),
        ("bool_or(n > 1)", "true"),
        ("approx_distinct(carrier)", "3"),
        ("count(*) FILTER (WHERE n > 1)", "2"),
        ("sum(n) FILTER (WHERE carrier = 'a')", "4"),
    ] {
        let sql =
            format!("SELECT {call} AS v FROM TUMBLE(flights, at, INTERVAL '1 hour') GROUP BY window_start");
        let mut run = run(
            "time = { column = 'at' }",
            &sql,
            &[
                r#"{"carrier":"a","n":1,"x":1.0,"at":"2013-01-01T10:00:00Z"}"#,
                r#"{"carrier":"a","n":3,"x":2.5,"at":"2013-01-01T10:00:01Z"}"#,
                r#"{"carrier":"b","n":5,"x":4.0,"at":"2013-01-01T10:00:02Z"}"#,
                r#"{"carrier":"c","x":0.5,"at":"2013-01-01T10:00:03Z"}"#,
            ],
        );
        run.driver.end_inputs().unwrap();
        assert_eq!(run.read("p.out"), [format!("{{\"v\":{expected}}}")], "{call}");
    }
}

#[test]
fn what_cannot_be_computed_says_for_which_row_and_how_to_mend_it() {
    let most = i64::MAX;
    let grouped = "FROM TUMBLE(flights, at, INTERVAL '1 hour') GROUP BY window_start";
    for (sql, row, expected) in [
        (
            "SELECT n + 1 AS m FROM flights".to_owned(),
            format!("{{\"n\":{most}}}"),
            format!(
                "in step \"out.select\": n + 1 for the row {{\"n\":{most}}}: Arithmetic overflow: Overflow happened on: {most} + 1; cast to a wider type before, as CAST(... AS DECIMAL(38, 0)) does"
            ),
        ),
        (
            "SELECT carrier FROM flights WHERE n * 2 > 1".to_owned(),
            format!("{{\"n\":{most}}}"),
            format!(
                "in step \"out.select\": n * 2 > 1 for the row {{\"n\":{most}}}: Arithmetic overflow: Overflow happened on: {most} * 2; cast to a wider type before, as CAST(... AS DECIMAL(38, 0)) does"
            ),
        ),
        (
            "SELECT -n AS m FROM flights".to_owned(),
            format!("{{\"n\":{}}}", i64::MIN),
            format!(
                "in step \"out.select\": 0 - n for the row {{\"n\":{0}}}: Arithmetic overflow: Overflow happened on: 0 - {0}; cast to a wider type before, as CAST(... AS DECIMAL(38, 0)) does",
                i64::MIN
            ),
        ),
        (
            "SELECT 10 / n AS m FROM flights".to_owned(),
            r#"{"n":0,"carrier":"a"}"#.to_owned(),
            "in step \"out.select\": 10 / n for the row {\"n\":0}: Divide by zero error; divide by NULLIF(..., 0), which gives null then".to_owned(),
        ),
        (
            "SELECT CAST(carrier AS INT) AS m FROM flights".to_owned(),
            r#"{"carrier":"one"}"#.to_owned(),
            "in step \"out.select\": CAST(carrier AS Int32) for the row {\"carrier\":\"one\"}: Cannot cast string 'one' to value of Int32 type; use TRY_CAST, which gives null then".to_owned(),
        ),
        (
            format!("SELECT sum(n) AS s {grouped}"),
            format!("{{\"n\":{most},\"at\":\"2013-01-01T10:00:00Z\"}}"),
            String::new(),
        ),
    ] {
        let time = if sql.contains("TUMBLE") { "time = { column = 'at' }" } else { "" };
        let mut run = run(time, &sql, &[]);
        let mut failed = run.try_row("flights", &row);
        if expected.is_empty() {
            failed.unwrap();
            failed = run.try_row("flights", r#"{"n":5,"at":"2013-01-01T10:00:00Z"}"#);
        }
        let found = failed.map_or_else(|error| error.to_string(), |()| format!("{:?}", run.read("p.out")));
        match expected.is_empty() {
            false => assert_eq!(found, expected, "{sql}"),
            true => assert_eq!(
                found,
                format!(
                    "in step \"out.group\": sum(n): Arithmetic overflow: Overflow happened on: {most} + 5; cast to a wider type before, as CAST(... AS DECIMAL(38, 0)) does"
                )
            ),
        }
    }
}

#[test]
fn arithmetic_keeps_its_types() {
    check(
        "SELECT -n AS n, -x AS x, -CAST(n AS DECIMAL(10, 2)) AS d, -CAST(n AS SMALLINT) AS s, CAST(n AS DECIMAL(4, 1)) - 1 AS e FROM flights",
        &[r#"{"n":5,"x":2.5}"#],
        &[r#"{"n":-5,"x":-2.5,"d":-5.00,"s":-5,"e":4.0}"#],
    );
}

#[test]
fn guarded_arithmetic_is_not_an_error() {
    check(
        "SELECT CASE WHEN n < 9 THEN n + 1 END AS m, 6 / nullif(n, 0) AS q FROM flights",
        &[&format!("{{\"n\":{}}}", i64::MAX), r#"{"n":0}"#, r#"{"n":2}"#],
        &[r#"{"q":0}"#, r#"{"m":1}"#, r#"{"m":3,"q":3}"#],
    );
    check(
        "SELECT substr(carrier, 2) AS a, substring(carrier FROM 2 FOR 1) AS b FROM flights",
        &[r#"{"carrier":"abc"}"#],
        &[r#"{"a":"bc","b":"b"}"#],
    );
}

/// What is kept with state must not change by an upgrade of DataFusion: it would refuse the state of every older pipeline.
#[test]
fn states_say_what_they_are_of() {
    let said = |time: &str, sql: &str, store: &str| {
        let mut run = run(time, sql, &[r#"{"carrier":"UA","n":1,"at":"2013-01-01T10:00:00Z"}"#]);
        run.driver.commit().unwrap();
        let layout = run.driver.store(store).unwrap().get(&[0xff, b'l']).unwrap();
        String::from_utf8(layout.unwrap_or_default().to_vec()).unwrap()
    };
    let time = "time = { column = 'at' }";
    assert_eq!(
        said(
            time,
            "SELECT window_end, x + 1 AS g, upper(carrier) AS u, sum(n * 2) AS s, avg(x) AS a, count(*) FILTER (WHERE n > 1 AND carrier LIKE 'a%') AS c FROM HOP(flights, at, INTERVAL '10 minutes', INTERVAL '1 hour') GROUP BY window_end, upper(carrier), x + 1",
            "out"
        ),
        "[sum(n * 2): Int64, avg(x): UInt64: Float64, count(1) FILTER (WHERE n > 1 AND carrier LIKE a%): Int64] grouped by [window_end, upper(carrier): Utf8, x + 1: Float64] in windows of 3600000 ms every 600000 ms"
    );
    let grouped = "SELECT carrier, max(at) AS m FROM flights GROUP BY carrier";
    assert_eq!(said("", grouped, "out"), "[max(at): Timestamp(µs, \"+00:00\")] grouped by [carrier: Utf8]");
    let joined = "SELECT n, name FROM flights f JOIN airlines a ON f.carrier = a.carrier";
    assert_eq!(
        said("", joined, "airlines-table"),
        "a table [carrier: Utf8, name: Utf8, size: Int64] by [carrier]"
    );
}

/// A topic that others write, with one record that is no row between others.
#[test]
fn records_that_are_no_rows_go_where_the_source_says() {
    let text = |on_error: &str| {
        format!(
            "version = 1\nname = \"p\"\n[source.ev]\ntype = \"topic\"\ntopic = \"ev\"\ncolumns = {{ n = \"int64\" }}\n{on_error}\n[step.out]\nsql = 'SELECT n FROM ev'\n[sink.screen]\ntype = \"print\"\nfrom = \"out\"\n"
        )
    };
    let keeper = "[sink.bad]\ntype = \"file\"\npath = \"bad\"\n";
    let rows = [r#"{"n":1}"#, "bad", "{\"n\":\"x\"}", r#"{"n":2}"#, "worse"];
    for (on_error, kept) in [("on_error = \"dlq:bad\"", true), ("on_error = \"skip\"", false)] {
        let mut run = Run::new(&(text(on_error) + if kept { keeper } else { "" }));
        rows.iter().for_each(|row| run.row("ev", row));
        run.driver.end_inputs().unwrap();
        assert_eq!(run.read("p.out"), [r#"{"n":1}"#, r#"{"n":2}"#]);
        assert_eq!(run.driver.counters("ev").bad, 3);
        if kept {
            let bad = run.read("p.ev.bad");
            assert_eq!(bad.len(), 3, "{bad:?}");
            for (letter, raw) in bad.iter().zip(["\"bad\"", "\"{\\\"n\\\":\\\"x\\\"}\"", "\"worse\""]) {
                let (begin, end) = (
                    "{\"connector\":\"ev\",\"origin\":\"ev-0\",\"line\":",
                    "\"at\":\"1970-01-01T00:00:00Z\"}",
                );
                assert!(letter.starts_with(begin) && letter.ends_with(end), "{letter}");
                assert!(letter.contains(&format!("\"raw\":{raw}")), "{letter}");
            }
        }
    }
    let mut run = Run::new(&text(""));
    run.row("ev", rows[0]);
    let error = run.try_row("ev", rows[1]).unwrap_err().to_string();
    assert!(
        error.starts_with("ev-0 offset 1: ") && error.ends_with("to [source.ev] to go on without it"),
        "{error}"
    );
}

/// Others write keys as text or JSON, and a record without a value deletes by its key.
#[test]
fn tombstones_of_any_client_delete() {
    let text = "version = 1\nname = \"p\"\n[source.ev]\ntype = \"topic\"\ntopic = \"ev\"\ncolumns = { k = \"string\", n = \"int64\" }\n[source.names]\ntype = \"topic\"\ntopic = \"names\"\ncolumns = { k = \"string\", name = \"string\" }\ntable = { key = [\"k\"] }\non_error = \"skip\"\n[source.ids]\ntype = \"topic\"\ntopic = \"ids\"\ncolumns = { n = \"int64\", k = \"string\", id = \"string\" }\ntable = { key = [\"n\", \"k\"] }\n[step.out]\nsql = 'SELECT ev.n, name, id FROM ev LEFT JOIN names ON ev.k = names.k LEFT JOIN ids ON ev.n = ids.n AND ev.k = ids.k'\n[sink.screen]\ntype = \"print\"\nfrom = \"out\"\n";
    for (key, gone) in
        [(&b"a"[..], true), (b"\"a\"", true), (b"{\"k\":\"a\"}", true), (b"b", false), (b"\xff", false)]
    {
        let mut run = Run::new(text);
        run.row("names", r#"{"k":"a","name":"Ann"}"#);
        run.driver.pipe_record("names", Some(Bytes::from_static(key)), None, 0, Vec::new()).unwrap();
        run.row("ids", r#"{"k":"a","n":1,"id":"one"}"#);
        run.row("ids", r#"{"k":"a","n":2,"id":"two"}"#);
        let both = Bytes::from_static(b"{\"k\":\"a\",\"n\":2}");
        run.driver.pipe_record("ids", Some(both), None, 0, Vec::new()).unwrap();
        run.row("ev", r#"{"k":"a","n":1}"#);
        run.row("ev", r#"{"k":"a","n":2}"#);
        let name = if gone { "" } else { r#","name":"Ann""# };
        let expected = [format!("{{\"n\":1{name},\"id\":\"one\"}}"), format!("{{\"n\":2{name}}}")];
        assert_eq!(run.read("p.out"), expected, "{key:?}");
        assert_eq!(run.driver.counters("names").bad, u64::from(key == b"\xff"), "{key:?}");
        let refused = run.driver.pipe_record("ids", Some(Bytes::from_static(b"a")), None, 0, Vec::new());
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("ids-0 offset 3: ") && error.contains("JSON with n, k"), "{error}");
    }
    // A stream's record without a value is no row.
    let mut run = Run::new(text);
    let error = run.driver.pipe_record("ev", None, None, 0, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("ev-0 offset 0: the record has no value"), "{error}");
}
