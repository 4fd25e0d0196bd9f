//! One fetch after another to one leader.
//!
//! A round is: say where each partition is that has moved and how far it is durable, take up what the leader sends, wait until that
//! is fsynced, begin anew. So each fetch reports the durability of all that the one before it brought: the leader can answer
//! acks=all one round trip after the follower's group commit, and needs no second message. What arrives at the leader
//! meanwhile is the next round's, however much it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::select;
use millstream_client::Links;
use millstream_env::{Env, Pool};
use millstream_machine::replica::Diverged;
use millstream_protocol::messages::FetchRequest;
use millstream_protocol::messages::fetch::{PartitionData, ReplicaState};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, Offset};

use super::copying::{Copying, Key, Premises, Source, key_of};
use super::session::{Heard, Member, Session};
use super::throttle::Side;
use crate::changed::{Changed, Watcher};
use crate::partition::{Fetched, Partition, Position, Reader};
use crate::refusal::Refusal;

/// How long a round waits for its fsyncs before it looks after the other partitions; a disk that takes longer is failing.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
/// How long an address may take to say whether anybody listens there.
const LOOK_PATIENCE: Duration = Duration::from_millis(250);
/// After an error that the next metadata or a look at the leader's log mends.
const SOON: Duration = Duration::from_millis(20);

/// One fetch after another to one leader.
pub(super) struct Lane {
    /// Its number among the leader's lanes.
    number: u64,
    copying: Arc<Copying>,
    source: Arc<Source>,
    /// Of its own: answers on one link come in order, and another lane's long poll is not to be waited for.
    links: Links,
    session: Session,
    /// The leader answered the last fetch.
    is_answered: bool,
}

/// What there is to do.
enum Due {
    Fetch,
    /// Everything waits after an error, the first until then.
    Later(Duration),
    Nothing,
}

/// What became of a partition in a round.
enum Outcome {
    /// It may be fetched at once; with what was appended, or where the log begins now, not yet durable, or with nothing new.
    Copied { appended: bool, begins_later: bool },
    /// It is to be cut here first.
    Cut(Offset),
    /// It begins anew here first.
    BeginAnew(Offset),
    /// It is tried again after a while.
    Again(Duration),
}

impl Lane {
    pub(super) fn new(number: u64, copying: Arc<Copying>, source: Arc<Source>, links: Links) -> Self {
        Self { number, copying, source, links, session: Session::new(), is_answered: false }
    }

    /// Fetches until there is nothing that another lane does not have in hand.
    pub(super) async fn run(mut self) {
        let copying = Arc::clone(&self.copying);
        let Some(premises) = copying.premises() else { return };
        let env = premises.tasks.env().clone();
        loop {
            match self.due(premises, env.elapsed()) {
                Due::Fetch => self.round(premises, &env).await,
                Due::Later(at) => {
                    let changed = std::pin::pin!(self.source.changed.notified());
                    select(changed, env.sleep_until(at)).await;
                }
                Due::Nothing => break,
            }
        }
        if let (Some(request), Some(endpoint)) = (self.session.end(), premises.endpoint(self.source.leader)) {
            // The leader forgets it some time anyway.
            let _ = self.links.call_within(&endpoint, premises.settings.timeout, request).await;
        }
    }

    fn due(&mut self, premises: &Premises, now: Duration) -> Due {
        let taken = self.source.state.lock().take(self.number, now);
        taken.gone.iter().for_each(|key| self.session.leave_out(key));
        for (partition, epoch) in taken.added {
            let key = key_of(&partition);
            if self.session.add(partition, epoch).is_err() {
                self.release(key, epoch, now + premises.settings.backoff);
            }
        }
        if !self.session.is_empty() {
            if taken.more_at.is_some() {
                self.copying.begin_lane(&self.source); // this lane may be waiting for its leader then
            }
            return Due::Fetch;
        }
        let mut state = self.source.state.lock();
        match taken.more_at {
            Some(at) => {
                state.idles(self.number);
                Due::Later(at)
            }
            None if state.ends(self.number) => Due::Nothing,
            None => Due::Later(now), // something came this moment
        }
    }

    async fn round(&mut self, premises: &Premises, env: &Env) {
        let news = self.news(premises, env.elapsed());
        if self.session.is_empty() {
            return;
        }
        self.source.state.lock().polls(self.number);
        let heard = self.fetch(premises, &news).await;
        let back = self.source.state.lock().back(self.number);
        let answers = match heard {
            Ok(Heard::Answers(answers)) => answers,
            Ok(Heard::AskInFull) => Vec::new(),
            Ok(Heard::Refused(code)) => {
                let leader = self.source.leader;
                tracing::warn!(%leader, %code, "a leader refuses to be fetched from");
                return self.give_up(env.elapsed() + premises.settings.backoff);
            }
            Err(()) => return self.give_up(env.elapsed() + premises.settings.backoff),
        };
        back.gone.iter().for_each(|key| self.session.leave_out(key));
        let mut appended = Vec::new();
        let mut late = Vec::new();
        for answer in answers.iter().filter(|answer| self.session.has(answer.place)) {
            let member = &answer.member;
            if self.is_limited(premises, member) {
                let bytes = answer.data.records.as_ref().map_or(0, Bytes::len);
                premises.throttle.took(Side::Follower, bytes);
            }
            let wait = match take_up(member, answer.from, &answer.data, premises) {
                Outcome::Copied { appended: new, begins_later } => {
                    if new || begins_later {
                        let partition = Arc::clone(&member.partition);
                        appended.push(Changing { partition, epoch: member.epoch, begins_later });
                    }
                    Duration::ZERO
                }
                Outcome::Cut(at) => cut(premises, env, member, at).await,
                Outcome::BeginAnew(at) => begin_anew(premises, env, member, at).await,
                Outcome::Again(wait) => wait,
            };
            if wait > Duration::ZERO {
                late.push((member.key(), member.epoch, wait));
            }
        }
        until_durable(premises, env, &appended).await;
        let now = env.elapsed();
        for (key, epoch, wait) in late {
            self.session.leave_out(&key);
            self.release(key, epoch, now + wait);
        }
    }

    /// Where those are that have moved since the leader was last told. Who may not be copied for now is left out.
    fn news(&mut self, premises: &Premises, now: Duration) -> Vec<(u32, Position)> {
        let mut news = Vec::new();
        for (place, member) in self.session.take_changed() {
            let limited = self.is_limited(premises, &member);
            let image = premises.image.load();
            let held = if limited { premises.throttle.wait(Side::Follower, now, &image) } else { None };
            let wait = match (held, member.partition.position(member.epoch)) {
                (Some(wait), _) => wait,
                (None, Ok(position)) => {
                    if self.session.is_news(place, position) {
                        news.push((place, position));
                    }
                    continue;
                }
                (None, Err(_)) => premises.settings.backoff,
            };
            self.session.leave_out(&member.key());
            self.release(member.key(), member.epoch, now + wait);
        }
        news
    }

    /// It is not in sync, and what it copies is limited.
    fn is_limited(&self, premises: &Premises, member: &Member) -> bool {
        member.partition.is_limited(Side::Follower, premises.node, &premises.image.load())
    }

    /// Another round may have it, from `not_before` on.
    fn release(&self, key: Key, epoch: LeaderEpoch, not_before: Duration) {
        self.source.state.lock().release(self.number, key, epoch, not_before);
    }

    /// The leader cannot be asked, or does not answer: all are tried again later, in a new session.
    fn give_up(&mut self, not_before: Duration) {
        for member in self.session.take_all() {
            self.release(member.key(), member.epoch, not_before);
        }
    }

    /// Asks the leader; `Err` when it cannot be asked, or does not answer.
    async fn fetch(&mut self, premises: &Premises, news: &[(u32, Position)]) -> Result<Heard, ()> {
        let leader = self.source.leader;
        let Some(endpoint) = premises.endpoint(leader) else { return Err(()) };
        let settings = &premises.settings;
        let mut request = FetchRequest {
            replica_state: ReplicaState {
                replica_id: premises.node.0,
                replica_epoch: premises.broker_epoch(),
            },
            max_wait_ms: i32::try_from(settings.wait_max.as_millis()).unwrap_or(i32::MAX),
            min_bytes: settings.min_bytes,
            max_bytes: settings.response_max_bytes,
            ..FetchRequest::default()
        };
        self.session.put_into(news, settings.partition_max_bytes, &mut request);
        let within = settings.wait_max.saturating_add(settings.timeout);
        let answer = self.links.call_within(&endpoint, within, request).await;
        let was_answered = std::mem::replace(&mut self.is_answered, answer.is_ok());
        match answer {
            Ok(response) => Ok(self.session.hear(response)),
            Err(error) => {
                tracing::debug!(%leader, %error, "a leader does not answer; it is asked again");
                if was_answered {
                    self.look_for(premises, &endpoint).await;
                }
                Err(())
            }
        }
    }

    /// Looks whether anybody still listens where the leader answered a moment ago.
    async fn look_for(&self, premises: &Premises, endpoint: &Endpoint) {
        let env = premises.tasks.env();
        let address = endpoint.to_string();
        if let Ok(Err(error)) = env.timeout(LOOK_PATIENCE, env.connect(&address)).await
            && error.kind() == std::io::ErrorKind::ConnectionRefused
        {
            premises.suspects.refused(self.source.leader, &premises.image.load(), env.elapsed());
        }
    }
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
            Ok(Some(at)) => Outcome::Cut(at),
            // Nothing that is here is the leader's. A log that began where it was cut would lack what comes before.
            Ok(None) => Outcome::BeginAnew(Offset(data.log_start_offset)),
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
        Ok(begins_later) => {
            let appended = !batches.is_empty() || position.durable_end < position.end;
            Outcome::Copied { appended, begins_later }
        }
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

/// A replica of which something is not durable yet.
struct Changing {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    /// The leader had its log begin later, and may be waiting to hear that it will not begin earlier again.
    begins_later: bool,
}

impl Changing {
    /// Where it is, while that is not durable.
    fn late(&self) -> Option<Position> {
        let position = self.partition.position(self.epoch).ok()?;
        let is_noted = !self.begins_later || position.noted_start >= position.start;
        (position.durable_end < position.end || !is_noted).then_some(position)
    }
}

/// Waits until what was appended is fsynced, and what was deleted noted, or will not be.
async fn until_durable(premises: &Premises, env: &Env, appended: &[Changing]) {
    let Some(partitions) = premises.partitions.upgrade().filter(|_| !appended.is_empty()) else { return };
    let (changed, key) = (Changed::new(), partitions.next_watcher());
    let all = async {
        for one in appended {
            loop {
                one.partition.watch(Reader::Follower, key, Watcher::new(&changed, 0));
                if one.late().is_none() {
                    break;
                }
                changed.woken().await;
            }
        }
    };
    if env.timeout(FLUSH_PATIENCE, all).await.is_err() {
        let late = |one: &Changing| {
            let position = one.late()?;
            Some((one.partition.at().to_string(), position.durable_end, position.end))
        };
        let waiting: Vec<_> = appended.iter().filter_map(late).collect();
        tracing::warn!(?waiting, "copied records are not durable after {FLUSH_PATIENCE:?}; the disk is slow");
    }
    for one in appended {
        one.partition.unwatch(key);
    }
}
