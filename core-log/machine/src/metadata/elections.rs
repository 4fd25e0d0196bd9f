//! Deciding elections that somebody asks for: ElectLeaders, and the controller's own wish for preferred leaders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::elect_leaders::{PartitionResult, ReplicaElectionResult};
use millstream_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};

use super::Record;
use super::controller::{Controller, Decision, Refusal};
use super::image::{Image, Partition, Topic};
use super::partition_change::{Change, Election};

/// Most leaders that one look at the balance moves, as in Kafka: each move is a small outage.
pub const MAX_ELECTIONS_PER_BALANCE: usize = 1_000;

impl Controller {
    /// Decides ElectLeaders: for the partitions named, or for all. When all are asked for, those that have the leader they
    /// should have are not in the answer.
    #[must_use]
    pub fn elect_leaders(
        &self,
        image: &Image,
        request: &ElectLeadersRequest,
    ) -> Decision<ElectLeadersResponse> {
        let election = match request.election_type {
            0 => Election::Preferred,
            1 => Election::Unclean,
            _ => {
                let response = ElectLeadersResponse {
                    error_code: ErrorCode::InvalidRequest.code(),
                    ..ElectLeadersResponse::default()
                };
                return Decision { records: Vec::new(), response };
            }
        };
        let (mut records, mut seen) = (Vec::new(), BTreeSet::new());
        let mut results: BTreeMap<ByteString, Vec<PartitionResult>> = BTreeMap::new();
        match &request.topic_partitions {
            Some(named) => {
                for topic in named {
                    let elect = |index: &i32| {
                        let elected = self.elect_in(image, &topic.topic, *index, election);
                        let is_first = seen.insert((&topic.topic, *index));
                        answer(*index, elected, is_first.then_some(&mut records))
                    };
                    let elected: Vec<PartitionResult> = topic.partitions.iter().map(elect).collect();
                    results.entry(topic.topic.clone()).or_default().extend(elected);
                }
            }
            None => {
                for topic in image.topics() {
                    let elect = |(partition, index): (&Arc<Partition>, i32)| {
                        let elected = self.elect_one(image, topic, index, partition, election);
                        answer(index, elected, Some(&mut records))
                    };
                    let mut elected: Vec<PartitionResult> =
                        topic.partitions.iter().zip(0..).map(elect).collect();
                    elected.retain(|result| result.error_code != ErrorCode::ElectionNotNeeded.code());
                    if !elected.is_empty() {
                        results.insert(ByteString::from(&*topic.name), elected);
                    }
                }
            }
        }
        let result = |(topic, partition_result)| ReplicaElectionResult { topic, partition_result };
        let response = ElectLeadersResponse {
            replica_election_results: results.into_iter().map(result).collect(),
            ..ElectLeadersResponse::default()
        };
        Decision { records, response }
    }

    /// Gives partitions back to their preferred leaders where those are in sync and active; at most
    /// [`MAX_ELECTIONS_PER_BALANCE`] at once. The answer is whether there may be more to do, so that the shell asks again soon
    /// rather than after `leader.imbalance.check.interval.seconds`.
    #[must_use]
    pub fn balance_leaders(&self, image: &Image) -> Decision<bool> {
        let mut records = Vec::new();
        for topic in image.topics() {
            let strayed = topic.partitions.iter().zip(0..).filter(|(partition, _)| {
                let preferred = partition.replicas.first().copied();
                partition.leader != preferred && preferred.is_some_and(|node| partition.isr.contains(&node))
            });
            let left = MAX_ELECTIONS_PER_BALANCE - records.len();
            let prefer = |change: &mut Change<'_>| change.election = Election::Preferred;
            let strayed = strayed.map(|(partition, index)| (topic, index, partition));
            let mut moved = self.change_partitions(image, strayed, prefer);
            moved.truncate(left);
            records.extend(moved);
            if records.len() == MAX_ELECTIONS_PER_BALANCE {
                return Decision { records, response: true };
            }
        }
        Decision { records, response: false }
    }

    /// Gives partitions that nobody leads to replicas that may miss records, where their topics allow that; at most
    /// [`MAX_ELECTIONS_PER_BALANCE`] at once. An election is tried whenever a broker comes or goes, but not when a topic comes to
    /// allow more. The answer is whether there may be more to do.
    #[must_use]
    pub fn elect_leaderless(&self, image: &Image) -> Decision<bool> {
        let mut records = Vec::new();
        for topic in image.topics() {
            let numbered = topic.partitions.iter().zip(0..);
            let leaderless = numbered.filter(|(partition, _)| partition.leader.is_none());
            let leaderless = leaderless.map(|(partition, index)| (topic, index, partition));
            let mut elected = self.change_partitions(image, leaderless, |_| {});
            elected.truncate(MAX_ELECTIONS_PER_BALANCE - records.len());
            records.extend(elected);
            if records.len() == MAX_ELECTIONS_PER_BALANCE {
                return Decision { records, response: true };
            }
        }
        Decision { records, response: false }
    }

    fn elect_in(&self, image: &Image, name: &str, index: i32, election: Election) -> Result<Record, Refusal> {
        let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
        let topic = image.topic(name).ok_or_else(|| unknown(format!("No such topic as {name}")))?;
        let partition = image.partition(name, index);
        let partition = partition.ok_or_else(|| unknown(format!("No such partition as {name}-{index}")))?;
        self.elect_one(image, topic, index, partition, election)
    }

    fn elect_one(
        &self,
        image: &Image,
        topic: &Topic,
        index: i32,
        partition: &Partition,
        election: Election,
    ) -> Result<Record, Refusal> {
        let is_as_wanted = match election {
            Election::Preferred => partition.leader == partition.replicas.first().copied(),
            Election::Online | Election::Unclean => partition.leader.is_some(),
        };
        if is_as_wanted {
            return Err(Refusal::new(
                ErrorCode::ElectionNotNeeded,
                "The partition has the leader it should have.",
            ));
        }
        let mut change = Change::new(image, topic.id, index, partition, self.rules(image, topic));
        change.election = election;
        change.record().map(Record::PartitionChange).ok_or_else(|| match election {
            Election::Preferred => Refusal::new(
                ErrorCode::PreferredLeaderNotAvailable,
                "The preferred replica is not in sync or not active.",
            ),
            Election::Online | Election::Unclean => {
                Refusal::new(ErrorCode::EligibleLeadersNotAvailable, "No replica is active.")
            }
        })
    }
}

/// The answer for one partition; what was decided for it goes to `records`, if it is not there yet.
fn answer(
    partition_id: i32,
    elected: Result<Record, Refusal>,
    records: Option<&mut Vec<Record>>,
) -> PartitionResult {
    match elected {
        Ok(record) => {
            records.into_iter().for_each(|records| records.push(record.clone()));
            PartitionResult { partition_id, ..PartitionResult::default() }
        }
        Err(refusal) => PartitionResult {
            partition_id,
            error_code: refusal.code.code(),
            error_message: Some(refusal.message.into()),
        },
    }
}
