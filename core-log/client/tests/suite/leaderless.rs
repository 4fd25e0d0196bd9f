//! A partition without a leader holds up nobody but those who ask for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::{
    Client, ClientConfig, ClientError, ConsumerConfig, IsolationLevel, OffsetSpec, ProducerRecord,
};
use millstream_env::Env;
use millstream_protocol::{
    ApiKey, Ctx, Dial, DialError, Endpoint, ErrorCode, Link, Receipt, Request, Response, Service,
};
use millstream_record::{Offset, TopicPartition};

use super::{Door, PATIENCE, bytes, values};

/// A door behind which partitions 1 have no leader, until `elected`.
struct Electing {
    env: Env,
    inner: Arc<dyn Dial>,
    elected: Arc<AtomicBool>,
}

struct ElectingLink {
    env: Env,
    inner: Arc<dyn Link>,
    elected: Arc<AtomicBool>,
}

impl Dial for Electing {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let (env, elected) = (self.env.clone(), Arc::clone(&self.elected));
        let inner = self.inner.dial(endpoint);
        async move { Ok(Arc::new(ElectingLink { env, inner: inner.await?, elected }) as Arc<dyn Link>) }
            .boxed()
    }
}

impl Service for ElectingLink {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        let answer = self.inner.call(ctx, request);
        let (completer, receipt) = Receipt::pending();
        let elected = Arc::clone(&self.elected);
        self.env.spawn("electing", async move {
            let mut answer = answer.await;
            if let Ok(Response::Metadata(told)) = &mut answer
                && !elected.load(Ordering::SeqCst)
            {
                let partitions = told.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                for partition in partitions.filter(|partition| partition.partition_index == 1) {
                    partition.leader_id = -1;
                    partition.error_code = ErrorCode::LeaderNotAvailable.code();
                }
            }
            completer.complete(answer);
        });
        receipt
    }
}

impl Link for ElectingLink {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.inner.supports(api)
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

/// The partition beside it is found and read at once; it itself as soon as it has a leader.
pub(crate) async fn others_go_on(door: &Door) {
    let topic = door.topic("leaderless", 2).await;
    let producer = door.client.producer(super::producer_config()).unwrap();
    for p in [0, 1] {
        let record = ProducerRecord::new(Arc::clone(&topic), bytes(p)).with_partition(p);
        producer.send(record).await.unwrap().await.unwrap();
    }
    let elected = Arc::<AtomicBool>::default();
    let dial =
        Electing { env: door.env.clone(), inner: Arc::clone(&door.dial), elected: Arc::clone(&elected) };
    let config = ClientConfig {
        api_timeout_ms: 2_000,
        retry_backoff_ms: 5,
        retry_backoff_max_ms: 50,
        ..ClientConfig::new(vec![door.bootstrap.clone()])
    };
    let client = Client::new(door.env.clone(), Arc::new(dial), config);
    let electing = Door { client, ..door.clone() };
    let [led, leaderless] = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));

    let mut consumer = electing.reader(ConsumerConfig::default());
    consumer.assign([leaderless.clone(), led.clone()]).unwrap();
    let polled = consumer.poll(PATIENCE).await.unwrap();
    assert_eq!(polled[0].topic_partition, led);
    assert_eq!(values(&polled[0].records), ["0"]);
    let late = consumer.position(&leaderless).await.unwrap_err();
    assert!(matches!(late, ClientError::TimedOut { .. }), "{late}");

    let wanted = BTreeMap::from([led.clone(), leaderless.clone()].map(|p| (p, OffsetSpec::Latest)));
    let admin = electing.client.admin();
    let found = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap();
    assert_eq!(found[&led].as_ref().unwrap().as_ref().unwrap().offset, Offset(1));
    let late = found[&leaderless].as_ref().unwrap_err();
    assert_eq!(late.code(), Some(ErrorCode::LeaderNotAvailable), "{late}");

    elected.store(true, Ordering::SeqCst);
    let polled = consumer.poll(PATIENCE).await.unwrap();
    assert_eq!(values(&polled[0].records), ["1"]);
    assert_eq!(consumer.position(&leaderless).await.unwrap(), Offset(1));
    assert_eq!(consumer.poll(Duration::from_millis(100)).await.unwrap(), [], "nothing is read twice");
}
