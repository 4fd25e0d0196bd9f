//! The broker: start, stop, and the door to the handlers.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use millstream_client::Links;
use millstream_env::{Env, Pool, TaskGroup};
use millstream_machine::metadata::{Controller, Image, MetadataLog};
use millstream_protocol::messages::BrokerRegistrationRequest;
use millstream_protocol::messages::broker_registration::{Feature, Listener};
use millstream_protocol::{CallError, Ctx, Dial, Receipt, Request, Response, Service};
use millstream_record::{TopicPartition, Uuid};
use millstream_storage::{DirIdentity, Disk, LogConfig, LogDir, StorageError};

use crate::coordinator::{Groups, Premises, Transactions};
use crate::flusher::Flusher;
use crate::metadata::{LocalLog, Metadata};
use crate::partition::Context;
use crate::partitions::{CLUSTER_METADATA, Partitions};
use crate::replication::{self, CopySettings, Copying};
use crate::shared::Shared;
use crate::steady::SteadyClock;
use crate::timers::Timers;
use crate::{BrokerConfig, BrokerError, Result, api, housekeeping};

/// Files that are open at once, apart from those with unsynced bytes.
const OPEN_FILES: usize = 4096;
/// Kafka's id of the metadata topic.
const METADATA_TOPIC_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// How long a start waits for the last owner of the directory, whose last tasks may still be ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// How long a clean shutdown waits for flushes that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// One broker. It lives on its [`Env`]'s threads, whoever calls it. Dropping it ends its tasks at once, as a crash would;
/// [`Broker::shutdown`] ends it cleanly.
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
    tasks: TaskGroup,
    flusher: Arc<Flusher>,
    metadata_log: Arc<LocalLog>,
    closed: AtomicBool,
}

impl Broker {
    /// Recovers the logs under `data_dir` and begins to serve. Other brokers are reached through `dial`.
    ///
    /// # Errors
    /// When the directory is in use, damaged, or belongs to another node.
    pub async fn start(
        env: Env,
        disk: Arc<dyn Disk>,
        data_dir: PathBuf,
        config: BrokerConfig,
        dial: Arc<dyn Dial>,
    ) -> Result<Arc<Self>> {
        let tasks = env.group();
        let clock = SteadyClock::start(&env);
        let timers = Timers::start(&tasks);
        let flusher = Flusher::new(env.clone());
        let copying = Copying::new();
        let (dir, identity, metadata_log) = open_dir(&env, Arc::clone(&disk), data_dir, &config).await?;
        let metadata_log = Arc::new(metadata_log);
        let context = Arc::new(Context {
            env: env.clone(),
            timers: Arc::clone(&timers),
            flusher: Arc::clone(&flusher),
            copying: Arc::clone(&copying),
            proposals: Arc::default(),
            node: config.node_id,
            lag_max_ms: config.number("replica.lag.time.max.ms"),
        });
        let image = Arc::new(ArcSwap::from_pointee(Image::default()));
        let partitions = Partitions::new(context, dir, config.properties.clone());
        let log: Arc<dyn MetadataLog> = Arc::<LocalLog>::clone(&metadata_log);
        let metadata =
            Metadata::load(env.clone(), &config, log, Arc::clone(&image), Arc::clone(&partitions)).await?;
        partitions.open_all(&image.load()).await?;
        let registration = registration(&env, &config, &identity);
        metadata.register(&registration).await.map_err(|refusal| BrokerError::Refused {
            what: format!("the broker cannot register: {refusal:?}"),
            mend: "look at the disk of the log directory",
        })?;
        let premises = Premises {
            image: Arc::clone(&image),
            partitions: Arc::clone(&partitions),
            disk,
            clock,
            timers,
            tasks: tasks.clone(),
        };
        let groups = Groups::of(&config, premises.clone());
        let transactions = Transactions::of(&config, premises, &groups);
        groups.refresh();
        transactions.refresh();
        let shared = Arc::new(Shared {
            cluster_id: ByteString::from(identity.cluster_id),
            config,
            image,
            partitions,
            metadata,
            groups,
            transactions,
            producer_ids: Default::default(),
            parking: Shared::parking(),
            env,
        });
        copying.begin(copying_premises(&shared, &tasks, dial));
        tasks.spawn("in-sync sets", replication::propose(Arc::clone(&shared)));
        tasks.spawn("replicas", replication::watch_lag(Arc::clone(&shared)));
        tasks.spawn("housekeeping", housekeeping::run(Arc::clone(&shared), Arc::clone(&metadata_log)));
        Ok(Arc::new(Self { shared, tasks, flusher, metadata_log, closed: AtomicBool::new(false) }))
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

    /// Refuses new work, flushes every log and writes what makes the next start fast.
    ///
    /// # Errors
    /// When the disk fails; the next start then recovers as after a crash.
    pub async fn shutdown(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        if self.shared.env.timeout(DRAIN_TIMEOUT, self.flusher.drained()).await.is_err() {
            tracing::warn!("flushes are still under way; the next start recovers as after a crash");
            return Ok(());
        }
        let (groups, transactions) = (Arc::clone(&self.shared.groups), Arc::clone(&self.shared.transactions));
        let snapshots = move || {
            groups.snapshot_all();
            transactions.snapshot_all();
        };
        self.shared.env.blocking(Pool::General, snapshots).await?;
        self.shared.partitions.close().await?;
        let (partitions, metadata_log) =
            (Arc::clone(&self.shared.partitions), Arc::clone(&self.metadata_log));
        let close = move || {
            metadata_log.close()?;
            partitions.checkpoint(metadata_log.checkpointed())?;
            partitions.mark_clean()
        };
        self.shared.env.blocking(Pool::General, close).await??;
        self.tasks.abort_all();
        Ok(())
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
        self.tasks.spawn(name, async move { completer.complete(work.await) });
        receipt
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

/// Opens the directory and the metadata log in it. A new directory becomes a new cluster's.
async fn open_dir(
    env: &Env,
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    config: &BrokerConfig,
) -> Result<(LogDir, DirIdentity, LocalLog)> {
    let patience = env.elapsed().saturating_add(LOCK_PATIENCE);
    let dir = loop {
        let (disk, path) = (Arc::clone(&disk), data_dir.clone());
        match env.blocking(Pool::General, move || LogDir::open(disk, &path, OPEN_FILES)).await? {
            Err(StorageError::Locked { .. }) if env.elapsed() < patience => env.sleep(LOCK_RETRY).await,
            opened => break opened?,
        }
    };
    let (now, node_id) = (env.now(), config.node_id);
    let (new_cluster, new_directory) = (env.random_uuid(), env.random_uuid());
    let inside = env.clone();
    let open = move || {
        let cluster_id = dir.identity()?.map_or_else(|| new_cluster.to_string(), |found| found.cluster_id);
        let identity = dir.claim(&cluster_id, node_id, new_directory)?;
        let at = TopicPartition::new(CLUSTER_METADATA, 0);
        let log_config = LogConfig { cleanup_delete: false, ..LogConfig::default() };
        let (log, _) = dir.open_log(&at, METADATA_TOPIC_ID, log_config, now)?;
        Ok((dir, identity, LocalLog::lead(inside, log)))
    };
    env.blocking(Pool::General, open).await?
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
    }
}

fn registration(env: &Env, config: &BrokerConfig, identity: &DirIdentity) -> BrokerRegistrationRequest {
    let features = Controller::supported_features().into_iter();
    BrokerRegistrationRequest {
        broker_id: config.node_id.0,
        cluster_id: ByteString::from(identity.cluster_id.as_str()),
        incarnation_id: env.random_uuid(),
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
