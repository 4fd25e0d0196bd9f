//! The one table of the versions that our broker serves.
//!
//! They are those of Kafka 4.3.1's broker. What a version means is in [`crate::facts`]; no other room sees a version number.

use millstream_record::Uuid;

use crate::Request;
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
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::AddPartitionsToTxn, 0, 5),
    (ApiKey::AddOffsetsToTxn, 0, 4),
    (ApiKey::EndTxn, 0, 5),
    (ApiKey::WriteTxnMarkers, 1, 2),
    (ApiKey::TxnOffsetCommit, 0, 5),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::DescribeLogDirs, 1, 5),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::ElectLeaders, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::AlterPartitionReassignments, 0, 1),
    (ApiKey::ListPartitionReassignments, 0, 0),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeQuorum, 0, 2),
    (ApiKey::UpdateFeatures, 0, 2),
    (ApiKey::DescribeCluster, 0, 2),
    (ApiKey::UnregisterBroker, 0, 0),
    (ApiKey::DescribeTopicPartitions, 0, 0),
    (ApiKey::AddRaftVoter, 0, 1),
    (ApiKey::RemoveRaftVoter, 0, 0),
];

/// What brokers and members of the metadata quorum ask of controllers: (API, first version, last version). Only a controller's listeners
/// serve it, and only they tell of it.
pub const SERVED_TO_CONTROLLERS: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Fetch, 12, 18),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::ElectLeaders, 0, 2),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::AlterPartitionReassignments, 0, 1),
    (ApiKey::DescribeQuorum, 0, 2),
    (ApiKey::AlterPartition, 2, 3),
    (ApiKey::UpdateFeatures, 0, 2),
    (ApiKey::FetchSnapshot, 0, 1),
    (ApiKey::DescribeCluster, 0, 2),
    (ApiKey::BrokerRegistration, 0, 4),
    (ApiKey::BrokerHeartbeat, 0, 2),
    (ApiKey::UnregisterBroker, 0, 0),
    (ApiKey::AllocateProducerIds, 0, 0),
    (ApiKey::ControllerRegistration, 0, 0),
    (ApiKey::AssignReplicasToDirs, 0, 0),
    (ApiKey::AddRaftVoter, 0, 1),
    (ApiKey::RemoveRaftVoter, 0, 0),
    (ApiKey::RaftAppend, 0, 0),
    (ApiKey::RaftVote, 0, 0),
    (ApiKey::RaftSnapshot, 0, 0),
    (ApiKey::RaftTransfer, 0, 0),
];

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Clients, and brokers that fetch: [`SERVED`].
    #[default]
    Clients,
    /// Brokers and controllers: [`SERVED_TO_CONTROLLERS`].
    Controllers,
}

impl Audience {
    fn table(self) -> &'static [(ApiKey, i16, i16)] {
        match self {
            Self::Clients => SERVED,
            Self::Controllers => SERVED_TO_CONTROLLERS,
        }
    }

    /// The versions of `api` that are served, first and last; `None` when it is not.
    #[must_use]
    pub fn served(self, api: ApiKey) -> Option<(i16, i16)> {
        let found = self.table().iter().find(|(served, ..)| *served == api);
        found.map(|(_, first, last)| (*first, *last))
    }

    /// What ApiVersions tells: the table, but for Produce.
    #[must_use]
    pub fn told(self) -> Vec<ApiVersion> {
        let told_from = |api, first| if api == ApiKey::Produce { PRODUCE_TOLD_FROM } else { first };
        let told = |&(api, first, last): &(ApiKey, i16, i16)| ApiVersion {
            api_key: api as i16,
            min_version: told_from(api, first),
            max_version: last,
        };
        self.table().iter().map(told).collect()
    }
}

/// The versions of `api` that clients are served, first and last; `None` when it is not.
#[must_use]
pub fn served(api: ApiKey) -> Option<(i16, i16)> {
    Audience::Clients.served(api)
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

/// The version in which a client sends `request`, of those that it shares with the broker (first, last); `None` when none can
/// carry it. It is the last that says what the request says:
/// - a client in transactions v1 must not claim v2 (KIP-890), and only brokers send AddPartitionsToTxn in batches;
/// - versions that name topics by id only (KIP-516) are for requests that know every id, those before for requests that know every
///   name.
#[must_use]
pub fn choose(request: &Request, shared: (i16, i16)) -> Option<i16> {
    let (mut first, mut last) = shared;
    if let Request::AddPartitionsToTxn(m) = request
        && m.transactions.iter().any(|one| one.verify_only)
    {
        first = first.max(VERIFIED_SINCE);
    }
    let (by_client, by_id) = limits(request);
    last = last.min(by_client);
    if let Some((since, ids_known)) = by_id {
        match ids_known {
            Known::NamesOnly => last = last.min(since - 1),
            Known::IdsOnly => first = first.max(since),
            Known::Both => {}
        }
    }
    (first <= last).then_some(last)
}

/// The first version of AddPartitionsToTxn in which a broker can ask without adding (KIP-890).
const VERIFIED_SINCE: i16 = 4;

/// Which words for its topics a request knows for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    NamesOnly,
    IdsOnly,
    Both,
}

/// The last version that a client may use, and the first that names topics by id with what is known of them.
fn limits(request: &Request) -> (i16, Option<(i16, Known)>) {
    const ANY: i16 = i16::MAX;
    match request {
        Request::Produce(m) => {
            let last = if m.transactional_id.is_some() { 11 } else { ANY };
            (
                last,
                Some((13, known(m.topic_data.iter().map(|topic| (topic.name.is_empty(), topic.topic_id))))),
            )
        }
        Request::Fetch(m) => {
            let topics = m.topics.iter().map(|topic| (topic.topic.is_empty(), topic.topic_id));
            let forgotten =
                m.forgotten_topics_data.iter().map(|topic| (topic.topic.is_empty(), topic.topic_id));
            (ANY, Some((13, known(topics.chain(forgotten)))))
        }
        Request::OffsetCommit(m) => {
            (ANY, Some((10, known(m.topics.iter().map(|topic| (topic.name.is_empty(), topic.topic_id))))))
        }
        Request::OffsetFetch(m) if m.groups.iter().any(|group| group.topics.is_none()) => {
            (ANY, Some((10, Known::NamesOnly))) // all topics: the answer is to name them, which ids alone do not
        }
        Request::OffsetFetch(m) => {
            let topics = m.groups.iter().filter_map(|group| group.topics.as_ref()).flatten();
            (ANY, Some((10, known(topics.map(|topic| (topic.name.is_empty(), topic.topic_id))))))
        }
        Request::AddPartitionsToTxn(m) if m.transactions.iter().any(|one| one.verify_only) => (ANY, None),
        Request::AddPartitionsToTxn(_) => (3, None),
        Request::EndTxn(_) | Request::TxnOffsetCommit(_) => (4, None),
        _ => (ANY, None),
    }
}

fn known(topics: impl Iterator<Item = (bool, Uuid)>) -> Known {
    let mut known = Known::Both;
    for (no_name, id) in topics {
        match (no_name, id.is_zero()) {
            (_, true) => return Known::NamesOnly, // also what knows neither: an old version says so best
            (true, false) => known = Known::IdsOnly,
            (false, false) => {}
        }
    }
    known
}
