//! The one table of the versions that our broker serves.
//!
//! They are those of Kafka 4.3.1's broker. What a version means is in [`crate::facts`]; no other room sees a version number.

use crate::messages::{ApiKey, api_versions::ApiVersion};

/// The least version of Produce that clients are told: librdkafka before 2.x takes a higher one to mean that the broker knows no
/// compression (KAFKA-18659). Versions below the table's are answered by closing the connection.
const PRODUCE_TOLD_FROM: i16 = 0;

/// (API, first version, last version).
pub const SERVED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 3, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 11),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 10),
    (ApiKey::OffsetFetch, 1, 10),
    (ApiKey::FindCoordinator, 0, 6),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::AddPartitionsToTxn, 0, 5),
    (ApiKey::AddOffsetsToTxn, 0, 4),
    (ApiKey::EndTxn, 0, 5),
    (ApiKey::TxnOffsetCommit, 0, 5),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::DescribeCluster, 0, 2),
];

/// The versions of `api` that we serve, first and last; `None` when we do not serve it.
#[must_use]
pub fn served(api: ApiKey) -> Option<(i16, i16)> {
    SERVED.iter().find(|(served, ..)| *served == api).map(|(_, first, last)| (*first, *last))
}

/// Whether we serve `version` of `api`.
#[must_use]
pub fn serves(api: ApiKey, version: i16) -> bool {
    served(api).is_some_and(|(first, last)| first <= version && version <= last)
}

/// What ApiVersions tells: the table, but for Produce.
#[must_use]
pub fn told() -> Vec<ApiVersion> {
    let told_from = |api, first| if api == ApiKey::Produce { PRODUCE_TOLD_FROM } else { first };
    let told = |&(api, first, last): &(ApiKey, i16, i16)| ApiVersion {
        api_key: api as i16,
        min_version: told_from(api, first),
        max_version: last,
    };
    SERVED.iter().map(told).collect()
}

/// The versions of `api` that are both defined here and in `theirs` (first, last): what a link may speak.
#[must_use]
pub fn shared(api: ApiKey, theirs: (i16, i16)) -> Option<(i16, i16)> {
    let (first, last) = ours(api);
    let (first, last) = (first.max(theirs.0), last.min(theirs.1));
    (first <= last).then_some((first, last))
}

/// What we speak as a client: all that is defined and stable, whether our broker serves it or not.
fn ours(api: ApiKey) -> (i16, i16) {
    let (first, last) = api.defined();
    (first, if api.newest_is_unstable() { last - 1 } else { last })
}
