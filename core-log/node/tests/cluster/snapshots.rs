//! The metadata log is cut down to a snapshot, and who comes later, or was away for long, is given that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientConfig, ClientError, ConsumerConfig, Links, NewTopic, OffsetReset, ProducerConfig,
    ProducerRecord,
};
use millstream_env::testing::{PATIENCE, until};
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use millstream_protocol::messages::fetch_snapshot::{
    FetchSnapshotRequestPartitionSnapshot, FetchSnapshotRequestSnapshotId, FetchSnapshotRequestTopicSnapshot,
    FetchSnapshotResponsePartitionSnapshot,
};
use millstream_protocol::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use millstream_protocol::messages::{
    DescribeClusterRequest, FetchRequest, FetchSnapshotRequest, FetchSnapshotResponse,
    IncrementalAlterConfigsRequest, MetadataRequest,
};
use millstream_protocol::{CallError, Endpoint, ErrorCode};
use millstream_record::{NodeId, TopicPartition, Uuid};

use crate::lone::{Lone, Lones, with};
use crate::roles::properties;

const LOG: &str = "__cluster_metadata";
const LOG_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// For a leader epoch: whoever leads.
const UNSAID: i32 = 0;

/// What a controller is told that keeps as little as it may.
fn forgetful(controllers: &str) -> Vec<(&'static str, String)> {
    let mut told = properties("controller", controllers);
    told.push(("metadata.log.max.record.bytes.between.snapshots", "1024".to_owned()));
    told.push(("metadata.max.retention.bytes", "1".to_owned()));
    told
}

fn local(port: u16) -> Endpoint {
    Endpoint::new("127.0.0.1", port)
}

fn links(env: &Env) -> Links {
    Links::new(env.clone(), Arc::new(TcpDial::new(env.clone())), "test".into(), Duration::from_secs(10))
}

/// What a controller answers to who has nothing of the log yet.
async fn fetch_all(
    links: &Links,
    controller: &Endpoint,
    cluster_id: Option<&str>,
) -> Result<PartitionData, ErrorCode> {
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..FetchPartition::default() };
    let request = FetchRequest {
        cluster_id: cluster_id.map(Into::into),
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic { topic: LOG.into(), topic_id: LOG_ID, partitions: vec![partition] }],
        ..FetchRequest::default()
    };
    let answer = links.call(controller, request).await.unwrap();
    ErrorCode::from_code(answer.error_code).ok()?;
    Ok(answer.responses.into_iter().flat_map(|topic| topic.partitions).next().unwrap())
}

/// The end of the snapshot that the log of `controller` begins with; 0 while it has all of the log, or another node leads.
async fn cut_down_to(links: &Links, controller: &Endpoint) -> i64 {
    let data = fetch_all(links, controller, None).await.unwrap();
    data.snapshot_id.end_offset.max(0)
}

#[test]
fn brokers_that_join_or_were_away_and_new_voters_are_given_the_snapshot() {
    let (runtime, env) = HostRuntime::start("snapshots", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = (1..=5).map(|id| (id, Lone::new(id))).collect();
        let controllers = [1, 2].map(|id| format!("127.0.0.1:{}", nodes[&id].controllers));
        let (founder, both) = (forgetful(&controllers[0]), controllers.join(","));
        with(&mut nodes, 1, move |node| node.start(&founder));
        for id in [3, 4] {
            let told = properties("broker", &both);
            with(&mut nodes, id, move |node| node.start(&told));
        }
        let bootstrap = (3..=5).map(|id| local(nodes[&id].clients)).collect();
        let config = ClientConfig { metadata_max_age_ms: 1_000, ..ClientConfig::new(bootstrap) };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        let (admin, links) = (client.admin(), links(&env));
        let brokers = async || admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
        let in_sync = async |topic: &str| {
            let described = admin.describe_topics(&[topic]).await;
            let described = described.ok().and_then(|mut topics| topics.remove(topic)?.ok());
            described.map_or(0, |topic| topic.partitions[0].in_sync.len())
        };
        until(&env, "two serve", async || brokers().await == 2).await;
        let replicated =
            |name: &str, factor| NewTopic { replication_factor: Some(factor), ..NewTopic::new(name, 1) };
        for name in ["early", "deleted"] {
            admin.ensure_topic(replicated(name, 2).with_config("retention.ms", "123456789")).await.unwrap();
        }
        let producer = client.producer(ProducerConfig::default()).unwrap();
        let send = async |topic: &str, value: &str| {
            producer.send(ProducerRecord::new(topic, value.to_owned())).await.unwrap().await.unwrap();
        };
        send("early", "kept").await;

        // While one broker is away a topic of its goes, and so does all of the log that says so.
        with(&mut nodes, 4, Lone::stop);
        assert!(nodes[&4].files("").contains(&"deleted-0".to_owned()));
        admin.delete_topics(&["deleted"]).await.unwrap();
        let active = local(nodes[&1].controllers);
        let deleted_before = fetch_all(&links, &active, None).await.unwrap().high_watermark;
        let (mut filler, end) = (0, env.elapsed() + PATIENCE);
        while cut_down_to(&links, &active).await < deleted_before {
            admin.ensure_topic(replicated(&format!("filler-{filler}"), 1)).await.unwrap();
            filler += 1;
            assert!(env.elapsed() < end, "the log is never cut down");
        }

        // It comes back, and another one joins: neither can read the log from its begin.
        for id in [4, 5] {
            let told = properties("broker", &both);
            with(&mut nodes, id, move |node| node.start(&told));
        }
        until(&env, "three serve", async || brokers().await == 3).await;
        until(&env, "who was away is in sync", async || in_sync("early").await == 2).await;
        assert!(!nodes[&4].files("").contains(&"deleted-0".to_owned()), "it knows that the topic is gone");
        admin.ensure_topic(replicated("late", 3)).await.unwrap();
        send("late", "written").await;
        until(&env, "the new one is in sync", async || in_sync("late").await == 3).await;
        let doors: BTreeMap<i32, Endpoint> =
            nodes.iter().map(|(id, node)| (*id, local(node.clients))).collect();
        let known = async |id: i32| {
            let request = MetadataRequest { topics: None, ..MetadataRequest::default() };
            let answer = links.call(&doors[&id], request).await.unwrap();
            answer
                .topics
                .into_iter()
                .map(|topic| (topic.name.unwrap(), topic.topic_id))
                .collect::<BTreeMap<_, _>>()
        };
        let all = known(3).await;
        assert_eq!(all.len(), 2 + filler, "early, late and the fillers");
        assert!(known(4).await == all && known(5).await == all, "all have the same topics");

        // A new voter gets it from the quorum's leader, and leads with it.
        let told = forgetful(&both);
        with(&mut nodes, 2, move |node| node.start(&told));
        let voters =
            async || admin.describe_quorum().await.map_or_else(|_| Vec::new(), |quorum| quorum.voters);
        until(&env, "two vote", async || voters().await.len() == 2).await;
        let kept = nodes[&2].files("__cluster_metadata-0");
        assert!(kept.iter().any(|name| name.ends_with(".checkpoint")), "it has a snapshot: {kept:?}");
        assert!(
            !kept.contains(&"00000000000000000000.log".to_owned()),
            "and not the begin of the log: {kept:?}"
        );
        let first = voters().await.into_iter().find(|voter| voter.node == NodeId(1)).unwrap();
        admin.remove_voter(first.node, first.directory).await.unwrap();
        with(&mut nodes, 1, Lone::stop);
        admin.ensure_topic(replicated("led-by-the-new-one", 1)).await.unwrap();
        let known_then = known(5).await;
        assert!(all.iter().all(|(name, id)| known_then.get(name) == Some(id)), "nothing is forgotten");

        // What the first broker held the one that was away serves.
        with(&mut nodes, 3, Lone::stop);
        let auto_offset_reset = OffsetReset::Earliest;
        let mut consumer =
            client.consumer(ConsumerConfig { auto_offset_reset, ..ConsumerConfig::default() }).unwrap();
        consumer.assign([TopicPartition::new("early", 0)]).unwrap();
        let end = env.elapsed() + PATIENCE;
        let mut read = Vec::new();
        while read.is_empty() {
            assert!(env.elapsed() < end, "nothing is read");
            let polled = consumer.poll(Duration::from_millis(200)).await.unwrap();
            read.extend(
                polled.into_iter().flat_map(|polled| polled.records).map(|record| record.value.unwrap()),
            );
        }
        assert_eq!(read, ["kept"]);
    });
}

/// A part of a snapshot, asked for in the name of a cluster.
async fn ask(
    links: &Links,
    controller: &Endpoint,
    (end_offset, epoch): (i64, i32),
    (leader_epoch, position): (i32, i64),
    cluster_id: Option<&str>,
) -> FetchSnapshotResponse {
    let partition = FetchSnapshotRequestPartitionSnapshot {
        current_leader_epoch: leader_epoch,
        snapshot_id: FetchSnapshotRequestSnapshotId { end_offset, epoch },
        position,
        ..FetchSnapshotRequestPartitionSnapshot::default()
    };
    let topics = vec![FetchSnapshotRequestTopicSnapshot { name: LOG.into(), partitions: vec![partition] }];
    let cluster_id = cluster_id.map(Into::into);
    let request =
        FetchSnapshotRequest { cluster_id, max_bytes: 100, topics, ..FetchSnapshotRequest::default() };
    links.call(controller, request).await.unwrap()
}

fn part(answer: FetchSnapshotResponse) -> (ErrorCode, FetchSnapshotResponsePartitionSnapshot) {
    assert_eq!(answer.error_code, 0);
    let part = answer.topics.into_iter().flat_map(|topic| topic.partitions).next().unwrap();
    (ErrorCode::from_code(part.error_code), part)
}

/// All of a snapshot, in parts, and what its size is said to be.
async fn fetch_snapshot(
    links: &Links,
    controller: &Endpoint,
    id: (i64, i32),
    cluster_id: &str,
) -> Result<(i64, Vec<u8>), ErrorCode> {
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let (code, part) =
            part(ask(links, controller, id, (UNSAID, whole.len() as i64), Some(cluster_id)).await);
        code.ok()?;
        assert_eq!(part.position, whole.len() as i64);
        assert_eq!((part.snapshot_id.end_offset, part.snapshot_id.epoch), id);
        assert!((1..=100).contains(&part.unaligned_records.len()));
        whole.extend_from_slice(&part.unaligned_records);
        if whole.len() as i64 >= part.size {
            return Ok((part.size, whole));
        }
    }
}

/// Sets a default of all brokers: a change of metadata that needs no broker. A controller that has only just been elected closes the
/// connection of whoever asks before it can decide; they ask again.
async fn change(env: &Env, links: &Links, controller: &Endpoint, value: i64) {
    let config = AlterableConfig {
        name: "log.retention.ms".into(),
        value: Some(value.to_string().into()),
        ..AlterableConfig::default()
    };
    let resource = AlterConfigsResource { resource_type: 4, resource_name: "".into(), configs: vec![config] };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    until(env, "the controller decides", async || match links.call(controller, request.clone()).await {
        Ok(answer) => {
            assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
            true
        }
        Err(ClientError::Call { source: CallError::Disconnected { .. }, .. }) => false,
        Err(other) => panic!("{other}"),
    })
    .await;
}

/// KIP-630.
#[test]
fn snapshots_are_fetched_in_parts_and_what_is_not_there_is_refused() {
    let (runtime, env) = HostRuntime::start("snapshots", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = (1..=2).map(|id| (id, Lone::new(id))).collect();
        let founder = format!("127.0.0.1:{}", nodes[&1].controllers);
        for id in 1..=2 {
            let told = forgetful(&founder);
            with(&mut nodes, id, move |node| node.start(&told));
        }
        let links = links(&env);
        let (active, other) = (local(nodes[&1].controllers), local(nodes[&2].controllers));
        let described = async || {
            let request = DescribeClusterRequest { endpoint_type: 2, ..DescribeClusterRequest::default() };
            links.call(&active, request).await.unwrap()
        };
        until(&env, "both vote", async || described().await.brokers.len() == 2).await;
        let cluster = described().await;
        assert_eq!(cluster.controller_id, 1);
        let end = env.elapsed() + PATIENCE;
        for value in 0.. {
            change(&env, &links, &active, 1_000_000 + value).await;
            if cut_down_to(&links, &active).await > 0 {
                break;
            }
            assert!(env.elapsed() < end, "the log is never cut down");
        }
        let (known, size, whole) = loop {
            let id = fetch_all(&links, &active, Some(&cluster.cluster_id)).await.unwrap().snapshot_id;
            let known = (id.end_offset, id.epoch);
            match fetch_snapshot(&links, &active, known, &cluster.cluster_id).await {
                Ok((size, whole)) => break (known, size, whole),
                Err(code) => assert_eq!(code, ErrorCode::SnapshotNotFound, "a newer one was on its way"),
            }
            assert!(env.elapsed() < end, "no snapshot is fetched");
        };
        let name = format!("__cluster_metadata-0/{:020}-{:010}.checkpoint", known.0, known.1);
        assert_eq!(whole, nodes[&1].read(&name), "it is the file, byte for byte");

        let (_, refused) = part(ask(&links, &other, known, (UNSAID, 0), None).await);
        let epoch = refused.current_leader.leader_epoch;
        let (code, begin) = part(ask(&links, &active, known, (epoch, 0), None).await);
        assert_eq!((code, &begin.unaligned_records[..]), (ErrorCode::None, &whole[..100]));
        for (at, id, position, expected) in [
            (&active, (known.0 + 1, known.1), (UNSAID, 0), ErrorCode::SnapshotNotFound),
            (&active, (known.0, known.1 + 1), (UNSAID, 0), ErrorCode::SnapshotNotFound),
            (&active, known, (UNSAID, -1), ErrorCode::PositionOutOfRange),
            (&active, known, (UNSAID, size), ErrorCode::PositionOutOfRange),
            (&active, known, (epoch + 1, 0), ErrorCode::UnknownLeaderEpoch),
            (&other, known, (UNSAID, 0), ErrorCode::NotLeaderOrFollower),
        ] {
            let (code, part) = part(ask(&links, at, id, position, None).await);
            assert_eq!(code, expected, "{id:?} at {position:?} of {at}");
            assert_eq!(part.current_leader.leader_id, 1, "{expected}: who leads is told");
            assert!(part.unaligned_records.is_empty());
        }
        let answer = ask(&links, &active, known, (UNSAID, 0), Some("another")).await;
        assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::InconsistentClusterId);
        assert!(answer.topics.is_empty());
        let refused = fetch_all(&links, &active, Some("another")).await.map(drop);
        assert_eq!(refused, Err(ErrorCode::InconsistentClusterId));
    });
}

/// KIP-876.
#[test]
fn a_snapshot_is_made_and_takes_the_place_of_the_log_by_time_too() {
    let (runtime, env) = HostRuntime::start("snapshots", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = [(1, Lone::new(1))].into();
        let mut told = properties("controller", &format!("127.0.0.1:{}", nodes[&1].controllers));
        told.push(("metadata.log.max.snapshot.interval.ms", "200".to_owned()));
        told.push(("metadata.max.retention.ms", "100".to_owned()));
        with(&mut nodes, 1, move |node| node.start(&told));
        let (links, active) = (links(&env), local(nodes[&1].controllers));
        let leads = async || {
            let request = DescribeClusterRequest { endpoint_type: 2, ..DescribeClusterRequest::default() };
            links.call(&active, request).await.is_ok_and(|cluster| cluster.controller_id == 1)
        };
        until(&env, "it leads", leads).await;
        change(&env, &links, &active, 1_000_000).await;
        let end = fetch_all(&links, &active, None).await.unwrap().high_watermark;
        // Nothing more is written: time alone makes it due.
        until(&env, "the log is cut down", async || cut_down_to(&links, &active).await >= end).await;
    });
}
