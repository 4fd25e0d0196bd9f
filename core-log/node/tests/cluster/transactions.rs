//! Transactions on three nodes with real sockets and disks: over partitions that different brokers lead, with coordinators that
//! move, and with producers and coordinators that were replaced.

use std::collections::{BTreeMap, BTreeSet};

use millstream_client::{GroupMetadata, IsolationLevel, OffsetAndMetadata, Offsets};
use millstream_env::HostRuntime;
use millstream_env::testing::PATIENCE;
use millstream_machine::partition_for;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_protocol::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic};
use millstream_protocol::messages::{OffsetFetchRequest, ProduceRequest, WriteTxnMarkersRequest};
use millstream_record::{
    BatchBuilder, BatchOptions, NodeId, Offset, ProducerEpoch, ProducerId, TopicPartition,
};

use crate::nodes::{Cluster, PARTITIONS, send};

const TOPIC: &str = "t";

/// An offset of a topic that the group consumes, as it is committed with a transaction.
fn offsets(offset: u32) -> Offsets {
    Offsets::from([(TopicPartition::new("t", 0), OffsetAndMetadata::new(Offset(offset.into())))])
}

async fn committed(cluster: &Cluster, group: &'static str) -> Option<i64> {
    let offsets = cluster.client.admin().group_offsets(group).await.unwrap();
    offsets.get(&TopicPartition::new("t", 0)).map(|offset| offset.offset.0)
}

/// What the group's coordinator has: without what is open, and to whom must not read past it.
async fn while_open(cluster: &Cluster, group: &'static str) -> (i64, ErrorCode) {
    let ask = async |require_stable| {
        let topic = OffsetFetchRequestTopics {
            name: TOPIC.into(),
            partition_indexes: vec![0],
            ..OffsetFetchRequestTopics::default()
        };
        let one = OffsetFetchRequestGroup {
            group_id: group.into(),
            topics: Some(vec![topic]),
            ..OffsetFetchRequestGroup::default()
        };
        let request =
            OffsetFetchRequest { groups: vec![one], require_stable, ..OffsetFetchRequest::default() };
        let coordinator = cluster.leader("__consumer_offsets", partition_for(group, PARTITIONS)).await;
        cluster.ask(coordinator, request).await.groups[0].topics[0].partitions[0].clone()
    };
    (ask(false).await.committed_offset, ErrorCode::from_code(ask(true).await.error_code))
}

fn in_every_partition(numbers: &[u32]) -> BTreeMap<i32, Vec<u32>> {
    (0..PARTITIONS).map(|index| (index, numbers.to_vec())).collect()
}

#[test]
fn a_transaction_is_there_in_all_partitions_and_groups_or_in_none() {
    let (runtime, env) = HostRuntime::start("transactions", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, TOPIC, 3).await;
        let mut leaders = BTreeSet::new();
        for index in 0..PARTITIONS {
            leaders.insert(cluster.leader(TOPIC, index).await);
        }
        assert_eq!(leaders.len(), 3, "each partition is led by another broker");
        let producer = cluster.transactional("tx").await;
        let groups = ["a", "b", "c", "d"]; // their coordinators are not all on one broker
        let mut expected: Option<i64> = None;
        for (number, commit) in [(1, true), (2, false), (3, true), (4, false)] {
            producer.begin_transaction().unwrap();
            send(&producer, TOPIC, number).await;
            for group in groups {
                let metadata = GroupMetadata::unmanaged(group);
                producer.send_offsets_to_transaction(&offsets(number), &metadata).await.unwrap();
                let open = (expected.unwrap_or(-1), ErrorCode::UnstableOffsetCommit);
                assert_eq!(while_open(&cluster, group).await, open, "{group}, {number}");
            }
            match commit {
                true => producer.commit_transaction().await.unwrap(),
                false => producer.abort_transaction().await.unwrap(),
            }
            if commit {
                expected = Some(i64::from(number));
            }
            for group in groups {
                let is_there = async || committed(&cluster, group).await == expected;
                cluster.until("the offsets are committed", is_there).await;
            }
        }
        let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, 6).await;
        assert_eq!(read, in_every_partition(&[1, 3]));
        let read = cluster.read(TOPIC, IsolationLevel::ReadUncommitted, 12).await;
        assert_eq!(read, in_every_partition(&[1, 2, 3, 4]));

        // One broker is asked to delete the topic, and every coordinator hears of it.
        let deleted = cluster.client.admin().delete_topics(&[TOPIC]).await.unwrap();
        assert!(deleted[TOPIC].is_ok());
        for group in groups {
            let is_gone = async || committed(&cluster, group).await.is_none();
            cluster.until("the offsets of a deleted topic are forgotten", is_gone).await;
        }
    });
}

#[test]
fn commits_go_on_where_their_coordinator_or_a_partitions_leader_dies() {
    const TRANSACTIONS: u32 = 45;
    let (runtime, env) = HostRuntime::start("transactions", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        let producer = cluster.transactional("tx").await;
        let group = GroupMetadata::unmanaged("g");
        let mut down: Option<NodeId> = None;
        let mut kept = Vec::new();
        for number in 0..TRANSACTIONS {
            producer.begin_transaction().unwrap();
            send(&producer, TOPIC, number).await;
            producer.send_offsets_to_transaction(&offsets(number), &group).await.unwrap();
            match number {
                10 => down = Some(cluster.coordinator("tx").await),
                30 => down = Some(cluster.leader(TOPIC, 1).await),
                20 | 40 => cluster.restart(down.unwrap()),
                _ => {}
            }
            let commit = number % 7 != 3;
            let ended = async || match commit {
                true => producer.commit_transaction().await,
                false => producer.abort_transaction().await,
            };
            if let (10 | 30, Some(node)) = (number, down) {
                // It dies while the transaction is being ended: before, between, or behind its markers.
                let (ended, ()) = futures::join!(ended(), async { cluster.crash(node) });
                ended.unwrap();
            } else {
                ended().await.unwrap();
            }
            if commit {
                kept.push(number);
            }
        }
        let last = kept.last().copied().map(i64::from);
        cluster.until("the last offset is committed", async || committed(&cluster, "g").await == last).await;
        let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, kept.len() * 3).await;
        assert_eq!(read, in_every_partition(&kept));
    });
}

#[test]
fn the_next_coordinator_aborts_what_takes_too_long_and_fences_the_producer() {
    let (runtime, env) = HostRuntime::start("transactions", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        let config = millstream_client::ProducerConfig {
            transaction_timeout_ms: 4_000,
            ..millstream_client::ProducerConfig::transactional("tx")
        };
        let producer = cluster.client.producer(config).unwrap();
        producer.init_transactions().await.unwrap();
        producer.begin_transaction().unwrap();
        send(&producer, TOPIC, 1).await;
        let coordinator = cluster.coordinator("tx").await;
        cluster.crash(coordinator);
        let other = cluster.transactional("other").await;
        other.begin_transaction().unwrap();
        send(&other, TOPIC, 2).await;
        other.commit_transaction().await.unwrap();
        let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, 3).await;
        assert_eq!(read, in_every_partition(&[2]), "nothing holds back who reads behind the aborted one");
        assert!(producer.commit_transaction().await.unwrap_err().is_fenced());
    });
}

#[test]
fn who_was_replaced_is_shut_out() {
    let (runtime, env) = HostRuntime::start("transactions", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, TOPIC, 3).await;
        let old = cluster.transactional("tx").await;
        old.begin_transaction().unwrap();
        send(&old, TOPIC, 1).await;
        let new = cluster.transactional("tx").await;
        new.begin_transaction().unwrap();
        send(&new, TOPIC, 2).await;
        new.commit_transaction().await.unwrap();
        assert!(old.commit_transaction().await.unwrap_err().is_fenced());
        let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, 3).await;
        assert_eq!(read, in_every_partition(&[2]));

        let producer = new.producer_id().unwrap();
        for index in 0..PARTITIONS {
            let leader = cluster.leader(TOPIC, index).await;
            let mark = async |producer_epoch, coordinator_epoch| {
                let topics =
                    vec![WritableTxnMarkerTopic { name: TOPIC.into(), partition_indexes: vec![index] }];
                let marker = WritableTxnMarker {
                    producer_id: producer.0,
                    producer_epoch,
                    topics,
                    coordinator_epoch,
                    ..WritableTxnMarker::default()
                };
                let answer = cluster.ask(leader, WriteTxnMarkersRequest { markers: vec![marker] }).await;
                ErrorCode::from_code(answer.markers[0].topics[0].partitions[0].error_code)
            };
            assert_eq!(mark(5, 7).await, ErrorCode::None);
            assert_eq!(mark(5, 6).await, ErrorCode::TransactionCoordinatorFenced);
            assert_eq!(mark(4, 7).await, ErrorCode::InvalidProducerEpoch);
            let elsewhere = cluster.leader(TOPIC, (index + 1) % PARTITIONS).await;
            assert_ne!(elsewhere, leader);
        }
    });
}

/// A batch that comes behind the end of its transaction would open another, which nobody ends.
#[test]
fn a_batch_outside_of_its_transaction_is_refused_wherever_the_coordinator_is() {
    let (runtime, env) = HostRuntime::start("transactions", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, TOPIC, 3).await;
        let producer = cluster.transactional("tx").await;
        producer.begin_transaction().unwrap();
        send(&producer, TOPIC, 1).await;
        producer.commit_transaction().await.unwrap();
        // A commit is answered once it is decided. Until its marker is in a partition, the transaction is open there.
        assert_eq!(cluster.read(TOPIC, IsolationLevel::ReadCommitted, 3).await, in_every_partition(&[1]));
        let id = producer.producer_id().unwrap();
        let late = |index: i32, producer_id: ProducerId| {
            let options = BatchOptions {
                producer_id,
                producer_epoch: ProducerEpoch(0),
                base_sequence: 1,
                transactional: true,
                ..BatchOptions::default()
            };
            let mut builder = BatchBuilder::new(options);
            builder.append(cluster.env.now(), None, Some(b"2"), &[]).unwrap();
            let records = Some(builder.build().unwrap().freeze());
            ProduceRequest {
                transactional_id: Some("tx".into()),
                acks: -1,
                timeout_ms: 10_000,
                topic_data: vec![TopicProduceData {
                    name: TOPIC.into(),
                    partition_data: vec![PartitionProduceData { index, records }],
                    ..TopicProduceData::default()
                }],
            }
        };
        let retried =
            [ErrorCode::NotEnoughReplicas, ErrorCode::NotLeaderOrFollower, ErrorCode::ConcurrentTransactions];
        for index in 0..PARTITIONS {
            for (producer_id, expected) in [
                (id, ErrorCode::TransactionAbortable),
                (ProducerId(99_999), ErrorCode::InvalidProducerIdMapping),
            ] {
                let mut found = ErrorCode::None;
                let settled = async || {
                    let leader = cluster.leader(TOPIC, index).await;
                    let answer = cluster.ask(leader, late(index, producer_id)).await;
                    ErrorCode::from_code(answer.responses[0].partition_responses[0].error_code)
                };
                let end = cluster.env.elapsed() + PATIENCE;
                while found == ErrorCode::None || retried.contains(&found) {
                    assert!(cluster.env.elapsed() < end, "{found} for ever");
                    found = settled().await;
                    assert_ne!(found, ErrorCode::None, "the batch is in partition {index}");
                }
                assert_eq!(found, expected, "partition {index}");
            }
        }
        let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, 3).await;
        assert_eq!(read, in_every_partition(&[1]));
    });
}
