//! Tasks that take long to restore.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_protocol::{
    ApiKey, Completer, Ctx, Dial, DialError, Endpoint, Link, Receipt, Request, Service,
};
use millstream_streams::StreamsConfig;
use millstream_streams::dsl::{StreamBuilder, store};
use parking_lot::Mutex;

use super::support::{Cluster, PATIENCE, on_every_door};

/// A call that is held back.
struct Held {
    link: Arc<dyn Link>,
    ctx: Ctx,
    request: Request,
    completer: Completer,
}

/// Holds the restore of the second partition back, until it is opened.
#[derive(Default)]
struct Gate {
    held: Mutex<Vec<Held>>,
    is_open: Mutex<bool>,
}

impl Gate {
    fn holds(&self, request: &Request) -> bool {
        let Request::ListOffsets(list) = request else { return false };
        let of_changelog = list.topics.iter().filter(|topic| topic.name.ends_with("-changelog"));
        let second = of_changelog.flat_map(|topic| &topic.partitions).any(|asked| asked.partition_index == 1);
        second && !*self.is_open.lock()
    }

    async fn open(&self) {
        *self.is_open.lock() = true;
        let held = std::mem::take(&mut *self.held.lock());
        for Held { link, ctx, request, completer } in held {
            completer.complete(link.call(ctx, request).await);
        }
    }
}

struct Gated<T: ?Sized> {
    gate: Arc<Gate>,
    to: Arc<T>,
}

impl Dial for Gated<dyn Dial> {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let (gate, link) = (Arc::clone(&self.gate), self.to.dial(endpoint));
        async move { Ok(Arc::new(Gated { gate, to: link.await? }) as Arc<dyn Link>) }.boxed()
    }
}

impl Service for Gated<dyn Link> {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        if !self.gate.holds(&request) {
            return self.to.call(ctx, request);
        }
        let (completer, receipt) = Receipt::pending();
        self.gate.held.lock().push(Held { link: Arc::clone(&self.to), ctx, request, completer });
        receipt
    }
}

impl Link for Gated<dyn Link> {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.to.supports(api)
    }

    fn is_closed(&self) -> bool {
        self.to.is_closed()
    }
}

/// Its worker neither polled nor worked until the last of its tasks was restored, and its group gave it up when that took long.
#[test]
fn a_task_that_is_being_restored_holds_up_neither_its_worker_nor_other_tasks() {
    on_every_door(async |cluster: Cluster| {
        cluster.create(&[("rows", 2), ("counts", 1)]).await;
        let builder = StreamBuilder::new();
        let rows = builder.stream::<String, String>(&cluster.name("rows"));
        rows.group_by_key().count(store("by-key")).to_stream().to(&cluster.name("counts"));
        let gate = Arc::new(Gate::default());
        let gated = Arc::new(Gated { gate: Arc::clone(&gate), to: cluster.dial() });
        let config = StreamsConfig { commit_interval_ms: 20, ..cluster.config("slow") };
        let app = cluster.app_through(gated, builder.build().unwrap(), config);
        let control = app.control();
        let others = async {
            for round in 0..3 {
                let keys = round * 20..(round + 1) * 20;
                cluster.write("rows", keys.map(|n| (format!("{n}"), "v".to_owned(), n))).await;
                let ends = cluster.ends("rows").await;
                let first = ends.iter().find(|(partition, _)| partition.partition == 0).unwrap().1;
                let of_first = usize::try_from(first.0).unwrap();
                while cluster.read("counts").await.len() < of_first {}
                assert_eq!(cluster.read("counts").await.len(), of_first, "the other task is not restored");
            }
            assert_eq!(gate.held.lock().len(), 1);
            gate.open().await;
            while cluster.read("counts").await.len() < 60 {}
            control.stop();
        };
        let both = async { futures::join!(app.run(), others).0 };
        let outcome = cluster.env.timeout(PATIENCE, Box::pin(both)).await;
        outcome.expect("rows of the first task are counted meanwhile").unwrap();
    });
}
