//! The flights example as a user runs it: the binary, files in, files out. `processes/kill_pipeline.rs` kills it on the way.

mod example;

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
    }
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
