//! Rows whose time is far from the clock's.

use crate::support::{Folder, lines_of};

const PIPELINE: &str = r#"
version = 1
name = "times"

[source.ev]
type = "file"
include = ["ev.csv"]
format = "csv"
read = "once"
columns = { at = "timestamp", n = "int64" }
time = { column = "at", lateness = "1h" }

[step.kept]
sql = "SELECT at, n FROM ev WHERE n > 0"

[step.hourly]
sql = "SELECT window_start, n, count(*) AS c FROM TUMBLE(kept, at, INTERVAL '1 hour') GROUP BY window_start, n"

[sink.rows]
type = "file"
from = "kept"
path = "rows/{seq}.ndjson"

[sink.hours]
type = "file"
from = "hourly"
path = "hours/{seq}.ndjson"
"#;

/// A broker refuses records of the next year by default, and its retention takes those of last month before anybody has read them. What
/// runs between two steps is exempt from both.
#[test]
fn rows_of_any_year_reach_their_sinks_and_stay_until_then() {
    let folder = Folder::new();
    folder.write("p.toml", PIPELINE);
    folder.write("ev.csv", "at,n\n1990-01-01T00:30:00Z,1\n2999-01-01T00:20:00Z,2\n");
    folder.succeed(&["run", "p.toml"]);
    assert_eq!(
        lines_of(&folder.path().join("rows")),
        [r#"{"at":"1990-01-01T00:30:00Z","n":1}"#, r#"{"at":"2999-01-01T00:20:00Z","n":2}"#]
    );
    assert_eq!(
        lines_of(&folder.path().join("hours")),
        [
            r#"{"window_start":"1990-01-01T00:00:00Z","n":1,"c":1}"#,
            r#"{"window_start":"2999-01-01T00:00:00Z","n":2,"c":1}"#
        ]
    );
    for topic in ["times.ev", "times.kept", "times.hourly", "times.hourly.late"] {
        let told = folder.succeed(&["topics", "--data", ".millstream/times", "describe", topic]);
        let setting = told.lines().find(|line| line.contains("retention.ms")).unwrap_or_default();
        assert!(setting.contains("-1"), "{topic}: {told}");
    }
}
