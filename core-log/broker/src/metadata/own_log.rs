//! The metadata log as this node has it: alone, as a member of a quorum, or from afar.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_machine::metadata::{BoxFuture, Committed, Image, MetadataLog, ProposeError, Record};
use millstream_protocol::Endpoint;
use millstream_record::{LeaderEpoch, Offset, TopicPartition};
use millstream_storage::StorageError;

use super::LocalLog;
use super::observer::{ObserverLog, Seen};
use super::quorum::{Compactor, MemberId, NewCompactor, QuorumLog};
use crate::partition::Checkpointed;
use crate::partitions::CLUSTER_METADATA;
use crate::{BrokerError, Result};

/// The metadata log as this node has it.
#[derive(Clone)]
pub(crate) enum OwnLog {
    /// This node is the cluster.
    Local(Arc<LocalLog>),
    /// This node is, or is to be, a member of the quorum.
    Quorum(Arc<QuorumLog>),
    /// This node is a broker only, and reads what the quorum commits.
    Observer(Arc<ObserverLog>),
}

impl OwnLog {
    fn log(&self) -> &dyn MetadataLog {
        match self {
            Self::Local(log) => &**log,
            Self::Quorum(log) => &**log,
            Self::Observer(log) => &**log,
        }
    }

    /// The quorum, where this node is a member of one.
    pub(crate) fn quorum(&self) -> Option<&Arc<QuorumLog>> {
        match self {
            Self::Local(_) | Self::Observer(_) => None,
            Self::Quorum(quorum) => Some(quorum),
        }
    }

    /// Whether this node is the active controller, and knows that no other is.
    pub(crate) fn has_majority(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Quorum(quorum) => quorum.has_majority(),
            Self::Observer(_) => false,
        }
    }

    /// Whether this node is the cluster.
    pub(crate) fn is_alone(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// In which epoch who is the active controller, and where it is reached: none while there is none, or this node does not know.
    pub(crate) fn seen(&self) -> Seen {
        match self {
            Self::Local(_) => (self.leadership().0, None),
            Self::Quorum(quorum) => quorum.leader(),
            Self::Observer(log) => log.seen(),
        }
    }

    /// Where the controllers are, this node as well where it is one.
    pub(crate) fn controllers(&self) -> BTreeSet<Endpoint> {
        match self {
            Self::Local(_) => BTreeSet::new(),
            Self::Quorum(quorum) => {
                quorum.status().members.into_iter().map(|member| member.endpoint).collect()
            }
            Self::Observer(log) => log.controllers(),
        }
    }

    /// Whom others are told to take for the active controller; see [`OwnLog::seen`]. Not this node, where it only believes that it is.
    pub(crate) fn leader(&self) -> Option<(MemberId, Endpoint)> {
        let is_deposed = |leader: &MemberId| {
            self.quorum().is_some_and(|quorum| *leader == quorum.member() && !quorum.has_majority())
        };
        self.seen().1.filter(|(leader, _)| !is_deposed(leader))
    }

    /// Waits until [`OwnLog::seen`] is another than `seen`; for ever where this node is the cluster.
    pub(crate) async fn seen_changed(&self, seen: &Seen) {
        match self {
            Self::Local(_) => std::future::pending().await,
            Self::Quorum(quorum) => quorum.leader_changed(seen).await,
            Self::Observer(log) => log.seen_changed(seen).await,
        }
    }

    /// Waits until this node's leadership is another than `seen`; for ever where it is the cluster.
    pub(crate) async fn leadership_changed(&self, seen: (LeaderEpoch, bool)) {
        match self {
            Self::Local(_) | Self::Observer(_) => std::future::pending().await,
            Self::Quorum(quorum) => quorum.leadership_changed(seen).await,
        }
    }

    /// As [`crate::partition::Partition::write_epochs`], where some of the log is kept here.
    pub(crate) fn write_epochs(&self) -> Result<(), StorageError> {
        match self {
            Self::Local(log) => log.write_epochs(),
            Self::Quorum(quorum) => quorum.write_epochs_blocking(),
            Self::Observer(_) => Ok(()),
        }
    }

    /// What the directory's checkpoints say of this log, where some of it is kept here.
    pub(crate) fn checkpointed(&self) -> Option<Checkpointed> {
        match self {
            Self::Local(log) => Some(log.checkpointed()),
            Self::Quorum(quorum) => Some(quorum.with_log(|log| Checkpointed {
                at: TopicPartition::new(CLUSTER_METADATA, 0),
                recovery_point: log.recovery_point(),
                start: log.start_offset(),
                high_watermark: log.start_offset(),
            })),
            Self::Observer(_) => None,
        }
    }

    /// Writes what makes the next open fast, and takes part in nothing any more.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Self::Local(log) => log.close()?,
            Self::Quorum(quorum) => quorum.close().await.map_err(|error| BrokerError::Refused {
                what: error.to_string(),
                mend: "look at the disk of the metadata log, __cluster_metadata-0",
            })?,
            Self::Observer(log) => log.close(),
        }
        Ok(())
    }
}

impl MetadataLog for OwnLog {
    fn leadership(&self) -> (LeaderEpoch, bool) {
        self.log().leadership()
    }

    fn propose(
        &self,
        epoch: LeaderEpoch,
        records: Vec<Record>,
    ) -> BoxFuture<'static, Result<Offset, ProposeError>> {
        self.log().propose(epoch, records)
    }

    fn committed_end(&self) -> Offset {
        self.log().committed_end()
    }

    fn read(
        &self,
        from: Offset,
        max_batches: usize,
    ) -> BoxFuture<'static, Result<Vec<Committed>, ProposeError>> {
        self.log().read(from, max_batches)
    }
}

/// Makes a quorum's snapshots: an image that is built on the side.
#[derive(Default)]
struct ImageCompactor(Image);

impl Compactor for ImageCompactor {
    fn apply(&mut self, batch: &Committed) -> Result<(), String> {
        self.0.apply_batch(batch).map_err(|error| error.to_string())
    }

    fn records(&self) -> Vec<Record> {
        self.0.to_records().collect()
    }
}

/// How a quorum's snapshots are made.
pub(crate) fn compactor() -> NewCompactor {
    Arc::new(|| Box::new(ImageCompactor::default()))
}
