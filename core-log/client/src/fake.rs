//! A cluster that answers as a test says.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_env::Env;
use millstream_protocol::messages::metadata::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use millstream_protocol::{
    ApiKey, Ctx, Dial, DialError, Endpoint, ErrorCode, Link, Receipt, Request, Service, versions,
};
use millstream_record::Uuid;

use crate::{Client, ClientConfig};

type Answer = dyn Fn(&Endpoint, Request) -> Receipt + Send + Sync;

/// Brokers 1 and 2, which answer what the function says.
struct Fake(Arc<Answer>);

struct FakeLink(Endpoint, Arc<Answer>);

impl Dial for Fake {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let link = FakeLink(endpoint, Arc::clone(&self.0));
        async move { Ok(Arc::new(link) as Arc<dyn Link>) }.boxed()
    }
}

impl Service for FakeLink {
    fn call(&self, _: Ctx, request: Request) -> Receipt {
        (self.1)(&self.0, request)
    }
}

impl Link for FakeLink {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        versions::served(api)
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Where broker `node` is.
pub(crate) fn broker(node: i32) -> Endpoint {
    Endpoint::new(format!("broker-{node}"), 9092)
}

/// A client of the brokers that answer so; none of its calls takes longer than `timeout_ms`.
pub(crate) fn client(
    env: &Env,
    timeout_ms: u64,
    answer: impl Fn(&Endpoint, Request) -> Receipt + Send + Sync + 'static,
) -> Client {
    let config = ClientConfig {
        api_timeout_ms: timeout_ms,
        request_timeout_ms: timeout_ms,
        retry_backoff_ms: 1,
        ..ClientConfig::new(vec![broker(1)])
    };
    Client::new(env.clone(), Arc::new(Fake(Arc::new(answer))), config)
}

/// Topics by name, with their ids and the leaders of their partitions; one without partitions does not exist.
pub(crate) fn metadata(topics: &[(&str, u8, &[i32])]) -> Receipt {
    let brokers = [1, 2].map(|node_id| MetadataResponseBroker {
        node_id,
        host: broker(node_id).host,
        port: 9092,
        ..MetadataResponseBroker::default()
    });
    let topic = |(name, id, leaders): &(&str, u8, &[i32])| MetadataResponseTopic {
        name: Some((*name).into()),
        topic_id: Uuid([*id; 16]),
        error_code: if leaders.is_empty() { ErrorCode::UnknownTopicOrPartition.code() } else { 0 },
        partitions: (0..)
            .zip(*leaders)
            .map(|(partition_index, leader)| partition(partition_index, *leader))
            .collect(),
        ..MetadataResponseTopic::default()
    };
    let topics = topics.iter().map(topic).collect();
    Receipt::ready(Ok(
        MetadataResponse { brokers: brokers.into(), topics, ..MetadataResponse::default() }.into()
    ))
}

fn partition(partition_index: i32, leader_id: i32) -> MetadataResponsePartition {
    MetadataResponsePartition {
        partition_index,
        leader_id,
        leader_epoch: 1,
        ..MetadataResponsePartition::default()
    }
}
