//! The broker: start, stop, and the door to the handlers.

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use millstream_client::Links;
use millstream_env::{Env, Pool, TaskGroup};
use millstream_protocol::messages::BrokerRegistrationRequest;
use millstream_protocol::messages::broker_registration::{Feature, Listener};
use millstream_protocol::{CallError, Ctx, Dial, Endpoint, Receipt, Request, Response, Service};
use millstream_record::{Millis, NodeId, Offset, TopicPartition, Uuid};
use millstream_storage::{DirIdentity, Disk, Log, LogConfig, LogDir, StorageError};
use parking_lot::RwLock;

use crate::api::Sessions;
use crate::coordinator::{Groups, MarkerWriter, Markers, Premises, Transactions};
use crate::flusher::Flusher;
use crate::metadata::quorum::{
    Bounds, KEEP_BEFORE_SNAPSHOT, MemberId, QuorumError, QuorumLog, QuorumOptions, QuorumTiming,
    SNAPSHOT_AFTER,
};
use crate::metadata::{
    CONTROLLER_TIMEOUT, LocalLog, Metadata, ObserverLog, OwnLog, SAY_THAT_IT_WAITS, compactor, listed,
};
use crate::partition::Context;
use crate::partitions::{CLUSTER_METADATA, METADATA_TOPIC_ID, Partitions};
use crate::peers::Peers;
use crate::replication::{self, CopySettings, Copying, Throttle};
use crate::shared::Shared;
use crate::starts::Starts;
use crate::steady::SteadyClock;
use crate::timers::Timers;
use crate::verification::Verification;
use crate::{BrokerConfig, BrokerError, QuorumConfig, Result, api, housekeeping};

/// Files that are open at once, apart from those with unsynced bytes.
const OPEN_FILES: usize = 4096;
/// How long a start waits for the last owner of the directory, whose last tasks may still be ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// How long a clean shutdown waits for the controller to have others lead.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a clean shutdown waits for flushes that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// One broker. It lives on its [`Env`]'s threads, whoever calls it. Dropping it ends its tasks at once, as a crash would;
/// [`Broker::shutdown`] ends it cleanly.
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
    tasks: TaskGroup,
    flusher: Arc<Flusher>,
    leaving: AtomicBool,
    closing: AtomicBool,
    closed: AtomicBool,
}

impl Broker {
    /// Recovers the logs under `data_dir` and begins to serve. Other brokers are reached through `dial`.
    ///
    /// # Errors
    /// When the directory is in use, damaged, or belongs to another node.
    pub fn start(
        env: Env,
        disk: Arc<dyn Disk>,
        data_dir: PathBuf,
        config: BrokerConfig,
        dial: Arc<dyn Dial>,
    ) -> BoxFuture<'static, Result<Arc<Self>>> {
        async move {
            let tasks = env.group();
            let clock = SteadyClock::start(&env);
            let timers = Timers::start(&tasks);
            let flusher = Flusher::new(env.clone());
            let copying = Copying::new();
            let throttle = Arc::new(Throttle::new(config.node_id, config.properties.clone()));
            let links =
                Links::new(env.clone(), Arc::clone(&dial), "controller-client".into(), CONTROLLER_TIMEOUT);
            let opened = open_dir(&env, Arc::clone(&disk), data_dir, &config, &links).await?;
            let (dir, identity) = (Arc::new(RwLock::new(opened.dir)), opened.identity);
            let log_dir = dir.read().path().to_owned();
            let log =
                open_metadata_log(&env, &config, &identity, opened.log, &dir, Arc::clone(&dial)).await?;
            let context = Arc::new(Context {
                env: env.clone(),
                disk: Arc::clone(&disk),
                timers: Arc::clone(&timers),
                flusher: Arc::clone(&flusher),
                starts: Starts::new(env.clone(), Arc::clone(&dir)),
                copying: Arc::clone(&copying),
                proposals: Arc::default(),
                throttle: Arc::clone(&throttle),
                node: config.node_id,
                lag_max_ms: config.number("replica.lag.time.max.ms"),
            });
            let partitions = Partitions::new(context, dir, config.properties.clone());
            let metadata = Metadata::load(
                env.clone(),
                &config,
                &identity.cluster_id,
                log,
                links.fork(),
                Arc::clone(&partitions),
            )
            .await?;
            match &config.quorum {
                None => partitions.open_all(&metadata.image().load()).await?,
                Some(_) => partitions.open_found().await?,
            }
            tasks.spawn("metadata", Arc::clone(&metadata).follow());
            take_part(&metadata, &tasks, &config, &identity, &log_dir).await?;
            let premises = Premises {
                image: Arc::clone(metadata.image()),
                partitions: Arc::clone(&partitions),
                disk,
                clock,
                timers,
                tasks: tasks.clone(),
                lease: Arc::clone(metadata.lease()),
                node: config.node_id,
                env: env.clone(),
            };
            let peers_links = Links::new(
                env.clone(),
                Arc::clone(&dial),
                format!("broker-{}", config.node_id).into(),
                CONTROLLER_TIMEOUT,
            );
            let listener = config.inter_broker_listener();
            let peers = Peers::new(config.node_id, peers_links, Arc::clone(metadata.image()), &listener);
            let groups = Groups::of(&config, premises.clone());
            let writer = MarkerWriter::new(
                env.clone(),
                Arc::clone(metadata.image()),
                Arc::clone(&partitions),
                Arc::clone(&groups),
            );
            let markers = Markers::new(writer.clone(), peers.fork(), tasks.clone());
            let transactions = Transactions::of(&config, premises, markers);
            let verification = Verification::new(Arc::clone(&transactions), peers, tasks.clone());
            let fetch_sessions = config.int("max.incremental.fetch.session.cache.slots");
            let shared = Arc::new(Shared {
                cluster_id: ByteString::from(identity.cluster_id),
                config,
                image: Arc::clone(metadata.image()),
                partitions,
                metadata,
                groups,
                transactions,
                markers: writer,
                verification,
                producer_ids: Default::default(),
                throttle,
                suspects: Arc::default(),
                parking: Shared::parking(),
                sessions: Sessions::new(env.clone(), fetch_sessions),
                env,
            });
            let groups = Arc::downgrade(&shared.groups);
            shared.metadata.on_deletion(move |topics| {
                if let Some(groups) = groups.upgrade() {
                    groups.forget_topics(topics);
                }
            });
            let metadata = Arc::downgrade(&shared.metadata);
            shared.partitions.on_failure(move |offline| {
                if let Some(metadata) = metadata.upgrade() {
                    metadata.went_offline(offline);
                }
            });
            shared.groups.refresh();
            shared.transactions.refresh();
            copying.begin(copying_premises(&shared, &tasks, dial));
            tasks.spawn("coordinators", housekeeping::follow_leadership(Arc::clone(&shared)));
            tasks.spawn("in-sync sets", replication::propose(Arc::clone(&shared)));
            tasks.spawn("replicas", replication::watch_lag(Arc::clone(&shared)));
            tasks.spawn("housekeeping", housekeeping::run(Arc::clone(&shared)));
            Ok(Arc::new(Self {
                shared,
                tasks,
                flusher,
                leaving: AtomicBool::new(false),
                closing: AtomicBool::new(false),
                closed: AtomicBool::new(false),
            }))
        }
        .boxed()
    }

    /// What the broker was told at start.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.shared.config
    }

    /// The broker's env.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.shared.env
    }

    /// Has others lead what this broker leads, and the quorum if it leads that, while it still serves: clients and brokers learn
    /// from it where to go, and it takes part in deciding so. It ends when the controller lets it go, or after a while.
    pub fn hand_over(&self) -> BoxFuture<'_, ()> {
        async move {
            if !self.leaving.swap(true, Ordering::SeqCst) {
                self.shared.metadata.hand_over(HAND_OVER_PATIENCE).await;
            }
        }
        .boxed()
    }

    /// Completes when this broker cannot go on, with the reason: its log directory has failed, or it cannot follow the cluster's
    /// metadata any more. It then serves nobody until it is started again.
    pub async fn lost(&self) -> BrokerError {
        self.shared.metadata.lost().await
    }

    /// Refuses new work, flushes every log and writes what makes the next start fast.
    ///
    /// # Errors
    /// When the disk fails; the next start then recovers as after a crash.
    pub fn shutdown(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            if self.closing.swap(true, Ordering::SeqCst) {
                return Ok(());
            }
            self.hand_over().await;
            self.closed.store(true, Ordering::SeqCst);
            if !self.drain().await {
                return Ok(());
            }
            let (groups, transactions) =
                (Arc::clone(&self.shared.groups), Arc::clone(&self.shared.transactions));
            let snapshots = move || {
                groups.snapshot_all();
                transactions.snapshot_all();
            };
            self.shared.env.blocking(Pool::General, snapshots).await?;
            self.shared.partitions.retire();
            // Followers have copied meanwhile.
            if !self.drain().await {
                return Ok(());
            }
            self.shared.partitions.close().await?;
            self.shared.metadata.close_log().await?;
            let (partitions, metadata) =
                (Arc::clone(&self.shared.partitions), Arc::clone(&self.shared.metadata));
            let close = move || {
                partitions.checkpoint(|| metadata.log().checkpointed())?;
                partitions.mark_clean()
            };
            self.shared.env.blocking(Pool::General, close).await??;
            self.tasks.abort_all();
            Ok(())
        }
        .boxed()
    }

    /// Waits until nothing is being flushed; false when that takes too long.
    async fn drain(&self) -> bool {
        let drained = self.shared.env.timeout(DRAIN_TIMEOUT, self.flusher.drained()).await;
        if drained.is_err() {
            tracing::warn!("flushes are still under way; the next start recovers as after a crash");
        }
        drained.is_ok()
    }

    /// Whether the broker has been shut down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Answers later, with what `work` gives.
    pub(crate) fn answer<R: Into<Response>>(
        &self,
        name: &'static str,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Receipt {
        self.relay(name, async move { Ok(work.await.into()) })
    }

    /// Answers later, with what `work` gives, which may be no answer at all.
    pub(crate) fn relay(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<Response, CallError>> + Send + 'static,
    ) -> Receipt {
        let (completer, receipt) = Receipt::pending();
        self.spawn(name, async move { completer.complete(work.await) });
        receipt
    }

    /// A task that ends with the broker.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, work);
    }
}

impl Service for Broker {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        if self.is_closed() {
            let peer = format!("node {}", self.shared.config.node_id);
            return CallError::Disconnected { peer, reason: "the broker has been shut down".to_owned() }
                .into();
        }
        api::dispatch(self, ctx, request)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.shared.groups.abandon();
        self.shared.transactions.abandon();
        self.shared.partitions.abandon();
    }
}

/// A directory that is this node's, and the metadata log in it: none for a broker only.
struct OpenedDir {
    dir: LogDir,
    identity: DirIdentity,
    log: Option<Log>,
}

/// Opens the directory and the metadata log in it. A new directory becomes a new cluster's, or that of the cluster to be joined.
async fn open_dir(
    env: &Env,
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    config: &BrokerConfig,
    links: &Links,
) -> Result<OpenedDir> {
    let patience = env.elapsed().saturating_add(LOCK_PATIENCE);
    let dir = loop {
        let (disk, path) = (Arc::clone(&disk), data_dir.clone());
        match env.blocking(Pool::General, move || LogDir::open(disk, &path, OPEN_FILES)).await? {
            Err(StorageError::Locked { .. }) if env.elapsed() < patience => env.sleep(LOCK_RETRY).await,
            opened => break opened?,
        }
    };
    let (now, node_id) = (env.now(), config.node_id);
    let (dir, known) =
        env.blocking(Pool::General, move || dir.identity().map(|known| (dir, known))).await??;
    let dir = match known {
        Some(_) => dir,
        None => env.blocking(Pool::General, move || expect_no_logs(dir, node_id, now)).await??,
    };
    let cluster_id = match (known, config.quorum.as_ref().filter(|quorum| quorum.joins())) {
        (Some(known), _) => known.cluster_id,
        (None, Some(quorum)) => discover(env, links, &quorum.bootstrap).await?,
        (None, None) => env.random_uuid().to_string(),
    };
    let new_directory = env.random_uuid();
    let observes = config.quorum.as_ref().is_some_and(|quorum| quorum.endpoint.is_none());
    let open = move || {
        let identity = dir.claim(&cluster_id, node_id, new_directory)?;
        if observes {
            return Ok(OpenedDir { dir, identity, log: None });
        }
        let at = TopicPartition::new(CLUSTER_METADATA, 0);
        let log_config = LogConfig { cleanup_delete: false, ..LogConfig::default() };
        let (log, _) = dir.open_log(&at, METADATA_TOPIC_ID, log_config, now)?;
        Ok(OpenedDir { dir, identity, log: Some(log) })
    };
    env.blocking(Pool::General, open).await?
}

/// Gives a directory of nobody's back where it has no logs either.
///
/// # Errors
/// [`StorageError::NoIdentity`], with the directory's id where the metadata log has it.
fn expect_no_logs(dir: LogDir, node: NodeId, now: Millis) -> Result<LogDir> {
    match dir.expect_no_logs(node) {
        Err(StorageError::NoIdentity { path, found, node_id, .. }) => {
            let directory_id = crate::metadata::noted_directory(&dir, node, now);
            Err(StorageError::NoIdentity { path, found, node_id, directory_id }.into())
        }
        other => Ok(other.map(|()| dir)?),
    }
}

/// As `metadata::discover`; says after a moment that it waits.
async fn discover(env: &Env, links: &Links, servers: &[Endpoint]) -> Result<String> {
    let finding = std::pin::pin!(crate::metadata::discover(env, links, servers));
    match select(finding, env.sleep(SAY_THAT_IT_WAITS)).await {
        Either::Left((found, _)) => found,
        Either::Right(((), finding)) => {
            tracing::warn!("waiting for a controller at {}", listed(servers));
            finding.await
        }
    }
}

/// Leads the metadata log alone, takes this member's part in a quorum, or reads the log from afar.
async fn open_metadata_log(
    env: &Env,
    config: &BrokerConfig,
    identity: &DirIdentity,
    log: Option<Log>,
    dir: &Arc<RwLock<LogDir>>,
    dial: Arc<dyn Dial>,
) -> Result<OwnLog> {
    let member = MemberId { node: config.node_id, directory: identity.directory_id };
    let (joins, log, endpoint) = match (&config.quorum, log) {
        (None, Some(log)) => return Ok(OwnLog::Local(Arc::new(LocalLog::lead(env.clone(), log)))),
        (Some(quorum @ QuorumConfig { endpoint: Some(endpoint), .. }), Some(log)) => {
            (quorum.joins(), log, endpoint)
        }
        (quorum, _) => {
            let servers = quorum.as_ref().map(|quorum| &*quorum.bootstrap).unwrap_or_default();
            let name = format!("broker-{}-observer", config.node_id).into();
            let links = Links::new(env.clone(), dial, name, CONTROLLER_TIMEOUT);
            let observer = ObserverLog::new(env.clone(), config.node_id, identity, links, servers);
            return Ok(OwnLog::Observer(observer));
        }
    };
    let founds = !joins || log.end_offset() > Offset(0);
    let founders = founds.then(|| (member, endpoint.clone())).into_iter().collect();
    let dir = Arc::clone(dir);
    let at = TopicPartition::new(CLUSTER_METADATA, 0);
    let bytes = |name: &str| u64::try_from(config.number(name)).unwrap_or(u64::MAX); // -1 is no bound
    let age = |name: &str| u64::try_from(config.number(name)).map_or(Duration::MAX, Duration::from_millis);
    let snapshot_interval = age("metadata.log.max.snapshot.interval.ms");
    let options = QuorumOptions {
        member,
        founders,
        dial,
        timing: QuorumTiming::watched(),
        snapshot_after: SNAPSHOT_AFTER,
        keep_before_snapshot: KEEP_BEFORE_SNAPSHOT,
        bounds: Bounds {
            between_snapshots: bytes("metadata.log.max.record.bytes.between.snapshots"),
            // Zero turns it off.
            snapshot_interval: if snapshot_interval.is_zero() { Duration::MAX } else { snapshot_interval },
            retention: bytes("metadata.max.retention.bytes"),
            retention_age: age("metadata.max.retention.ms"),
        },
        compactor: compactor(),
        lower_recovery_point: Arc::new(move |to| dir.write().lower_recovery_point(&at, to)),
    };
    let opened = QuorumLog::open(env.clone(), log, options).await;
    Ok(OwnLog::Quorum(opened.map_err(|error| match error {
        // These say where, and how to mend it.
        QuorumError::Storage(error) => BrokerError::Storage(error),
        QuorumError::Record(error) => BrokerError::Machine(error),
        other => BrokerError::Refused {
            what: other.to_string(),
            mend: "look at the metadata log's directory, __cluster_metadata-0",
        },
    })?))
}

/// Makes the broker known: at once where it is the cluster, else in a task, since the cluster may not be there yet.
async fn take_part(
    metadata: &Arc<Metadata>,
    tasks: &TaskGroup,
    config: &BrokerConfig,
    identity: &DirIdentity,
    log_dir: &Path,
) -> Result<()> {
    let registration = registration(metadata.incarnation(), config, identity);
    let Some(quorum) = &config.quorum else {
        return metadata.register(&registration).await.map_err(|refusal| BrokerError::Refused {
            what: format!("the broker cannot register: {refusal:?}"),
            mend: "look at the disk of the log directory",
        });
    };
    let me = MemberId { node: config.node_id, directory: identity.directory_id };
    if quorum.endpoint.is_some() {
        tasks.spawn("controller", Arc::clone(metadata).control());
        tasks.spawn("controller registration", Arc::clone(metadata).register_controller());
        tasks.spawn("broker watches", Arc::clone(metadata).watch_brokers());
        tasks.spawn("leader watch", Arc::clone(metadata).watch_leader());
    }
    tasks.spawn("strangers", Arc::clone(metadata).look_for_strangers(log_dir.to_owned()));
    tasks.spawn("standing", Arc::clone(metadata).watch_standing());
    if quorum.is_broker {
        tasks.spawn("lease", Arc::clone(metadata).keep_lease());
        tasks.spawn("lost replicas", Arc::clone(metadata).tell_of_replicas());
    }
    let registration = quorum.is_broker.then_some(registration);
    tasks.spawn("membership", Arc::clone(metadata).attend(registration, me));
    Ok(())
}

fn copying_premises(shared: &Shared, tasks: &TaskGroup, dial: Arc<dyn Dial>) -> replication::Premises {
    let settings = CopySettings::of(&shared.config);
    let client_id = ByteString::from(format!("broker-{}-fetcher", shared.config.node_id));
    replication::Premises {
        node: shared.config.node_id,
        tasks: tasks.clone(),
        links: Links::new(shared.env.clone(), dial, client_id, settings.timeout),
        image: Arc::clone(&shared.image),
        partitions: Arc::downgrade(&shared.partitions),
        listener: shared.config.inter_broker_listener(),
        settings,
        throttle: Arc::clone(&shared.throttle),
        suspects: Arc::clone(&shared.suspects),
    }
}

fn registration(
    incarnation_id: Uuid,
    config: &BrokerConfig,
    identity: &DirIdentity,
) -> BrokerRegistrationRequest {
    let features = config.supported_features.iter();
    BrokerRegistrationRequest {
        broker_id: config.node_id.0,
        cluster_id: ByteString::from(identity.cluster_id.as_str()),
        incarnation_id,
        listeners: config
            .listeners
            .iter()
            .map(|listener| Listener {
                name: listener.name.clone(),
                host: listener.endpoint.host.clone(),
                port: listener.endpoint.port,
                security_protocol: 0,
            })
            .collect(),
        features: features
            .map(|(name, min_supported_version, max_supported_version)| Feature {
                name: ByteString::from_static(name),
                min_supported_version,
                max_supported_version,
            })
            .collect(),
        rack: config.rack.clone(),
        log_dirs: vec![identity.directory_id],
        ..BrokerRegistrationRequest::default()
    }
}
