//! Groups whose cluster has no controller: nobody replaces anybody meanwhile, so their coordinator goes on, for longer than a session.

use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientConfig, Consumer, ConsumerConfig, NewTopic, OffsetReset, ProducerConfig, ProducerRecord,
};
use millstream_env::HostRuntime;
use millstream_env::testing::until;
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;
use millstream_record::{NodeId, TopicPartition};

use crate::lone::{Lone, Lones, with};
use crate::roles::properties;

const TOPIC: &str = "read";
const PARTITIONS: i32 = 4;
/// After so long without a sign of life from its cluster a broker coordinates nothing any more.
const SESSION_MS: u64 = 2_000;

fn member(client: &Client) -> Consumer {
    let auto_offset_reset = OffsetReset::Earliest;
    let config =
        ConsumerConfig { auto_offset_reset, heartbeat_interval_ms: 200, ..ConsumerConfig::group("g") };
    let mut consumer = client.consumer(config).unwrap();
    consumer.subscribe([Arc::from(TOPIC)], None).unwrap();
    consumer
}

/// Polls all members at once, as if each had a process of its own; gives how many records came.
async fn poll(members: &mut [Consumer]) -> usize {
    let polls = members.iter_mut().map(|member| member.poll(Duration::from_millis(50)));
    let polled = futures::future::join_all(polls).await;
    polled.into_iter().flat_map(Result::unwrap).map(|one| one.records.len()).sum()
}

#[test]
fn groups_go_on_without_a_controller() {
    let (runtime, env) = HostRuntime::start("groups", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = (1..=3).map(|id| (id, Lone::new(id))).collect();
        let controllers = format!("127.0.0.1:{}", nodes[&1].controllers);
        let told = move |role: &str| {
            let mut told = properties(role, &controllers);
            told.push(("broker.session.timeout.ms", SESSION_MS.to_string()));
            told.push(("broker.heartbeat.interval.ms", "200".to_owned()));
            told.push(("offsets.topic.replication.factor", "2".to_owned()));
            told.push(("min.insync.replicas", "2".to_owned()));
            told.push(("group.initial.rebalance.delay.ms", "0".to_owned()));
            told
        };
        for (id, role) in [(1, "controller"), (2, "broker"), (3, "broker")] {
            let told = told(role);
            with(&mut nodes, id, move |node| node.start(&told));
        }
        let bootstrap = (2..=3).map(|id| Endpoint::new("127.0.0.1", nodes[&id].clients)).collect();
        let config = ClientConfig { metadata_max_age_ms: 500, ..ClientConfig::new(bootstrap) };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        let admin = client.admin();
        let brokers = async || admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
        until(&env, "two serve", async || brokers().await == 2).await;
        let topic = NewTopic { replication_factor: Some(2), ..NewTopic::new(TOPIC, PARTITIONS) };
        admin.ensure_topic(topic).await.unwrap();
        let producer = client.producer(ProducerConfig::default()).unwrap();
        let send = async |number: usize| {
            let partition = i32::try_from(number).unwrap() % PARTITIONS;
            let record = ProducerRecord {
                partition: Some(partition),
                ..ProducerRecord::new(TOPIC, number.to_string())
            };
            producer.send(record).await.unwrap().await.unwrap();
        };

        let mut members = vec![member(&client)];
        let has_all = |members: &[Consumer]| {
            let shares: Vec<usize> = members.iter().map(|one| one.handle().assignment().len()).collect();
            shares.iter().sum::<usize>() == 4 && shares.iter().all(|share| *share > 0)
        };
        let (mut sent, mut read) = (0, 0);
        while !has_all(&members) {
            read += poll(&mut members).await;
        }

        send(sent).await; // a producer that has its id needs no controller
        sent += 1;
        with(&mut nodes, 1, Lone::crash);
        let gone = env.elapsed();
        let long = Duration::from_millis(3 * SESSION_MS);
        // Written, read and committed all the time; in the middle a member joins, and the group shares out anew.
        while env.elapsed() < gone + long || read < sent || !has_all(&members) {
            assert!(env.elapsed() < gone + 10 * long, "{read} of {sent} are read");
            if env.elapsed() < gone + long {
                send(sent).await;
                sent += 1;
            }
            if members.len() == 1 && env.elapsed() > gone + long / 2 {
                members.push(member(&client));
            }
            read += poll(&mut members).await;
            for member in &members {
                member.handle().commit_positions().await.unwrap();
            }
        }
        assert_eq!(members.len(), 2);

        // Their controller is back: what was committed without it holds.
        let told = told("controller");
        with(&mut nodes, 1, move |node| node.start(&told));
        let decides = async || {
            let topic = NewTopic { replication_factor: Some(2), ..NewTopic::new("decided", 1) };
            admin.ensure_topic(topic).await.is_ok()
        };
        until(&env, "the controller decides", decides).await;
        let committed = admin.group_offsets("g").await.unwrap();
        let committed: i64 = committed.values().map(|one| one.offset.0).sum();
        assert_eq!(usize::try_from(committed).unwrap(), sent);
        let described = admin.describe_topics(&[TOPIC]).await.unwrap();
        let topic = described[TOPIC].as_ref().unwrap();
        assert!(topic.partitions.iter().all(|one| one.in_sync.len() == 2), "{topic:?}");
        let ids: Vec<NodeId> =
            admin.describe_cluster().await.unwrap().brokers.iter().map(|one| one.node).collect();
        assert_eq!(ids, [NodeId(2), NodeId(3)]);
        let at = TopicPartition::new(TOPIC, 0);
        assert!(members[0].handle().committed(std::slice::from_ref(&at)).await.unwrap().contains_key(&at));
    });
}
