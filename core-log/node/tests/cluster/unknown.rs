//! Records that a later build writes stop a node of this one, whichever way it reads them.

use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use millstream_record::{BatchBuilder, BatchOptions, LeaderEpoch, Millis, TopicPartition, Uuid};
use millstream_storage::{AppendOrigin, LogConfig, LogDir, RealDisk};

use crate::lone::{Lone, Lones, with};
use crate::roles::properties;

/// Appends a record to the metadata log of a node that was stopped: of a type, and in a version of it.
fn append(dir: &Path, kind: u8, version: u8) {
    let dir = LogDir::open(Arc::new(RealDisk), dir, 8).unwrap();
    let at = TopicPartition::new("__cluster_metadata", 0);
    let topic_id = dir.partitions().unwrap().into_iter().find(|log| log.partition == at).unwrap().topic_id;
    let config = LogConfig { cleanup_delete: false, ..LogConfig::default() };
    let (mut log, _) = dir.open_log(&at, topic_id.unwrap_or(Uuid::ZERO), config, Millis(0)).unwrap();
    let mut value = BytesMut::new();
    value.put_slice(&[1, kind, version]); // the frame, and what is in it
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Millis(1), None, Some(&value), &[]).unwrap();
    let epoch = log.leader_epochs().latest().unwrap_or(LeaderEpoch(1));
    log.append(&builder.build().unwrap().freeze(), AppendOrigin::Coordinator { epoch }, Millis(1)).unwrap();
    log.close().unwrap();
}

#[test]
fn a_record_of_a_later_build_stops_a_node_that_is_alone_a_voter_or_a_broker_only() {
    for (kind, version) in [(99, 0), (2, 7)] {
        let unknown = format!(
            "metadata record type {kind} version {version} is newer than this build knows; upgrade this node"
        );
        let mut nodes: Lones = (1..=2).map(|id| (id, Lone::new(id))).collect();
        let controller = format!("127.0.0.1:{}", nodes[&1].controllers);
        let alone = [("listeners", "CLIENTS".to_owned())];
        let voter = [
            ("listeners", "CLIENTS,CONTROLLERS".to_owned()),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.bootstrap.servers", controller.clone()),
        ];
        let whys = with(&mut nodes, 1, move |node| {
            node.start(&alone);
            node.stop();
            append(node.dir.path(), kind, version);
            [node.fails(&alone), node.fails(&voter)]
        });
        // A voter of a later build would go on and give it to others, as this one does for as long as nobody ends its process.
        let broker = properties("broker", &controller);
        let why = with(&mut nodes, 2, move |node| node.fails(&broker));
        for why in whys.into_iter().chain([why]) {
            assert!(why.contains(&unknown), "{why}");
        }
    }
}
