//! One node through both of its doors.

use std::sync::Arc;
use std::time::Duration;

use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{EmbeddedConfig, Node, NodeConfig, embedded, serve};
use millstream_protocol::messages::create_topics::CreatableTopic;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic};
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_protocol::messages::{
    CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest, Rpc,
};
use millstream_protocol::{Ctx, Dial, Endpoint, Link};
use millstream_record::{BatchBuilder, BatchOptions, Millis};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

async fn call<R: Rpc>(env: &Env, link: &Arc<dyn Link>, request: R) -> R::Response {
    let receipt = link.call(Ctx::local("test".into()), request.into());
    env.timeout(PATIENCE, receipt).await.expect("an answer in time").unwrap().try_into().unwrap()
}

/// Creates a topic, writes one record and reads it back; gives the offset at which the record was written.
async fn round_trip(env: &Env, dial: Arc<dyn Dial>, endpoint: Endpoint) -> i64 {
    let link = dial.dial(endpoint).await.unwrap();
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..CreateTopicsRequest::default() };
    call(env, &link, request).await;
    let metadata = call(env, &link, MetadataRequest { topics: None, ..MetadataRequest::default() }).await;
    let topic_id = metadata.topics.iter().find(|topic| topic.name.as_deref() == Some("t")).unwrap().topic_id;
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Millis(1), None, Some(b"value"), &[]).unwrap();
    let records = Some(builder.build().unwrap().freeze());
    let produced = call(
        env,
        &link,
        ProduceRequest {
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![TopicProduceData {
                name: "t".into(),
                topic_id,
                partition_data: vec![PartitionProduceData { index: 0, records }],
            }],
            ..ProduceRequest::default()
        },
    )
    .await;
    let written = &produced.responses[0].partition_responses[0];
    assert_eq!(written.error_code, 0, "{:?}", written.error_message);
    let fetched = call(
        env,
        &link,
        FetchRequest {
            topics: vec![FetchTopic {
                topic: "t".into(),
                topic_id,
                partitions: vec![FetchPartition {
                    fetch_offset: written.base_offset,
                    partition_max_bytes: 1 << 20,
                    ..FetchPartition::default()
                }],
            }],
            ..FetchRequest::default()
        },
    )
    .await;
    let data = &fetched.responses[0].partitions[0];
    assert_eq!((data.error_code, data.high_watermark), (0, written.base_offset + 1));
    assert!(data.records.as_ref().unwrap().ends_with(b"value\0"));
    written.base_offset
}

fn config(dir: &TempDir) -> NodeConfig {
    let mut config = NodeConfig::new(dir.path());
    config.set("listeners", "PLAINTEXT://127.0.0.1:0").unwrap();
    config
}

#[test]
fn both_doors_lead_to_the_same_log_and_it_outlives_the_node() {
    let (runtime, env) = HostRuntime::start("node-test", 2).unwrap();
    let dir = TempDir::new().unwrap();
    runtime.block_on(async {
        let app = embedded(EmbeddedConfig::new(dir.path())).await.unwrap();
        assert_eq!(round_trip(&env, app.dial(), app.bootstrap()[0].clone()).await, 0);
        let link = app.dial().dial(app.bootstrap()[0].clone()).await.unwrap();
        app.shutdown().await.unwrap();
        assert!(link.is_closed(), "a link does not keep the node alive");

        let node: Node = serve(env.clone(), config(&dir)).await.unwrap();
        let address = Endpoint::parse(node.local_addr().unwrap()).unwrap();
        assert_eq!(node.bootstrap(), std::slice::from_ref(&address));
        let tcp = TcpDial::new(env.clone());
        assert_eq!(round_trip(&env, Arc::new(tcp), address.clone()).await, 1);
        assert_eq!(round_trip(&env, node.dial(), address).await, 2);
        node.shutdown().await.unwrap();

        let app = embedded(EmbeddedConfig::new(dir.path())).await.unwrap();
        assert_eq!(round_trip(&env, app.dial(), app.bootstrap()[0].clone()).await, 3);
        app.shutdown().await.unwrap();
    });
}

#[test]
fn the_doors_stay_open_until_the_node_has_handed_over() {
    let (runtime, env) = HostRuntime::start("node-test", 2).unwrap();
    let dir = TempDir::new().unwrap();
    runtime.block_on(async {
        let node = serve(env.clone(), config(&dir)).await.unwrap();
        let address = Endpoint::parse(node.local_addr().unwrap()).unwrap();
        let tcp = TcpDial::new(env.clone());
        let before = tcp.dial(address.clone()).await.unwrap();
        let stopping = node.shutdown(); // nothing of it has run yet
        call(&env, &before, MetadataRequest { topics: None, ..MetadataRequest::default() }).await;
        round_trip(&env, Arc::new(TcpDial::new(env.clone())), address.clone()).await;
        stopping.await.unwrap();
        assert!(tcp.dial(address).await.is_err(), "they are closed by now");
    });
}

#[test]
fn a_wrong_property_is_told_before_anything_starts() {
    let (runtime, _env) = HostRuntime::start("node-test", 1).unwrap();
    let dir = TempDir::new().unwrap();
    let config = EmbeddedConfig::new(dir.path()).with("num.partition", "3");
    let refused = runtime.block_on(embedded(config)).err().expect("the property is wrong");
    assert!(refused.to_string().contains("did you mean `num.partitions`"), "{refused}");
}
