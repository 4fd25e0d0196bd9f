//! The committed code is what the committed table generates, and the table reads what it writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use millstream_protocol_codegen::{generated_dir, rust, table, table_dir};

fn files(dir: &Path) -> BTreeMap<String, String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn assert_same(committed: &BTreeMap<String, String>, expected: &BTreeMap<String, String>, how: &str) {
    assert_eq!(committed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{how}");
    for (name, text) in expected {
        assert!(committed[name] == *text, "{name} is stale: {how}");
    }
}

#[test]
fn generated_code_is_fresh() {
    let expected = rust::generate(&table::load(&table_dir()).unwrap()).unwrap();
    let how = "run `cargo run -p millstream-protocol-codegen -- generate`";
    assert_same(&files(&generated_dir()), &expected, how);
}

#[test]
fn table_reads_what_it_writes() {
    let messages = table::load(&table_dir()).unwrap();
    assert!(messages.len() > 250, "{}", messages.len());
    assert_same(&files(&table_dir()), &table::write(&messages), "the table is not in its normal form");
}
