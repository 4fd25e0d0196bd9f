//! What a pipeline keeps between runs, and records that are no rows.

use crate::support::{Broker, Folder, lines_of};

const PIPELINE: &str = r#"
version = 1
name = "sums"

[source.s]
type = "file"
include = ["in.csv"]
format = "csv"
read = "once"
time = { column = "t", lateness = "1h" }

[step.q]
sql = "SELECT window_start, count(*) AS n, sum(v) AS sv FROM TUMBLE(s, t, INTERVAL '1 hour') GROUP BY window_start"

[sink.out]
type = "file"
from = "q"
path = "out/{seq}.ndjson"
"#;

/// `sum, count` read the state of `count, sum` as their own, and gave numbers that were neither.
#[test]
fn a_step_that_changed_does_not_take_its_old_state_for_its_own() {
    let folder = Folder::new();
    folder.write("in.csv", "t,v\n2020-01-01T00:00:00Z,5\n2020-01-01T00:10:00Z,7\n");
    folder.write("p.toml", PIPELINE);
    folder.succeed(&["run", "p.toml"]);
    for (from, to, now) in [
        (
            "count(*) AS n, sum(v) AS sv",
            "sum(v) AS n, count(*) AS sv",
            "[sum(v): Int64, count(1): Int64] grouped",
        ),
        ("'1 hour'", "'30 minutes'", "in windows of 1800000 ms every 1800000 ms now; put that back"),
    ] {
        folder.write("p.toml", &PIPELINE.replace(from, to));
        let said = folder.fail(&["run", "p.toml"]);
        let was = "its state is of [count(1): Int64, sum(v): Int64] grouped by [window_start] in windows of 3600000 ms";
        assert!(said.contains("in step \"q.group\"") && said.contains(was) && said.contains(now), "{said}");
        assert!(said.contains("millstream reset"), "{said}");
    }
    // What is computed from the results may change.
    folder.write("p.toml", &PIPELINE.replace("sum(v) AS sv", "sum(v) + 1 AS sv"));
    assert!(folder.succeed(&["run", "p.toml"]).contains("nothing new"));
    assert_eq!(
        lines_of(&folder.path().join("out")),
        [r#"{"window_start":"2020-01-01T00:00:00Z","n":2,"sv":12}"#]
    );
}

const EVENTS: &str = r#"
version = 1
name = "events"

[source.ev]
type = "topic"
topic = "ev"
read = "once"
columns = { id = "int64" }

[step.q]
sql = "SELECT id FROM ev"

[sink.out]
type = "file"
from = "q"
path = "out/{seq}.ndjson"

[sink.plain]
type = "file"
from = "ev"
path = "plain/{seq}.ndjson"
"#;

#[test]
fn records_of_a_topic_that_are_no_rows_are_kept_or_left_out_as_its_source_says() {
    let broker = Broker::start();
    let folder = Folder::new();
    let on = ["-b", broker.address()];
    folder.succeed(&["topics", on[0], on[1], "create", "ev"]);
    folder.run_with(&["produce", on[0], on[1], "ev"], "{\"id\":1}\nbad\n{\"id\":2}\n");
    folder.write("p.toml", EVENTS);
    let said = folder.fail(&["run", "p.toml", on[0], on[1]]);
    assert!(said.contains("ev-0") && said.contains("on_error"), "{said}");

    let kept = "read = \"once\"\non_error = \"dlq:bad\"";
    let sink = "\n[sink.bad]\ntype = \"file\"\npath = \"bad/{seq}.ndjson\"\n";
    folder.write("p.toml", &(EVENTS.replace("read = \"once\"", kept) + sink));
    folder.succeed(&["run", "p.toml", on[0], on[1]]);
    for out in ["out", "plain"] {
        assert_eq!(lines_of(&folder.path().join(out)), [r#"{"id":1}"#, r#"{"id":2}"#], "{out}");
    }
    let bad = lines_of(&folder.path().join("bad"));
    assert!(!bad.is_empty() && bad.iter().all(|letter| letter.contains("\"raw\":\"bad\"")), "{bad:?}");
    assert!(folder.succeed(&["run", "p.toml", on[0], on[1]]).contains("nothing new"));
}
