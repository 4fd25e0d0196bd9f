//! Files of formats that come after this build's: the node does not start, says which file it is and what to do, and touches nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use millstream_env::HostRuntime;
use millstream_node::{NodeConfig, serve};
use millstream_record::{Batch, BatchBuilder, BatchOptions, Millis, TopicPartition};
use millstream_storage::{LogConfig, LogDir, RealDisk};

use crate::{begins_with_a_snapshot, copy, files, places, versions};

/// Kafka's number for the control record that a snapshot begins with.
const SNAPSHOT_HEADER: i16 = 3;

type Later = fn(&Path);

/// Replaces a piece of text.
fn replace(file: &Path, old: &str, new: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(old), "{}: {text:?} has no {old:?}", file.display());
    std::fs::write(file, text.replacen(old, new, 1)).unwrap();
}

/// Replaces the first bytes.
fn begin_with(file: &Path, begin: &[u8]) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[..begin.len()].copy_from_slice(begin);
    std::fs::write(file, bytes).unwrap();
}

/// A checkpoint's version is its first line.
fn checkpoint(file: &Path) {
    replace(file, "0\n", "1\n");
}

/// The checksum of a vote covers its version, so it is written as a vote is.
fn vote(file: &Path) {
    let root = file.parent().unwrap().parent().unwrap();
    let dir = LogDir::open(Arc::new(RealDisk), root, 8).unwrap();
    let at = TopicPartition::new("__cluster_metadata", 0);
    let found = dir.partitions().unwrap().into_iter().find(|log| log.partition == at).unwrap();
    let (log, _) = dir.open_log(&at, found.topic_id.unwrap(), LogConfig::default(), Millis(0)).unwrap();
    let vote = log.side_file("quorum-vote");
    let mut bytes = vote.read().unwrap().unwrap().to_vec();
    bytes[..2].copy_from_slice(&1_i16.to_be_bytes());
    vote.write(&bytes).unwrap();
}

/// A snapshot's version is in its first batch.
fn snapshot(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let first = Batch::parse(bytes.clone().into()).unwrap();
    let mut key = BytesMut::new();
    key.put_i16(0);
    key.put_i16(SNAPSHOT_HEADER);
    let mut value = BytesMut::new();
    value.put_i16(1);
    value.put_i64(0);
    value.put_u8(0);
    let mut builder = BatchBuilder::new(BatchOptions { control: true, ..BatchOptions::default() });
    builder.append(Millis(0), Some(&key), Some(&value), &[]).unwrap();
    let mut later = builder.build().unwrap().to_vec();
    later.extend_from_slice(&bytes[first.bytes().len()..]);
    std::fs::write(file, later).unwrap();
}

/// Each file that has a version, by the end of its path, and what makes it one of a later build.
const EVERYWHERE: &[(&str, Later)] = &[
    ("meta.properties", |file| replace(file, "version=1", "version=2")),
    (".kafka_cleanshutdown", |file| replace(file, "\"version\":0", "\"version\":1")),
    ("recovery-point-offset-checkpoint", checkpoint),
    ("log-start-offset-checkpoint", checkpoint),
    ("replication-offset-checkpoint", checkpoint),
    ("orders-0/partition.metadata", |file| replace(file, "version: 0", "version: 1")),
    ("__cluster_metadata-0/leader-epoch-checkpoint", checkpoint),
];
const ALONE: &[(&str, Later)] =
    &[("__cluster_metadata-0/*.snapshot", |file| begin_with(file, &2_i16.to_be_bytes()))];
const OF_MEMBER: &[(&str, Later)] = &[("__cluster_metadata-0/quorum-vote", vote)];
const OF_SNAPSHOT: &[(&str, Later)] = &[("__cluster_metadata-0/*.checkpoint", snapshot)];

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = files(dir).into_iter().filter(|name| name != ".lock");
    names.map(|name| (name.clone(), std::fs::read(dir.join(&name)).unwrap())).collect()
}

fn are_refused(golden: &Path, table: &[(&str, Later)], told: impl Fn(&Path) -> NodeConfig) {
    let (runtime, env) = HostRuntime::start("golden", 2).unwrap();
    for (name, make_later) in table {
        let dir = copy(golden);
        let (folder, suffix) = name.split_once('*').unwrap_or((name, ""));
        let found =
            files(dir.path()).into_iter().rfind(|file| file.starts_with(folder) && file.ends_with(suffix));
        let file = dir.path().join(found.unwrap_or_else(|| panic!("no {name}")));
        make_later(&file);
        let before = contents(dir.path());
        let started = runtime.block_on(serve(env.clone(), told(dir.path()))).map(drop);
        let error = started.expect_err(name).to_string();
        let mending = "a newer build wrote it; start that build again";
        assert!(error.contains(&*file.to_string_lossy()) && error.contains(mending), "{name}: {error}");
        assert!(before == contents(dir.path()), "{name}: nothing is touched");
    }
}

#[test]
fn what_a_later_build_wrote_is_refused_and_left_alone() {
    for version in versions() {
        let alone = version.join(places::ALONE);
        are_refused(&alone, EVERYWHERE, places::alone);
        are_refused(&alone, ALONE, places::alone);
        // It does not come so far as to listen where members do, but for the vote and the snapshot.
        let member = version.join(places::member(2));
        let told = |dir: &Path| {
            let mut config = places::of_cluster(dir, 2);
            config.set("listeners", "PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0").unwrap();
            config
        };
        are_refused(&member, OF_MEMBER, told);
        if begins_with_a_snapshot(&version) {
            are_refused(&member, OF_SNAPSHOT, told);
        }
    }
}
