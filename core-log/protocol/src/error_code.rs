//! The error codes of Kafka's protocol.

use std::fmt;

macro_rules! codes {
    (@retry retry) => { true };
    (@retry final) => { false };
    ($($code:literal, $variant:ident, $name:literal, $retry:ident, $text:literal;)*) => {
        /// An error code of the protocol: what a broker answers, and what a client decides by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $text] $variant = $code,)*
        }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code with this number; a number that we do not know counts as [`ErrorCode::UnknownServerError`].
            #[must_use]
            pub fn from_code(code: i16) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    _ => Self::UnknownServerError,
                }
            }

            /// Kafka's name of it, in capitals.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the same request may succeed later, perhaps at another broker.
            #[must_use]
            pub fn is_retriable(self) -> bool {
                match self { $(Self::$variant => codes!(@retry $retry),)* }
            }

            /// What it means, as the end of a sentence.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

#[rustfmt::skip]
codes! {
    -1, UnknownServerError, "UNKNOWN_SERVER_ERROR", final, "the server failed in a way it did not foresee";
    0, None, "NONE", final, "no error";
    1, OffsetOutOfRange, "OFFSET_OUT_OF_RANGE", final, "the partition holds no such offset";
    2, CorruptMessage, "CORRUPT_MESSAGE", retry, "a batch fails its checksum, its size limit, or the rules of a compacted topic";
    3, UnknownTopicOrPartition, "UNKNOWN_TOPIC_OR_PARTITION", retry, "this broker has no such topic or partition";
    4, InvalidFetchSize, "INVALID_FETCH_SIZE", final, "the fetch size is not a valid number of bytes";
    5, LeaderNotAvailable, "LEADER_NOT_AVAILABLE", retry, "the partition has no leader yet; an election is under way";
    6, NotLeaderOrFollower, "NOT_LEADER_OR_FOLLOWER", retry, "this broker neither leads nor follows the partition";
    7, RequestTimedOut, "REQUEST_TIMED_OUT", retry, "the time given for the request ran out";
    8, BrokerNotAvailable, "BROKER_NOT_AVAILABLE", final, "the broker cannot be reached";
    9, ReplicaNotAvailable, "REPLICA_NOT_AVAILABLE", retry, "the replica is not available here";
    10, MessageTooLarge, "MESSAGE_TOO_LARGE", final, "a batch is larger than the topic allows";
    11, StaleControllerEpoch, "STALE_CONTROLLER_EPOCH", final, "the controller has moved to another node";
    12, OffsetMetadataTooLarge, "OFFSET_METADATA_TOO_LARGE", final, "the metadata of a committed offset is too long";
    13, NetworkException, "NETWORK_EXCEPTION", retry, "the connection broke before an answer came";
    14, CoordinatorLoadInProgress, "COORDINATOR_LOAD_IN_PROGRESS", retry, "the coordinator is still loading its state";
    15, CoordinatorNotAvailable, "COORDINATOR_NOT_AVAILABLE", retry, "the coordinator cannot be reached";
    16, NotCoordinator, "NOT_COORDINATOR", retry, "this broker does not coordinate the group or transaction";
    17, InvalidTopicException, "INVALID_TOPIC_EXCEPTION", final, "the topic name is not valid, or the topic may not be used this way";
    18, RecordListTooLarge, "RECORD_LIST_TOO_LARGE", final, "a batch is larger than a segment";
    19, NotEnoughReplicas, "NOT_ENOUGH_REPLICAS", retry, "too few replicas are in sync; nothing was appended";
    20, NotEnoughReplicasAfterAppend, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", retry, "the records were appended, but too few replicas are in sync";
    21, InvalidRequiredAcks, "INVALID_REQUIRED_ACKS", final, "acks must be 0, 1 or -1";
    22, IllegalGeneration, "ILLEGAL_GENERATION", final, "the member's generation is not the group's current one";
    23, InconsistentGroupProtocol, "INCONSISTENT_GROUP_PROTOCOL", final, "no protocol is shared by all members, or the member names none";
    24, InvalidGroupId, "INVALID_GROUP_ID", final, "the group id is not valid";
    25, UnknownMemberId, "UNKNOWN_MEMBER_ID", final, "the group has no such member";
    26, InvalidSessionTimeout, "INVALID_SESSION_TIMEOUT", final, "the session timeout lies outside of the broker's limits";
    27, RebalanceInProgress, "REBALANCE_IN_PROGRESS", final, "the group rebalances; join again";
    28, InvalidCommitOffsetSize, "INVALID_COMMIT_OFFSET_SIZE", final, "the offsets do not fit into one batch of the offsets topic";
    29, TopicAuthorizationFailed, "TOPIC_AUTHORIZATION_FAILED", final, "no permission on the topic";
    30, GroupAuthorizationFailed, "GROUP_AUTHORIZATION_FAILED", final, "no permission on the group";
    31, ClusterAuthorizationFailed, "CLUSTER_AUTHORIZATION_FAILED", final, "no permission on the cluster";
    32, InvalidTimestamp, "INVALID_TIMESTAMP", final, "a record's timestamp lies outside of the allowed range";
    33, UnsupportedSaslMechanism, "UNSUPPORTED_SASL_MECHANISM", final, "the SASL mechanism is not enabled";
    34, IllegalSaslState, "ILLEGAL_SASL_STATE", final, "the request does not fit the state of the SASL handshake";
    35, UnsupportedVersion, "UNSUPPORTED_VERSION", final, "the version of the request is not served";
    36, TopicAlreadyExists, "TOPIC_ALREADY_EXISTS", final, "the topic exists already";
    37, InvalidPartitions, "INVALID_PARTITIONS", final, "the number of partitions is not valid";
    38, InvalidReplicationFactor, "INVALID_REPLICATION_FACTOR", final, "the replication factor is not valid for this cluster";
    39, InvalidReplicaAssignment, "INVALID_REPLICA_ASSIGNMENT", final, "the assignment of replicas is not valid";
    40, InvalidConfig, "INVALID_CONFIG", final, "a configuration value is not valid";
    41, NotController, "NOT_CONTROLLER", retry, "this node is not the active controller";
    42, InvalidRequest, "INVALID_REQUEST", final, "the request contradicts itself or the protocol";
    43, UnsupportedForMessageFormat, "UNSUPPORTED_FOR_MESSAGE_FORMAT", final, "the message format cannot serve this request";
    44, PolicyViolation, "POLICY_VIOLATION", final, "a policy of the broker forbids the request";
    45, OutOfOrderSequenceNumber, "OUT_OF_ORDER_SEQUENCE_NUMBER", final, "the sequence number does not follow the last one";
    46, DuplicateSequenceNumber, "DUPLICATE_SEQUENCE_NUMBER", final, "the sequence number was seen already and its offset is forgotten";
    47, InvalidProducerEpoch, "INVALID_PRODUCER_EPOCH", final, "the producer epoch is out of date";
    48, InvalidTxnState, "INVALID_TXN_STATE", final, "the transaction is not in a state that allows this";
    49, InvalidProducerIdMapping, "INVALID_PRODUCER_ID_MAPPING", final, "the producer id does not belong to the transactional id";
    50, InvalidTransactionTimeout, "INVALID_TRANSACTION_TIMEOUT", final, "the transaction timeout is longer than the broker allows";
    51, ConcurrentTransactions, "CONCURRENT_TRANSACTIONS", retry, "another change of the same transaction is still going on";
    52, TransactionCoordinatorFenced, "TRANSACTION_COORDINATOR_FENCED", final, "the coordinator that sent the marker has been replaced";
    53, TransactionalIdAuthorizationFailed, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", final, "no permission on the transactional id";
    54, SecurityDisabled, "SECURITY_DISABLED", final, "security features are off on this broker";
    55, OperationNotAttempted, "OPERATION_NOT_ATTEMPTED", final, "an earlier failure kept this part from being tried";
    56, KafkaStorageError, "KAFKA_STORAGE_ERROR", retry, "the disk failed";
    57, LogDirNotFound, "LOG_DIR_NOT_FOUND", final, "the log directory is not one of the broker's";
    58, SaslAuthenticationFailed, "SASL_AUTHENTICATION_FAILED", final, "the SASL credentials were refused";
    59, UnknownProducerId, "UNKNOWN_PRODUCER_ID", final, "the producer id is not known to the partition";
    60, ReassignmentInProgress, "REASSIGNMENT_IN_PROGRESS", final, "a reassignment of the partition is under way";
    61, DelegationTokenAuthDisabled, "DELEGATION_TOKEN_AUTH_DISABLED", final, "delegation tokens are off on this broker";
    62, DelegationTokenNotFound, "DELEGATION_TOKEN_NOT_FOUND", final, "no such delegation token";
    63, DelegationTokenOwnerMismatch, "DELEGATION_TOKEN_OWNER_MISMATCH", final, "the delegation token belongs to somebody else";
    64, DelegationTokenRequestNotAllowed, "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", final, "delegation tokens cannot be asked for on this connection";
    65, DelegationTokenAuthorizationFailed, "DELEGATION_TOKEN_AUTHORIZATION_FAILED", final, "no permission on the delegation token";
    66, DelegationTokenExpired, "DELEGATION_TOKEN_EXPIRED", final, "the delegation token has expired";
    67, InvalidPrincipalType, "INVALID_PRINCIPAL_TYPE", final, "the kind of principal is not supported";
    68, NonEmptyGroup, "NON_EMPTY_GROUP", final, "the group still has members";
    69, GroupIdNotFound, "GROUP_ID_NOT_FOUND", final, "no such group";
    70, FetchSessionIdNotFound, "FETCH_SESSION_ID_NOT_FOUND", retry, "no such fetch session";
    71, InvalidFetchSessionEpoch, "INVALID_FETCH_SESSION_EPOCH", retry, "the epoch of the fetch session is not the expected one";
    72, ListenerNotFound, "LISTENER_NOT_FOUND", retry, "the leader has no listener of the name the client came through";
    73, TopicDeletionDisabled, "TOPIC_DELETION_DISABLED", final, "deleting topics is off on this broker";
    74, FencedLeaderEpoch, "FENCED_LEADER_EPOCH", retry, "the request's leader epoch is older than the broker's";
    75, UnknownLeaderEpoch, "UNKNOWN_LEADER_EPOCH", retry, "the request's leader epoch is newer than the broker's";
    76, UnsupportedCompressionType, "UNSUPPORTED_COMPRESSION_TYPE", final, "the client's version cannot read this compression";
    77, StaleBrokerEpoch, "STALE_BROKER_EPOCH", final, "the broker has been registered again since";
    78, OffsetNotAvailable, "OFFSET_NOT_AVAILABLE", retry, "the new leader does not know yet how far it may answer";
    79, MemberIdRequired, "MEMBER_ID_REQUIRED", final, "join again with the member id just handed out";
    80, PreferredLeaderNotAvailable, "PREFERRED_LEADER_NOT_AVAILABLE", retry, "the preferred leader is not available";
    81, GroupMaxSizeReached, "GROUP_MAX_SIZE_REACHED", final, "the group is full";
    82, FencedInstanceId, "FENCED_INSTANCE_ID", final, "another member has taken over the group instance id";
    83, EligibleLeadersNotAvailable, "ELIGIBLE_LEADERS_NOT_AVAILABLE", retry, "no replica is eligible to lead";
    84, ElectionNotNeeded, "ELECTION_NOT_NEEDED", retry, "the partition has the leader it should have";
    85, NoReassignmentInProgress, "NO_REASSIGNMENT_IN_PROGRESS", final, "no reassignment is under way";
    86, GroupSubscribedToTopic, "GROUP_SUBSCRIBED_TO_TOPIC", final, "the group still reads the topic";
    87, InvalidRecord, "INVALID_RECORD", final, "the broker refused a record";
    88, UnstableOffsetCommit, "UNSTABLE_OFFSET_COMMIT", retry, "a transaction has offsets pending for the group";
    89, ThrottlingQuotaExceeded, "THROTTLING_QUOTA_EXCEEDED", retry, "a quota on changes is used up; try later";
    90, ProducerFenced, "PRODUCER_FENCED", final, "a newer producer has the same transactional id";
    91, ResourceNotFound, "RESOURCE_NOT_FOUND", final, "no such resource";
    92, DuplicateResource, "DUPLICATE_RESOURCE", final, "the request names one resource twice";
    93, UnacceptableCredential, "UNACCEPTABLE_CREDENTIAL", final, "the credential is not acceptable";
    94, InconsistentVoterSet, "INCONSISTENT_VOTER_SET", final, "sender and receiver do not agree who votes";
    95, InvalidUpdateVersion, "INVALID_UPDATE_VERSION", final, "the number of the update is not valid";
    96, FeatureUpdateFailed, "FEATURE_UPDATE_FAILED", final, "the features could not be updated";
    97, PrincipalDeserializationFailure, "PRINCIPAL_DESERIALIZATION_FAILURE", final, "a forwarded principal could not be read";
    98, SnapshotNotFound, "SNAPSHOT_NOT_FOUND", final, "no such snapshot";
    99, PositionOutOfRange, "POSITION_OUT_OF_RANGE", final, "the position lies outside of the snapshot";
    100, UnknownTopicId, "UNKNOWN_TOPIC_ID", retry, "this broker has no topic of that id";
    101, DuplicateBrokerRegistration, "DUPLICATE_BROKER_REGISTRATION", final, "the broker id is in use";
    102, BrokerIdNotRegistered, "BROKER_ID_NOT_REGISTERED", final, "the broker id has not been registered";
    103, InconsistentTopicId, "INCONSISTENT_TOPIC_ID", retry, "the topic id is not the log's";
    104, InconsistentClusterId, "INCONSISTENT_CLUSTER_ID", final, "the cluster id is not this cluster's";
    105, TransactionalIdNotFound, "TRANSACTIONAL_ID_NOT_FOUND", final, "no such transactional id";
    106, FetchSessionTopicIdError, "FETCH_SESSION_TOPIC_ID_ERROR", retry, "the fetch session mixes topic names and ids";
    107, IneligibleReplica, "INELIGIBLE_REPLICA", final, "a replica of the new in-sync set may not be in it";
    108, NewLeaderElected, "NEW_LEADER_ELECTED", final, "the change was made, and another broker leads now";
    109, OffsetMovedToTieredStorage, "OFFSET_MOVED_TO_TIERED_STORAGE", final, "the offset has moved to tiered storage";
    110, FencedMemberEpoch, "FENCED_MEMBER_EPOCH", final, "the member's epoch is fenced; give up all partitions and join again";
    111, UnreleasedInstanceId, "UNRELEASED_INSTANCE_ID", final, "the group instance id is still held by another member";
    112, UnsupportedAssignor, "UNSUPPORTED_ASSIGNOR", final, "the assignor, or its version, is not supported by the group";
    113, StaleMemberEpoch, "STALE_MEMBER_EPOCH", final, "the member's epoch is out of date";
    114, MismatchedEndpointType, "MISMATCHED_ENDPOINT_TYPE", final, "the endpoint is of the wrong kind";
    115, UnsupportedEndpointType, "UNSUPPORTED_ENDPOINT_TYPE", final, "this kind of endpoint is not supported";
    116, UnknownControllerId, "UNKNOWN_CONTROLLER_ID", final, "no such controller";
    117, UnknownSubscriptionId, "UNKNOWN_SUBSCRIPTION_ID", final, "the telemetry subscription is not known or out of date";
    118, TelemetryTooLarge, "TELEMETRY_TOO_LARGE", final, "the telemetry is larger than the broker allows";
    119, InvalidRegistration, "INVALID_REGISTRATION", final, "the controller refuses the registration";
    120, TransactionAbortable, "TRANSACTION_ABORTABLE", final, "the transaction must be aborted; the producer may go on after that";
    121, InvalidRecordState, "INVALID_RECORD_STATE", final, "the record is not in a state that can be acknowledged";
    122, ShareSessionNotFound, "SHARE_SESSION_NOT_FOUND", retry, "no such share session";
    123, InvalidShareSessionEpoch, "INVALID_SHARE_SESSION_EPOCH", retry, "the epoch of the share session is not the expected one";
    124, FencedStateEpoch, "FENCED_STATE_EPOCH", final, "the epoch of the share group's state is out of date";
    125, InvalidVoterKey, "INVALID_VOTER_KEY", final, "the voter's key is not the one expected";
    126, DuplicateVoter, "DUPLICATE_VOTER", final, "the voter is in the set already";
    127, VoterNotFound, "VOTER_NOT_FOUND", final, "the voter is not in the set";
    128, InvalidRegularExpression, "INVALID_REGULAR_EXPRESSION", final, "the regular expression is not valid";
    129, RebootstrapRequired, "REBOOTSTRAP_REQUIRED", final, "the client's metadata is too old; start again from the bootstrap servers";
    130, StreamsInvalidTopology, "STREAMS_INVALID_TOPOLOGY", final, "the topology of the streams group is not valid";
    131, StreamsInvalidTopologyEpoch, "STREAMS_INVALID_TOPOLOGY_EPOCH", final, "the topology's epoch is not valid";
    132, StreamsTopologyFenced, "STREAMS_TOPOLOGY_FENCED", final, "the topology's epoch is out of date";
    133, ShareSessionLimitReached, "SHARE_SESSION_LIMIT_REACHED", retry, "no more share sessions are allowed";
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether this is [`ErrorCode::None`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::None
    }

    /// `Err(self)`, unless there is no error.
    ///
    /// # Errors
    /// Every code but [`ErrorCode::None`].
    pub fn ok(self) -> Result<(), Self> {
        if self.is_none() { Ok(()) } else { Err(self) }
    }
}

impl From<ErrorCode> for i16 {
    fn from(code: ErrorCode) -> Self {
        code.code()
    }
}

impl From<i16> for ErrorCode {
    fn from(code: i16) -> Self {
        Self::from_code(code)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.description(), self.name())
    }
}

impl std::error::Error for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kafkas_without_a_gap() {
        let codes: Vec<i16> = ErrorCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(codes, (-1..=133).collect::<Vec<i16>>());
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), code);
        }
        assert_eq!(ErrorCode::from_code(9999), ErrorCode::UnknownServerError);
        assert!(ErrorCode::NotCoordinator.is_retriable());
        assert!(!ErrorCode::RebalanceInProgress.is_retriable());
        assert_eq!(
            ErrorCode::from_code(6).to_string(),
            "this broker neither leads nor follows the partition (NOT_LEADER_OR_FOLLOWER)"
        );
    }
}
