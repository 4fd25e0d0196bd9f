//! What a request's version means, in words: the only thing that machines and handlers learn about versions.

use crate::messages::ApiKey;

/// What the version of a request implies, by name. Each fact is false, or the older behaviour, where the API does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Produce, Fetch: the client can read zstd (KIP-110); else batches so compressed answer
    /// [`UnsupportedCompressionType`](crate::ErrorCode::UnsupportedCompressionType).
    pub zstd_allowed: bool,
    /// Produce, TxnOffsetCommit, EndTxn: the client runs transactions v2 (KIP-890): partitions join a transaction by being written to,
    /// and every end bumps the epoch.
    pub transactions_v2: bool,
    /// Produce, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn, InitProducerId, FindCoordinator: the client knows
    /// [`TransactionAbortable`](crate::ErrorCode::TransactionAbortable) (KIP-890).
    pub abortable_error_known: bool,
    /// InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn: the client knows
    /// [`ProducerFenced`](crate::ErrorCode::ProducerFenced) (KIP-588); else say
    /// [`InvalidProducerEpoch`](crate::ErrorCode::InvalidProducerEpoch).
    pub producer_fenced_known: bool,
    /// AddPartitionsToTxn: the sender is a broker with a batch of transactions, and needs permission on the cluster.
    pub batched_by_broker: bool,
    /// Produce, Fetch, OffsetCommit, OffsetFetch: topics are named by id (KIP-516), so an unknown one answers
    /// [`UnknownTopicId`](crate::ErrorCode::UnknownTopicId).
    pub by_topic_id: bool,
    /// Fetch: the client knows [`KafkaStorageError`](crate::ErrorCode::KafkaStorageError); else say
    /// [`NotLeaderOrFollower`](crate::ErrorCode::NotLeaderOrFollower).
    pub storage_error_known: bool,
    /// Fetch: the client may be sent to another replica than the leader, and says its rack (KIP-392).
    pub reads_any_replica: bool,
    /// ListOffsets: the client knows [`OffsetNotAvailable`](crate::ErrorCode::OffsetNotAvailable) (KIP-207); else say
    /// [`LeaderNotAvailable`](crate::ErrorCode::LeaderNotAvailable).
    pub offset_not_available_known: bool,
    /// ListOffsets: the least special timestamp that the version knows (-2 earliest, -3 of the largest timestamp, -4 earliest local,
    /// -5 latest tiered, -6 earliest pending upload); what lies below answers
    /// [`UnsupportedVersion`](crate::ErrorCode::UnsupportedVersion).
    pub least_special_timestamp: i64,
    /// Metadata: the client knows [`ListenerNotFound`](crate::ErrorCode::ListenerNotFound) (KIP-302); else say
    /// [`LeaderNotAvailable`](crate::ErrorCode::LeaderNotAvailable).
    pub listener_not_found_known: bool,
    /// Metadata: a leader that is not available is reported as such, with its replicas; the oldest version leaves them out.
    pub unavailable_replicas_listed: bool,
    /// JoinGroup: a member without an id is first told the one to come back with (KIP-394).
    pub must_know_member_id: bool,
    /// SyncGroup: the client names the type and the name of its protocol (KIP-559), and is refused with
    /// [`InconsistentGroupProtocol`](crate::ErrorCode::InconsistentGroupProtocol) where it does not.
    pub must_name_protocol: bool,
    /// JoinGroup: the leader can be told to keep the assignment (KIP-814).
    pub can_skip_assignment: bool,
    /// DescribeGroups: a group that does not exist answers [`GroupIdNotFound`](crate::ErrorCode::GroupIdNotFound) (KIP-1043); else
    /// it is described as dead.
    pub group_id_not_found_known: bool,
    /// OffsetCommit, OffsetFetch: the client speaks the epochs of KIP-848 groups
    /// ([`StaleMemberEpoch`](crate::ErrorCode::StaleMemberEpoch)).
    pub member_epoch_known: bool,
    /// DeleteTopics: the client knows [`TopicDeletionDisabled`](crate::ErrorCode::TopicDeletionDisabled) (KIP-322); else say
    /// [`InvalidRequest`](crate::ErrorCode::InvalidRequest).
    pub topic_deletion_disabled_known: bool,
    /// CreateTopics, CreatePartitions, DeleteTopics: the client knows
    /// [`ThrottlingQuotaExceeded`](crate::ErrorCode::ThrottlingQuotaExceeded) (KIP-599).
    pub quota_error_known: bool,
    /// CreateTopics: -1 for partitions or replicas means the broker's default (KIP-464).
    pub defaults_for_new_topics: bool,
    /// FindCoordinator: coordinators of share groups may be asked for (KIP-932).
    pub share_coordinator_known: bool,
    /// ApiVersions: the client names its software (KIP-511), and a name that is not valid answers
    /// [`InvalidRequest`](crate::ErrorCode::InvalidRequest).
    pub names_its_software: bool,
    /// ApiVersions: a feature range may begin at 0; clients before KAFKA-17011 fail on it, so such features are left out for them.
    pub zero_feature_known: bool,
}

/// What `version` of `api` implies.
#[must_use]
pub fn facts(api: ApiKey, version: i16) -> Facts {
    let since = |key: ApiKey, least: i16| api == key && version >= least;
    Facts {
        zstd_allowed: since(ApiKey::Produce, 7) || since(ApiKey::Fetch, 10),
        transactions_v2: since(ApiKey::Produce, 12)
            || since(ApiKey::TxnOffsetCommit, 5)
            || since(ApiKey::EndTxn, 5),
        abortable_error_known: since(ApiKey::Produce, 11)
            || since(ApiKey::AddPartitionsToTxn, 5)
            || since(ApiKey::AddOffsetsToTxn, 4)
            || since(ApiKey::TxnOffsetCommit, 4)
            || since(ApiKey::EndTxn, 4)
            || since(ApiKey::InitProducerId, 5)
            || since(ApiKey::FindCoordinator, 5),
        producer_fenced_known: since(ApiKey::InitProducerId, 4)
            || since(ApiKey::AddPartitionsToTxn, 2)
            || since(ApiKey::AddOffsetsToTxn, 2)
            || since(ApiKey::EndTxn, 2),
        batched_by_broker: since(ApiKey::AddPartitionsToTxn, 4),
        by_topic_id: since(ApiKey::Produce, 13)
            || since(ApiKey::Fetch, 13)
            || since(ApiKey::OffsetCommit, 10)
            || since(ApiKey::OffsetFetch, 10),
        storage_error_known: since(ApiKey::Fetch, 6),
        reads_any_replica: since(ApiKey::Fetch, 11),
        offset_not_available_known: since(ApiKey::ListOffsets, 5),
        least_special_timestamp: least_special_timestamp(api, version),
        listener_not_found_known: since(ApiKey::Metadata, 6),
        unavailable_replicas_listed: since(ApiKey::Metadata, 1),
        must_know_member_id: since(ApiKey::JoinGroup, 4),
        must_name_protocol: since(ApiKey::SyncGroup, 5),
        can_skip_assignment: since(ApiKey::JoinGroup, 9),
        group_id_not_found_known: since(ApiKey::DescribeGroups, 6),
        member_epoch_known: since(ApiKey::OffsetCommit, 9) || since(ApiKey::OffsetFetch, 9),
        topic_deletion_disabled_known: since(ApiKey::DeleteTopics, 3),
        quota_error_known: since(ApiKey::CreateTopics, 6)
            || since(ApiKey::CreatePartitions, 3)
            || since(ApiKey::DeleteTopics, 5),
        defaults_for_new_topics: since(ApiKey::CreateTopics, 4),
        share_coordinator_known: since(ApiKey::FindCoordinator, 6),
        names_its_software: since(ApiKey::ApiVersions, 3),
        zero_feature_known: since(ApiKey::ApiVersions, 4),
    }
}

fn least_special_timestamp(api: ApiKey, version: i16) -> i64 {
    match version {
        _ if api != ApiKey::ListOffsets => -2,
        11.. => -6,
        9.. => -5,
        8 => -4,
        7 => -3,
        _ => -2,
    }
}

impl Facts {
    /// What the newest versions imply: the facts of a caller in this process. Such a caller names topics as it likes, is no
    /// broker, and runs the transactions that the broker serves (v1).
    #[must_use]
    pub const fn newest() -> Self {
        Self {
            zstd_allowed: true,
            transactions_v2: false,
            abortable_error_known: true,
            producer_fenced_known: true,
            batched_by_broker: false,
            by_topic_id: false,
            storage_error_known: true,
            reads_any_replica: true,
            offset_not_available_known: true,
            least_special_timestamp: -6,
            listener_not_found_known: true,
            unavailable_replicas_listed: true,
            must_know_member_id: true,
            must_name_protocol: true,
            can_skip_assignment: true,
            group_id_not_found_known: true,
            member_epoch_known: true,
            topic_deletion_disabled_known: true,
            quota_error_known: true,
            defaults_for_new_topics: true,
            share_coordinator_known: true,
            names_its_software: true,
            zero_feature_known: true,
        }
    }
}
