//! A pipeline of one step over flights.

use super::Run;

/// A stream `flights` and a table `airlines`, one step `out`.
pub fn pipeline(time: &str, sql: &str) -> String {
    format!(
        r#"
version = 1
name = "p"

[source.flights]
type = "file"
include = ["flights.csv"]
columns = {{ at = "timestamp", carrier = "string", n = "int64", x = "float64", "Upper" = "string" }}

[source.airlines]
type = "file"
include = ["airlines.csv"]
columns = {{ carrier = "string", name = "string", size = "int64" }}
table = {{ key = ["carrier"] }}

[step.out]
{time}
sql = '''
{sql}'''

[sink.screen]
type = "print"
from = "out"
"#
    )
}

pub fn run(time: &str, sql: &str, rows: &[&str]) -> Run {
    let mut run = Run::new(&pipeline(time, sql));
    if sql.contains("airlines") {
        run.row("airlines", r#"{"carrier":"UA","name":"United","size":7}"#);
        run.row("airlines", r#"{"carrier":"AA","name":"American"}"#);
    }
    for row in rows {
        run.row("flights", row);
    }
    run
}

pub fn check(sql: &str, rows: &[&str], expected: &[&str]) {
    let mut run = run("", sql, rows);
    assert_eq!(run.read("p.out"), expected, "{sql}");
}
