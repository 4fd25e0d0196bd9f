//! Transactions, as every broker since 2.5 knows them (KIP-98, KIP-360, KIP-447).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use millstream_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use millstream_protocol::messages::end_txn::EndTxnRequest;
use millstream_protocol::messages::init_producer_id::InitProducerIdRequest;
use millstream_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use millstream_protocol::{ErrorCode, Rpc};
use millstream_record::{ProducerEpoch, ProducerId, TopicPartition};

use super::Shared;
use super::queue::{Identity, NOBODY};
use crate::cluster::{CoordinatorKind, coordinator_moved};
use crate::retry::{Deadline, retry};
use crate::{ClientError, GroupMetadata, Offsets, Result};

/// Where a transactional producer stands.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Not a transactional producer.
    Plain,
    /// `init_transactions` has not succeeded yet.
    Uninitialised,
    /// Between transactions.
    Ready,
    /// In a transaction.
    Open,
    /// Its commit has begun; may have to be repeated.
    Committing,
    /// Something of it failed: it can only be aborted.
    Failed(Arc<ClientError>),
    /// Its abort has begun; may have to be repeated.
    Aborting,
}

#[derive(Debug)]
pub(super) struct Transaction {
    pub phase: Phase,
    /// Partitions that the coordinator knows to be part of it.
    pub added: BTreeSet<TopicPartition>,
    /// Partitions that it has to be told of before anything is sent there.
    pub new: BTreeSet<TopicPartition>,
    /// The last partition that is in one of these, or on its way from one to the other.
    recent: Option<TopicPartition>,
    /// The sender is telling it.
    pub adding: bool,
    /// Groups whose offsets are part of it.
    groups: BTreeSet<ByteString>,
    /// The coordinator may know of something in it.
    begun: bool,
    /// The sequences are no longer sound: the next transaction needs a new epoch.
    pub needs_new_epoch: bool,
}

impl Transaction {
    pub(super) fn new(transactional: bool) -> Self {
        Self {
            phase: if transactional { Phase::Uninitialised } else { Phase::Plain },
            added: BTreeSet::new(),
            new: BTreeSet::new(),
            recent: None,
            adding: false,
            groups: BTreeSet::new(),
            begun: false,
            needs_new_epoch: false,
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        let misuse = |what: &str| Err(ClientError::state(what));
        match &self.phase {
            Phase::Plain | Phase::Open => Ok(()),
            Phase::Uninitialised => misuse("call init_transactions and begin_transaction before sending"),
            Phase::Ready => misuse("there is no transaction; call begin_transaction before sending"),
            Phase::Committing => misuse("the transaction is being committed; call commit_transaction again"),
            Phase::Aborting => misuse("the transaction is being aborted; call abort_transaction again"),
            Phase::Failed(cause) => Err(ClientError::AbortRequired { cause: Arc::clone(cause) }),
        }
    }

    /// Notes that a record goes to `partition`.
    pub(super) fn touch(&mut self, partition: &TopicPartition) {
        let is_recent = |recent: &TopicPartition| {
            Arc::ptr_eq(&recent.topic, &partition.topic) && recent.partition == partition.partition
        };
        if !matches!(self.phase, Phase::Open) || self.recent.as_ref().is_some_and(is_recent) {
            return;
        }
        if !self.added.contains(partition) && !self.new.contains(partition) {
            self.new.insert(partition.clone());
        }
        self.recent = Some(partition.clone());
    }

    /// Whether batches may go to `partition`.
    pub(super) fn admits(&self, partition: &TopicPartition) -> bool {
        matches!(self.phase, Phase::Plain) || self.added.contains(partition)
    }

    /// What the coordinator has to be told now.
    pub(super) fn take_new(&mut self) -> Option<BTreeSet<TopicPartition>> {
        if self.new.is_empty() || self.adding || !matches!(self.phase, Phase::Open | Phase::Committing) {
            return None;
        }
        self.adding = true;
        self.begun = true;
        Some(std::mem::take(&mut self.new))
    }

    fn finish(&mut self) {
        self.phase = Phase::Ready;
        self.added.clear();
        self.new.clear();
        self.recent = None;
        self.groups.clear();
        self.begun = false;
        self.needs_new_epoch = false;
    }
}

impl Shared {
    /// Asks the transaction's coordinator, wherever it is, until it answers for good. `read` gives the code of an answer.
    async fn ask_transaction_coordinator<R: Rpc + Clone>(
        &self,
        request: R,
        read: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let id = self.transactional_id()?;
        let (cluster, config) = (&self.cluster, &self.cluster.config);
        let what = format!("{} of {id}", R::API.name());
        retry(&cluster.env, config, &what, self.config.max_block_ms, || async {
            let endpoint = cluster.coordinator(CoordinatorKind::Transaction, id).await?;
            let answer = self.links.call(&endpoint, request.clone()).await;
            let checked = answer.and_then(|answer| match ErrorCode::from_code(read(&answer)) {
                ErrorCode::None => Ok(answer),
                code => Err(ClientError::broker(R::API.name(), id, code)),
            });
            checked.inspect_err(|error| {
                if coordinator_moved(error) {
                    cluster.forget_coordinator(CoordinatorKind::Transaction, id);
                }
            })
        })
        .await
        .map_err(|error| self.judge(error))
    }

    fn transactional_id(&self) -> Result<&ByteString> {
        self.config.transactional_id.as_ref().ok_or_else(|| {
            ClientError::state("the producer has no transactional.id; set one to use transactions")
        })
    }

    /// What an error of the coordinator means for the producer; fatal ones are remembered.
    fn judge(&self, error: ClientError) -> ClientError {
        let fenced = || ClientError::Fenced {
            who: self.config.transactional_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let fatal = match error.code() {
            Some(ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch) => fenced(),
            Some(
                ErrorCode::TransactionalIdAuthorizationFailed
                | ErrorCode::ClusterAuthorizationFailed
                | ErrorCode::InvalidTxnState
                | ErrorCode::InvalidProducerIdMapping
                | ErrorCode::UnsupportedVersion,
            ) => ClientError::Fatal { cause: Arc::new(error) },
            _ => return error,
        };
        let mut state = self.state.lock();
        state.fail(fatal.clone());
        fatal
    }

    /// Gets the producer id of the transactional id, fencing whoever had it; or a new epoch of our own (KIP-360).
    async fn init_identity(&self, current: Identity) -> Result<()> {
        let request = InitProducerIdRequest {
            transactional_id: Some(self.transactional_id()?.clone()),
            transaction_timeout_ms: self.config.transaction_timeout_ms,
            producer_id: current.id.0,
            producer_epoch: current.epoch.0,
            ..InitProducerIdRequest::default()
        };
        let answer = self.ask_transaction_coordinator(request, |answer| answer.error_code).await?;
        self.state.lock().identity =
            Identity { id: ProducerId(answer.producer_id), epoch: ProducerEpoch(answer.producer_epoch) };
        Ok(())
    }

    pub(super) async fn init_transactions(&self) -> Result<()> {
        {
            let state = self.state.lock();
            state.fatal.clone().map_or(Ok(()), Err)?;
            match state.transaction.phase {
                Phase::Uninitialised => {}
                Phase::Plain => drop(self.transactional_id()?),
                _ => return Err(ClientError::state("init_transactions was called before")),
            }
        }
        self.init_identity(NOBODY).await?;
        self.state.lock().transaction.phase = Phase::Ready;
        Ok(())
    }

    pub(super) fn begin_transaction(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.fatal.clone().map_or(Ok(()), Err)?;
        match state.transaction.phase {
            Phase::Ready => {
                state.transaction.phase = Phase::Open;
                Ok(())
            }
            Phase::Open => Err(ClientError::state("a transaction is open already; commit or abort it first")),
            _ => state.transaction.check_open().and_then(|()| self.transactional_id().map(drop)),
        }
    }

    /// Tells the coordinator of partitions; the sender does so before it sends anything there.
    pub(super) async fn add_partitions(&self, partitions: &BTreeSet<TopicPartition>) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            topics.entry(&partition.topic).or_default().push(partition.partition);
        }
        let topic =
            |(name, partitions): (&str, Vec<i32>)| AddPartitionsToTxnTopic { name: name.into(), partitions };
        let identity = self.state.lock().identity;
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: self.transactional_id()?.clone(),
            producer_id: identity.id.0,
            producer_epoch: identity.epoch.0,
            verify_only: false,
            topics: topics.into_iter().map(topic).collect(),
        };
        let request = AddPartitionsToTxnRequest {
            transactions: vec![transaction],
            ..AddPartitionsToTxnRequest::default()
        };
        // Every partition is told alike but for those at fault; a partition that was not attempted is no error of its own.
        let read = |answer: &<AddPartitionsToTxnRequest as Rpc>::Response| {
            let topics =
                answer.results_by_transaction.iter().flat_map(|transaction| &transaction.topic_results);
            let partitions = topics.flat_map(|topic| &topic.results_by_partition);
            let codes = partitions.map(|partition| partition.partition_error_code);
            let attempted = codes.filter(|code| *code != ErrorCode::OperationNotAttempted.code());
            attempted.into_iter().find(|code| *code != 0).unwrap_or(answer.error_code)
        };
        self.ask_transaction_coordinator(request, read).await.map(drop)
    }

    pub(super) async fn send_offsets(&self, offsets: &Offsets, group: &GroupMetadata) -> Result<()> {
        let (identity, known) = {
            let state = self.state.lock();
            state.check_sendable()?;
            self.transactional_id()?;
            (state.identity, state.transaction.groups.contains(&group.group_id))
        };
        if offsets.is_empty() {
            return Ok(());
        }
        let done = async {
            if !known {
                self.add_group(identity, group).await?;
            }
            self.commit_offsets(identity, offsets, group).await
        };
        done.await.map_err(|error| {
            if error.is_fatal() || error.is_retriable() {
                return error;
            }
            let cause = Arc::new(error);
            self.state.lock().fail_transaction((*cause).clone());
            ClientError::AbortRequired { cause }
        })
    }

    async fn add_group(&self, identity: Identity, group: &GroupMetadata) -> Result<()> {
        self.state.lock().transaction.begun = true;
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.transactional_id()?.clone(),
            producer_id: identity.id.0,
            producer_epoch: identity.epoch.0,
            group_id: group.group_id.clone(),
        };
        self.ask_transaction_coordinator(request, |answer| answer.error_code).await?;
        self.state.lock().transaction.groups.insert(group.group_id.clone());
        Ok(())
    }

    async fn commit_offsets(
        &self,
        identity: Identity,
        offsets: &Offsets,
        group: &GroupMetadata,
    ) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
        for (partition, offset) in offsets {
            topics.entry(&partition.topic).or_default().push(TxnOffsetCommitRequestPartition {
                partition_index: partition.partition,
                committed_offset: offset.offset.0,
                committed_leader_epoch: offset.leader_epoch.0,
                committed_metadata: Some(offset.metadata.clone()),
            });
        }
        let topic =
            |(name, partitions): (&str, _)| TxnOffsetCommitRequestTopic { name: name.into(), partitions };
        let request = TxnOffsetCommitRequest {
            transactional_id: self.transactional_id()?.clone(),
            group_id: group.group_id.clone(),
            producer_id: identity.id.0,
            producer_epoch: identity.epoch.0,
            generation_id: group.generation_id,
            member_id: group.member_id.clone(),
            group_instance_id: group.group_instance_id.clone(),
            topics: topics.into_iter().map(topic).collect(),
        };
        let cluster = &self.cluster;
        let what = format!("committing the offsets of group {} in a transaction", group.group_id);
        let done = retry(&cluster.env, &cluster.config, &what, self.config.max_block_ms, || async {
            let endpoint = cluster.coordinator(CoordinatorKind::Group, &group.group_id).await?;
            let answer = self.links.call(&endpoint, request.clone()).await;
            let done = answer.and_then(|answer| {
                let mut codes =
                    answer.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
                codes.try_for_each(|code| offset_committed(group, ErrorCode::from_code(code)))
            });
            done.inspect_err(|error| {
                if coordinator_moved(error) {
                    cluster.forget_coordinator(CoordinatorKind::Group, &group.group_id);
                }
            })
        });
        done.await.map_err(|error| self.judge(error))
    }

    pub(super) async fn commit_transaction(&self) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.fatal.clone().map_or(Ok(()), Err)?;
            if !matches!(state.transaction.phase, Phase::Committing) {
                state.transaction.check_open()?;
                self.transactional_id()?;
                state.transaction.phase = Phase::Committing;
            }
        }
        // A record that failed has failed the transaction too; that tells more than the record's own error.
        let _ = self.flush().await;
        {
            let state = self.state.lock();
            state.fatal.clone().map_or(Ok(()), Err)?;
            if let Phase::Failed(cause) = &state.transaction.phase {
                return Err(ClientError::AbortRequired { cause: Arc::clone(cause) });
            }
        }
        self.end_transaction(true).await
    }

    pub(super) async fn abort_transaction(&self) -> Result<()> {
        let dropped = {
            let mut state = self.state.lock();
            state.fatal.clone().map_or(Ok(()), Err)?;
            match state.transaction.phase {
                Phase::Open | Phase::Committing | Phase::Failed(_) | Phase::Aborting => {}
                _ => {
                    return Err(ClientError::state(
                        "there is no transaction to abort; call begin_transaction first",
                    ));
                }
            }
            let failed = matches!(state.transaction.phase, Phase::Failed(_));
            state.transaction.phase = Phase::Aborting;
            let (dropped, was_sent) = state.drop_unsent();
            state.transaction.needs_new_epoch |= failed || was_sent;
            dropped
        };
        self.finish_batches(dropped, &ClientError::Aborted);
        self.land().await?;
        self.end_transaction(false).await
    }

    /// Waits until nothing is on its way, so that no late batch arrives behind the end of its transaction.
    async fn land(&self) -> Result<()> {
        let deadline = Deadline::after(&self.cluster.env, self.config.max_block_ms);
        loop {
            let progress = self.progress.notified();
            {
                let mut state = self.state.lock();
                if !state.in_flight() && !state.transaction.adding {
                    let (dropped, was_sent) = state.drop_unsent();
                    state.transaction.needs_new_epoch |= was_sent;
                    drop(state);
                    self.finish_batches(dropped, &ClientError::Aborted);
                    return Ok(());
                }
            }
            let late = || deadline.error("waiting for batches in flight before the abort", None);
            let left = deadline.left(&self.cluster.env).ok_or_else(late)?;
            self.cluster.env.timeout(left, progress).await.map_err(|_| late())?;
        }
    }

    async fn end_transaction(&self, committed: bool) -> Result<()> {
        let (identity, begun, needs_new_epoch) = {
            let state = self.state.lock();
            (state.identity, state.transaction.begun, state.transaction.needs_new_epoch)
        };
        if begun {
            let request = EndTxnRequest {
                transactional_id: self.transactional_id()?.clone(),
                producer_id: identity.id.0,
                producer_epoch: identity.epoch.0,
                committed,
            };
            let answer = self.ask_transaction_coordinator(request, |answer| answer.error_code).await?;
            if answer.producer_id >= 0 && answer.producer_epoch >= 0 {
                // A coordinator of transactions v2 gives every transaction an epoch of its own (KIP-890).
                self.state.lock().identity = Identity {
                    id: ProducerId(answer.producer_id),
                    epoch: ProducerEpoch(answer.producer_epoch),
                };
            }
        }
        if needs_new_epoch {
            self.init_identity(identity).await?;
        }
        self.state.lock().transaction.finish();
        Ok(())
    }
}

fn offset_committed(group: &GroupMetadata, code: ErrorCode) -> Result<()> {
    match code {
        ErrorCode::None => Ok(()),
        ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::FencedInstanceId => {
            Err(ClientError::CommitRefused { group: group.group_id.to_string(), code })
        }
        code => Err(ClientError::broker("TxnOffsetCommit", format!("group {}", group.group_id), code)),
    }
}
