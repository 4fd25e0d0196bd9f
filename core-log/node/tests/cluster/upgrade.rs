//! The way from one build to the next: node by node, under load, and no way back once the level is raised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_client::{Client, ClientConfig, IsolationLevel, Links, ProducerConfig};
use millstream_env::HostRuntime;
use millstream_env::testing::{PATIENCE, until};
use millstream_machine::metadata::SupportedFeatures;
use millstream_net::TcpDial;
use millstream_protocol::messages::update_features::FeatureUpdateKey;
use millstream_protocol::messages::{
    ApiVersionsRequest, BrokerRegistrationRequest, ControllerRegistrationRequest, UpdateFeaturesRequest,
    broker_registration, controller_registration,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{NodeId, Uuid};

use crate::lone::{Lone, Lones, with};
use crate::nodes::{Cluster, PARTITIONS, THIS_BUILD, send};
use crate::roles::properties;

const TOPIC: &str = "t";
const FEATURE: &str = "metadata.version";
const NEXT_BUILD: i16 = THIS_BUILD + 1;

/// Asks for the next level; gives the reason why not, which is empty when it is taken up.
async fn raise(links: &Links, broker: &Endpoint) -> String {
    let update = FeatureUpdateKey {
        feature: FEATURE.into(),
        max_version_level: NEXT_BUILD,
        upgrade_type: 1,
        ..FeatureUpdateKey::default()
    };
    let request = UpdateFeaturesRequest {
        timeout_ms: 10_000,
        feature_updates: vec![update],
        ..UpdateFeaturesRequest::default()
    };
    let answer = match links.call(broker, request).await {
        Ok(answer) => answer,
        Err(error) => return error.to_string(), // a broker answers nobody before it has caught up
    };
    match ErrorCode::from_code(answer.error_code) {
        ErrorCode::None => String::new(),
        // The controller moves with the nodes that are started anew.
        code => format!("{code}: {}", answer.error_message.unwrap_or_default()),
    }
}

/// The level that a node says the cluster runs at, and the highest that it supports itself.
async fn levels(cluster: &Cluster, node: NodeId) -> (i16, i16) {
    let request =
        ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
    let answer = cluster.ask(node, request).await;
    let finalized = answer.finalized_features.iter().find(|feature| &*feature.name == FEATURE);
    let supported = answer.supported_features.iter().find(|feature| &*feature.name == FEATURE);
    (
        finalized.map_or(0, |feature| feature.max_version_level),
        supported.map_or(0, |feature| feature.max_version),
    )
}

async fn in_sync(cluster: &Cluster) -> usize {
    let Ok(topics) = cluster.client.admin().describe_topics(&[TOPIC]).await else { return 0 };
    let Some(Ok(topic)) = topics.get(TOPIC) else { return 0 };
    topic.partitions.iter().map(|partition| partition.in_sync.len()).min().unwrap_or(0)
}

/// What a node of this build that is told to join says of itself, to a controller that was raised.
async fn is_refused(cluster: &Cluster) {
    let supported = SupportedFeatures::default();
    let feature = |(name, min_supported_version, max_supported_version): (&'static str, i16, i16)| {
        broker_registration::Feature { name: name.into(), min_supported_version, max_supported_version }
    };
    let broker = BrokerRegistrationRequest {
        broker_id: 9,
        cluster_id: cluster.client.admin().describe_cluster().await.unwrap().cluster_id.unwrap(),
        incarnation_id: Uuid::from_random(9, 9),
        features: supported.iter().map(feature).collect(),
        log_dirs: vec![Uuid::from_random(9, 1)],
        ..BrokerRegistrationRequest::default()
    };
    let feature = |(name, min_supported_version, max_supported_version): (&'static str, i16, i16)| {
        controller_registration::Feature { name: name.into(), min_supported_version, max_supported_version }
    };
    let controller = ControllerRegistrationRequest {
        controller_id: 9,
        incarnation_id: Uuid::from_random(9, 9),
        features: supported.iter().map(feature).collect(),
        ..ControllerRegistrationRequest::default()
    };
    let quorum = cluster.client.admin().describe_quorum().await.unwrap();
    let active = quorum.voters.iter().find(|voter| Some(voter.node) == quorum.leader).unwrap();
    let active = active.endpoint.clone().unwrap();
    let answer = cluster.links.call(&active, broker).await.unwrap();
    assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::UnsupportedVersion);
    let answer = cluster.links.call(&active, controller).await.unwrap();
    assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::UnsupportedVersion);
    let why = answer.error_message.unwrap();
    assert!(why.contains("level 31 of metadata.version"), "{why}");
}

#[test]
fn three_nodes_go_from_one_build_to_the_next_while_clients_write() {
    let (runtime, env) = HostRuntime::start("upgrade", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let (done, written) = futures::channel::oneshot::channel();
        let writing = env.spawn("writer", async move {
            let mut number = 0_u32;
            while !stopping.load(Ordering::SeqCst) {
                send(&producer, TOPIC, number).await;
                number += 1;
            }
            let _ = done.send(number); // who waits for it is there until the end
        });

        // Whoever is asked, and however far it is: the level stays until the last node has followed.
        for upgraded in 0..3 {
            let behind: Vec<String> = (upgraded + 1..=3).map(|id| format!("broker {id} (7 to 30)")).collect();
            let expected = async || {
                let why = raise(&cluster.links, &cluster.clients(NodeId(1))).await;
                let is_ahead =
                    |id| why.contains(&format!("broker {id} ")) || why.contains(&format!("controller {id} "));
                why.contains(&behind.join(", ")) && !(1..=upgraded).any(is_ahead)
            };
            cluster.until("those that are behind are named, and no others", expected).await;
            let node = NodeId(upgraded + 1);
            cluster.stop(node);
            cluster.restart_as(node, NEXT_BUILD);
            cluster.until("it is in sync", async || in_sync(&cluster).await == 3).await;
            let says_so = async || levels(&cluster, node).await == (THIS_BUILD, NEXT_BUILD);
            cluster.until("it says what it supports, and at which level the cluster is", says_so).await;
        }
        cluster
            .until("the level is raised", async || {
                raise(&cluster.links, &cluster.clients(NodeId(2))).await.is_empty()
            })
            .await;
        for node in [1, 2, 3].map(NodeId) {
            let raised = async || levels(&cluster, node).await == (NEXT_BUILD, NEXT_BUILD);
            cluster.until("every node knows it", raised).await;
        }

        // No way back: a node of the older build ends, the others go on, and it comes back as the newer one.
        is_refused(&cluster).await;
        let unsupported = "metadata.version is at level 31, and this node supports 7 to 30 only; \
                           start a build on this node that supports level 31";
        cluster.stop(NodeId(3));
        let why = cluster.fails_as(NodeId(3), THIS_BUILD);
        let told =
            "The controller does not support level 31 of metadata.version. Start a build on it that does.";
        assert!(why.contains(unsupported) || why.contains(told), "{why}"); // its own log says so, and the controller
        cluster.restart_as(NodeId(3), NEXT_BUILD);
        cluster.until("it is in sync again", async || in_sync(&cluster).await == 3).await;
        let told = properties("broker", &format!("127.0.0.1:{}", cluster.controllers_but(NodeId(3))));
        let mut newcomers = BTreeMap::from([(4, Lone::new(4))]);
        let why = with(&mut newcomers, 4, move |node| node.fails(&told));
        assert!(why.contains("node 4") && why.contains(unsupported), "{why}");

        stop.store(true, Ordering::SeqCst);
        let written = written.await.expect("no write failed");
        drop(writing);
        let read =
            cluster.read(TOPIC, IsolationLevel::ReadCommitted, (written * PARTITIONS as u32) as usize).await;
        let expected = (0..PARTITIONS).map(|index| (index, (0..written).collect::<Vec<_>>()));
        assert_eq!(read, expected.collect(), "each once, in order");
    });
}

#[test]
fn a_controller_without_a_broker_holds_the_level_back_too() {
    let (runtime, env) = HostRuntime::start("upgrade", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = (1..=4).map(|id| (id, Lone::new(id))).collect();
        let controllers = [1, 2].map(|id| format!("127.0.0.1:{}", nodes[&id].controllers));
        let (founder, both) = (properties("controller", &controllers[0]), controllers.join(","));
        let broker = properties("broker", &both);
        for (id, told) in [(1, founder.clone()), (2, founder), (3, broker)] {
            with(&mut nodes, id, move |node| {
                node.supports = if id == 3 { NEXT_BUILD } else { THIS_BUILD };
                node.start(&told);
            });
        }
        let links = Links::new(env.clone(), Arc::new(TcpDial::new(env.clone())), "test".into(), PATIENCE);
        let at = Endpoint::new("127.0.0.1", nodes[&3].clients);
        let held_back_by = async |behind: &str| {
            let why = format!("level 31 of metadata.version is not supported by {behind}.");
            raise(&links, &at).await.ends_with(&why)
        };
        until(&env, "both are named", async || {
            held_back_by("controller 1 (7 to 30), controller 2 (7 to 30)").await
        })
        .await;
        for (id, behind) in [(2, "controller 1 (7 to 30)"), (1, "")] {
            let told = properties("controller", &both);
            with(&mut nodes, id, move |node| {
                node.stop();
                node.supports = NEXT_BUILD;
                node.start(&told);
            });
            if !behind.is_empty() {
                until(&env, "the other is named", async || held_back_by(behind).await).await;
            }
        }
        until(&env, "the level is raised", async || raise(&links, &at).await.is_empty()).await;

        // One more of the older build is told so before it has a vote.
        let told = properties("controller", &both);
        let why = with(&mut nodes, 4, move |node| node.fails(&told));
        assert!(
            why.contains("node 4") && why.contains("does not support level 31 of metadata.version"),
            "{why}"
        );
        let client =
            Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), ClientConfig::new(vec![at]));
        let quorum = client.admin().describe_quorum().await.unwrap();
        assert!(
            quorum.voters.iter().chain(&quorum.observers).all(|member| member.node != NodeId(4)),
            "{quorum:?}"
        );
    });
}
