//! The client's suite on three nodes: what it asks for is spread over them, replicated to all, and acknowledged by at least two.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_client::ConfigResource;
use millstream_env::HostRuntime;
use millstream_net::TcpDial;
use millstream_record::NodeId;

use crate::nodes::Cluster;
use crate::suite;

#[test]
fn the_suite_holds_on_three_nodes() {
    let (runtime, env) = HostRuntime::start("suite", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, "beside", 3).await;
        let door =
            suite::Door::new(env.clone(), Arc::new(TcpDial::new(env.clone())), cluster.clients(NodeId(1)));
        suite::all(&door).await;
        assert_topics_are_replicated(&cluster).await;
    });
}

/// What the suite made has the replicas and the promise that its cluster's nodes are configured for.
async fn assert_topics_are_replicated(cluster: &Cluster) {
    let admin = cluster.client.admin();
    let listed = admin.list_topics().await.unwrap();
    let names: Vec<&str> =
        listed.iter().map(|name| &**name).filter(|name| name.starts_with("suite-")).collect();
    assert!(names.len() > 20, "{names:?}");
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (name, topic) in admin.describe_topics(&names).await.unwrap() {
        for partition in &topic.unwrap().partitions {
            assert_eq!(partition.replicas.len(), 3, "{name}");
            *led.entry(partition.leader.unwrap()).or_default() += 1;
        }
        let entries = admin.describe_configs(&ConfigResource::Topic(Arc::clone(&name))).await.unwrap();
        let min = entries.iter().find(|entry| &*entry.name == "min.insync.replicas").unwrap();
        assert_eq!(min.value.as_deref(), Some("2"), "{name}");
    }
    assert_eq!(led.len(), 3, "every node leads some of them: {led:?}");
}
