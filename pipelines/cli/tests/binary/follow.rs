//! Pipelines whose input has no end: a followed table is read in first, and Ctrl-C commits and stops.

use crate::support::{Folder, PATIENCE, lines_of, wait_until};

const PIPELINE: &str = r#"
version = 1
name = "orders"

[source.orders]
type = "file"
include = ["orders.csv"]
format = "csv"
read = "follow"

[source.people]
type = "file"
include = ["people.csv"]
format = "csv"
read = "follow"
table = { key = "id" }

[step.named]
sql = "SELECT o.number, p.name FROM orders o JOIN people p ON o.person = p.id"

[sink.out]
type = "file"
from = "named"
path = "out/{seq}.ndjson"
roll = { age = "100ms" }
"#;

fn orders(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("{number},{}\n", number % 1000)).collect()
}

fn expected(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("{{\"number\":{number},\"name\":\"name {}\"}}", number % 1000)).collect()
}

/// The table is long beside the stream, so a row that is joined too early would find no partner and be dropped.
#[test]
fn a_followed_table_is_read_in_first_and_an_interrupt_commits() {
    let folder = Folder::new();
    let people: String = (0..1000).map(|id| format!("{id},name {id}\n")).collect();
    folder.write("people.csv", &format!("id,name\n{people}"));
    folder.write("orders.csv", &format!("number,person\n{}", orders(0..5000)));
    folder.write("orders.toml", PIPELINE);
    let out = || lines_of(&folder.path().join("out"));
    let mut process = folder.spawn(&["run", "orders.toml"]);
    wait_until("the joined rows", || out().len() >= 5000);
    assert_eq!(out(), expected(0..5000));

    // Both go on: a person who is new, and then that person's order.
    folder.append("people.csv", "7777,somebody new\n");
    folder.append("orders.csv", &orders(5000..6000));
    wait_until("the rows that were added", || out().len() >= 6000);
    process.interrupt();
    let screen = process.succeed(PATIENCE);
    assert!(screen.contains("stopped in"), "{screen}");
    assert_eq!(out(), expected(0..6000));

    // What was committed is not brought again; what was added meanwhile is.
    folder.append("orders.csv", "6000,7777\n");
    let mut process = folder.spawn(&["run", "orders.toml"]);
    wait_until("the last row", || out().len() > 6000);
    process.interrupt();
    process.succeed(PATIENCE);
    let mut all = expected(0..6000);
    all.push("{\"number\":6000,\"name\":\"somebody new\"}".to_owned());
    assert_eq!(out(), all);
}
