//! Every mistake that a pipeline file can have: what is said about it, at which line and column, and how to mend it.

mod common;

/// The good file that mistakes are put into.
const GOOD: &str = r#"version = 1
name = "p"

[source.flights]
type = "file"
include = ["flights.csv"]
columns = { at = "timestamp", carrier = "string", n = "int64", "Upper" = "string" }

[source.airlines]
type = "file"
include = ["airlines.csv"]
columns = { carrier = "string", name = "string" }
table = { key = ["carrier"] }

[step.out]
sql = '''
SELECT carrier, n FROM flights'''

[sink.screen]
type = "print"
from = "out"
"#;

/// The file with `from` replaced by `to` is refused with exactly this.
fn check(from: &str, to: &str, expected: &str) {
    assert!(GOOD.contains(from), "{from}");
    let text = GOOD.replacen(from, to, 1);
    let found = common::plan(&text).map_or_else(|problems| problems.to_string(), |_| "nothing".to_owned());
    assert_eq!(found, expected, "\n{text}");
}

/// The step's SQL is refused with exactly this; its first line is line 17 of the file.
fn refused(sql: &str, expected: &str) {
    check("SELECT carrier, n FROM flights", sql, expected);
}

#[test]
fn the_good_file_is_good() {
    check("version = 1", "version = 1", "nothing");
}

#[test]
fn syntax() {
    check("version = 1", "version = ", "p.toml:1:11: string values must be quoted, expected literal string");
    check("name = \"p\"", "name = \"p\"\nname = \"q\"", "p.toml:3:1: duplicate key");
}

#[test]
fn keys_and_names() {
    check(
        "name = \"p\"",
        "nam = \"p\"",
        "p.toml:1:1: 'name' is missing\n  help: The name of the pipeline names its topics and its state.\np.toml:2:1: unknown key 'nam'\n  help: did you mean 'name'?",
    );
    check("version = 1", "version = 2", "p.toml:1:11: 'version': 2 is not between 1 and 1");
    check(
        "[step.out]",
        "[steps.out]",
        "p.toml:15:2: unknown key 'steps'\n  help: did you mean 'step'?\np.toml:21:8: there is no source or step 'out'\n  help: sources and steps here are airlines, flights",
    );
    check(
        "name = \"p\"",
        "name = \"P!\"",
        "p.toml:2:8: 'name': 'P!' is no name: use 1 to 60 of a-z, 0-9, _ and -, since it names topics",
    );
    check(
        "name = \"p\"",
        "name = \"p\"\ndelivery = \"exactly-once\"",
        "p.toml:3:12: 'delivery': 'exactly-once' is not one of exactly_once, at_least_once\n  help: did you mean 'exactly_once'?",
    );
    check(
        "[step.out]",
        "[step.flights]",
        "p.toml:15:7: 'flights' is the name of a source already\n  help: give this step another name\np.toml:21:8: there is no source or step 'out'\n  help: sources and steps here are airlines, flights",
    );
}

#[test]
fn sources() {
    check(
        "type = \"file\"",
        "type = \"fiel\"",
        "p.toml:5:8: there is no type 'fiel'\n  help: did you mean 'file'?",
    );
    check("type = \"file\"\n", "", "p.toml:4:9: 'flights' has no type\n  help: types are file, topic");
    check(
        "include = [\"flights.csv\"]",
        "inclde = [\"flights.csv\"]",
        "p.toml:4:1: 'include' is missing\n  help: Files to read.\np.toml:6:1: unknown key 'inclde'\n  help: did you mean 'include'?",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = [\"missing.csv\"]",
        "p.toml:6:11: there is no file missing.csv",
    );
    check(
        "n = \"int64\"",
        "n = \"itn64\"",
        "p.toml:7:55: 'columns.n': unknown type 'itn64'; did you mean 'int64'?",
    );
    check(
        "key = [\"carrier\"]",
        "key = [\"carier\"]",
        "p.toml:13:18: there is no column 'carier'\n  help: did you mean 'carrier'?",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = [\"flights.csv\"]\ntime = { column = \"carrier\" }",
        "p.toml:7:19: 'carrier' is of type string, and time is a timestamp\n  help: declare it: columns = { carrier = \"timestamp\" }",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = [\"flights.csv\"]\ntime = { column = \"att\", latenes = \"1h\" }",
        "p.toml:7:26: unknown key 'latenes'\n  help: did you mean 'lateness'?",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = { env = \"NONE\" }",
        "p.toml:6:11: the environment variable NONE is not set\n  help: set it, or give a default: { env = \"NONE\", default = \"...\" }",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = [\"flights.csv\"]\non_error = \"dlq:scren\"",
        "p.toml:7:12: there is no sink 'scren'\n  help: did you mean 'dlq:screen'?",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = [\"flights.csv\"]\non_error = \"ignore\"",
        "p.toml:7:12: 'on_error': use \"fail\", \"skip\" or \"dlq:<name of a sink>\"",
    );
}

#[test]
fn sinks() {
    check(
        "type = \"print\"",
        "type = \"prnt\"",
        "p.toml:20:8: there is no type 'prnt'\n  help: did you mean 'print'?",
    );
    check(
        "from = \"out\"",
        "from = \"outt\"",
        "p.toml:21:8: there is no source or step 'outt'\n  help: did you mean 'out'?",
    );
    check(
        "from = \"out\"\n",
        "",
        "p.toml:19:7: 'screen' has no 'from'\n  help: name a source or a step: from = \"...\"",
    );
    check(
        "type = \"print\"",
        "type = \"topic\"\ntopic = \"t\"\nkey = [\"carrir\"]",
        "p.toml:22:8: there is no column 'carrir'\n  help: did you mean 'carrier'?",
    );
    check(
        "[sink.screen]\ntype = \"print\"\nfrom = \"out\"\n",
        "",
        "p.toml:1:1: there is no sink, so nobody would see the rows\n  help: add one, for example [sink.screen] with type = \"print\" and from",
    );
    check(
        "include = [\"flights.csv\"]",
        "include = [\"flights.csv\"]\non_error = \"dlq:screen\"",
        "p.toml:22:8: this sink keeps bad input, whose columns are not those of 'from'\n  help: leave 'from' out, or keep bad input in a sink of its own",
    );
}

#[test]
fn names_in_sql() {
    refused(
        "SELECT carrir, f.m FROM flights f WHERE uper(f.carrier) = 'A'",
        "p.toml:17:8: there is no column 'carrir'\n  help: did you mean 'carrier'?\np.toml:17:18: 'f' has no column 'm'\n  help: did you mean 'n'?\np.toml:17:41: there is no function 'uper'\n  help: did you mean 'upper'?",
    );
    refused(
        "SELECT upper FROM flights",
        "p.toml:17:8: there is no column 'upper'\n  help: names are lower case unless quoted: write \"Upper\" with the quotes",
    );
    refused(
        "SELECT n FROM flihgts",
        "p.toml:17:15: there is no source or step 'flihgts'\n  help: did you mean 'flights'?",
    );
    check(
        "[source.flights]",
        "[source.Flights]",
        "p.toml:4:9: 'Flights' is no name: use 1 to 60 of a-z, 0-9, _ and -, since it names topics\np.toml:17:24: there is no source or step 'flights'\n  help: SQL lowers names, so a source or step has no capitals in its own: call it 'flights'",
    );
    check(
        "n = \"int64\"",
        "user = \"string\"",
        "p.toml:17:17: there is no column 'n'\n  help: columns here are at, carrier, user, Upper",
    );
    let user = GOOD
        .replace("n = \"int64\"", "user = \"string\"")
        .replace("SELECT carrier, n", "SELECT carrier, USER");
    assert_eq!(
        common::plan(&user).unwrap_err().to_string(),
        "p.toml:17:17: 'user' without quotes is a function of SQL, not the column\n  help: write \"user\" with the quotes"
    );
    assert!(common::plan(&user.replace("USER", "\"user\"")).is_ok());
    refused("SELECT x.n FROM flights", "p.toml:17:8: 'x' is not in FROM\n  help: relations here are flights");
    refused(
        "SELECT carrier FROM flights JOIN airlines ON flights.carrier = airlines.carrier",
        "p.toml:17:8: 'carrier' is a column of more than one relation\n  help: write flights.carrier or airlines.carrier",
    );
    refused(
        "SELECT n FROM flights JOIN airlines USING (nam)",
        "p.toml:17:44: 'flights' has no column 'nam'; 'airlines' has no column 'nam'\n  help: write ON with both columns",
    );
    refused(
        "SELECT count(*) AS c FROM flights JOIN flights ON true",
        "p.toml:17:40: 'flights' is a stream; a step joins tables to a stream\n  help: a source becomes a table with its key: [source.flights] table = { key = [\"...\"] }\np.toml:17:40: 'flights' is named twice in FROM\n  help: give one of them another name: flights AS other",
    );
}

#[test]
fn roles() {
    refused(
        "SELECT name FROM airlines",
        "p.toml:17:18: 'airlines' is a table; a step is driven by a stream\n  help: put a stream first, and join the table to it",
    );
    refused(
        "SELECT a.n FROM flights a JOIN flights b ON a.n = b.n",
        "p.toml:17:32: 'flights' is a stream; a step joins tables to a stream\n  help: a source becomes a table with its key: [source.flights] table = { key = [\"...\"] }",
    );
    refused(
        "SELECT n FROM flights JOIN airlines a ON flights.n > 1",
        "p.toml:17:42: a join with 'airlines' matches rows by equality only\n  help: ON names the table's key and nothing else: airlines.carrier = ...; put other conditions into WHERE",
    );
    refused(
        "SELECT n FROM flights f JOIN airlines a ON f.carrier = a.name",
        "p.toml:17:44: 'name' is not in the key of table 'airlines'\n  help: ON names the table's key and nothing else: airlines.carrier = ...; put other conditions into WHERE",
    );
    refused(
        "SELECT n FROM flights f JOIN airlines a ON a.carrier = a.name",
        "p.toml:17:44: each equation of ON has the stream on one side and the table on the other\n  help: ON names the table's key and nothing else: airlines.carrier = ...; put other conditions into WHERE",
    );
}

#[test]
fn a_key_of_another_kind() {
    refused(
        "SELECT f.n FROM flights f JOIN airlines a ON f.n = a.carrier",
        "p.toml:17:46: int64 and string cannot be compared or computed with\n  help: CAST one side to the type of the other; TRY_CAST gives null where that fails",
    );
}

#[test]
fn sql_outside_of_the_set() {
    refused("SELECT n FROM", "p.toml:17:13: Expected: identifier, found: EOF");
    refused(
        "SELECT n FROM flights ORDER BY n LIMIT 5",
        "p.toml:17:32: ORDER BY cannot be used in a step\n  help: rows leave a step in the order in which they become final; leave ORDER BY out\np.toml:17:40: LIMIT cannot be used in a step\n  help: a stream has no end to count from; filter with WHERE",
    );
    refused(
        "SELECT DISTINCT n FROM flights",
        "p.toml:17:17: DISTINCT cannot be used in a step\n  help: name the columns in GROUP BY",
    );
    refused(
        "SELECT n FROM flights UNION ALL SELECT n FROM flights",
        "p.toml:17:1: UNION cannot be used in a step\n  help: write one step for each SELECT, and a sink for each step",
    );
    refused(
        "SELECT n FROM (SELECT n FROM flights) x",
        "p.toml:17:16: a query in FROM cannot be used in a step\n  help: make it a step of its own, and name that step here",
    );
    refused(
        "SELECT n FROM flights WHERE n IN (SELECT n FROM flights)",
        "p.toml:17:29: a query inside of an expression cannot be used in a step\n  help: make the query a step or a table, and join it",
    );
    refused(
        "WITH x AS (SELECT 1) SELECT n FROM flights",
        "p.toml:17:1: WITH cannot be used in a step\n  help: make each part a step of its own, and name it in FROM",
    );
    refused(
        "SELECT n FROM flights RIGHT JOIN airlines USING (carrier)",
        "p.toml:17:34: RIGHT JOIN cannot be used in a step\n  help: join a table with JOIN or LEFT JOIN; the stream stands first",
    );
    refused(
        "SELECT n FROM flights, airlines",
        "p.toml:17:24: a second relation in FROM cannot be used in a step\n  help: join a table: FROM a JOIN b ON a.x = b.x",
    );
    refused(
        "SELECT sum(n) OVER (ORDER BY n) FROM flights",
        "p.toml:17:8: OVER cannot be used in a step\n  help: group a TUMBLE or HOP of the relation instead",
    );
    refused(
        "SELECT carrier, now() FROM flights",
        "p.toml:17:17: 'now' gives another result each time, so a run could not be repeated\n  help: use a column that the source brings",
    );
    refused(
        "SELECT carrier, count(DISTINCT n) AS c FROM flights GROUP BY carrier",
        "p.toml:17:17: count with DISTINCT, ORDER BY or a treatment of nulls cannot be used in a step\n  help: leave it out; approx_distinct(x) counts distinct values in bounded memory",
    );
    refused(
        "SELECT 1",
        "p.toml:17:1: SELECT without FROM cannot be used in a step\n  help: name a source or a step in FROM",
    );
    refused(
        "DELETE FROM flights",
        "p.toml:17:1: this statement cannot be used in a step\n  help: a step is a SELECT",
    );
    refused(
        "SELECT n FROM flights; SELECT 2 FROM flights",
        "p.toml:17:24: a step is one statement\n  help: write a step for each SELECT",
    );
    refused(
        "SELECT carrier FROM flights GROUP BY ROLLUP(carrier)",
        "p.toml:17:45: ROLLUP, CUBE or GROUPING SETS cannot be used in a step\n  help: write a step for each grouping",
    );
    refused(
        "SELECT count(*) AS n FROM flights",
        "p.toml:16:7: an aggregate over all rows of a stream is never final\n  help: add GROUP BY with a column, or with window_start of a TUMBLE",
    );
    refused(
        "SELECT count(*) AS n FROM flights GROUP BY carrier",
        "p.toml:16:7: results that change need the columns of their group\n  help: add each column of GROUP BY to SELECT",
    );
    refused(
        "SELECT carrier, count(*) AS n FROM flights GROUP BY carrier HAVING count(*) > 1",
        "p.toml:16:7: HAVING over results that change would have to take rows back\n  help: leave HAVING out, or group by a window, whose results are final",
    );
    refused(
        "SELECT n FROM flights WHERE carrier",
        "p.toml:17:29: Cannot create filter with non-boolean predicate 'flights.carrier' returning Utf8",
    );
    refused(
        "SELECT carrier,\n  upper(n, n) AS u FROM flights",
        "p.toml:18:3: Function 'upper' expects 1 arguments but received 2. No function matches the given name and argument types 'upper(Int64, Int64)'. You might need to add explicit type casts.",
    );
    refused(
        "SELECT carrier, at + n AS u FROM flights WHERE n > 1",
        "p.toml:17:17: expressions have incompatible types\n  help: has type Timestamp(µs, \"+00:00\"), has type Int64",
    );
    refused(
        "SELECT carrier, n FROM flights GROUP BY carrier",
        "p.toml:17:17: 'flights.n' must appear in GROUP BY clause because it's not an aggregate expression\n  help: add it to GROUP BY, or take one of its values, as max does",
    );
}

#[test]
fn results_that_no_row_can_carry() {
    check(
        "n = \"int64\"",
        "n = \"duration(ms)\"",
        "p.toml:7:55: 'n' is of type duration(ms), which no row can carry\n  help: declare it as string, or as int64 with the unit in its name\np.toml:17:17: 'n' is of type duration(ms), which no row can carry\n  help: cast it, as CAST(... AS VARCHAR) does, or take a part of it with date_part",
    );
    refused(
        "SELECT f.carrier, a.name, a.carrier FROM flights f JOIN airlines a ON f.carrier = a.carrier",
        "p.toml:17:27: two columns of the result are called 'carrier'\n  help: name the columns one by one, and rename one: carrier AS other",
    );
    refused(
        "SELECT * FROM flights f LEFT JOIN airlines a ON f.carrier = a.carrier",
        "p.toml:17:8: two columns of the result are called 'carrier'\n  help: name the columns one by one, and rename one: a.carrier AS other",
    );
    refused(
        "SELECT n, carrier AS n FROM flights",
        "p.toml:17:11: two columns of the result are called 'n'\n  help: name the columns one by one, and rename one: n AS other",
    );
    refused(
        "SELECT n, at - TIMESTAMP '2020-01-01T00:00:00Z' AS ago FROM flights",
        "p.toml:17:11: 'ago' is of type duration(us), which no row can carry\n  help: cast it, as CAST(... AS VARCHAR) does, or take a part of it with date_part",
    );
    refused(
        "SELECT n, INTERVAL '1 day' AS d FROM flights",
        "p.toml:17:20: 'd' is of type interval, which no row can carry\n  help: cast it, as CAST(... AS VARCHAR) does, or take a part of it with date_part",
    );
    refused(
        "SELECT n, 9223372036854775807 + 1 AS m FROM flights",
        "p.toml:17:11: Arithmetic overflow: Overflow happened on: 9223372036854775807 + 1",
    );
    refused(
        "SELECT n FROM flights f JOIN airlines a ON f.carrier = a.carrier AND lower(f.carrier) = a.carrier",
        "p.toml:17:44: ON has two equations for 'carrier'\n  help: ON names the table's key and nothing else: airlines.carrier = ...; put other conditions into WHERE",
    );
}

#[test]
fn windows() {
    let sql = |call: &str| format!("SELECT window_start, count(*) AS c FROM {call} GROUP BY window_start");
    refused(
        &sql("TUMBLE(flights, at)"),
        "p.toml:17:41: TUMBLE is not called like this\n  help: TUMBLE(relation, time_column, INTERVAL '1 hour')",
    );
    refused(
        &sql("SESSION(flights, at, INTERVAL '1 hour')"),
        "p.toml:17:41: SESSION windows are not there yet\n  help: use TUMBLE or HOP",
    );
    refused(
        &sql("TUMBLER(flights, at, INTERVAL '1 hour')"),
        "p.toml:17:41: there is no table function 'tumbler'\n  help: TUMBLE(relation, time_column, INTERVAL '1 hour') or HOP(relation, time_column, INTERVAL '5 minutes', INTERVAL '1 hour'), slide before size",
    );
    refused(
        &sql("TUMBLE(flights, at, INTERVAL '1 month')"),
        "p.toml:17:70: months and years differ in length, so they cannot be the length of a window\n  help: write INTERVAL with a number and a unit up to days: INTERVAL '90 seconds', INTERVAL '1 day'",
    );
    refused(
        &sql("HOP(flights, at, INTERVAL '1 hour', INTERVAL '5 minutes')"),
        "p.toml:17:41: the slide of HOP is longer than its size\n  help: HOP(relation, time_column, INTERVAL '5 minutes', INTERVAL '1 hour'), slide before size",
    );
    refused(
        &sql("TUMBLE(flights, att, INTERVAL '1 hour')"),
        "p.toml:17:57: 'flights' has no column 'att'\n  help: did you mean 'at'?",
    );
    refused(
        &sql("TUMBLE(flights, n, INTERVAL '1 hour')"),
        "p.toml:17:57: windows need a timestamp, and 'n' is of type int64\n  help: declare it in the source, columns = { n = \"timestamp\" }, or cast it in a step before",
    );
    refused(
        &sql("TUMBLE(flights, at, INTERVAL '1 hour')"),
        "p.toml:17:41: nothing says how late a row may be, so no window would ever be final\n  help: add to [step.out]: time = { column = \"at\", lateness = \"10s\" }",
    );
    refused(
        "SELECT count(*) AS c FROM TUMBLE(flights, at, INTERVAL '1 hour')",
        "p.toml:17:27: windows are for grouping: GROUP BY names neither window_start nor window_end\n  help: add GROUP BY window_start, window_end, or read the relation without TUMBLE or HOP",
    );
    refused(
        "SELECT window_start, count(*) AS c FROM TUMBLE(flights, at, INTERVAL '1 hour') WHERE window_start > at GROUP BY window_start",
        "p.toml:17:86: a window's bound here cannot be used in a step\n  help: group by it as it is, and compute or filter in SELECT or HAVING",
    );
    let unread = |sql: &str, column: usize| {
        let help = "group by it as it is, and compute with it outside of aggregates, in SELECT or HAVING";
        let message = "window_start cannot be used here: rows have no window, only groups have";
        refused(sql, &format!("p.toml:17:{column}: {message}\n  help: {help}"));
    };
    let windows = "FROM TUMBLE(flights, at, INTERVAL '1 hour')";
    unread(&format!("SELECT min(window_start) AS m {windows} GROUP BY window_start"), 12);
    unread(
        &format!("SELECT count(*) FILTER (WHERE at > window_start) AS c {windows} GROUP BY window_start"),
        36,
    );
    unread(
        &format!(
            "SELECT date_trunc('day', window_start) AS d, count(*) AS c {windows} GROUP BY window_start, 1"
        ),
        26,
    );
    unread(
        "SELECT count(*) AS c FROM TUMBLE(flights, at, INTERVAL '1 hour') AS f JOIN airlines ON CAST(f.window_start AS text) = airlines.carrier GROUP BY window_start",
        93,
    );
    check(
        "[step.out]",
        "[step.out]\ntime = { column = 'at' }",
        "p.toml:16:19: 'time' says how late a row may be for a window, and this step has none\n  help: put it into the source, or read FROM TUMBLE(...)",
    );
}

#[test]
fn steps_in_a_circle() {
    check(
        "[step.out]",
        "[step.a]\nsql = 'SELECT n FROM b'\n[step.b]\nsql = 'SELECT n FROM a'\n\n[step.out]",
        "p.toml:15:7: 'a' reads b, which waits for it\n  help: steps stand one behind the other; a step cannot read its own result\np.toml:17:7: 'b' reads a, which waits for it\n  help: steps stand one behind the other; a step cannot read its own result",
    );
}

#[test]
fn rows_that_change() {
    let changing = "SELECT carrier, count(*) AS n FROM flights GROUP BY carrier'''\n\n[step.after]\nsql = '''\nSELECT n FROM out";
    refused(
        changing,
        "p.toml:21:15: the rows of 'out' change, so a step cannot read them\n  help: group it by a window, so that its rows are final, or read it with a sink",
    );
    let to_file = GOOD.replace(
        "SELECT carrier, n FROM flights",
        "SELECT carrier, count(*) AS n FROM flights GROUP BY carrier",
    );
    let to_file = to_file.replace("type = \"print\"", "type = \"file\"\npath = \"out\"");
    assert_eq!(
        common::plan(&to_file).unwrap_err().to_string(),
        "p.toml:21:8: a file cannot hold rows that change\n  help: group by a window"
    );
}

#[test]
fn what_is_broken_already_is_not_reported_again() {
    check(
        "n = \"int64\"",
        "n = \"itn64\"",
        "p.toml:7:55: 'columns.n': unknown type 'itn64'; did you mean 'int64'?",
    );
}

#[test]
fn mistakes_of_all_stages_come_at_once() {
    let text = GOOD
        .replace("version = 1", "versoin = 1")
        .replace("type = \"print\"", "type = \"prin\"")
        .replace("carrier, n FROM", "carrir, n FROM");
    let problems = common::plan(&text).unwrap_err();
    let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["config", "unknown-key", "unknown-column", "unknown-type"]);
}
