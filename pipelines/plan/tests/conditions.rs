//! What conditions keep from being computed, and what groups make of decimals.

mod common;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use common::Run;
use common::flights::{check, pipeline, run};
use millstream_plan::sql::Stage;

/// A condition guards the one behind it for each row, however many rows come in one chunk and however few of them need it.
#[test]
fn what_stands_before_and_and_or_guards_what_stands_behind() {
    for (sql, expected) in [
        ("n <> 0 AND 10 / n >= 1", "n in 1..=10"),
        ("n = 0 OR 10 / n >= 1", "n in 0..=10"),
        ("NOT (n = 0 OR 10 / n < 1)", "n in 1..=10"),
        ("x > 0 AND n <> 0 AND 10 / n >= 1", "n in 1..=10"),
        ("(n IS NULL OR n <> 0) AND 10 / n >= 1", "n in 1..=10"),
        ("carrier <> 'x' AND CAST(carrier AS INT) >= 0", "n in 0..=99"),
        ("n <> 0 AND 10 % n >= 0 OR n = 0", "n in 0..=99"),
    ] {
        let run = Run::new(&pipeline("", &format!("SELECT n FROM flights WHERE {sql}")));
        let query = &run.plan.steps[0].query;
        let filter = query.stages.iter().find_map(|stage| match stage {
            Stage::Select(select) => select.filter.clone(),
            _ => None,
        });
        let filter = filter.unwrap();
        for (rows, zeros) in
            [(1, 1), (2, 1), (3, 2), (8, 1), (100, 1), (100, 10), (100, 99), (1000, 500), (1000, 1)]
        {
            let numbers: Vec<i64> =
                (0..rows).map(|at| if at % rows < zeros { 0 } else { at % 20 + 1 }).collect();
            let column = |name: &str| -> ArrayRef {
                let text =
                    |n: &i64| if sql.contains("CAST") && *n == 0 { "x".to_owned() } else { n.to_string() };
                match name {
                    "n" => Arc::new(Int64Array::from(numbers.clone())),
                    "x" => Arc::new(Float64Array::from(vec![1.0; numbers.len()])),
                    _ => Arc::new(numbers.iter().map(|n| Some(text(n))).collect::<StringArray>()),
                }
            };
            let columns: Vec<_> =
                query.scan.schema.fields().iter().map(|field| column(field.name())).collect();
            let batch = RecordBatch::try_new(Arc::clone(&query.scan.schema), columns).unwrap();
            let verdict =
                filter.evaluate(&batch).unwrap_or_else(|error| panic!("{sql}, {rows} rows: {error}"));
            let verdict = verdict.into_array(numbers.len()).unwrap();
            let kept: Vec<bool> = verdict.as_boolean().iter().map(|kept| kept == Some(true)).collect();
            let most = if expected.ends_with("10") { 10 } else { 99 };
            let least = i64::from(!expected.contains("0..="));
            let least = if sql.contains("CAST") { 1 } else { least };
            let wanted: Vec<bool> = numbers.iter().map(|n| (least..=most).contains(n)).collect();
            assert_eq!(kept, wanted, "{sql}, {rows} rows");
        }
    }
}

#[test]
fn conditions_keep_their_order_around_a_join_and_in_filter() {
    check(
        "SELECT f.n FROM flights f JOIN airlines a ON f.carrier = a.carrier WHERE a.size > 1 AND 10 / f.n > 1",
        &[r#"{"carrier":"AA","n":0}"#, r#"{"carrier":"UA","n":2}"#],
        &[r#"{"n":2}"#],
    );
    check(
        "SELECT carrier, sum(10 / n) FILTER (WHERE n <> 0) AS s FROM flights GROUP BY carrier",
        &[r#"{"carrier":"a","n":0}"#, r#"{"carrier":"a","n":2}"#],
        &[r#"{"carrier":"a"}"#, r#"{"carrier":"a","s":5}"#],
    );
    let mut run = run("", "SELECT n FROM flights WHERE n < 9 AND 10 / n > 1", &[]);
    let error = run.try_row("flights", r#"{"n":0}"#).unwrap_err().to_string();
    assert!(error.contains(": n < 9 AND 10 / n > 1 for the row {\"n\":0}: Divide by zero"), "{error}");
}

/// Numbers with a point are decimals, in groups too.
#[test]
fn groups_and_aggregates_of_decimals() {
    let rows = [r#"{"n":1,"x":0.5,"carrier":"a"}"#, r#"{"n":3,"x":2.5,"carrier":"a"}"#];
    let of = |call: &str| {
        let mut run = run("", &format!("SELECT carrier, {call} AS v FROM flights GROUP BY carrier"), &rows);
        let last = run.read("p.out").pop().unwrap();
        last.strip_prefix(r#"{"carrier":"a","v":"#)
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap()
            .to_owned()
    };
    for (call, expected) in [
        ("sum(n * 1.1)", "4.4"),
        ("avg(n * 1.5)", "3.00000"),
        ("max(n / 2.0)", "1.5000000000000000"),
        ("min(n + 0.25)", "1.25"),
        ("sum(x * 1.5)", "4.5"),
        ("stddev_pop(n * 1.5)", "1.5"),
        ("corr(n * 1.5, x)", "1.0"),
        ("sum(n) * 1.5", "6.0"),
        ("sum(n) / 3.0", "1.3333333333333333"),
        ("avg(x) * 1.5", "2.25"),
        ("count(*) FILTER (WHERE n > 1.5)", "1"),
        ("sum(CAST(x AS int))", "2"),
        ("bool_or(x = 2.5)", "true"),
        ("avg(n / 3.0)", "0.66666666666666665000"),
        ("sum(CAST(n * 1.5 AS numeric))", "6.0"),
        ("avg(CAST(n AS numeric))", "2.0000"),
        ("sum(n) / 3", "1.3333333333333333"),
        ("(sum(n) + 1) / count(*)", "2.5000000000000000"),
        ("-sum(n) / 8", "-0.5000000000000000"),
        ("coalesce(sum(n), 0) / 8", "0.5000000000000000"),
        ("sum(CASE WHEN n > 1 THEN 1 ELSE 0 END) / count(*)", "0"),
        ("sum(CAST(n AS int)) / 3", "1"),
        ("max(n) / 2", "1"),
        ("CAST(sum(n) AS bigint) / 3", "1"),
        ("count(*) / 3", "0"),
    ] {
        assert_eq!(of(call), expected, "{call}");
    }
    let windows = "FROM TUMBLE(flights, at, INTERVAL '1 hour') GROUP BY window_start";
    let of_windows = |select: &str, having: &str| {
        let timed = r#"{"n":1,"at":"2013-01-01T10:00:00Z"}"#;
        let late = r#"{"n":4,"at":"2013-01-01T10:10:00Z"}"#;
        let mut run = run(
            "time = { column = 'at', lateness = '0s' }",
            &format!("SELECT {select} AS v {windows} {having}"),
            &[timed, late],
        );
        run.driver.end_inputs().unwrap();
        run.read("p.out")
    };
    assert_eq!(of_windows("sum(n)", "HAVING sum(n) / 2 > 2"), [r#"{"v":5}"#]);
    assert_eq!(of_windows("max(extract(year FROM at)) / 2", ""), [r#"{"v":1006.5000000000000000}"#]);
    let grouped = |sql: &str| run("", sql, &rows).read("p.out");
    assert_eq!(
        grouped("SELECT CAST(x AS int) AS k, count(*) AS c FROM flights GROUP BY CAST(x AS int)"),
        [r#"{"k":0,"c":1}"#, r#"{"k":2,"c":1}"#]
    );
    assert_eq!(
        grouped("SELECT n / 2.0 AS k, count(*) AS c FROM flights GROUP BY n / 2.0"),
        [r#"{"k":0.5000000000000000,"c":1}"#, r#"{"k":1.5000000000000000,"c":1}"#]
    );
}
