//! Expressions and what PostgreSQL says they are: each value of the table is from PostgreSQL, for a row of these types.

mod common;

use common::Run;

/// How a value is compared.
#[derive(Clone, Copy)]
enum Kind {
    /// By its text.
    Same,
    /// To sixteen digits behind the point: PostgreSQL gives quotients more, or for long ones fewer.
    Decimal,
    /// To the last digits of a double.
    Float,
}
use Kind::{Decimal, Float, Same};

/// `p numeric(18,2) = 9007199254740993.10`, which no double is; `q numeric(10,3) = 1.005`; `n bigint = 7`; `x double precision = 2.5`;
/// `f real = 1.1`; `at timestamptz` and `d timestamp` half a second before the year 3000.
const ROW: &str = r#"{"n":7,"x":2.5,"f":1.1,"p":9007199254740993.10,"q":1.005,"s":"a","at":"2999-12-31T23:59:59.5Z","d":"2999-12-31T23:59:59.5"}"#;

const VALUES: &[(&str, &str, Kind)] = &[
    ("p = 9007199254740993.10", "true", Same),
    ("p <> 9007199254740993.11", "true", Same),
    ("p + 0.1", "9007199254740993.20", Decimal),
    ("p - 0.1", "9007199254740993.00", Decimal),
    ("p * 1.1", "9907919180215092.410", Decimal),
    ("p / 3", "3002399751580331.0333333333333333", Decimal),
    ("p / 3.0", "3002399751580331.0333333333333333", Decimal),
    ("p > 9007199254740993.0999", "true", Same),
    ("p BETWEEN 9007199254740993.095 AND 9007199254740993.105", "true", Same),
    ("p IN (1.5, 9007199254740993.10)", "true", Same),
    ("q * q", "1.010025", Decimal),
    ("q / q", "1.00000000000000000000", Decimal),
    ("q / 7", "0.14357142857142857143", Decimal),
    ("-q", "-1.005", Decimal),
    ("q % 0.5", "0.005", Decimal),
    ("n * 1.1", "7.7", Decimal),
    ("n / 2", "3", Same),
    ("n / 2.0", "3.5000000000000000", Decimal),
    ("n / 3.0", "2.3333333333333333", Decimal),
    ("2 / 3.0", "0.66666666666666666667", Decimal),
    ("1.0 / 3", "0.33333333333333333333", Decimal),
    ("1 / 3.0", "0.33333333333333333333", Decimal),
    ("-2 / 3.0", "-0.66666666666666666667", Decimal),
    ("n % 2.5", "2.0", Decimal),
    ("n + 0.5", "7.5", Decimal),
    ("n > 6.99", "true", Same),
    ("n = 7.0", "true", Same),
    ("n * 1e3", "7000", Decimal),
    ("n / 1e3", "0.00700000000000000000", Decimal),
    ("1.5e-3 * n", "0.0105", Decimal),
    ("2.5E0 + n", "9.5", Decimal),
    ("x * 1.1", "2.75", Float),
    ("x + 0.1", "2.6", Float),
    ("x = 2.5", "true", Same),
    ("x > 2.49", "true", Same),
    ("x / 2.0", "1.25", Float),
    ("x - p", "-9.007199254740992e+15", Float),
    ("x BETWEEN 2.4 AND 2.6", "true", Same),
    ("x IN (2.5, 3.5)", "true", Same),
    ("x < 1e300", "true", Same),
    ("x > 1e-300", "true", Same),
    ("f = 1.1", "false", Same),
    ("f * 1.1", "1.2100000262260437", Float),
    ("CASE WHEN n > 1 THEN x ELSE 0.0 END", "2.5", Float),
    ("coalesce(x, 0.0)", "2.5", Float),
    ("nullif(x, 2.5)", "", Same),
    ("nullif(p, 9007199254740993.10)", "", Same),
    ("CASE x WHEN 2.5 THEN 'a' ELSE 'b' END", "a", Same),
    ("CASE WHEN n > 1 THEN 1.10 ELSE 2 END", "1.10", Decimal),
    ("greatest(x, 3.75)", "3.75", Float),
    ("CAST(1.005 AS numeric(10,2))", "1.01", Decimal),
    ("CAST(q AS numeric(10,2))", "1.01", Decimal),
    ("CAST(q AS numeric(10,2)) = 1.01", "true", Same),
    ("CAST(q AS numeric(10,2)) = 1.005", "false", Same),
    ("CAST(-1.005 AS numeric(10,2))", "-1.01", Decimal),
    ("CAST(2.7 AS int)", "3", Same),
    ("CAST(2.5 AS int)", "3", Same),
    ("CAST(-2.5 AS int)", "-3", Same),
    ("CAST(x AS int)", "2", Same),
    ("CAST(x + 1 AS int)", "4", Same),
    ("CAST(-x AS bigint)", "-2", Same),
    ("CAST(x * 1.1 AS smallint)", "3", Same),
    ("CAST(q AS int)", "1", Same),
    ("CAST(p AS bigint)", "9007199254740993", Same),
    ("CAST(9.99 AS int)", "10", Same),
    ("x::int = 2", "true", Same),
    ("p / x", "3.6028797018963975e+15", Float),
    ("round(q, 2)", "1.01", Decimal),
    ("round(2.5)", "3", Decimal),
    ("round(-2.5)", "-3", Decimal),
    ("abs(-1.5)", "1.5", Decimal),
    ("floor(-1.5)", "-2", Decimal),
    ("ceil(1.2)", "2", Decimal),
    ("sqrt(2.25)", "1.500000000000000", Float),
    ("power(x, 0.5)", "1.5811388300841898", Float),
    ("ln(1.5)", "0.4054651081081644", Float),
    ("12345678901234567890123.5 + 1", "12345678901234567890124.5", Decimal),
    ("0.1 + 0.2 = 0.3", "true", Same),
    ("0.1 + 0.2", "0.3", Decimal),
    ("1.10", "1.10", Decimal),
    ("at < TIMESTAMP '9999-12-31'", "true", Same),
    ("at > TIMESTAMPTZ '2999-12-31 00:00:00+00'", "true", Same),
    ("at = TIMESTAMPTZ '2999-12-31 23:59:59.5Z'", "true", Same),
    ("date_trunc('year', at)", "2999-01-01T00:00:00Z", Same),
    ("date_trunc('month', at)", "2999-12-01T00:00:00Z", Same),
    ("date_trunc('week', at)", "2999-12-30T00:00:00Z", Same),
    ("date_trunc('quarter', at)", "2999-10-01T00:00:00Z", Same),
    ("date_trunc('hour', at)", "2999-12-31T23:00:00Z", Same),
    ("date_trunc('day', d)", "2999-12-31T00:00:00", Same),
    ("date_trunc('month', d)", "2999-12-01T00:00:00", Same),
    ("CAST('2999-01-01 10:00:00' AS TIMESTAMP)", "2999-01-01T10:00:00", Same),
    ("CAST('2999-01-01 10:00:00+02' AS TIMESTAMPTZ)", "2999-01-01T08:00:00Z", Same),
    ("CAST('0001-01-01 00:00:00' AS TIMESTAMP)", "0001-01-01T00:00:00", Same),
    ("at + INTERVAL '1 day'", "3000-01-01T23:59:59.500Z", Same),
    ("at - INTERVAL '1 month'", "2999-11-30T23:59:59.500Z", Same),
    ("extract(year FROM at)", "2999", Same),
    ("at - d < INTERVAL '1 day'", "true", Same),
    ("CAST(at AS date)", "2999-12-31", Same),
    ("CAST(DATE '2999-01-01' AS TIMESTAMP)", "2999-01-01T00:00:00", Same),
    ("at > DATE '2999-01-01'", "true", Same),
    ("CAST(q AS int) = 1", "true", Same),
    ("CAST(x AS int) = 2.5", "false", Same),
    ("CAST(q + 0.5 AS int) = 2", "true", Same),
    ("n / 2.0 = 3.5", "true", Same),
    ("date_trunc('year', at) = TIMESTAMPTZ '2999-01-01 00:00:00Z'", "true", Same),
    ("at BETWEEN DATE '2999-01-01' AND DATE '3000-01-01'", "true", Same),
    ("n IS NULL OR n > 1.5", "true", Same),
    ("trunc(1.57, 1)", "1.5", Decimal),
    ("(n * 100000000 / 2.0) * (n * 100000000 / 4.0)", "61250000000000000.0000000000000000", Decimal),
    ("(n / 2.0) / (n / 4.0)", "2.0000000000000000", Decimal),
    ("(n * 1000000 / 3.0) / (q / 7.0)", "16252072.96849087893615669579", Float),
    (
        "(n / 4.0) * (n / 4.0) * (n / 4.0) * 1.5",
        "8.0390625000000000000000000000000000000000000000000",
        Decimal,
    ),
    ("100.0 * n / 3", "233.3333333333333333", Float),
    ("round(100.0 * n / 3, 2)", "233.33", Decimal),
    ("CAST(p AS numeric(38,10)) / 8", "1125899906842624.1375000000", Decimal),
    ("CAST(100.0 * n / 3 AS numeric(10,2))", "233.33", Decimal),
    ("1.0 * n / 3 + 1.0 * n / 7", "3.33333333333333330000", Decimal),
    ("n / 0.5", "14.0000000000000000", Decimal),
    ("(x + 1.5) * (n / 4.0)", "7", Float),
    ("at - TIMESTAMPTZ '2024-01-01 00:00:00Z' > INTERVAL '30 days'", "true", Same),
    ("d - TIMESTAMP '2999-12-01 00:00:00' >= INTERVAL '1 month'", "true", Same),
    ("d - TIMESTAMP '2999-12-01 00:00:00' > INTERVAL '31 days'", "false", Same),
    ("INTERVAL '1 day' = INTERVAL '24 hours'", "true", Same),
    ("INTERVAL '1 month' = INTERVAL '30 days'", "true", Same),
    ("INTERVAL '1 year' > INTERVAL '364 days'", "false", Same),
    ("-INTERVAL '1 day' < INTERVAL '-23 hours'", "true", Same),
    ("INTERVAL '1 day' + INTERVAL '1 hour' = INTERVAL '25 hours'", "true", Same),
    ("d - TIMESTAMP '2999-12-30 00:00:00' BETWEEN INTERVAL '1 day' AND INTERVAL '2 days'", "true", Same),
    (
        "CASE WHEN d - TIMESTAMP '2999-01-01 00:00:00' > INTERVAL '300 days' THEN 'old' ELSE 'new' END",
        "old",
        Same,
    ),
    ("CASE d - TIMESTAMP '2999-12-30 23:59:59.5' WHEN INTERVAL '24 hours' THEN 'a' ELSE 'b' END", "a", Same),
    ("d - TIMESTAMP '2999-12-30 23:59:59.5' IN (INTERVAL '24 hours', INTERVAL '1 hour')", "true", Same),
    ("greatest(d - TIMESTAMP '2999-12-30 00:00:00', INTERVAL '1 day') > INTERVAL '40 hours'", "true", Same),
    ("nullif(INTERVAL '1 day', INTERVAL '24 hours') IS NULL", "true", Same),
    (
        "d + CASE WHEN n > 1 THEN INTERVAL '2 months' ELSE INTERVAL '1 day' END",
        "3000-02-28T23:59:59.500",
        Same,
    ),
    ("CAST(n * 12345678901 AS FLOAT)", "86419752307", Float),
    ("CAST(n * 12345678901 AS FLOAT) / 2", "43209876153.5", Float),
    ("n / 2::float", "3.5", Float),
    ("CAST(0.1 AS FLOAT(25)) = CAST('0.1' AS double precision)", "true", Same),
    ("CAST(0.1 AS FLOAT(24)) = CAST('0.1' AS double precision)", "false", Same),
    ("CAST(d AS date) + INTERVAL '1 hour'", "2999-12-31T01:00:00", Same),
    ("CAST(d AS date) - INTERVAL '30 minutes'", "2999-12-30T23:30:00", Same),
    ("INTERVAL '1 day 6 hours' + CAST(d AS date)", "3000-01-01T06:00:00", Same),
    ("d > CAST(d AS date) + INTERVAL '12 hours'", "true", Same),
    ("d - (CAST(d AS date) - INTERVAL '40 days') > INTERVAL '30 days'", "true", Same),
    ("CAST(d AS date) + 1", "3000-01-01", Same),
    ("CAST(d AS date) - CAST(d AS date)", "0", Same),
    ("extract(year FROM at) / 4", "749.7500000000000000", Decimal),
    ("(extract(year FROM at) + 1) / 7", "428.5714285714285714", Decimal),
    ("date_part('month', at) / 8", "1.5", Float),
    ("extract(year FROM at) % 4", "3", Decimal),
    ("CAST(extract(year FROM at) AS bigint) / 4", "749", Same),
    ("CAST(0.00000000001 AS numeric)", "0.00000000001", Decimal),
    ("CAST('0.123456789012345' AS numeric)", "0.123456789012345", Decimal),
    ("CAST('-1e3' AS numeric)", "-1000", Decimal),
    ("NUMERIC '12.50'", "12.50", Decimal),
    ("0.123456789012345::numeric = 0.123456789012345", "true", Same),
    ("CAST(123456789012345678901234567890.5 AS numeric)", "123456789012345678901234567890.5", Decimal),
    ("CAST(p AS numeric) = p", "true", Same),
    ("p > '9007199254740993.099'", "true", Same),
    ("p = '9007199254740993.101'", "false", Same),
    ("q BETWEEN '1.0049' AND '1.0051'", "true", Same),
    ("f * 2", "2.200000047683716", Float),
    ("round(f * 2.5)", "3", Float),
    ("d - CAST(d AS date) < INTERVAL '24 hours'", "true", Same),
    ("at - CAST(d AS date) > INTERVAL '23 hours'", "true", Same),
    ("CAST(p AS numeric) IN (1.5, 9007199254740993.10)", "true", Same),
    ("CAST(q AS numeric) BETWEEN 1 AND 2", "true", Same),
    ("-CAST(q AS numeric)", "-1.005", Decimal),
    ("round(CAST(q AS numeric), 2)", "1.01", Decimal),
    ("coalesce(CAST(q AS numeric), 1)", "1.005", Decimal),
    ("coalesce(CAST(q AS numeric), x)", "1.005", Float),
    ("greatest(CAST(q AS numeric), n)", "7", Decimal),
    ("CASE WHEN n > 1 THEN CAST(q AS numeric) ELSE p END", "1.005", Decimal),
    ("CAST(q AS numeric) * CAST(q AS numeric)", "1.010025", Decimal),
    ("x * CAST(q AS numeric)", "2.5125", Float),
    ("CAST(CAST(q AS numeric) AS int)", "1", Same),
    ("sqrt(CAST(2.25 AS numeric))", "1.5", Float),
    ("CAST(CAST(q AS numeric) AS text)", "1.005", Same),
    ("CAST(p AS decimal) + 0.001", "9007199254740993.101", Decimal),
    ("n::numeric / 2", "3.5000000000000000", Decimal),
    ("CAST(q / 7 AS numeric) = q / 7", "true", Same),
    ("coalesce(n, '5')", "7", Same),
    ("coalesce(q, '5.55555')", "1.005", Decimal),
    ("CASE WHEN n > 100 THEN q ELSE '5.55555' END", "5.55555", Decimal),
    ("CASE WHEN n > 100 THEN n ELSE '5' END", "5", Same),
    ("greatest(n, '9')", "9", Same),
    ("greatest(s, 'b')", "b", Same),
    ("round(x)", "2", Float),
    ("round(-x)", "-2", Float),
    ("round(x + 1)", "4", Float),
    ("-n ^ 2", "49", Float),
    ("-2 ^ 2", "4", Float),
    ("2 ^ 3 ^ 2", "64", Float),
    ("- n + 1", "-6", Same),
    ("CAST(at AS text)", "2999-12-31 23:59:59.5+00", Same),
    ("CAST(d AS varchar)", "2999-12-31 23:59:59.5", Same),
    ("s || at", "a2999-12-31 23:59:59.5+00", Same),
    ("s || x", "a2.5", Same),
    ("s || x * 4", "a10", Same),
    ("s || f", "a1.1", Same),
    ("s || q", "a1.005", Same),
    ("CAST(x * 1e100 AS text)", "2.5e+100", Same),
    ("CAST(x / 1e5 AS text)", "2.5e-05", Same),
    ("concat(s, x * 2, n > 1, q, d)", "a5t1.0052999-12-31 23:59:59.5", Same),
    ("CAST('2024-01-02T03:04:05+02:00' AS timestamp)", "2024-01-02T03:04:05", Same),
    ("CAST('2024-01-02 03:04' AS timestamp)", "2024-01-02T03:04:00", Same),
    ("CAST('2024-01-02T03:04:05+02:00' AS timestamptz)", "2024-01-02T01:04:05Z", Same),
    ("TIMESTAMP '2024-01-02 03:04:05Z'", "2024-01-02T03:04:05", Same),
    ("CAST(s || '' AS text) = 'a'", "true", Same),
];

fn value(expression: &str) -> Result<Option<String>, String> {
    let text = format!(
        r#"
version = 1
name = "p"

[source.t]
type = "file"
include = ["t.csv"]
columns = {{ n = "int64", x = "float64", f = "float32", p = "decimal(18,2)", q = "decimal(10,3)", s = "string", at = "timestamp", d = "datetime" }}

[step.out]
sql = '''SELECT {expression} AS v FROM t'''

[sink.screen]
type = "print"
from = "out"
"#
    );
    common::plan(&text).map_err(|refused| refused.to_string())?;
    let mut run = Run::new(&text);
    run.try_row("t", ROW).map_err(|failed| failed.to_string())?;
    let row = run.read("p.out").pop().unwrap();
    let value = row.strip_prefix("{\"v\":").and_then(|rest| rest.strip_suffix('}'));
    Ok(value.map(|value| value.trim_matches('"').to_owned()))
}

/// A decimal with at most sixteen digits behind its point, rounded away from zero, without zeros at the end.
fn rounded(text: &str) -> (i128, usize) {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = &part[..part.len().min(17)];
    let mut digits: i128 = format!("{whole}{part}").parse().unwrap();
    let mut scale = part.len();
    while scale > 16 {
        let half = 5 * digits.signum();
        (digits, scale) = ((digits + if scale == 17 { half } else { 0 }) / 10, scale - 1);
    }
    while scale > 0 && digits % 10 == 0 {
        (digits, scale) = (digits / 10, scale - 1);
    }
    (digits, scale)
}

fn is_equal(found: &str, expected: &str, kind: Kind) -> bool {
    match kind {
        Same => found == expected,
        Decimal => rounded(found) == rounded(expected),
        Float => {
            let (found, expected): (f64, f64) = (found.parse().unwrap(), expected.parse().unwrap());
            (found - expected).abs() <= expected.abs() * 1e-15
        }
    }
}

/// The expression is refused with exactly this; `SELECT ` is at columns 11 to 17 of line 11.
fn refused(expression: &str, expected: &str) {
    assert_eq!(value(expression).unwrap_err(), expected, "{expression}");
}

#[test]
fn what_would_mean_something_else_is_refused() {
    refused(
        "s SIMILAR TO 'a|b'",
        "p.toml:11:17: SIMILAR TO cannot be used in a step\n  help: write LIKE, or a regular expression for all of the text: x ~ '^(...)$'",
    );
    for name in ["VARCHAR(3)", "CHAR(3)", "CHAR", "CHARACTER VARYING(3)"] {
        let help = "cast to VARCHAR, and cut with left(x, n) where it may be longer";
        let expected = format!("p.toml:11:22: a cast to {name} cannot be used in a step\n  help: {help}");
        refused(&format!("CAST(s AS {name})"), &expected);
    }
    refused(
        "to_char(at, 'YYYY-MM-DD')",
        "p.toml:11:29: 'YYYY-MM-DD' has no % and would be given back as it is\n  help: formats are those of strftime here, such as '%Y-%m-%d %H:%M:%S'",
    );
    refused(
        "CAST(d AS TIMESTAMP(0))",
        "p.toml:11:22: a cast to TIMESTAMP(0) cannot be used in a step\n  help: it would round: cast to TIMESTAMP, and cut with date_trunc('second', x)",
    );
    refused(
        "CAST(n AS FLOAT(54))",
        "p.toml:11:22: a cast to FLOAT(54) cannot be used in a step\n  help: a FLOAT has 1 to 53 bits; DOUBLE PRECISION has them all",
    );
    refused(
        "0x10",
        "p.toml:11:17: a hexadecimal literal cannot be used in a step\n  help: write a number with decimal digits, and bytes as decode('00ff', 'hex')",
    );
    for (expression, at, message) in [
        ("x::numeric", "17", "how many digits of float64 NUMERIC keeps has to be said"),
        ("CAST(s AS decimal)", "22", "how many digits of string NUMERIC keeps has to be said"),
        ("CAST('abc' AS numeric)", "22", "this text is no number of at most 38 digits"),
    ] {
        let help = "write them, as in NUMERIC(38, 10): 38 digits, 10 of them behind the point";
        refused(expression, &format!("p.toml:11:{at}: {message}\n  help: {help}"));
    }
    refused(
        "at - d > CASE WHEN n > 1 THEN INTERVAL '1 day' ELSE INTERVAL '1 month' END",
        "p.toml:11:36: an interval that is no constant cannot be compared\n  help: compare with a constant, as INTERVAL '30 days', or compare timestamps: a > b + INTERVAL '1 month'",
    );
    refused(
        "date_trunc('bogus', at)",
        "p.toml:11:28: date_trunc does not know the unit 'bogus'\n  help: units are microsecond, millisecond, second, minute, hour, day, week, month, quarter, year",
    );
}

#[test]
fn text_is_no_number() {
    let said = |at: &str, kinds: &str| {
        let help = "CAST one side to the type of the other; TRY_CAST gives null where that fails";
        format!("p.toml:11:{at}: {kinds} cannot be compared or computed with\n  help: {help}")
    };
    let mixed = "string and int64";
    refused("n > 1 AND s = 7", &said("27", mixed));
    refused("s IN ('a', 7)", &said("17", mixed));
    refused("n BETWEEN s AND 9", &said("17", "int64 and string"));
    refused("CASE s WHEN 7 THEN 1 END", &said("22", mixed));
    refused("upper(s) > 1.5", &said("23", "string and decimal(2,1)"));
    for choice in ["coalesce(n, s)", "nullif(n, s)", "greatest(n, s)", "least(n, 1, s)"] {
        let at = if choice.starts_with("co") || choice.starts_with("gr") { "26" } else { "24" };
        let at = if choice.starts_with("le") { "23" } else { at };
        refused(choice, &said(at, "int64 and string"));
    }
    refused("CASE WHEN n > 1 THEN n ELSE s END", &said("38", "int64 and string"));
    refused("CAST(d AS date) = 5", &said("22", "date and int64"));
    refused("s = at", &said("17", "string and timestamp"));
    refused("n BETWEEN d AND d", &said("17", "int64 and datetime"));
    refused(
        "CASE WHEN n > 1 THEN 'a' ELSE 1 END",
        "p.toml:11:17: Cast error: Cannot cast string 'a' to value of Int64 type",
    );
    refused(
        "CASE WHEN n THEN 1 END",
        "p.toml:11:27: a condition of CASE is a boolean, and this one is of type int64\n  help: compare it with a value, as in x <> 0",
    );
    assert_eq!(value("n > '6' AND s = 'a' AND n = CAST('7' AS BIGINT)").unwrap().unwrap(), "true");
}

/// PostgreSQL has no value for these either.
#[test]
fn floats_stay_finite() {
    for expression in [
        "x * 1e308",
        "x / (x - 2.5)",
        "(x - 2.5) / (x - 2.5)",
        "ln(x - 2.5)",
        "ln(-x)",
        "ln(0)",
        "exp(1000)",
        "exp(x * 1000)",
        "power(-x, 0.5)",
        "asin(x)",
        "CAST(x * 1e100 AS real)",
        "f * CAST(1e38 AS real) * 10::real",
        "CAST(1e100 AS real)",
        "CAST(1 AS float) / 0",
    ] {
        let failed = value(expression).unwrap_err();
        assert!(
            failed.contains("no finite number") || failed.contains("division by zero"),
            "{expression}: {failed}"
        );
    }
    for (expression, expected) in [
        ("CAST('Infinity' AS double precision) * x", "Infinity"),
        ("x - CAST('Infinity' AS double precision)", "-Infinity"),
        ("CAST('NaN' AS double precision) + x", "NaN"),
        ("exp(CAST('-Infinity' AS double precision))", "0.0"),
        ("x / CAST('Infinity' AS double precision)", "0.0"),
        ("CASE WHEN x > 2.5 THEN x / (x - 2.5) ELSE 0 END", "0.0"),
        ("x <> 2.5 AND 1 / (x - 2.5) > 1", "false"),
    ] {
        assert_eq!(value(expression).unwrap().as_deref(), Some(expected), "{expression}");
    }
}

#[test]
fn values_are_those_of_postgres() {
    let mut wrong = Vec::new();
    for (expression, expected, kind) in VALUES {
        match value(expression) {
            Ok(None) if expected.is_empty() => {}
            Ok(Some(found)) if is_equal(&found, expected, *kind) => {}
            other => wrong.push(format!("{expression}: {other:?}, and PostgreSQL has {expected}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
