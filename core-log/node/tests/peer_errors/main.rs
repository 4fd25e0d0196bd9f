//! What bad requests are answered with: our node and Apache Kafka give the same error codes. Our node is always asked, and held
//! against `codes.txt`, the codes of the last comparison; Apache Kafka is asked too where `PEER_DIR` says that it is there.

mod admin;
mod batches;
mod configs;
mod deletion;
mod transactions;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{EmbeddedConfig, embedded};
use millstream_protocol::messages::create_partitions::CreatePartitionsTopic;
use millstream_protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use millstream_protocol::messages::delete_topics::DeleteTopicState;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic};
use millstream_protocol::messages::join_group::JoinGroupRequestProtocol;
use millstream_protocol::messages::leave_group::MemberIdentity;
use millstream_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use millstream_protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millstream_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millstream_protocol::messages::offset_for_leader_epoch::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_protocol::messages::*;
use millstream_protocol::{CallError, Ctx, Dial, Endpoint, ErrorCode, Link, Request, Response};
use millstream_record::{BatchBuilder, BatchOptions, Millis, Uuid};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// A case, our codes and Apache Kafka's.
type Difference = (&'static str, &'static [ErrorCode], &'static [ErrorCode]);

/// Where the codes are not Apache Kafka's on purpose. Those of groups send a client to the same place: it joins anew.
const DELIBERATE: [Difference; 7] = [
    // Kafka sets min.insync.replicas of all brokers where eligible leader replicas are kept, and refuses to unset it; ours has it in each
    // broker's file.
    ("replaces of all brokers", &[ErrorCode::None], &[ErrorCode::InvalidConfig]),
    // Kafka tells versions from 9 on that there is no group (KIP-848), older ones that the generation is over; ours tells all
    // of them the latter.
    (
        "commits to an unknown group as a member",
        &[ErrorCode::IllegalGeneration],
        &[ErrorCode::GroupIdNotFound],
    ),
    // Kafka fails inside; the request is what is wrong.
    ("does what nobody heard of", &[ErrorCode::InvalidRequest], &[ErrorCode::UnknownServerError]),
    // Kafka keeps it for plugins, which we have none of: who misspells a name learns of it here.
    ("sets of all brokers what is unknown", &[ErrorCode::InvalidConfig], &[ErrorCode::None]),
    // Kafka fails inside, over bytes that are the client's fault.
    ("a batch of noise", &[ErrorCode::InvalidRecord], &[ErrorCode::UnknownServerError]),
    ("a batch of noise that says gzip", &[ErrorCode::InvalidRecord], &[ErrorCode::UnknownServerError]),
    // Kafka keeps it where it is not compressed, and a consumer sees offsets that are another batch's.
    ("a batch with a gap in its offsets", &[ErrorCode::InvalidRecord], &[ErrorCode::None]),
];

/// A broker that is asked.
struct Asked {
    env: Env,
    link: Arc<dyn Link>,
    topic: ByteString,
    topic_id: Uuid,
    /// A producer whose transaction is open.
    open: transactions::Producer,
}

impl Asked {
    async fn new(env: &Env, dial: Arc<dyn Dial>, endpoint: Endpoint, name: &str) -> Self {
        let link = dial.dial(endpoint).await.unwrap();
        let open = transactions::Producer::default();
        let mut asked = Self { env: env.clone(), link, topic: name.into(), topic_id: Uuid::ZERO, open };
        let Response::CreateTopics(made) = asked.ask(create(name, 1, 1, &[])).await.unwrap() else {
            panic!("CreateTopics is answered by its like");
        };
        assert_eq!(made.topics[0].error_code, 0, "{:?}", made.topics[0].error_message);
        asked.topic_id = made.topics[0].topic_id;
        asked.open = transactions::Producer::begin(&asked).await;
        admin::join_groups(&asked).await;
        asked
    }

    async fn ask(&self, request: Request) -> Result<Response, CallError> {
        let ctx = Ctx::local("test".into()).with_deadline(self.env.elapsed() + PATIENCE);
        self.link.call(ctx, request).await
    }

    /// The codes that `request` is answered with, once the coordinator is there.
    async fn codes(&self, request: Request) -> Vec<ErrorCode> {
        codes(&self.settled(request).await)
    }

    /// What `request` is answered with, once the coordinator is there.
    async fn settled(&self, request: Request) -> Response {
        let until = self.env.elapsed() + PATIENCE;
        loop {
            let answer = self.ask(request.clone()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{:?}: {error}", request.api()));
            let codes = codes(&answer);
            let waits = [
                ErrorCode::CoordinatorLoadInProgress,
                ErrorCode::CoordinatorNotAvailable,
                ErrorCode::NotCoordinator,
                ErrorCode::ConcurrentTransactions,
            ];
            let settled = !codes.iter().any(|code| waits.contains(code));
            if settled {
                return answer;
            }
            assert!(self.env.elapsed() < until, "{:?} still answers {codes:?}", request.api());
            self.env.sleep(Duration::from_millis(50)).await;
        }
    }
}

fn create(name: &str, partitions: i32, replicas: i16, configs: &[(&str, Option<&str>)]) -> Request {
    let config = |(name, value): &(&str, Option<&str>)| CreatableTopicConfig {
        name: ByteString::from(*name),
        value: value.map(ByteString::from),
    };
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        configs: configs.iter().map(config).collect(),
        ..CreatableTopic::default()
    };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..CreateTopicsRequest::default() }.into()
}

fn batch(bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Millis(1_700_000_000_000), None, Some(&vec![b'v'; bytes]), &[]).unwrap();
    builder.build().unwrap().to_vec()
}

/// Every error code of the answer, in its order.
fn codes(response: &Response) -> Vec<ErrorCode> {
    let codes: Vec<i16> = match response {
        Response::CreateTopics(answer) => answer.topics.iter().map(|topic| topic.error_code).collect(),
        Response::DeleteTopics(answer) => answer.responses.iter().map(|topic| topic.error_code).collect(),
        Response::CreatePartitions(answer) => answer.results.iter().map(|topic| topic.error_code).collect(),
        Response::Produce(answer) => {
            let partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
            partitions.map(|partition| partition.error_code).collect()
        }
        Response::Fetch(answer) => {
            let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
            [answer.error_code].into_iter().chain(partitions.map(|partition| partition.error_code)).collect()
        }
        Response::ListOffsets(answer) => {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).collect()
        }
        Response::DeleteRecords(answer) => {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).collect()
        }
        Response::OffsetForLeaderEpoch(answer) => {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).collect()
        }
        Response::JoinGroup(answer) => vec![answer.error_code],
        Response::SyncGroup(answer) => vec![answer.error_code],
        Response::Heartbeat(answer) => vec![answer.error_code],
        Response::LeaveGroup(answer) => {
            let members = answer.members.iter().map(|member| member.error_code);
            [answer.error_code].into_iter().chain(members).collect()
        }
        Response::OffsetCommit(answer) => {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).collect()
        }
        Response::OffsetDelete(answer) => {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            [answer.error_code].into_iter().chain(partitions.map(|partition| partition.error_code)).collect()
        }
        Response::DescribeTopicPartitions(answer) => {
            answer.topics.iter().map(|topic| topic.error_code).collect()
        }
        Response::OffsetFetch(answer) => {
            let partitions = |group: &offset_fetch::OffsetFetchResponseGroup| {
                let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
                [group.error_code].into_iter().chain(partitions.map(|p| p.error_code)).collect::<Vec<_>>()
            };
            answer.groups.iter().flat_map(partitions).collect()
        }
        Response::InitProducerId(answer) => vec![answer.error_code],
        Response::AddPartitionsToTxn(answer) => {
            let topics = answer.results_by_transaction.iter().flat_map(|one| &one.topic_results);
            topics.flat_map(|topic| &topic.results_by_partition).map(|p| p.partition_error_code).collect()
        }
        Response::AddOffsetsToTxn(answer) => vec![answer.error_code],
        Response::TxnOffsetCommit(answer) => {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).collect()
        }
        Response::EndTxn(answer) => vec![answer.error_code],
        Response::DescribeConfigs(answer) => answer.results.iter().map(|one| one.error_code).collect(),
        Response::IncrementalAlterConfigs(answer) => {
            answer.responses.iter().map(|one| one.error_code).collect()
        }
        Response::AlterConfigs(answer) => answer.responses.iter().map(|one| one.error_code).collect(),
        Response::DescribeGroups(answer) => answer.groups.iter().map(|group| group.error_code).collect(),
        Response::DeleteGroups(answer) => answer.results.iter().map(|group| group.error_code).collect(),
        Response::FindCoordinator(answer) => {
            answer.coordinators.iter().map(|found| found.error_code).collect()
        }
        other => panic!("no codes are taken from {other:?}"),
    };
    codes.into_iter().map(ErrorCode::from_code).collect()
}

/// Every case: what it is, and what is asked.
fn cases(asked: &Asked) -> Vec<(&'static str, Request)> {
    let Asked { topic, topic_id, open, .. } = asked;
    let mut all = topics(topic);
    all.extend(records(topic, *topic_id));
    all.extend(groups(topic));
    all.extend(transactions::without_any(topic));
    all.extend(transactions::while_one_is_open(topic, *topic_id, open));
    all.extend(configs::cases(topic));
    all.extend(batches::cases(topic, *topic_id));
    all.extend(admin::cases(topic));
    all.extend(deletion::cases(topic));
    all
}

fn topics(topic: &ByteString) -> Vec<(&'static str, Request)> {
    let long = "x".repeat(250);
    let delete = |name: Option<&str>, topic_id| {
        let topics = vec![DeleteTopicState { name: name.map(ByteString::from), topic_id }];
        Request::from(DeleteTopicsRequest { topics, timeout_ms: 10_000, ..DeleteTopicsRequest::default() })
    };
    let grow = |name: &str, count| {
        let topics = vec![CreatePartitionsTopic { name: name.into(), count, assignments: None }];
        Request::from(CreatePartitionsRequest { topics, timeout_ms: 10_000, ..Default::default() })
    };
    vec![
        ("a topic that exists", create(topic, 1, 1, &[])),
        ("a topic without a name", create("", 1, 1, &[])),
        ("a topic named .", create(".", 1, 1, &[])),
        ("a topic with a space", create("a b", 1, 1, &[])),
        ("a topic with a long name", create(&long, 1, 1, &[])),
        ("no partitions", create("none", 0, 1, &[])),
        ("-2 partitions", create("none", -2, 1, &[])),
        ("too many replicas", create("none", 1, 100, &[])),
        ("no replicas", create("none", 1, 0, &[])),
        ("an unknown configuration", create("none", 1, 1, &[("retention", Some("1"))])),
        ("a configuration that is no number", create("none", 1, 1, &[("retention.ms", Some("soon"))])),
        ("a configuration without a value", create("none", 1, 1, &[("retention.ms", None)])),
        ("the metadata topic", create("__cluster_metadata", 1, 1, &[])),
        ("deletes an unknown topic", delete(Some("unknown-topic"), Uuid::ZERO)),
        ("deletes an unknown id", delete(None, Uuid([7; 16]))),
        ("grows an unknown topic", grow("unknown-topic", 2)),
        ("grows to as many", grow(topic, 1)),
        ("grows to none", grow(topic, 0)),
    ]
}

fn records(topic: &ByteString, topic_id: Uuid) -> Vec<(&'static str, Request)> {
    let produce = |id: Uuid, name: &ByteString, index, acks, records: Vec<u8>| {
        let partition_data = vec![PartitionProduceData { index, records: Some(records.into()) }];
        let topic_data = vec![TopicProduceData { name: name.clone(), topic_id: id, partition_data }];
        Request::from(ProduceRequest { acks, timeout_ms: 5000, topic_data, ..ProduceRequest::default() })
    };
    let fetch = |id, name: &ByteString, partition, fetch_offset, epoch| {
        let partition = FetchPartition {
            partition,
            fetch_offset,
            current_leader_epoch: epoch,
            partition_max_bytes: 1000,
            ..FetchPartition::default()
        };
        let topic = FetchTopic { topic: name.clone(), topic_id: id, partitions: vec![partition] };
        Request::from(FetchRequest { topics: vec![topic], max_bytes: 1000, ..FetchRequest::default() })
    };
    let session = |session_id, session_epoch| {
        Request::from(FetchRequest { session_id, session_epoch, ..FetchRequest::default() })
    };
    let list = |name: &ByteString, partition_index, timestamp, epoch| {
        let partition = ListOffsetsPartition { partition_index, timestamp, current_leader_epoch: epoch };
        let topic = ListOffsetsTopic { name: name.clone(), partitions: vec![partition] };
        Request::from(ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() })
    };
    let twice = |name: &ByteString| {
        let of = |timestamp| ListOffsetsPartition { partition_index: 0, timestamp, current_leader_epoch: -1 };
        let topic = ListOffsetsTopic { name: name.clone(), partitions: vec![of(-1), of(-2)] };
        Request::from(ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() })
    };
    let epoch = |name: &ByteString, partition, current_leader_epoch| {
        let partition = OffsetForLeaderPartition { partition, current_leader_epoch, leader_epoch: 0 };
        let topic = OffsetForLeaderTopic { topic: name.clone(), partitions: vec![partition] };
        Request::from(OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() })
    };
    let (mut bad_crc, mut bad_magic, mut two) = (batch(10), batch(10), batch(10));
    *bad_crc.last_mut().unwrap() ^= 1;
    bad_magic[16] = 7;
    two.extend(batch(10));
    let (unknown, no_id) = (ByteString::from_static("unknown-topic"), Uuid([7; 16]));
    vec![
        ("produce", produce(topic_id, topic, 0, -1, batch(10))),
        ("produce to an unknown topic", produce(no_id, &unknown, 0, -1, batch(10))),
        ("produce to an unknown partition", produce(topic_id, topic, 9, -1, batch(10))),
        ("produce with a wrong CRC", produce(topic_id, topic, 0, -1, bad_crc)),
        ("produce with a wrong magic", produce(topic_id, topic, 0, -1, bad_magic)),
        ("produce with two batches", produce(topic_id, topic, 0, -1, two)),
        ("produce with too much", produce(topic_id, topic, 0, -1, batch(2_000_000))),
        ("produce with acks 2", produce(topic_id, topic, 0, 2, batch(10))),
        ("produce with nothing", produce(topic_id, topic, 0, -1, Vec::new())),
        ("produce with a piece", produce(topic_id, topic, 0, -1, batch(10)[..30].to_vec())),
        ("fetch of an unknown id", fetch(no_id, &unknown, 0, 0, -1)),
        ("fetch of an unknown partition", fetch(topic_id, topic, 9, 0, -1)),
        ("fetch beyond the end", fetch(topic_id, topic, 0, 99, -1)),
        ("fetch of a negative offset", fetch(topic_id, topic, 0, -5, -1)),
        ("fetch in a later epoch", fetch(topic_id, topic, 0, 0, 99)),
        ("fetch in an unknown session", session(77, 5)),
        ("fetch in an unheard-of session epoch", session(0, 5)),
        ("offsets of an unknown topic", list(&unknown, 0, -1, -1)),
        ("offsets of an unknown partition", list(topic, 9, -1, -1)),
        ("offsets in a later epoch", list(topic, 0, -1, 99)),
        ("offsets at a time to come", list(topic, 0, i64::MAX, -1)),
        ("offsets at an unknown sign", list(topic, 0, -77, -1)),
        ("offsets of one partition twice", twice(topic)),
        ("epoch of an unknown topic", epoch(&unknown, 0, -1)),
        ("epoch in a later epoch", epoch(topic, 0, 99)),
    ]
}

fn groups(topic: &ByteString) -> Vec<(&'static str, Request)> {
    let join = |group: &str, session_timeout_ms, member: &str, protocol_type: &str, protocols: &[&str]| {
        let protocol =
            |name: &&str| JoinGroupRequestProtocol { name: ByteString::from(*name), metadata: Bytes::new() };
        Request::from(JoinGroupRequest {
            group_id: group.into(),
            session_timeout_ms,
            rebalance_timeout_ms: 5000,
            member_id: member.into(),
            protocol_type: protocol_type.into(),
            protocols: protocols.iter().map(protocol).collect(),
            ..JoinGroupRequest::default()
        })
    };
    let sync = |group: &str, protocol: Option<&str>| {
        let (generation_id, member_id) = (1, "nobody".into());
        Request::from(SyncGroupRequest {
            group_id: group.into(),
            generation_id,
            member_id,
            protocol_type: Some("consumer".into()),
            protocol_name: protocol.map(ByteString::from),
            ..Default::default()
        })
    };
    let heartbeat = |group: &str| {
        let (generation_id, member_id) = (1, "nobody".into());
        Request::from(HeartbeatRequest {
            group_id: group.into(),
            generation_id,
            member_id,
            ..Default::default()
        })
    };
    let leave = |group: &str| {
        let members = vec![MemberIdentity { member_id: "nobody".into(), ..MemberIdentity::default() }];
        Request::from(LeaveGroupRequest { group_id: group.into(), members, ..Default::default() })
    };
    let commit = |group: &str, member: &str, generation, partition_index, metadata: usize| {
        let partition = OffsetCommitRequestPartition {
            partition_index,
            committed_offset: 1,
            committed_metadata: Some("m".repeat(metadata).into()),
            ..OffsetCommitRequestPartition::default()
        };
        Request::from(OffsetCommitRequest {
            group_id: group.into(),
            member_id: member.into(),
            generation_id_or_member_epoch: generation,
            topics: vec![OffsetCommitRequestTopic {
                name: topic.clone(),
                partitions: vec![partition],
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        })
    };
    let fetch = |group: &str, member: Option<&str>| {
        let wanted = OffsetFetchRequestTopics {
            name: topic.clone(),
            partition_indexes: vec![0],
            ..OffsetFetchRequestTopics::default()
        };
        let group = OffsetFetchRequestGroup {
            group_id: group.into(),
            member_id: member.map(ByteString::from),
            member_epoch: if member.is_some() { 3 } else { -1 },
            topics: Some(vec![wanted]),
        };
        Request::from(OffsetFetchRequest { groups: vec![group], ..OffsetFetchRequest::default() })
    };
    let describe = |group: &str| {
        Request::from(DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() })
    };
    let delete = |group: &str| Request::from(DeleteGroupsRequest { groups_names: vec![group.into()] });
    let find = |key_type, key: &str| {
        let coordinator_keys = vec![key.into()];
        Request::from(FindCoordinatorRequest { key_type, coordinator_keys, ..Default::default() })
    };
    vec![
        ("finds a group", find(0, "errors-group")),
        ("finds a transaction", find(1, "errors-transaction")),
        ("finds what there is not", find(9, "errors")),
        ("joins without a group", join("", 10_000, "", "consumer", &["range"])),
        ("joins for too short", join("errors-group", 1, "", "consumer", &["range"])),
        ("joins for too long", join("errors-group", i32::MAX, "", "consumer", &["range"])),
        ("joins as nobody knows", join("errors-group", 10_000, "nobody", "consumer", &["range"])),
        ("joins without a member id", join("errors-group", 10_000, "", "consumer", &["range"])),
        ("joins without protocols", join("errors-group", 10_000, "", "consumer", &[])),
        ("joins without a type", join("errors-group", 10_000, "", "", &["range"])),
        ("syncs an unknown group", sync("errors-unknown", Some("range"))),
        ("syncs as nobody knows", sync("errors-group", Some("range"))),
        ("syncs without a group", sync("", Some("range"))),
        ("syncs without a protocol", sync("errors-group", None)),
        ("beats in an unknown group", heartbeat("errors-unknown")),
        ("beats as nobody knows", heartbeat("errors-group")),
        ("beats without a group", heartbeat("")),
        ("leaves an unknown group", leave("errors-unknown")),
        ("leaves as nobody knows", leave("errors-group")),
        ("leaves without a group", leave("")),
        ("commits to an unknown group as a member", commit("errors-unknown", "nobody", 1, 0, 1)),
        ("commits as nobody knows", commit("errors-group", "nobody", 1, 0, 1)),
        ("commits too much metadata", commit("errors-group", "", -1, 0, 5000)),
        ("commits an unknown partition", commit("errors-group", "", -1, 99, 1)),
        ("commits without a group", commit("", "", -1, 0, 1)),
        ("fetches of an unknown group", fetch("errors-unknown", None)),
        ("fetches as nobody knows", fetch("errors-unknown", Some("nobody"))),
        ("describes an unknown group", describe("errors-unknown")),
        ("describes no group", describe("")),
        ("deletes an unknown group", delete("errors-unknown")),
        ("deletes no group", delete("")),
    ]
}

#[test]
fn bad_requests_are_answered_with_kafkas_codes() {
    let (runtime, env) = HostRuntime::start("errors", 2).unwrap();
    let dir = TempDir::new().unwrap();
    let name = format!("errors-{}", env.random());
    runtime.block_on(async {
        let node = embedded(EmbeddedConfig::new(dir.path())).await.unwrap();
        let ours = Asked::new(&env, node.dial(), node.bootstrap()[0].clone(), &name).await;
        let theirs = if std::env::var_os("PEER_DIR").is_some() {
            let dial = Arc::new(TcpDial::new(env.clone()));
            Some(Asked::new(&env, dial, Endpoint::new("127.0.0.1", 19092), &name).await)
        } else {
            let _ = writeln!(std::io::stderr(), "not run: bad requests to Apache Kafka (set PEER_DIR)");
            None
        };
        let mut answers = String::new();
        let mut wrong = Vec::new();
        for (case, request) in cases(&ours) {
            let got = ours.codes(request).await;
            answers.push_str(&format!("{case}: {got:?}\n"));
            let Some(peer) = &theirs else { continue };
            let (_, same) =
                cases(peer).into_iter().find(|(other, _)| *other == case).expect("both are asked the same");
            let expected = peer.codes(same).await;
            let is_deliberate =
                DELIBERATE.iter().any(|one| one.0 == case && one.1 == got && one.2 == expected);
            if got != expected && !is_deliberate {
                wrong.push(format!("{case}: {got:?}, Kafka {expected:?}"));
            }
        }
        if let Some(peer) = &theirs {
            let topics = vec![DeleteTopicState { name: Some(peer.topic.clone()), ..Default::default() }];
            peer.ask(DeleteTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() }.into())
                .await
                .unwrap();
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for (got, known) in answers.lines().zip(include_str!("codes.txt").lines()) {
            assert_eq!(got, known, "our answer differs from the one that was held against Kafka's");
        }
        assert_eq!(answers.lines().count(), include_str!("codes.txt").lines().count(), "\n{answers}");
        node.shutdown().await.unwrap();
    });
}
