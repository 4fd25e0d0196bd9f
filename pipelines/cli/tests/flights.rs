//! The flights example as a user runs it: the binary, files in, files out. `processes/kill_pipeline.rs` kills it on the way.

mod example;

use std::collections::BTreeMap;
use std::process::Command;

use example::Example;

#[test]
fn one_command_gives_the_exact_rows_and_a_second_one_changes_nothing() {
    let example = Example::new(&[], |text| text);
    let screen = example.run();
    assert!(screen.contains("United Air Lines Inc."), "{screen}");
    assert!(screen.contains("screen: 2315 rows"), "{screen}");
    for (node, figures) in [
        ("flights", ["source", "12208", "12208", "0", "0"]),
        ("flown", ["step", "12208", "12126", "0", "0"]),
        ("delays", ["step", "12126", "2315", "0", "0"]),
        ("files", ["sink", "2315", "2315", "0", "0"]),
    ] {
        let line = screen.lines().find(|line| line.split_whitespace().next() == Some(node)).unwrap();
        let found: Vec<_> = line.split_whitespace().skip(1).take(5).collect();
        assert_eq!(found, figures, "{screen}");
        // Connectors also say how many bytes went through; the file has a megabyte.
        let bytes: Vec<_> = line.split_whitespace().skip(6).collect();
        let size: Option<f64> = bytes.first().and_then(|size| size.parse().ok());
        match node {
            "flights" => {
                assert!(size.is_some_and(|size| (1.0..2.0).contains(&size)) && bytes[1] == "MiB", "{screen}")
            }
            "files" => assert!(size.is_some_and(|size| size > 1.0) && bytes[1] == "KiB", "{screen}"),
            _ => assert!(bytes.is_empty(), "{screen}"),
        }
    }
    let took = screen.lines().find_map(|line| line.strip_prefix("done in ")?.strip_suffix(" s"));
    let took: f64 = took.unwrap_or_else(|| panic!("{screen}")).parse().unwrap();
    assert!(0.0 < took && took < 600.0, "{screen}");
    let expected = example.expected();
    assert_eq!(example.rows(), expected);

    let files = example.parquet();
    assert_eq!(example.out(), files, "final files and nothing else");
    let again = example.run();
    assert!(again.starts_with("nothing new"), "{again}");
    assert_eq!(example.parquet(), files);
    assert_eq!(example.rows(), expected);
}

#[test]
fn late_rows_are_counted_and_kept() {
    let example = Example::new(&[], |text| text.replace("lateness = \"24h\"", "lateness = \"1h\""));
    let screen = example.run();
    let line = screen.lines().find(|line| line.starts_with("delays ")).unwrap();
    let late: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
    assert!(late > 0, "{screen}");
    let counted: i64 = example.rows().values().map(|(flights, ..)| flights).sum();
    assert_eq!(counted as u64 + late, 12_126, "a flown flight is in its window or late");
    let kept = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["consume", "--data", ".millstream/flights", "--from-beginning", "-e", "flights.delays.late"])
        .current_dir(example.folder.path())
        .output()
        .unwrap();
    let kept = String::from_utf8(kept.stdout).unwrap();
    assert_eq!(kept.lines().count() as u64, late);
}

/// Windows over the results of windows.
const DAILY: &str = r#"
[step.daily]
sql = """
SELECT airline, window_start AS day, sum(flights) AS flights
FROM TUMBLE(delays, hour, INTERVAL '1 day') GROUP BY airline, window_start"""

[sink.days]
type = "file"
from = "daily"
path = "days/days-{seq}.ndjson"
"#;

/// The flights of all days and airlines.
fn daily(example: &Example) -> BTreeMap<(String, i64), i64> {
    let mut days = BTreeMap::new();
    for file in std::fs::read_dir(example.folder.path().join("days")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let day: i64 = row["day"].as_str().unwrap()[8..10].parse().unwrap();
            let key = (row["airline"].as_str().unwrap().to_owned(), day);
            assert_eq!(days.insert(key, row["flights"].as_i64().unwrap()), None, "{line}");
        }
    }
    days
}

/// The example with its rows in eight files, one behind the other in time, each in one of three partitions.
fn in_several_partitions(lateness: &str) -> Example {
    let example = Example::new(&[], |text| {
        let text = text.replace("lateness = \"24h\"", &format!("lateness = \"{lateness}\""));
        let text = text.replace("[\"flights.csv\"] ", "[\"part-*.csv\"]\npartitions = 3");
        let text = text.replace("[\"airlines.csv\"]", "[\"airlines.csv\"]\npartitions = 2");
        format!("{text}{DAILY}")
    });
    let folder = example.folder.path();
    let whole = std::fs::read_to_string(folder.join("flights.csv")).unwrap();
    let (header, rows) = whole.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    for (number, part) in rows.chunks(rows.len().div_ceil(8)).enumerate() {
        let text = format!("{header}\n{}\n", part.join("\n"));
        std::fs::write(folder.join(format!("part-{number}.csv")), text).unwrap();
    }
    example
}

/// What the summary says of late rows; of hours that are final none is.
fn late(screen: &str) -> &str {
    let of = |step: &str| {
        let line = screen.lines().find(|line| line.split_whitespace().next() == Some(step));
        line.and_then(|line| line.split_whitespace().nth(4)).unwrap_or_else(|| panic!("{screen}"))
    };
    assert_eq!(of("daily"), "0", "{screen}");
    of("delays")
}

#[test]
fn rows_of_several_partitions_are_late_by_the_order_of_their_own_only() {
    let example = in_several_partitions("24h");
    assert_eq!(late(&example.run()), "0");
    let rows = example.rows();
    assert_eq!(rows, example.expected());
    let mut days = BTreeMap::new();
    for ((airline, hour), (flights, ..)) in rows {
        *days.entry((airline, (hour - 1_356_998_400).div_euclid(86_400) + 1)).or_default() += flights;
    }
    assert_eq!(daily(&example), days);
    let example = in_several_partitions("1h");
    let (found, rows) = (late(&example.run()).to_owned(), example.rows());
    assert_ne!(found, "0");
    for folder in ["out", "days", ".millstream"] {
        std::fs::remove_dir_all(example.folder.path().join(folder)).unwrap();
    }
    assert_eq!(late(&example.run()), found, "it does not depend on which partition is read faster");
    assert_eq!(example.rows(), rows);
}

/// Two steps that join one table share its store, so what one writes for the other goes from a task to another of the same kind.
#[test]
fn a_table_in_several_partitions_is_joined_twice() {
    let example = Example::new(&[], |text| {
        let text = text.replace("[\"flights.csv\"] ", "[\"flights.csv\"]\npartitions = 3");
        let text = text.replace("[\"airlines.csv\"]", "[\"airlines.csv\"]\npartitions = 2");
        let (sources, _) = text.split_once("[step.flown]").unwrap();
        format!("{sources}{TWICE}")
    });
    example.run();
    let mut rows = 0;
    for file in std::fs::read_dir(example.folder.path().join("twice")).unwrap() {
        for line in std::fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(row["first"].is_string() && row["first"] == row["second"], "{line}");
            rows += 1;
        }
    }
    assert_eq!(rows, 12_208);
}

const TWICE: &str = r#"
[step.once]
sql = "SELECT a.name AS first, f.carrier FROM flights f JOIN airlines a ON a.carrier = f.carrier"

[step.twice]
sql = "SELECT o.first, a.name AS second FROM once o JOIN airlines a ON a.carrier = o.carrier"

[sink.files]
type = "file"
from = "twice"
path = "twice/{seq}.ndjson"
"#;
