//! Finds positions: what the group committed, the reset policy, and whether a new leader still has what was read.
//!
//! Each broker is asked apart from the others, about the partitions that only it can tell of: a leader that is silent, or not there, holds
//! up none but its own partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use millstream_protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use millstream_protocol::{CallError, Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, Offset, TopicPartition};

use super::shared::Shared;
use super::subscription::{Assigned, Position, Standing};
use crate::offsets;
use crate::retry::Deadline;
use crate::{ClientError, OffsetReset, OffsetSpec, Result};

/// Questions of a consumer that are on their way. They outlive a poll that is too short for them.
#[derive(Default)]
pub(super) struct Lookups {
    in_flight: FuturesUnordered<BoxFuture<'static, Result<()>>>,
}

impl Lookups {
    /// Asks about every partition that has no position to fetch from, unless that is being asked already.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>) {
        let now = shared.cluster.env.elapsed();
        let is_due = |assigned: &Assigned| !assigned.looked_up && assigned.retry_at <= now;
        for (question, asked) in sort(shared, |_, assigned| is_due(assigned)) {
            shared.subscription.lock().look_up(&asked, true);
            let shared = Arc::clone(shared);
            let looked_up = async move {
                let outcome = ask(&shared, &question, &asked).await;
                shared.subscription.lock().look_up(&asked, false);
                outcome
            };
            self.in_flight.push(looked_up.boxed());
        }
    }

    /// The next outcome; none ever comes where nothing is asked.
    pub(super) async fn next(&mut self) -> Result<()> {
        match self.in_flight.next().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}

/// Asks about one partition, once, whatever else is on its way; tells whether there was anybody to ask.
pub(super) async fn one(shared: &Shared, partition: &TopicPartition) -> Result<bool> {
    let questions = sort(shared, |other, _| other == partition);
    for (question, asked) in &questions {
        ask(shared, question, asked).await?;
    }
    Ok(!questions.is_empty())
}

/// Whom to ask, and for what.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    /// Anybody, for a topic that is not known.
    Topic(Arc<str>),
    /// The group's coordinator, for what was committed.
    Committed,
    /// A leader, for the first or the last offset.
    Offsets(Endpoint),
    /// A leader, for the end of an epoch (KIP-320).
    Epochs(Endpoint),
}

/// A partition that is asked about, and how it stood then.
pub(super) struct Asked {
    pub partition: TopicPartition,
    pub version: u64,
    standing: Standing,
    leader_epoch: LeaderEpoch,
}

fn sort(
    shared: &Shared,
    is_due: impl Fn(&TopicPartition, &Assigned) -> bool,
) -> BTreeMap<Question, Vec<Asked>> {
    let metadata = shared.cluster.metadata();
    let (mut questions, mut leaderless) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (partition, assigned) in &mut shared.subscription.lock().partitions {
        if !is_due(partition, assigned) {
            continue;
        }
        if let Standing::Unvalidated(position) = assigned.standing
            && position.offset_epoch == LeaderEpoch::NONE
        {
            assigned.standing = Standing::At(position); // there is nothing to compare
        }
        let leader = metadata.leader(&partition.topic, partition.partition);
        let leader_epoch = leader.as_ref().map_or(LeaderEpoch::NONE, |leader| leader.epoch);
        let question = match (assigned.standing, leader) {
            (Standing::At(_), _) => continue,
            _ if metadata.partition_count(&partition.topic).is_none() => {
                Question::Topic(Arc::clone(&partition.topic))
            }
            (Standing::Unknown, _) => Question::Committed,
            (Standing::Reset(_), Some(leader)) => Question::Offsets(leader.endpoint),
            (Standing::Unvalidated(_), Some(leader)) => Question::Epochs(leader.endpoint),
            (_, None) => {
                leaderless.push((partition.clone(), assigned.version));
                continue;
            }
        };
        let (version, standing) = (assigned.version, assigned.standing);
        let asked = Asked { partition: partition.clone(), version, standing, leader_epoch };
        questions.entry(question).or_default().push(asked);
    }
    for (partition, version) in leaderless {
        shared.cluster.want(&partition.topic);
        shared.cluster.mark_stale();
        shared.try_later(&partition, version);
    }
    questions
}

async fn ask(shared: &Shared, question: &Question, asked: &[Asked]) -> Result<()> {
    let outcome = match question {
        Question::Topic(topic) => {
            let deadline = Deadline::after(&shared.cluster.env, shared.cluster.config.api_timeout_ms);
            shared.cluster.topic(topic, deadline).await.map(|_| ())
        }
        Question::Committed => committed(shared, asked).await,
        Question::Offsets(leader) => reset(shared, leader, asked).await,
        Question::Epochs(leader) => validate(shared, leader, asked).await,
    };
    let Err(error) = outcome else { return Ok(()) };
    // Those that were found in spite of it do not wait, nor those that stand elsewhere by now, or are not read any more.
    let left: Vec<_> = asked.iter().filter(|asked| stands(shared, asked)).collect();
    left.iter().for_each(|asked| shared.try_later(&asked.partition, asked.version));
    if left.is_empty() {
        tracing::debug!(%error, "a question failed that is not asked any more");
        return Ok(());
    }
    Err(error)
}

/// Whether it is still to be known what was asked about a partition.
fn stands(shared: &Shared, asked: &Asked) -> bool {
    shared.subscription.lock().stands(&asked.partition, asked.version, asked.standing)
}

async fn committed(shared: &Shared, asked: &[Asked]) -> Result<()> {
    let offsets = match &shared.config.group_id {
        Some(group) => {
            let partitions: Vec<_> = asked.iter().map(|asked| asked.partition.clone()).collect();
            offsets::fetch_committed(&shared.cluster, &shared.links, group, Some(&partitions)).await?
        }
        None => BTreeMap::new(),
    };
    each(shared, asked, |asked| {
        let standing = match (offsets.get(&asked.partition), shared.config.auto_offset_reset) {
            (Some(at), _) => {
                Standing::Unvalidated(Position { offset: at.offset, offset_epoch: at.leader_epoch })
            }
            (None, OffsetReset::None) => {
                return Err(ClientError::NoOffset { partition: asked.partition.clone() });
            }
            (None, policy) => Standing::Reset(policy),
        };
        found(shared, asked, standing);
        Ok(())
    })
}

async fn reset(shared: &Shared, leader: &Endpoint, asked: &[Asked]) -> Result<()> {
    let spec = |asked: &Asked| match asked.standing {
        Standing::Reset(OffsetReset::Earliest) => OffsetSpec::Earliest,
        _ => OffsetSpec::Latest,
    };
    let wanted = asked.iter().map(|asked| (asked.partition.clone(), asked.leader_epoch, spec(asked)));
    let isolation = shared.config.isolation_level;
    let mut answers =
        offsets::ask_leader(&shared.cluster, &shared.links, leader, wanted.collect(), isolation).await?;
    each(shared, asked, |asked| {
        let missing = || Err(unanswered("ListOffsets", leader, &asked.partition));
        let offset = answers.remove(&asked.partition).unwrap_or_else(missing)?;
        let offset = offset.map_or(Offset(0), |found| found.offset);
        found(shared, asked, Standing::At(Position { offset, offset_epoch: LeaderEpoch::NONE }));
        Ok(())
    })
}

/// Asks a leader where the epoch of each position ends in its log (KIP-320).
async fn validate(shared: &Shared, leader: &Endpoint, asked: &[Asked]) -> Result<()> {
    let answer = match shared.links.call(leader, epoch_request(asked)).await {
        // A broker that knows no epochs cannot contradict.
        Err(ClientError::Call { source: CallError::Unsupported { .. }, .. }) => {
            for asked in asked {
                if let Standing::Unvalidated(position) = asked.standing {
                    found(shared, asked, Standing::At(position));
                }
            }
            return Ok(());
        }
        answer => answer?,
    };
    let told = answer.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&*topic.topic);
        let partition =
            move |told: EpochEndOffset| (TopicPartition::new(Arc::clone(&name), told.partition), told);
        topic.partitions.into_iter().map(partition)
    });
    let told: BTreeMap<_, _> = told.collect();
    each(shared, asked, |asked| match told.get(&asked.partition) {
        Some(told) => judge(shared, asked, told),
        None => Err(unanswered("OffsetForLeaderEpoch", leader, &asked.partition)),
    })
}

fn unanswered(api: &'static str, broker: &Endpoint, partition: &TopicPartition) -> ClientError {
    ClientError::Answer { api, broker: broker.to_string(), what: format!("{partition} is missing") }
}

/// Takes the answer for each partition, whatever became of the others; tells the gravest error, of those that concern anybody still.
fn each(shared: &Shared, asked: &[Asked], mut take: impl FnMut(&Asked) -> Result<()>) -> Result<()> {
    let errors = asked.iter().filter_map(|asked| take(asked).err().filter(|_| stands(shared, asked)));
    let gravest = errors.min_by_key(ClientError::is_retriable);
    gravest.map_or(Ok(()), Err)
}

/// Sets what was found, unless the partition stands elsewhere by now.
fn found(shared: &Shared, asked: &Asked, standing: Standing) {
    shared.subscription.lock().found(&asked.partition, asked.version, asked.standing, standing);
}

fn epoch_request(asked: &[Asked]) -> OffsetForLeaderEpochRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for Asked { partition, standing, leader_epoch, .. } in asked {
        let Standing::Unvalidated(position) = standing else { continue };
        topics.entry(&partition.topic).or_default().push(OffsetForLeaderPartition {
            partition: partition.partition,
            current_leader_epoch: leader_epoch.0,
            leader_epoch: position.offset_epoch.0,
        });
    }
    let topic = |(name, partitions): (&str, _)| OffsetForLeaderTopic { topic: name.into(), partitions };
    OffsetForLeaderEpochRequest { replica_id: -1, topics: topics.into_iter().map(topic).collect() }
}

fn judge(shared: &Shared, asked: &Asked, told: &EpochEndOffset) -> Result<()> {
    let Standing::Unvalidated(position) = asked.standing else { return Ok(()) };
    let partition = &asked.partition;
    let standing = match ErrorCode::from_code(told.error_code) {
        ErrorCode::None if told.end_offset >= position.offset.0 => Standing::At(position),
        ErrorCode::None => match shared.config.auto_offset_reset {
            OffsetReset::None => {
                let end = Offset(told.end_offset.max(0));
                return Err(ClientError::LogTruncated {
                    partition: partition.clone(),
                    position: position.offset,
                    end,
                });
            }
            policy if told.end_offset < 0 => Standing::Reset(policy),
            _ => {
                tracing::warn!(%partition, position = position.offset.0, end = told.end_offset, "the log was cut off below the position; going on at its end");
                let offset_epoch = LeaderEpoch(told.leader_epoch);
                Standing::At(Position { offset: Offset(told.end_offset), offset_epoch })
            }
        },
        code => return Err(ClientError::broker("OffsetForLeaderEpoch", partition, code)),
    };
    found(shared, asked, standing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_env::HostRuntime;
    use millstream_protocol::messages::offset_fetch::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };
    use millstream_protocol::messages::{FindCoordinatorResponse, OffsetFetchResponse, find_coordinator};
    use millstream_protocol::{Completer, Receipt, Request, Response};
    use millstream_record::Uuid;
    use parking_lot::Mutex;

    use super::*;
    use crate::{ConsumerConfig, fake};

    /// That the group committed nothing.
    fn nothing_committed() -> Response {
        let none = OffsetFetchResponsePartitions { committed_offset: -1, ..Default::default() };
        let topic = OffsetFetchResponseTopics {
            topic_id: Uuid([1; 16]),
            partitions: vec![none],
            ..Default::default()
        };
        let group = OffsetFetchResponseGroup { topics: vec![topic], ..Default::default() };
        OffsetFetchResponse { groups: vec![group], ..Default::default() }.into()
    }

    #[test]
    fn a_question_that_is_not_asked_any_more_fails_no_poll() {
        let (runtime, env) = HostRuntime::start("test", 1).unwrap();
        let waiting = Arc::new(Mutex::new(Vec::<(bool, Completer)>::new()));
        let called = Arc::clone(&waiting);
        let client = fake::client(&env, 60_000, move |_, request| match request {
            Request::Metadata(_) => fake::metadata(&[("t", 1, &[1])]),
            Request::FindCoordinator(_) => {
                let found = find_coordinator::Coordinator { host: "c".into(), port: 1, ..Default::default() };
                let found = FindCoordinatorResponse { coordinators: vec![found], ..Default::default() };
                Receipt::from(Response::from(found))
            }
            other => {
                let (completer, receipt) = Receipt::pending();
                called.lock().push((matches!(other, Request::OffsetFetch(_)), completer));
                receipt
            }
        });
        let config = ConsumerConfig {
            auto_offset_reset: OffsetReset::None,
            enable_auto_commit: false,
            ..ConsumerConfig::group("g")
        };
        let mut consumer = client.consumer(config).unwrap();
        let partition = TopicPartition::new("t", 0);
        consumer.assign([partition.clone()]).unwrap();
        let poll = Duration::from_millis(20);
        runtime.block_on(async {
            let is_asked = || waiting.lock().iter().any(|(is_asked, _)| *is_asked);
            while !is_asked() {
                assert_eq!(consumer.poll(poll).await.unwrap(), []);
            }
            consumer.seek(&partition, Offset(4)).unwrap();
            let (_, completer) = waiting.lock().remove(0);
            completer.complete(Ok(nothing_committed()));
            assert_eq!(consumer.poll(poll).await.unwrap(), [], "the position is known");
        });
    }
}
