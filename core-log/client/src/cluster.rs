//! The cluster, as all users of one client share it: metadata, coordinators, and links for short questions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytestring::ByteString;
use futures::FutureExt;
use futures::future::{BoxFuture, WeakShared};
use millstream_env::Env;
use millstream_protocol::messages::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use millstream_protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use millstream_protocol::{Dial, Endpoint, ErrorCode, Rpc};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::links::Links;
use crate::metadata::{Metadata, Topic};
use crate::retry::{Backoff, Deadline};
use crate::{ClientConfig, ClientError, Result};

/// What a coordinator coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CoordinatorKind {
    Group = 0,
    Transaction = 1,
}

pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) config: Arc<ClientConfig>,
    /// For questions that are answered at once.
    pub(crate) links: Links,
    metadata: watch::Sender<Arc<Metadata>>,
    refreshing: Mutex<Option<WeakShared<Refreshing>>>,
    state: Mutex<State>,
    me: Weak<Self>,
}

/// Driven by whoever waits for it: a caller that is no longer polled must not hold up the others.
type Refreshing = BoxFuture<'static, Result<Arc<Metadata>>>;

#[derive(Default)]
struct State {
    wanted: BTreeSet<Arc<str>>,
    /// Somebody learned that the metadata is out of date.
    stale: bool,
    /// When the last refresh began; the next one waits a backoff.
    refreshed_at: Option<Duration>,
    coordinators: BTreeMap<(CoordinatorKind, ByteString), Endpoint>,
    /// The broker that did not answer as the controller since the metadata came: it is asked last.
    silent: Option<Endpoint>,
}

impl Cluster {
    pub(crate) fn new(env: Env, dial: Arc<dyn Dial>, config: ClientConfig) -> Arc<Self> {
        let timeout = Duration::from_millis(config.request_timeout_ms);
        let links = Links::new(env.clone(), dial, config.client_id.clone(), timeout);
        Arc::new_cyclic(|me| Self {
            env,
            config: Arc::new(config),
            links,
            metadata: watch::Sender::new(Arc::new(Metadata::default())),
            refreshing: Mutex::default(),
            state: Mutex::default(),
            me: Weak::clone(me),
        })
    }

    /// What is known now.
    pub(crate) fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&self.metadata.borrow())
    }

    /// Makes a topic part of every refresh; tells whether it is known already.
    pub(crate) fn want(&self, topic: &Arc<str>) -> bool {
        if !self.state.lock().wanted.contains(topic) {
            self.state.lock().wanted.insert(Arc::clone(topic));
        }
        self.metadata.borrow().partition_count(topic).is_some()
    }

    /// Says that a broker disagreed with what is known.
    pub(crate) fn mark_stale(&self) {
        self.state.lock().stale = true;
    }

    /// Whether it is time to ask again.
    pub(crate) fn is_stale(&self) -> bool {
        let age = self.env.elapsed().saturating_sub(self.metadata.borrow().fetched_at);
        self.state.lock().stale || age > Duration::from_millis(self.config.metadata_max_age_ms)
    }

    /// Asks again, unless somebody else has since `seen`. Concurrent callers share one question; repeated ones are a backoff apart.
    pub(crate) fn refresh(&self, seen: u64) -> BoxFuture<'_, Result<Arc<Metadata>>> {
        async move {
            let refreshing = {
                let mut slot = self.refreshing.lock();
                if self.metadata.borrow().version > seen {
                    return Ok(self.metadata());
                }
                let under_way = slot.as_ref().and_then(WeakShared::upgrade);
                under_way.filter(|refreshing| refreshing.peek().is_none()).unwrap_or_else(|| {
                    let me = self.me.upgrade().expect("whoever calls holds it");
                    let refreshing = async move { me.ask_again().await }.boxed().shared();
                    *slot = refreshing.downgrade();
                    refreshing
                })
            };
            refreshing.await
        }
        .boxed()
    }

    async fn ask_again(&self) -> Result<Arc<Metadata>> {
        let (pause, topics) = {
            let state = self.state.lock();
            let since = state.refreshed_at.map(|at| self.env.elapsed().saturating_sub(at));
            let backoff = Duration::from_millis(self.config.retry_backoff_ms);
            let pause = since.and_then(|since| backoff.checked_sub(since));
            (pause, state.wanted.iter().cloned().collect::<Vec<_>>())
        };
        if let Some(pause) = pause {
            self.env.sleep(pause).await;
        }
        {
            let mut state = self.state.lock();
            state.refreshed_at = Some(self.env.elapsed());
            state.stale = false;
        }
        let request = MetadataRequest {
            topics: Some(topics.iter().map(|topic| by_name(topic)).collect()),
            allow_auto_topic_creation: self.config.allow_auto_create_topics,
            ..MetadataRequest::default()
        };
        let answer = self.ask_any(request).await.inspect_err(|_| self.mark_stale())?;
        self.state.lock().silent = None;
        let next = Arc::new(self.metadata.borrow().after(answer, self.env.elapsed()));
        self.metadata.send_replace(Arc::clone(&next));
        Ok(next)
    }

    /// The metadata, once it knows `topic` without an error; asks until `deadline`.
    pub(crate) fn topic<'a>(
        &'a self,
        topic: &'a Arc<str>,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Arc<Metadata>>> {
        async move {
            self.want(topic);
            let mut last = None;
            let mut backoff = Backoff::new(&self.config);
            loop {
                let metadata = self.metadata();
                if metadata.partition_count(topic).is_some_and(|count| count > 0) {
                    return Ok(metadata);
                }
                if let Some(known) = metadata.topics.get(topic) {
                    let error = ClientError::broker("Metadata", format!("topic {topic}"), known.error);
                    if !known.error.is_none() && !known.error.is_retriable() {
                        self.state.lock().wanted.remove(topic);
                        return Err(error);
                    }
                    last = Some(error);
                }
                let late = |last| {
                    self.state.lock().wanted.remove(topic); // asking for it at every refresh would never end
                    deadline.error(format!("finding topic {topic}"), last)
                };
                let Some(left) = deadline.left(&self.env) else { return Err(late(last)) };
                match self.env.timeout(left, self.refresh(metadata.version)).await {
                    Ok(Ok(next)) if next.partition_count(topic).is_none() => {
                        self.env.sleep(backoff.next(&self.env).min(left)).await;
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) if error.is_retriable() => {
                        last = Some(error);
                        self.env.sleep(backoff.next(&self.env).min(left)).await;
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(late(last)),
                }
            }
        }
        .boxed()
    }

    /// Addresses to ask anything: known brokers from a random one on, then the bootstrap addresses, and last who was silent.
    fn anybody(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<_> =
            self.metadata.borrow().brokers.values().map(|broker| broker.endpoint.clone()).collect();
        let first = self.env.random_below(endpoints.len() as u64);
        endpoints.rotate_left(usize::try_from(first).unwrap_or(0));
        for endpoint in &self.config.bootstrap {
            if !endpoints.contains(endpoint) {
                endpoints.push(endpoint.clone());
            }
        }
        let silent = self.state.lock().silent.clone();
        endpoints.sort_by_key(|endpoint| Some(endpoint) == silent.as_ref()); // stable
        endpoints
    }

    /// Asks brokers until one answers.
    pub(crate) async fn ask_any<R: Rpc + Clone>(&self, request: R) -> Result<R::Response> {
        let endpoints = self.anybody();
        let mut last = "there is no address to try; set bootstrap.servers".to_owned();
        for endpoint in &endpoints {
            match self.links.call(endpoint, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retriable() => last = error.to_string(),
                // Unreadable where another broker may speak better: the next one decides.
                Err(error @ ClientError::Dial(_)) => last = error.to_string(),
                Err(error) => return Err(error),
            }
        }
        let tried = endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(ClientError::Unreachable { tried, last })
    }

    /// Asks the controller, where one is known; brokers of a KRaft cluster forward what it decides, so when that one does not answer,
    /// the next call asks the others.
    pub(crate) async fn ask_controller<R: Rpc + Clone>(&self, request: R) -> Result<R::Response> {
        let metadata = self.metadata();
        let controller = metadata.controller.and_then(|id| metadata.brokers.get(&id.0));
        let silent = self.state.lock().silent.clone();
        let Some(broker) = controller.filter(|broker| Some(&broker.endpoint) != silent.as_ref()) else {
            return self.ask_any(request).await;
        };
        let answer = self.links.call(&broker.endpoint, request).await;
        if matches!(answer, Err(ClientError::Dial(_) | ClientError::Call { .. })) {
            self.state.lock().silent = Some(broker.endpoint.clone());
        }
        answer
    }

    /// The coordinator of a group or transactional id: as remembered, or asked for.
    pub(crate) fn coordinator<'a>(
        &'a self,
        kind: CoordinatorKind,
        key: &'a ByteString,
    ) -> BoxFuture<'a, Result<Endpoint>> {
        async move {
            if let Some(known) = self.state.lock().coordinators.get(&(kind, key.clone())) {
                return Ok(known.clone());
            }
            let mut last =
                ClientError::Unreachable { tried: String::new(), last: "no address is known".to_owned() };
            for endpoint in self.anybody() {
                let request = FindCoordinatorRequest {
                    key_type: kind as i8,
                    coordinator_keys: vec![key.clone()],
                    ..FindCoordinatorRequest::default()
                };
                match self.links.call(&endpoint, request).await {
                    Ok(answer) => {
                        let found = read_coordinator(answer, key)?;
                        self.state.lock().coordinators.insert((kind, key.clone()), found.clone());
                        return Ok(found);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        .boxed()
    }

    /// Forgets a coordinator that moved or is gone.
    pub(crate) fn forget_coordinator(&self, kind: CoordinatorKind, key: &ByteString) {
        self.state.lock().coordinators.remove(&(kind, key.clone()));
    }

    /// Describes topics without creating them, and without making them part of every refresh.
    pub(crate) fn describe<'a>(&'a self, topics: Option<&'a [&'a str]>) -> BoxFuture<'a, Result<Described>> {
        async move {
            let request = MetadataRequest {
                topics: topics.map(|topics| topics.iter().map(|topic| by_name(topic)).collect()),
                allow_auto_topic_creation: false,
                ..MetadataRequest::default()
            };
            let answer = self.ask_any(request).await?;
            let state = Metadata::default().after(answer, self.env.elapsed());
            let topics = state.topics.clone();
            Ok((state, topics))
        }
        .boxed()
    }
}

/// Topics with the state that they were described in.
type Described = (Metadata, BTreeMap<Arc<str>, Topic>);

fn by_name(topic: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(topic.into()), ..MetadataRequestTopic::default() }
}

fn read_coordinator(answer: FindCoordinatorResponse, key: &ByteString) -> Result<Endpoint> {
    let fail = |code: i16, detail: Option<ByteString>| ClientError::Broker {
        api: "FindCoordinator",
        subject: key.to_string(),
        code: ErrorCode::from_code(code),
        detail: detail.filter(|text| !text.is_empty()).map(|text| text.to_string()),
    };
    let found = answer.coordinators.into_iter().next();
    let found = found.ok_or_else(|| fail(ErrorCode::CoordinatorNotAvailable.code(), None))?;
    if found.error_code != 0 {
        return Err(fail(found.error_code, found.error_message));
    }
    let unreachable = |_| fail(ErrorCode::CoordinatorNotAvailable.code(), None);
    Ok(Endpoint { host: found.host, port: u16::try_from(found.port).map_err(unreachable)? })
}

/// Whether an error of a coordinator means that it has to be looked up again.
pub(crate) fn coordinator_moved(error: &ClientError) -> bool {
    match error {
        ClientError::Dial(_) | ClientError::Call { .. } => true,
        ClientError::Broker { code, .. } => {
            matches!(code, ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable)
        }
        _ => false,
    }
}
