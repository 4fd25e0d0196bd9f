//! One fetch after another to one leader.
//!
//! A round is: say where every due partition is and how far it is durable, take up what the leader sends, wait until that is
//! fsynced, begin anew. So each fetch reports the durability of all that the one before it brought: the leader can answer
//! acks=all one round trip after the follower's group commit, and needs no second message. What arrives at the leader
//! meanwhile is the next round's, however much it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::select;
use millstream_client::Links;
use millstream_env::{Env, Pool};
use millstream_machine::replica::Diverged;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::FetchRequest;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, PartitionData, ReplicaState};
use millstream_record::{LeaderEpoch, Offset};
use tokio::sync::Notify;

use super::copying::{Copying, Key, Premises, Source};
use super::throttle::Side;
use crate::partition::{Fetched, Partition, Position, Reader};
use crate::refusal::Refusal;

/// How long a round waits for its fsyncs before it looks after the other partitions; a disk that takes longer is failing.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
/// After an error that the next metadata or a look at the leader's log mends.
const SOON: Duration = Duration::from_millis(20);

/// One fetch after another to one leader.
pub(super) struct Lane {
    copying: Arc<Copying>,
    source: Arc<Source>,
    /// Of its own: answers on one link come in order, and another lane's long poll is not to be waited for.
    links: Links,
}

/// A partition in a round.
struct Member {
    key: Key,
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    /// It is not in sync, and what it copies is limited.
    limited: bool,
}

/// What there is to do.
enum Due {
    Now(Vec<Member>),
    /// Everything waits after an error, the first until then.
    Later(Duration),
    Nothing,
}

/// What became of a partition in a round.
enum Outcome {
    /// It may be fetched at once; with what was appended not yet durable, or with nothing new.
    Copied { appended: bool },
    /// It is to be cut here first.
    Cut(Offset),
    /// It begins anew here first.
    BeginAnew(Offset),
    /// It is tried again after a while.
    Again(Duration),
}

impl Lane {
    pub(super) fn new(copying: Arc<Copying>, source: Arc<Source>, links: Links) -> Self {
        Self { copying, source, links }
    }

    /// Fetches until there is nothing that another lane does not have in hand.
    pub(super) async fn run(self) {
        let Some(premises) = self.copying.premises() else { return };
        let env = premises.tasks.env().clone();
        loop {
            match self.due(env.elapsed()) {
                Due::Now(members) => self.round(premises, &env, members).await,
                Due::Later(at) => {
                    let changed = std::pin::pin!(self.source.changed.notified());
                    select(changed, env.sleep_until(at)).await;
                    self.source.state.lock().idle -= 1;
                }
                Due::Nothing => return,
            }
        }
    }

    fn due(&self, now: Duration) -> Due {
        let mut state = self.source.state.lock();
        let mut members = Vec::new();
        let mut first: Option<Duration> = None;
        for (key, copied) in state.copies.iter_mut().filter(|(_, copied)| !copied.in_flight) {
            if copied.not_before <= now {
                copied.in_flight = true;
                members.push(Member {
                    key: *key,
                    partition: Arc::clone(&copied.partition),
                    epoch: copied.epoch,
                    limited: false,
                });
            } else {
                first = Some(first.map_or(copied.not_before, |first| first.min(copied.not_before)));
            }
        }
        match (members.is_empty(), first) {
            (false, _) => Due::Now(members),
            (true, Some(at)) => {
                state.idle += 1;
                Due::Later(at)
            }
            (true, None) => {
                state.lanes -= 1;
                Due::Nothing
            }
        }
    }

    async fn round(&self, premises: &Premises, env: &Env, members: Vec<Member>) {
        let mut asked = Vec::with_capacity(members.len());
        let image = premises.image.load_full();
        for mut member in members {
            member.limited = member.partition.is_limited(Side::Follower, premises.node, &image);
            if member.limited
                && let Some(wait) = premises.throttle.wait(Side::Follower, env.elapsed(), &image)
            {
                self.release(&member, env.elapsed() + wait);
                continue;
            }
            match member.partition.position(member.epoch) {
                Ok(position) => asked.push((member, position)),
                Err(_) => self.release(&member, env.elapsed() + premises.settings.backoff),
            }
        }
        drop(image);
        let answers = self.fetch(premises, &asked).await;
        let mut appended = Vec::new();
        let mut done = Vec::with_capacity(asked.len());
        for (member, position) in asked {
            let outcome = match &answers {
                Ok(answers) => match answers.get(&member.key) {
                    Some(data) => {
                        if member.limited {
                            let bytes = data.records.as_ref().map_or(0, Bytes::len);
                            premises.throttle.took(Side::Follower, bytes);
                        }
                        take_up(&member, position, data, premises)
                    }
                    None => Outcome::Again(premises.settings.backoff),
                },
                Err(()) => Outcome::Again(premises.settings.backoff),
            };
            let wait = match outcome {
                Outcome::Copied { appended: new } => {
                    if new {
                        appended.push((Arc::clone(&member.partition), member.epoch));
                    }
                    Duration::ZERO
                }
                Outcome::Cut(at) => cut(premises, env, &member, at).await,
                Outcome::BeginAnew(at) => begin_anew(premises, env, &member, at).await,
                Outcome::Again(wait) => wait,
            };
            done.push((member, wait));
        }
        until_durable(premises, env, &appended).await;
        let now = env.elapsed();
        for (member, wait) in done {
            self.release(&member, now + wait);
        }
    }

    /// Another round may have it, from `not_before` on.
    fn release(&self, member: &Member, not_before: Duration) {
        let mut state = self.source.state.lock();
        let copied = state.copies.get_mut(&member.key);
        if let Some(copied) = copied.filter(|copied| copied.epoch == member.epoch) {
            copied.in_flight = false;
            copied.not_before = not_before;
        }
    }

    /// Asks the leader; `Err` when it cannot be asked, or would not answer.
    async fn fetch(
        &self,
        premises: &Premises,
        asked: &[(Member, Position)],
    ) -> Result<BTreeMap<Key, PartitionData>, ()> {
        if asked.is_empty() {
            return Ok(BTreeMap::new());
        }
        let leader = self.source.leader;
        let Some(endpoint) = premises.endpoint(leader) else { return Err(()) };
        let settings = &premises.settings;
        let request = FetchRequest {
            replica_state: ReplicaState {
                replica_id: premises.node.0,
                replica_epoch: premises.broker_epoch(),
            },
            max_wait_ms: i32::try_from(settings.wait_max.as_millis()).unwrap_or(i32::MAX),
            min_bytes: settings.min_bytes,
            max_bytes: settings.response_max_bytes,
            topics: topics(asked, settings.partition_max_bytes),
            ..FetchRequest::default()
        };
        let within = settings.wait_max.saturating_add(settings.timeout);
        let answer = self.links.call_within(&endpoint, within, request).await;
        let response = answer.map_err(|error| {
            tracing::debug!(%leader, %error, "a leader does not answer; it is asked again");
        })?;
        if response.error_code != 0 {
            tracing::warn!(%leader, code = %ErrorCode::from_code(response.error_code), "a leader refuses to be fetched from");
            return Err(());
        }
        let topics = response.responses.into_iter();
        let data = topics.flat_map(|topic| {
            let id = topic.topic_id;
            topic.partitions.into_iter().map(move |data| ((id, data.partition_index), data))
        });
        Ok(data.collect())
    }
}

fn topics(asked: &[(Member, Position)], partition_max_bytes: i32) -> Vec<FetchTopic> {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for (member, position) in asked {
        let (topic_id, partition) = member.key;
        let name = &member.partition.at().topic;
        let partition = FetchPartition {
            partition,
            current_leader_epoch: position.leader_epoch.0,
            fetch_offset: position.end.0,
            last_fetched_epoch: position.last_epoch.0,
            log_start_offset: position.start.0,
            partition_max_bytes,
            durable_end: position.durable_end.0,
            ..FetchPartition::default()
        };
        let partition = match position.awaited_mark {
            Some(mark) => FetchPartition { high_watermark: mark.0, ..partition },
            None => partition,
        };
        match topics.last_mut().filter(|topic| topic.topic_id == topic_id) {
            Some(topic) => topic.partitions.push(partition),
            None => {
                topics.push(FetchTopic { topic: (&**name).into(), topic_id, partitions: vec![partition] })
            }
        }
    }
    topics
}

/// Takes up what a leader said of one partition, as far as that needs no waiting.
fn take_up(member: &Member, position: Position, data: &PartitionData, premises: &Premises) -> Outcome {
    let backoff = premises.settings.backoff;
    match ErrorCode::from_code(data.error_code) {
        ErrorCode::None => {}
        ErrorCode::OffsetOutOfRange => return out_of_range(member, position, data, backoff),
        // One of us has not heard of an election yet.
        ErrorCode::FencedLeaderEpoch
        | ErrorCode::UnknownLeaderEpoch
        | ErrorCode::NotLeaderOrFollower
        | ErrorCode::UnknownTopicId
        | ErrorCode::UnknownTopicOrPartition => return Outcome::Again(SOON),
        code => {
            tracing::warn!(partition = %member.partition.at(), %code, "a leader refuses a partition; it is asked again");
            return Outcome::Again(backoff);
        }
    }
    if data.diverging_epoch.epoch >= 0 || data.diverging_epoch.end_offset >= 0 {
        let leader = Diverged {
            epoch: LeaderEpoch(data.diverging_epoch.epoch),
            end: Offset(data.diverging_epoch.end_offset),
        };
        return match member.partition.cut_for(member.epoch, leader) {
            Ok(at) => Outcome::Cut(at),
            Err(refusal) => failed(member, &refusal, backoff),
        };
    }
    let none = Bytes::new();
    let batches = data.records.as_ref().unwrap_or(&none);
    let fetched = Fetched {
        from: position,
        batches,
        high_watermark: Offset(data.high_watermark),
        log_start: Offset(data.log_start_offset),
    };
    match member.partition.copy(&fetched) {
        Ok(()) => Outcome::Copied { appended: !batches.is_empty() || position.durable_end < position.end },
        Err(refusal) => failed(member, &refusal, backoff),
    }
}

/// The leader has nothing at our end. Where all that we have lies before its log, or we have nothing, we begin where it does.
fn out_of_range(member: &Member, position: Position, data: &PartitionData, backoff: Duration) -> Outcome {
    let leaders_start = Offset(data.log_start_offset);
    let is_useless = position.start == position.end || position.end < leaders_start;
    if leaders_start.0 >= 0 && is_useless {
        return Outcome::BeginAnew(leaders_start);
    }
    tracing::error!(
        partition = %member.partition.at(), end = %position.end, %leaders_start,
        "the leader's log does not reach this one's end, and knows no epoch of it"
    );
    Outcome::Again(backoff)
}

fn failed(member: &Member, refusal: &Refusal, backoff: Duration) -> Outcome {
    if refusal.code == ErrorCode::NotLeaderOrFollower {
        return Outcome::Again(SOON); // it plays another part by now
    }
    tracing::error!(partition = %member.partition.at(), ?refusal, "a partition cannot be copied; it is tried again");
    Outcome::Again(backoff)
}

/// Cuts a log where its leader's parts from it; gives how long to wait then.
async fn cut(premises: &Premises, env: &Env, member: &Member, at: Offset) -> Duration {
    let Some(partitions) = premises.partitions.upgrade() else { return premises.settings.backoff };
    let (partition, epoch) = (Arc::clone(&member.partition), member.epoch);
    tracing::info!(partition = %partition.at(), %at, "cuts what the leader does not have");
    let cut = env.blocking(Pool::General, move || partitions.cut(&partition, epoch, at)).await;
    settled(member, cut, premises)
}

async fn begin_anew(premises: &Premises, env: &Env, member: &Member, at: Offset) -> Duration {
    let Some(partitions) = premises.partitions.upgrade() else { return premises.settings.backoff };
    let (partition, epoch) = (Arc::clone(&member.partition), member.epoch);
    tracing::info!(partition = %partition.at(), %at, "begins anew where the leader's log begins");
    let begun = env.blocking(Pool::General, move || partitions.begin_anew(&partition, epoch, at)).await;
    settled(member, begun, premises)
}

fn settled(
    member: &Member,
    result: Result<Result<(), Refusal>, millstream_env::JobLost>,
    premises: &Premises,
) -> Duration {
    match result {
        Ok(Ok(())) => Duration::ZERO,
        Ok(Err(refusal)) => match failed(member, &refusal, premises.settings.backoff) {
            Outcome::Again(wait) => wait,
            _ => Duration::ZERO,
        },
        Err(_) => premises.settings.backoff, // the broker ends
    }
}

/// Waits until what was appended is fsynced, or will not be.
async fn until_durable(premises: &Premises, env: &Env, appended: &[(Arc<Partition>, LeaderEpoch)]) {
    let Some(partitions) = premises.partitions.upgrade().filter(|_| !appended.is_empty()) else { return };
    let (notify, key) = (Arc::new(Notify::new()), partitions.next_watcher());
    for (partition, _) in appended {
        partition.watch(Reader::Follower, key, &notify);
    }
    let all = async {
        for (partition, epoch) in appended {
            while partition.position(*epoch).is_ok_and(|position| position.durable_end < position.end) {
                notify.notified().await;
            }
        }
    };
    if env.timeout(FLUSH_PATIENCE, all).await.is_err() {
        let waiting: Vec<_> = appended
            .iter()
            .filter_map(|(partition, epoch)| {
                let position = partition.position(*epoch).ok()?;
                let is_late = position.durable_end < position.end;
                is_late.then(|| (partition.at().to_string(), position.durable_end, position.end))
            })
            .collect();
        tracing::warn!(?waiting, "copied records are not durable after {FLUSH_PATIENCE:?}; the disk is slow");
    }
    for (partition, _) in appended {
        partition.unwatch(key);
    }
}
