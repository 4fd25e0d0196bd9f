//! Apache Kafka's own dump tool reads what we wrote. Run with `PEER_DIR` set to a folder whose `libs` holds Kafka's jars.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use millstream_record::{Compression, LeaderEpoch, Millis, TopicPartition};
use millstream_storage::{AppendOrigin, Log, LogConfig, LogDir, RealDisk};

use crate::support::*;

/// A log with every compression, transactions, several epochs and several segments; gives its directory and its number of batches.
fn write_log(root: &Path) -> (PathBuf, usize) {
    let config = LogConfig { segment_bytes: 4000, index_interval_bytes: 300, ..LogConfig::default() };
    let mut dir = LogDir::open(Arc::new(RealDisk), root, 16).unwrap();
    let partition = TopicPartition::new("topic", 0);
    let (mut log, _) = dir.open_log(&partition, TOPIC, config, NOW).unwrap();
    dir.begin_use().unwrap();
    let mut batches = 0;
    let mut append = |log: &mut Log, bytes: &[u8], epoch: i32| {
        let epoch = LeaderEpoch(epoch);
        log.append(bytes, AppendOrigin::Coordinator { epoch }, NOW).unwrap();
        batches += 1;
    };
    for n in 0..40 {
        let value = format!("value of round {n}");
        let stamp = |i: i64| Millis(NOW.0 + 1000 * i64::from(n) + i);
        let records: Vec<_> = (0..4).map(|i| (stamp(i), value.as_bytes())).collect();
        append(&mut log, &compressed(Compression::ALL[n as usize % 5], &records), n / 10);
        append(&mut log, &produced(1, 0, 2 * n, 2, false), n / 10);
        append(&mut log, &produced(2, 0, 3 * n, 3, true), n / 10);
        append(&mut log, &marker(2, 0, n % 3 != 0), n / 10);
    }
    append(&mut log, &produced(3, 0, 0, 1, true), 4);
    assert!(log.segment_bases().len() > 4);
    log.close().unwrap();
    dir.mark_clean().unwrap();
    (dir.log_path(&partition), batches)
}

fn dump(peer: &Path, files: &[PathBuf], options: &[&str]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let output = Command::new("java")
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(peer.join("libs/*"))
        .args(["org.apache.kafka.tools.DumpLogSegments", "--files", &names.join(",")])
        .args(options)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == suffix)).collect();
    files.sort();
    files
}

#[test]
fn kafkas_dump_tool_reads_our_files_without_complaint() {
    let Some(peer) = std::env::var_os("PEER_DIR").map(PathBuf::from) else {
        writeln!(std::io::stderr(), "not run: set PEER_DIR to a folder with Apache Kafka's jars in libs/")
            .unwrap();
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let (dir, batches) = write_log(temp.path());
    let logs = dump(&peer, &files(&dir, "log"), &["--deep-iteration", "--print-data-log"]);
    assert_eq!(logs.matches("isvalid: true").count(), batches, "{logs}");
    assert_eq!(logs.matches("endTxnMarker: ABORT").count(), 14);
    assert_eq!(logs.matches("payload: value of round 39").count(), 4);
    let indexes = [files(&dir, "index"), files(&dir, "timeindex")].concat();
    assert!(indexes.len() > 8);
    for options in [&[][..], &["--index-sanity-check"][..], &["--verify-index-only"][..]] {
        let text = dump(&peer, &indexes, options).to_lowercase();
        for complaint in
            ["mismatch", "exception", "should be", "out of order", "not found", "failed", "invalid"]
        {
            assert!(!text.contains(complaint), "{options:?}: {complaint}\n{text}");
        }
        if options == ["--index-sanity-check"] {
            assert_eq!(text.matches("passed sanity check").count(), indexes.len(), "{text}");
        }
    }
    let others = [files(&dir, "txnindex"), files(&dir, "snapshot")].concat();
    let text = dump(&peer, &others, &[]);
    assert_eq!(text.matches("lastStableOffset:").count(), 14, "{text}");
    assert!(
        text.contains(
            "producerId: 3 producerEpoch: 0 coordinatorEpoch: -1 currentTxnFirstOffset: OptionalLong["
        ),
        "{text}"
    );
}
