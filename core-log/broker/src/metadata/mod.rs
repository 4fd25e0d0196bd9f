//! Metadata: the controller's decisions on their way through the metadata log into the image that everybody reads.
//!
//! Every node follows the log: one task reads what is committed, has the replicas play the parts that it gives them, and
//! publishes the image. Whoever needs a decision asks the active controller ([`Metadata::ask`]): this node's own, where it
//! leads the log, else another's over the network. The controller decides one thing at a time, against an image that has all
//! that came before, and answers once the decision is committed and applied on its node.

mod absence;
mod codec;
mod controller;
mod joining;
mod lifecycle;
mod local_log;
mod lost_replicas;
mod members;
mod noted;
mod observer;
mod own_log;
mod presence;
pub mod quorum;
mod standing;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, Shared, select};
use millstream_client::Links;
use millstream_env::Env;
use millstream_machine::config::{Effective, Static};
use millstream_machine::metadata::{
    Committed, Controller, Decision, Image, InternalTopic, Liveness, MetadataLog, NewIds, ProposeError,
};
use millstream_protocol::messages::create_topics::CreatableTopic;
use millstream_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest, AlterPartitionResponse,
    BrokerRegistrationRequest, CreateTopicsRequest,
};
use millstream_protocol::{ApiKey, Endpoint, ErrorCode, Rpc};
use millstream_record::{Offset, Uuid};
use millstream_storage::StorageError;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use lifecycle::discover;
pub(crate) use local_log::LocalLog;
pub(crate) use noted::noted_directory;
pub(crate) use observer::ObserverLog;
pub(crate) use own_log::{OwnLog, compactor};

use crate::lease::Lease;
use crate::partitions::Partitions;
use crate::refusal::Refusal;
use crate::{BrokerConfig, BrokerError, Result};

/// Batches that are applied between two looks at the log.
const BATCHES_PER_READ: usize = 1024;
/// How long a decision may take to be committed. A leader of the quorum that is cut off would wait for ever.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// How long this node may take to apply what is committed.
const APPLY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node whose disk has failed tries to tell a controller before it gives up; heartbeats that stay out tell it too.
const OFFLINE_PATIENCE: Duration = Duration::from_secs(2);
/// How long somebody looks for an active controller.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(15);
/// How long a controller may take to answer.
pub(crate) const CONTROLLER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take where topics come or go: it answers once it has opened the logs, and asked again it would only find them.
const TOPICS_PATIENCE: Duration = Duration::from_secs(60);
/// How long a new voter may take to catch up.
const ADD_VOTER_PATIENCE: Duration = Duration::from_secs(90);
/// Who waits for a controller for longer says so.
pub(crate) const SAY_THAT_IT_WAITS: Duration = Duration::from_millis(1500);
/// While there is no active controller, or this node does not know it.
const CONTROLLER_RETRY: Duration = Duration::from_millis(50);

/// Metadata as this node has it, and the way to change it.
pub(crate) struct Metadata {
    env: Env,
    image: Arc<ArcSwap<Image>>,
    log: OwnLog,
    controller: Controller,
    statics: Arc<Static>,
    config: BrokerConfig,
    partitions: Arc<Partitions>,
    cluster_id: ByteString,
    /// To other controllers.
    links: Links,
    /// This life of this broker; its replicas play no part before the image has it.
    incarnation: Uuid,
    /// One decision at a time.
    turn: tokio::sync::Mutex<()>,
    /// What was proposed last, until it is known what became of it, also where nobody waits for that any more. It may yet become
    /// true, and what was decided without it would contradict it; so nothing is decided meanwhile.
    unsettled: Mutex<Option<Proposed>>,
    /// One change of the quorum's members at a time: each takes two steps, and another between them would leave it half done.
    membership: tokio::sync::Mutex<()>,
    liveness: Mutex<Liveness>,
    /// The image has changed, or never will again.
    moved: Notify,
    /// Why this node cannot follow the cluster any more.
    lost: Mutex<Option<String>>,
    /// A controller has answered to a heartbeat that said that the disk has failed.
    offline_is_known: AtomicBool,
    /// The image has this life of this broker: everything before is older, and may be much older.
    caught_up: AtomicBool,
    /// For how long nobody can have taken this broker's place.
    lease: Arc<Lease>,
    /// The broker wants to go, and may.
    stopping: AtomicBool,
    released: AtomicBool,
    hurry: Notify,
    /// Called with the names of deleted topics.
    deleted: OnceLock<Deleted>,
}

/// A proposal on its way.
type Proposed = Shared<BoxFuture<'static, Result<Offset, ProposeError>>>;

/// Forgets what is kept elsewhere of topics that are gone.
type Deleted = Box<dyn Fn(&[ByteString]) + Send + Sync>;

impl Metadata {
    /// Reads what is committed, without acting on it yet.
    ///
    /// # Errors
    /// When a record cannot be read or understood.
    pub(crate) async fn load(
        env: Env,
        config: &BrokerConfig,
        cluster_id: &str,
        log: OwnLog,
        links: Links,
        partitions: Arc<Partitions>,
    ) -> Result<Arc<Self>> {
        let statics = Arc::new(config.properties.clone());
        let incarnation = env.random_uuid();
        let log_is_alone = log.is_alone();
        let metadata = Self {
            image: Arc::new(ArcSwap::from_pointee(Image::default())),
            controller: Controller::new(Arc::clone(&statics))
                .of_cluster(cluster_id)
                .supporting(config.supported_features.clone()),
            liveness: Mutex::new(Liveness::new(config.number("broker.session.timeout.ms"))),
            config: config.clone(),
            cluster_id: ByteString::from(cluster_id),
            env,
            log,
            statics,
            partitions,
            links,
            incarnation,
            turn: Default::default(),
            unsettled: Mutex::default(),
            membership: Default::default(),
            moved: Notify::new(),
            lost: Mutex::default(),
            offline_is_known: AtomicBool::new(false),
            caught_up: AtomicBool::new(config.quorum.is_none()),
            lease: Arc::new(match log_is_alone {
                true => Lease::unbounded(),
                false => Lease::of_session(config.number("broker.session.timeout.ms")),
            }),
            stopping: AtomicBool::new(false),
            released: AtomicBool::new(false),
            hurry: Notify::new(),
            deleted: OnceLock::new(),
        };
        let mut image = Image::default();
        while image.end() < metadata.log.committed_end() {
            for batch in metadata.read(image.end()).await? {
                image.apply_batch(&batch)?;
            }
        }
        config.supported_features.check(&image)?;
        metadata.image.store(Arc::new(image));
        Ok(Arc::new(metadata))
    }

    /// What everybody reads.
    pub(crate) fn image(&self) -> &Arc<ArcSwap<Image>> {
        &self.image
    }

    /// For how long nobody can have taken this broker's place.
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The log.
    pub(crate) fn log(&self) -> &OwnLog {
        &self.log
    }

    /// This life of this broker.
    pub(crate) fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    /// Has `forget` called with the names of topics when they are deleted: before anybody can know of new ones with the same names,
    /// and once more when nobody can name the old ones any more.
    pub(crate) fn on_deletion(&self, forget: impl Fn(&[ByteString]) + Send + Sync + 'static) {
        let _ = self.deleted.set(Box::new(forget)); // there is one who asks, at start
    }

    fn tell_deleted(&self, names: &[ByteString]) {
        if let Some(forget) = self.deleted.get().filter(|_| !names.is_empty()) {
            forget(names);
        }
    }

    /// Whether clients may be told what the image says. The image of a member of a cluster that starts again is empty or old, and who was
    /// told so would take topics for deleted.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    async fn read(&self, from: Offset) -> Result<Vec<Committed>> {
        let read = self.log.read(from, BATCHES_PER_READ).await;
        read.map_err(|error| match error {
            ProposeError::Unreadable(error) => BrokerError::Machine(error),
            other => BrokerError::Refused {
                what: other.to_string(),
                mend: "look at the metadata log's directory, __cluster_metadata-0",
            },
        })
    }

    /// Follows the log until the node ends, or cannot: then it takes up nothing any more, and says why.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            let before = self.image.load_full();
            let taken_up = match self.read(before.end()).await {
                Ok(batches) => self.take_up(before, &batches).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken_up {
                if self.log.committed_end() > self.image.load().end() {
                    tracing::error!(%error, "this node cannot follow the cluster's metadata any more");
                }
                return self.give_up(error.to_string());
            }
        }
    }

    /// This node takes up nothing any more.
    fn give_up(&self, why: String) {
        *self.lost.lock() = Some(why);
        self.moved.notify_waiters();
    }

    async fn take_up(&self, before: Arc<Image>, batches: &[Committed]) -> Result<()> {
        let mut next = (*before).clone();
        for batch in batches {
            next.apply_batch(batch)?;
        }
        self.config.supported_features.check(&next)?;
        let next = Arc::new(next);
        let is_mine = next.broker(self.config.node_id).is_some_and(|me| me.incarnation == self.incarnation);
        if is_mine {
            self.partitions.before_publishing(&next).await;
        }
        let gone = before.topics().filter(|topic| next.topic_by_id(topic.id).is_none());
        let mut gone: Vec<ByteString> = gone.map(|topic| ByteString::from(&*topic.name)).collect();
        self.tell_deleted(&gone);
        self.liveness.lock().observe(crate::partition::monotonic(&self.env), &next);
        self.image.store(Arc::clone(&next));
        self.lease.reached(next.end());
        if is_mine {
            self.caught_up.store(true, Ordering::Release);
        }
        gone.retain(|name| next.topic(name).is_none());
        self.tell_deleted(&gone);
        self.partitions.after_publishing(&before, &next, batches).await;
        self.moved.notify_waiters();
        Ok(())
    }

    /// Waits until the image has everything below `end`.
    async fn reached(&self, end: Offset) -> Result<(), Refusal> {
        let applied = async {
            loop {
                let moved = self.moved.notified();
                if self.image.load().end() >= end {
                    return Ok(());
                }
                if let Some(why) = self.lost.lock().clone() {
                    return Err(Refusal::new(ErrorCode::UnknownServerError, why));
                }
                moved.await;
            }
        };
        self.env.timeout(APPLY_PATIENCE, applied).await.unwrap_or(Err(ErrorCode::RequestTimedOut.into()))
    }

    /// Waits until the image has more than it had at `since`; false when it never will.
    pub(crate) async fn changed(&self, since: Offset) -> bool {
        loop {
            let moved = self.moved.notified();
            if self.image.load().end() > since {
                return true;
            }
            if self.lost.lock().is_some() {
                return false;
            }
            moved.await;
        }
    }

    /// Waits until this node cannot go on: its disk has failed, and the controller knows if it can be told; or it cannot follow the
    /// metadata any more. Gives the reason.
    pub(crate) async fn lost(&self) -> BrokerError {
        loop {
            let moved = self.moved.notified();
            if let Err(offline) = self.partitions.check_online() {
                // In vain on a node whose controller cannot be reached; it then finds out when no heartbeat comes.
                let _ = self.env.timeout(OFFLINE_PATIENCE, self.offline_told()).await;
                return offline.into();
            }
            if let Some(why) = self.lost.lock().clone() {
                return BrokerError::Lost { why };
            }
            moved.await;
        }
    }

    async fn offline_told(&self) {
        let has_whom_to_tell = self.config.quorum.as_ref().is_some_and(|quorum| quorum.is_broker);
        loop {
            let moved = self.moved.notified();
            if !has_whom_to_tell || self.offline_is_known.load(Ordering::SeqCst) {
                return;
            }
            moved.await;
        }
    }

    /// The disk has failed: whoever waits for that is told, and the controller with a heartbeat at once.
    pub(crate) fn went_offline(&self, offline: &StorageError) {
        tracing::error!(%offline, "nothing is written or led here until the node starts again");
        self.hurry.notify_one();
        self.moved.notify_waiters();
    }

    /// Makes this node's presence a fact, where it is the cluster: the first records of a new cluster, and this incarnation of
    /// the broker.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) async fn register(&self, request: &BrokerRegistrationRequest) -> Result<(), Refusal> {
        let bootstrap = |controller: &Controller, image: &Image, _: NewIds<'_>| Decision {
            records: controller.bootstrap(image),
            response: (),
        };
        self.decide(bootstrap).await?;
        let register = |controller: &Controller, image: &Image, _: NewIds<'_>| {
            // What this node acknowledged is on its disk, so it ended in order however it ended.
            let previous_broker_epoch = image.broker(self.config.node_id).map_or(-1, |broker| broker.epoch);
            let request = BrokerRegistrationRequest { previous_broker_epoch, ..request.clone() };
            controller.register_sole_broker(image, &request)
        };
        let response = self.decide(register).await?;
        Ok(ErrorCode::from_code(response.error_code).ok()?)
    }

    /// Lets the controller decide, commits what it decided and applies it, then gives its answer.
    ///
    /// # Errors
    /// NOT_CONTROLLER when this node does not lead the log, REQUEST_TIMED_OUT when nothing is committed; what was decided may
    /// yet become true then.
    pub(crate) async fn decide<R>(
        &self,
        decide: impl FnOnce(&Controller, &Image, NewIds<'_>) -> Decision<R>,
    ) -> Result<R, Refusal> {
        let _turn = self.turn.lock().await;
        if let Some(Ok(end)) = self.settled().await? {
            self.reached(end).await?; // nobody waited for it any more
        }
        let (epoch, leads) = self.log.leadership();
        if !leads {
            return Err(ErrorCode::NotController.into());
        }
        self.reached(self.log.committed_end()).await?;
        let image = self.image.load_full();
        let mut new_id = || self.env.random_uuid();
        let Decision { records, response } = decide(&self.controller, &image, &mut new_id);
        if !records.is_empty() {
            *self.unsettled.lock() = Some(self.log.propose(epoch, records).shared());
            if let Some(outcome) = self.settled().await? {
                self.reached(outcome.map_err(unproposed)?).await?;
            }
        }
        Ok(response)
    }

    /// Waits until it is known what became of the last proposal, and gives it; none where there is none that is not known. Call it in
    /// one's turn.
    async fn settled(&self) -> Result<Option<Result<Offset, ProposeError>>, Refusal> {
        let Some(proposed) = self.unsettled.lock().clone() else { return Ok(None) };
        let outcome = self.env.timeout(COMMIT_PATIENCE, proposed).await;
        let outcome = outcome.map_err(|_| ErrorCode::RequestTimedOut)?;
        *self.unsettled.lock() = None;
        Ok(Some(outcome))
    }

    /// Closes this node's part of the log. Where the node is the cluster, what was proposed last may have nobody left who waits for it, and
    /// its flush would still be out.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) async fn close_log(&self) -> crate::Result<()> {
        if !matches!(self.log, OwnLog::Local(_)) {
            return self.log.close().await;
        }
        let _turn = self.turn.lock().await;
        let _last = self.settled().await; // whoever proposed it was told; only that it is over matters here
        self.log.close().await
    }

    /// Asks the active controller, wherever it is, and again while there is none. What was asked of one that did not answer may
    /// have happened.
    ///
    /// # Errors
    /// NOT_CONTROLLER when none is found in time; as for [`Metadata::decide`].
    pub(crate) async fn ask<R: Rpc + Clone>(&self, request: R) -> Result<R::Response, Refusal> {
        let end = self.env.elapsed().saturating_add(CONTROLLER_PATIENCE);
        loop {
            let answer = if self.log.leadership().1 {
                self.decide_request(request.clone().into()).await.and_then(|response| {
                    response.try_into().map_err(|_| ErrorCode::UnknownServerError.into())
                })
            } else {
                self.forward(request.clone()).await
            };
            match answer {
                Err(refusal) if refusal.code == ErrorCode::NotController && self.env.elapsed() < end => {
                    self.env.sleep(CONTROLLER_RETRY).await;
                }
                other => return other,
            }
        }
    }

    /// An answer that comes when another leads the quorum by then may be waited for in vain: whoever paused as the leader still holds
    /// its connections.
    async fn forward<R: Rpc + Clone>(&self, request: R) -> Result<R::Response, Refusal> {
        let seen = self.log.seen();
        let Some((_, endpoint)) = seen.1.as_ref() else {
            return match R::API {
                ApiKey::DescribeQuorum => self.ask_any(request).await,
                _ => Err(ErrorCode::NotController.into()),
            };
        };
        let patience = match R::API {
            ApiKey::CreateTopics | ApiKey::CreatePartitions | ApiKey::DeleteTopics => TOPICS_PATIENCE,
            ApiKey::AddRaftVoter => ADD_VOTER_PATIENCE,
            _ => CONTROLLER_TIMEOUT,
        };
        let asking = std::pin::pin!(self.links.call_within(endpoint, patience, request));
        let elected = std::pin::pin!(self.log.seen_changed(&seen));
        match select(asking, elected).await {
            Either::Left((answer, _)) => {
                answer.map_err(|error| Refusal::new(ErrorCode::NotController, error.to_string()))
            }
            Either::Right(_) => {
                Err(Refusal::new(ErrorCode::NotController, "another controller is active by now"))
            }
        }
    }

    /// Asks every controller in turn, while none is active: one that has lost the majority knows who is missing.
    async fn ask_any<R: Rpc + Clone>(&self, request: R) -> Result<R::Response, Refusal> {
        for endpoint in self.log.controllers() {
            if let Ok(answer) = self.links.call_within(&endpoint, SAY_THAT_IT_WAITS, request.clone()).await {
                return Ok(answer);
            }
        }
        Err(ErrorCode::NotController.into())
    }

    /// Creates the topics named, as a client's first use of them does; gives those that could not be created.
    pub(crate) async fn auto_create(&self, names: BTreeSet<ByteString>) -> BTreeMap<ByteString, ErrorCode> {
        let image = self.image.load_full();
        let effective = Effective::new(&image, self.config.node_id, &self.statics);
        let as_asked = |name: &ByteString| match InternalTopic::of_name(name) {
            Some(internal) => internal.request(&effective),
            None => CreatableTopic {
                name: name.clone(),
                num_partitions: -1,
                replication_factor: -1,
                ..CreatableTopic::default()
            },
        };
        let topics = names.iter().map(as_asked).collect();
        let request = CreateTopicsRequest { topics, ..CreateTopicsRequest::default() };
        match self.ask(request).await {
            Ok(response) => response
                .topics
                .into_iter()
                .filter(|result| result.error_code != 0)
                .map(|result| (result.name, ErrorCode::from_code(result.error_code)))
                .filter(|(_, code)| *code != ErrorCode::TopicAlreadyExists)
                .collect(),
            Err(refusal) => names.into_iter().map(|name| (name, refusal.code)).collect(),
        }
    }

    /// The next block of producer ids for this broker.
    ///
    /// # Errors
    /// As for [`Metadata::decide`].
    pub(crate) async fn allocate_producer_ids(&self) -> Result<AllocateProducerIdsResponse, Refusal> {
        let broker_epoch = self.image.load().broker(self.config.node_id).map_or(-1, |broker| broker.epoch);
        let request = AllocateProducerIdsRequest { broker_id: self.config.node_id.0, broker_epoch };
        let response = self.ask(request).await?;
        ErrorCode::from_code(response.error_code).ok()?;
        Ok(response)
    }

    /// Asks for in-sync sets.
    ///
    /// # Errors
    /// As for [`Metadata::decide`]; the broker epoch is not the current one.
    pub(crate) async fn alter_partition(
        &self,
        request: AlterPartitionRequest,
    ) -> Result<AlterPartitionResponse, Refusal> {
        let response = self.ask(request).await?;
        ErrorCode::from_code(response.error_code).ok()?;
        Ok(response)
    }
}

/// Addresses for people.
pub(crate) fn listed<'a>(servers: impl IntoIterator<Item = &'a Endpoint>) -> String {
    servers.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn unproposed(error: ProposeError) -> Refusal {
    let code = match error {
        ProposeError::NotLeader { .. }
        | ProposeError::EpochEnded { .. }
        | ProposeError::Unsettled { .. }
        | ProposeError::Closed => ErrorCode::NotController,
        ProposeError::Busy { .. } => ErrorCode::ThrottlingQuotaExceeded,
        _ => ErrorCode::KafkaStorageError,
    };
    Refusal::new(code, error.to_string())
}
