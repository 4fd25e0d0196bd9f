//! The metadata log as a node has it that is a broker only: it keeps none of it, and reads it from the active controller (KIP-595's
//! observer). What it reads is committed, so it may come from one that is deposed by now.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use futures::FutureExt;
use futures::future::{Either, select};
use millstream_client::Links;
use millstream_env::Env;
use millstream_machine::metadata::{BoxFuture, Committed, MetadataLog, ProposeError, Record};
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, PartitionData, ReplicaState};
use millstream_protocol::messages::fetch_snapshot::{
    FetchSnapshotRequestPartitionSnapshot, FetchSnapshotRequestSnapshotId, FetchSnapshotRequestTopicSnapshot,
};
use millstream_protocol::messages::{DescribeClusterRequest, FetchRequest, FetchSnapshotRequest};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{Batch, Batches, LeaderEpoch, NodeId, Offset, RecordError, Uuid};
use millstream_storage::DirIdentity;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lifecycle::CONTROLLERS;
use super::quorum::{MemberId, QuorumError, read_snapshot};
use super::{CONTROLLER_TIMEOUT, codec};
use crate::partitions::{CLUSTER_METADATA, METADATA_TOPIC_ID};

/// How long the active controller may hold a fetch that finds nothing new.
const LONG_POLL: Duration = Duration::from_secs(2);
/// After no controller was found, or one did not answer.
const RETRY: Duration = Duration::from_millis(100);
/// Most bytes of one answer.
const FETCH_BYTES: i32 = 8 << 20;
/// Largest snapshot that is taken in: it is held in memory while it is read.
const SNAPSHOT_BYTES_MAX: i64 = 4 << 30;

/// Who leads the log, in which epoch: none while that is not known.
pub(crate) type Seen = (LeaderEpoch, Option<(MemberId, Endpoint)>);

/// The metadata log, read from afar.
pub(crate) struct ObserverLog {
    env: Env,
    node: NodeId,
    directory: Uuid,
    cluster_id: ByteString,
    links: Links,
    /// Controllers: those that the node was told, and those that they told of.
    servers: Mutex<BTreeSet<Endpoint>>,
    state: Mutex<State>,
    moved: Notify,
    /// Reads outlive the call.
    me: Weak<Self>,
}

struct State {
    seen: Seen,
    /// Who was taken for the active controller, and gave nothing: it may still believe so, and is asked again only where no other is named.
    refused: Option<Endpoint>,
    /// Controllers that one of them told of last.
    controllers: BTreeSet<Endpoint>,
    /// The end of what was read.
    end: Offset,
    /// Servers of other clusters, of which the log has been told.
    strangers: BTreeSet<Endpoint>,
    closed: bool,
}

/// What the active controller gave.
enum Given {
    Batches(Bytes),
    /// The log begins behind what was asked for; this snapshot says what it has no more.
    Snapshot(FetchSnapshotRequestSnapshotId),
}

/// Why there is nothing to take up.
enum Trouble {
    /// A controller does not give it; another may.
    Elsewhere(String),
    /// No controller gives anything else, and this build cannot read it.
    Unreadable(millstream_machine::Error),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Elsewhere(reason)
    }
}

impl From<&str> for Trouble {
    fn from(reason: &str) -> Self {
        Self::Elsewhere(reason.to_owned())
    }
}

impl ObserverLog {
    /// Nothing is read yet. `links` is for this log alone: a fetch waits long.
    pub(crate) fn new(
        env: Env,
        node: NodeId,
        identity: &DirIdentity,
        links: Links,
        servers: &[Endpoint],
    ) -> Arc<Self> {
        let state = State {
            seen: (LeaderEpoch::NONE, None),
            refused: None,
            controllers: BTreeSet::new(),
            end: Offset(0),
            strangers: BTreeSet::new(),
            closed: false,
        };
        Arc::new_cyclic(|me| Self {
            env,
            node,
            directory: identity.directory_id,
            cluster_id: ByteString::from(identity.cluster_id.as_str()),
            links,
            servers: Mutex::new(servers.iter().cloned().collect()),
            state: Mutex::new(state),
            moved: Notify::new(),
            me: Weak::clone(me),
        })
    }

    /// Who leads, as far as this node knows.
    pub(crate) fn seen(&self) -> Seen {
        self.state.lock().seen.clone()
    }

    /// Waits until [`ObserverLog::seen`] is another than `seen`.
    pub(crate) async fn seen_changed(&self, seen: &Seen) {
        loop {
            let moved = self.moved.notified();
            if self.seen() != *seen {
                return;
            }
            moved.await;
        }
    }

    /// Where the controllers are, as one of them told last.
    pub(crate) fn controllers(&self) -> BTreeSet<Endpoint> {
        self.state.lock().controllers.clone()
    }

    /// Reads no more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.moved.notify_waiters();
    }

    fn set_leader(&self, leader: Option<(MemberId, Endpoint)>) {
        self.state.lock().seen.1 = leader;
        self.moved.notify_waiters();
    }

    /// Where the active controller is: as it was found last, or as some controller says.
    async fn active(&self) -> Option<Endpoint> {
        if let Some((_, endpoint)) = self.seen().1 {
            return Some(endpoint);
        }
        let servers: Vec<Endpoint> = self.servers.lock().iter().cloned().collect();
        let refused = self.state.lock().refused.clone();
        let mut again = None;
        for server in servers {
            let asked = DescribeClusterRequest { endpoint_type: CONTROLLERS, ..Default::default() };
            let Ok(told) = self.links.call(&server, asked).await else { continue };
            if told.cluster_id != self.cluster_id {
                if self.state.lock().strangers.insert(server.clone()) {
                    let (own, theirs) = (&self.cluster_id, &told.cluster_id);
                    tracing::warn!(%server, %own, %theirs, "another cluster's; correct controller.quorum.bootstrap.servers");
                }
                continue;
            }
            let controllers = told.brokers.iter().filter_map(|controller| {
                let port = u16::try_from(controller.port).ok()?;
                Some((controller.broker_id, Endpoint::new(&*controller.host, port)))
            });
            let controllers: Vec<_> = controllers.collect();
            let known: BTreeSet<Endpoint> =
                controllers.iter().map(|(_, endpoint)| endpoint.clone()).collect();
            self.servers.lock().extend(known.iter().cloned());
            self.state.lock().controllers = known;
            let active = controllers.into_iter().find(|(id, _)| *id == told.controller_id);
            if let Some((id, endpoint)) = active {
                let member = MemberId { node: NodeId(id), directory: Uuid::ZERO };
                if refused.as_ref() == Some(&endpoint) {
                    again = Some((member, endpoint));
                    continue;
                }
                self.set_leader(Some((member, endpoint.clone())));
                return Some(endpoint);
            }
        }
        let (member, endpoint) = again?;
        self.set_leader(Some((member, endpoint.clone())));
        Some(endpoint)
    }

    async fn fetch(&self, active: &Endpoint, from: Offset) -> Result<Given, String> {
        let partition = FetchPartition {
            fetch_offset: from.0,
            partition_max_bytes: FETCH_BYTES,
            replica_directory_id: self.directory,
            ..FetchPartition::default()
        };
        let request = FetchRequest {
            cluster_id: Some(self.cluster_id.clone()),
            replica_state: ReplicaState { replica_id: self.node.0, replica_epoch: -1 },
            max_wait_ms: i32::try_from(LONG_POLL.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: FETCH_BYTES,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: CLUSTER_METADATA.into(),
                topic_id: METADATA_TOPIC_ID,
                partitions: vec![partition],
            }],
            ..FetchRequest::default()
        };
        let answer = self.links.call_within(active, LONG_POLL + CONTROLLER_TIMEOUT, request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        accepted(answer.error_code)?;
        let data: Option<PartitionData> =
            answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
        let data = data.ok_or("an answer without the metadata log")?;
        match ErrorCode::from_code(data.error_code) {
            ErrorCode::None if data.snapshot_id.end_offset >= 0 => {
                let (end_offset, epoch) = (data.snapshot_id.end_offset, data.snapshot_id.epoch);
                Ok(Given::Snapshot(FetchSnapshotRequestSnapshotId { end_offset, epoch }))
            }
            ErrorCode::None => Ok(Given::Batches(data.records.unwrap_or_default())),
            code => Err(code.to_string()),
        }
    }

    async fn snapshot(
        &self,
        active: &Endpoint,
        id: FetchSnapshotRequestSnapshotId,
    ) -> Result<Committed, Trouble> {
        let mut whole = BytesMut::new();
        loop {
            let partition = FetchSnapshotRequestPartitionSnapshot {
                snapshot_id: id.clone(),
                position: i64::try_from(whole.len()).unwrap_or(i64::MAX),
                replica_directory_id: self.directory,
                ..FetchSnapshotRequestPartitionSnapshot::default()
            };
            let request = FetchSnapshotRequest {
                cluster_id: Some(self.cluster_id.clone()),
                replica_id: self.node.0,
                max_bytes: FETCH_BYTES,
                topics: vec![FetchSnapshotRequestTopicSnapshot {
                    name: CLUSTER_METADATA.into(),
                    partitions: vec![partition],
                }],
            };
            let answer = self.links.call(active, request).await.map_err(|error| error.to_string())?;
            accepted(answer.error_code)?;
            let data = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
            let data = data.ok_or("an answer without the snapshot")?;
            match ErrorCode::from_code(data.error_code) {
                ErrorCode::None if data.size <= SNAPSHOT_BYTES_MAX => {}
                ErrorCode::None => return Err(format!("a snapshot of {} bytes", data.size).into()),
                code => return Err(code.to_string().into()),
            }
            whole.extend_from_slice(&data.unaligned_records);
            if whole.len() as u64 >= u64::try_from(data.size).unwrap_or(0) {
                break;
            }
            if data.unaligned_records.is_empty() {
                let size = data.size;
                return Err(format!("a snapshot that ends after {} of {size} bytes", whole.len()).into());
            }
        }
        let (end, epoch) = (Offset(id.end_offset), LeaderEpoch(id.epoch));
        read_snapshot(whole.freeze(), end, epoch).map_err(|error| match error {
            QuorumError::Record(error) => Trouble::Unreadable(error),
            other => Trouble::Elsewhere(other.to_string()),
        })
    }

    /// One try at what comes next; nothing when there is nothing new.
    async fn next(
        &self,
        active: &Endpoint,
        from: Offset,
        max_batches: usize,
    ) -> Result<Vec<Committed>, Trouble> {
        let bytes = match self.fetch(active, from).await? {
            Given::Snapshot(id) => return Ok(vec![self.snapshot(active, id).await?]),
            Given::Batches(bytes) => bytes,
        };
        let mut committed = Vec::new();
        for batch in Batches::new(bytes).take(max_batches) {
            match read_batch(batch) {
                Ok(batch) => committed.push(batch),
                Err(_) if !committed.is_empty() => break, // first what can be read
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(committed)
    }

    async fn read_on(&self, from: Offset, max_batches: usize) -> Result<Vec<Committed>, ProposeError> {
        loop {
            let Some(active) = self.active().await else {
                self.env.sleep(RETRY).await;
                continue;
            };
            match self.next(&active, from, max_batches).await {
                Ok(batches) => {
                    let mut state = self.state.lock();
                    state.refused = None;
                    let Some(last) = batches.last() else { continue };
                    state.end = last.end;
                    state.seen.0 = state.seen.0.max(last.epoch);
                    return Ok(batches);
                }
                Err(Trouble::Unreadable(error)) => return Err(ProposeError::Unreadable(error)),
                Err(Trouble::Elsewhere(reason)) => {
                    tracing::debug!(%active, reason, "a controller does not give the metadata; another is looked for");
                    self.state.lock().refused = Some(active);
                    self.set_leader(None);
                    self.env.sleep(RETRY).await;
                }
            }
        }
    }

    /// Completes once the log is closed.
    async fn closed(&self) {
        loop {
            let moved = self.moved.notified();
            if self.state.lock().closed {
                return;
            }
            moved.await;
        }
    }
}

fn read_batch(batch: Result<Batch, RecordError>) -> Result<Committed, Trouble> {
    let batch = batch.map_err(|error| error.to_string())?;
    batch.check_crc().map_err(|error| error.to_string())?;
    codec::decode(&batch).map_err(|error| match error {
        ProposeError::Unreadable(error) => Trouble::Unreadable(error),
        other => Trouble::Elsewhere(other.to_string()),
    })
}

/// Whether the request as a whole was taken.
fn accepted(code: i16) -> Result<(), String> {
    ErrorCode::from_code(code).ok().map_err(|code| code.to_string())
}

impl MetadataLog for ObserverLog {
    fn leadership(&self) -> (LeaderEpoch, bool) {
        (self.state.lock().seen.0, false)
    }

    fn propose(&self, _: LeaderEpoch, _: Vec<Record>) -> BoxFuture<'static, Result<Offset, ProposeError>> {
        let leader = self.seen().1.map(|(member, _)| member.node);
        async move { Err(ProposeError::NotLeader { leader }) }.boxed()
    }

    fn committed_end(&self) -> Offset {
        self.state.lock().end
    }

    fn read(
        &self,
        from: Offset,
        max_batches: usize,
    ) -> BoxFuture<'static, Result<Vec<Committed>, ProposeError>> {
        let log = self.me.upgrade().expect("whoever calls holds it");
        async move {
            let reading = std::pin::pin!(log.read_on(from, max_batches));
            match select(reading, std::pin::pin!(log.closed())).await {
                Either::Left((read, _)) => read,
                Either::Right(_) => Err(ProposeError::Closed),
            }
        }
        .boxed()
    }
}
