//! Directories that Apache Kafka 4.3.1 wrote (`tests/golden/Golden.java` says how) are opened as they are, and what we derive from their
//! batches equals Kafka's own files byte for byte.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_record::{LeaderEpoch, Millis, NodeId, Offset, ProducerId, TopicPartition};
use millstream_storage::{
    AppendOrigin, Disk, Log, LogConfig, LogDir, MemoryDisk, OpenMode, ReadRequest, RecoveryReport,
};

use crate::support::{Bench, DIR, at, read_all};

/// When the golden directories were written; later, producers would be expired.
const WRITTEN: Millis = Millis(1_795_251_450_000);
const ROOT: &str = "/kafka";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kafka-4.3.1")
}

/// A copy of the golden directory in memory.
fn copy() -> MemoryDisk {
    let disk = MemoryDisk::new();
    copy_dir(&disk, &golden(), Path::new(ROOT));
    disk
}

fn copy_dir(disk: &MemoryDisk, from: &Path, to: &Path) {
    disk.create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(disk, &entry.path(), &target);
        } else {
            put(disk, &target, &std::fs::read(entry.path()).unwrap());
        }
    }
}

fn put(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    disk.open(path, OpenMode::Replace).unwrap().write_at(&[IoSlice::new(bytes)], 0).unwrap();
}

fn get(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn open(disk: &MemoryDisk, topic: &str) -> (LogDir, Log, RecoveryReport) {
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new(ROOT), 16).unwrap();
    let partition = TopicPartition::new(topic, 0);
    let found = dir.partitions().unwrap().into_iter().find(|found| found.partition == partition).unwrap();
    let (log, report) =
        dir.open_log(&partition, found.topic_id.unwrap(), LogConfig::default(), WRITTEN).unwrap();
    (dir, log, report)
}

/// Offset and value of every record.
fn values(log: &Log) -> BTreeMap<i64, String> {
    let mut values = BTreeMap::new();
    for batch in read_all(log, log.start_offset()).unwrap() {
        let body = batch.decompress(1 << 20).unwrap();
        for record in batch.records(&body) {
            let record = record.unwrap();
            values.insert(record.offset.0, String::from_utf8_lossy(record.value.unwrap()).into_owned());
        }
    }
    values
}

#[test]
fn a_cleanly_closed_directory_is_opened_without_a_scan() {
    let disk = copy();
    for topic in ["plain", "gzip", "snappy", "lz4", "zstd"] {
        let (dir, log, report) = open(&disk, topic);
        assert!(dir.was_clean());
        assert_eq!((report.rebuilt_indexes, report.cut), (0, None), "{topic}");
        assert_eq!((log.start_offset(), log.end_offset()), (Offset(0), Offset(15)), "{topic}");
        assert_eq!(log.leader_epochs().starts(), [(LeaderEpoch(0), Offset(0))], "{topic}");
        let values = values(&log);
        assert_eq!(values.len(), 15);
        assert_eq!(values[&7], format!("{topic} value 1 2"));
        let second =
            log.offset_for_timestamp(Millis(1_700_000_001_003)).unwrap().run_blocking().unwrap().unwrap();
        assert_eq!((second.offset, second.timestamp), (Offset(8), Millis(1_700_000_001_003)), "{topic}");
        let identity = dir.identity().unwrap().unwrap();
        assert_eq!((identity.node_id, identity.cluster_id.len()), (NodeId(1), 22));
        assert_eq!(dir.checkpointed_high_watermark(&TopicPartition::new(topic, 0)), Some(Offset(15)));
    }
}

#[test]
fn transactions_of_several_segments() {
    for clean in [true, false] {
        let disk = copy();
        if !clean {
            crash(&disk, "txn");
        }
        let (_, log, report) = open(&disk, "txn");
        assert_eq!(report.rebuilt_indexes > 0, !clean);
        assert_eq!(log.segment_bases(), [Offset(0), Offset(49)]);
        assert_eq!(log.end_offset(), Offset(85));
        assert_eq!(log.last_stable_offset(Offset(85)), Offset(84), "one transaction was left open");
        let open = log.producers().into_iter().find(|(_, state)| state.open_transaction.is_some()).unwrap();
        assert_eq!((open.0, open.1.open_transaction), (ProducerId(5), Some(Offset(84))));
        let slices = log.read(ReadRequest { with_aborted: true, ..at(0) }).unwrap();
        let aborted: Vec<_> =
            slices.aborted.iter().map(|a| (a.producer_id.0, a.first_offset.0, a.last_offset.0)).collect();
        assert_eq!(aborted, [(5, 7, 12), (6, 17, 20), (5, 27, 33), (6, 45, 48)]);
    }
}

/// Makes the directory look as a killed broker leaves it: no mark of a clean end, no newest snapshot, zeros behind the newest indexes.
fn crash(disk: &MemoryDisk, topic: &str) {
    let root = Path::new(ROOT);
    disk.remove(&root.join(".kafka_cleanshutdown")).unwrap();
    put(disk, &root.join("recovery-point-offset-checkpoint"), b"0\n0\n");
    let dir = root.join(format!("{topic}-0"));
    let names: Vec<String> = disk.list(&dir).unwrap().into_iter().map(|entry| entry.name).collect();
    let newest = |suffix: &str| dir.join(names.iter().rfind(|name| name.ends_with(suffix)).unwrap());
    disk.remove(&newest(".snapshot")).unwrap();
    for suffix in [".index", ".timeindex"] {
        disk.open(&newest(suffix), OpenMode::Write).unwrap().truncate(240_000).unwrap();
    }
}

/// Appends Kafka's batches as a follower would, and compares every file that comes of it.
fn derive(topic: &str, config: LogConfig) {
    let disk = copy();
    let (_, log, _) = open(&disk, topic);
    let mut bench = Bench::new(config);
    for batch in read_all(&log, Offset(0)).unwrap() {
        bench.log.append(batch.bytes(), AppendOrigin::Follower, WRITTEN).unwrap();
    }
    assert_eq!(bench.log.segment_bases(), log.segment_bases(), "{topic}");
    bench.log.close().unwrap();
    let dir = Path::new(ROOT).join(format!("{topic}-0"));
    let mut compared = 0;
    for entry in disk.list(&dir).unwrap().iter().filter(|entry| entry.name != "partition.metadata") {
        let (theirs, ours) = (
            get(&disk, &dir.join(&entry.name)),
            get(&**bench.files.disk(), &Path::new(DIR).join(&entry.name)),
        );
        assert_eq!(ours, theirs, "{topic}: {}", entry.name);
        compared += 1;
    }
    assert!(compared >= 5, "{compared}");
    assert_eq!(
        disk.list(&dir).unwrap().len(),
        bench.files.disk().list(Path::new(DIR)).unwrap().len(),
        "{topic}: no other file"
    );
}

#[test]
fn indexes_snapshots_and_checkpoints_equal_kafkas_byte_for_byte() {
    derive("txn", LogConfig { segment_bytes: 2500, index_interval_bytes: 300, ..LogConfig::default() });
    derive("rolled", LogConfig { segment_bytes: 1500, index_interval_bytes: 200, ..LogConfig::default() });
    derive("plain", LogConfig::default());
    derive("zstd", LogConfig::default());
}

#[test]
fn a_directory_of_kafkas_goes_on_being_written() {
    let disk = copy();
    let (mut dir, mut log, _) = open(&disk, "rolled");
    dir.begin_use().unwrap();
    let leader = AppendOrigin::Leader { epoch: LeaderEpoch(1) };
    let info = log.append(&crate::support::plain(3, 10), leader, WRITTEN).unwrap();
    assert_eq!(info.base_offset, Offset(100));
    log.flush_blocking().unwrap();
    drop((dir, log));
    let (_, log, report) = open(&disk, "rolled");
    assert_eq!((log.end_offset(), report.cut), (Offset(103), None));
    assert_eq!(log.epoch_end_offset(LeaderEpoch(0)), Some((LeaderEpoch(0), Offset(100))));
    assert_eq!(values(&log).len(), 103);
}

/// What a later build wrote may not be taken for damaged and made anew, and says what to do.
#[test]
fn files_of_later_formats_are_refused_and_stay() {
    type Later = Box<dyn Fn(&mut Vec<u8>)>;
    let text = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let old = String::from_utf8(bytes.clone()).unwrap();
            assert!(old.contains(from), "{old}");
            *bytes = old.replacen(from, to, 1).into_bytes();
        }
    };
    let mut table: Vec<(&str, Later)> = vec![
        (".kafka_cleanshutdown", Box::new(text("\"version\":0", "\"version\" : 1"))),
        ("meta.properties", Box::new(text("version=1", "version=2"))),
        ("txn-0/partition.metadata", Box::new(text("version: 0", "version: 1"))),
    ];
    for name in [
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "replication-offset-checkpoint",
        "txn-0/leader-epoch-checkpoint",
    ] {
        table.push((name, Box::new(text("0\n", "1\n"))));
    }
    let snapshot = |bytes: &mut Vec<u8>| bytes[..2].copy_from_slice(&2_i16.to_be_bytes());
    table.push(("txn-0/00000000000000000085.snapshot", Box::new(snapshot)));
    for (name, make_later) in table {
        let disk = copy();
        let path = Path::new(ROOT).join(name);
        let mut bytes = get(&disk, &path);
        make_later(&mut bytes);
        put(&disk, &path, &bytes);
        let opened = LogDir::open(Arc::new(disk.clone()), Path::new(ROOT), 16).and_then(|dir| {
            dir.identity()?;
            let at = TopicPartition::new("txn", 0);
            let found = dir.partitions()?.into_iter().find(|found| found.partition == at).unwrap();
            dir.open_log(&at, found.topic_id.unwrap(), LogConfig::default(), WRITTEN).map(drop)
        });
        let error = opened.expect_err(name).to_string();
        let expected = format!("{} is of format version ", path.display());
        assert!(
            error.starts_with(&expected) && error.contains("a newer build wrote it; start that"),
            "{error}"
        );
        assert_eq!(get(&disk, &path), bytes, "{name}");
    }
}

/// An index is a hint: one whose entries are of another version is made anew.
#[test]
fn an_index_of_a_later_format_is_made_anew() {
    let disk = copy();
    let path = Path::new(ROOT).join("txn-0/00000000000000000000.txnindex");
    let before = get(&disk, &path);
    let mut bytes = before.clone();
    bytes.chunks_mut(34).for_each(|entry| entry[1] = 1);
    put(&disk, &path, &bytes);
    let (_, log, report) = open(&disk, "txn");
    assert_eq!(report.rebuilt_indexes, 2, "from that segment on");
    let slices = log.read(ReadRequest { with_aborted: true, ..at(0) }).unwrap();
    assert_eq!(slices.aborted.len(), 4);
}
