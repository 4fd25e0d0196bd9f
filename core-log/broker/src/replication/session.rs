//! A follower's fetch session with one leader (KIP-227): each fetch names the partitions of which there is something new to say, and
//! so costs what those are worth, not what all are that the leader has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, ForgottenTopic, PartitionData};
use millstream_protocol::messages::{FetchRequest, FetchResponse};
use millstream_record::LeaderEpoch;

use super::copying::{Key, key_of};
use crate::changed::{Changed, Watcher};
use crate::partition::{Partition, Position};
use crate::refusal::Refusal;

/// The epoch of a request that wants a new session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that ends one.
const FINAL_EPOCH: i32 = -1;

/// Partitions that are fetched from one leader, one request after another.
pub(super) struct Session {
    members: Vec<Option<Member>>,
    free: Vec<u32>,
    by_key: BTreeMap<Key, u32>,
    /// Members of whose position there may be something new to say.
    changed: Arc<Changed>,
    /// What the leader still has in the session, but is to be left out from now on.
    forgotten: BTreeSet<Key>,
    /// As the leader calls it; 0 while there is none.
    id: i32,
    epoch: i32,
}

/// A partition in a session.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) partition: Arc<Partition>,
    pub(super) epoch: LeaderEpoch,
    /// Where it was when the leader was last told; not since the session began, if none.
    told: Option<Position>,
}

impl Member {
    pub(super) fn key(&self) -> Key {
        key_of(&self.partition)
    }
}

/// What the leader said of one partition.
pub(super) struct Answer {
    pub(super) place: u32,
    pub(super) member: Member,
    /// The position that was fetched from.
    pub(super) from: Position,
    pub(super) data: PartitionData,
}

/// What the leader said.
pub(super) enum Heard {
    /// This, of these partitions.
    Answers(Vec<Answer>),
    /// It does not know the session (any more): it is asked again, in full.
    AskInFull,
    Refused(ErrorCode),
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            members: Vec::new(),
            free: Vec::new(),
            by_key: BTreeMap::new(),
            changed: Changed::new(),
            forgotten: BTreeSet::new(),
            id: 0,
            epoch: INITIAL_EPOCH,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn has(&self, place: u32) -> bool {
        self.members.get(place as usize).is_some_and(Option::is_some)
    }

    /// Adds a partition that follows in `epoch`.
    ///
    /// # Errors
    /// As for [`Partition::position`].
    pub(super) fn add(&mut self, partition: Arc<Partition>, epoch: LeaderEpoch) -> Result<(), Refusal> {
        let key = key_of(&partition);
        let known = self.by_key.get(&key).copied();
        let place = known.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.members.push(None);
            u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX)
        });
        match partition.copied_by(epoch, Watcher::new(&self.changed, place)) {
            Ok(_) => {}
            Err(refusal) => {
                if known.is_none() {
                    self.free.push(place);
                } else {
                    self.leave_out(&key);
                }
                return Err(refusal);
            }
        }
        self.forgotten.remove(&key);
        self.by_key.insert(key, place);
        self.members[place as usize] = Some(Member { partition, epoch, told: None });
        self.changed.mark(place);
        Ok(())
    }

    /// Leaves a partition out from the next request on.
    pub(super) fn leave_out(&mut self, key: &Key) {
        let Some(place) = self.by_key.remove(key) else { return };
        self.members[place as usize] = None;
        self.free.push(place);
        self.forgotten.insert(*key);
    }

    /// Takes every partition out, and ends the session.
    pub(super) fn take_all(&mut self) -> Vec<Member> {
        self.by_key.clear();
        self.free.clear();
        self.forgotten.clear();
        self.epoch = INITIAL_EPOCH;
        std::mem::take(&mut self.members).into_iter().flatten().collect()
    }

    /// The members of which there may be something new to say.
    pub(super) fn take_changed(&mut self) -> Vec<(u32, Member)> {
        let mut places = Vec::new();
        self.changed.take(&mut places);
        let member = |place: u32| Some((place, self.members.get(place as usize)?.clone()?));
        places.into_iter().filter_map(member).collect()
    }

    /// Puts what is new into `request`, or all where the leader knows nothing.
    pub(super) fn put_into(&mut self, news: &[(u32, Position)], limit: i32, request: &mut FetchRequest) {
        for (place, position) in news {
            if let Some(Some(member)) = self.members.get_mut(*place as usize) {
                member.told = Some(*position);
            }
        }
        request.session_id = self.id;
        request.session_epoch = self.epoch;
        if self.epoch == INITIAL_EPOCH {
            self.forgotten.clear();
            let all = self.members.iter().flatten();
            request.topics = topics(all.filter_map(|member| Some((member, member.told?))), limit);
            return;
        }
        let member = |&(place, position): &(u32, Position)| {
            Some((self.members.get(place as usize)?.as_ref()?, position))
        };
        request.topics = topics(news.iter().filter_map(member), limit);
        for (topic_id, partition) in std::mem::take(&mut self.forgotten) {
            let topics = &mut request.forgotten_topics_data;
            match topics.last_mut().filter(|topic| topic.topic_id == topic_id) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(ForgottenTopic {
                    topic_id,
                    partitions: vec![partition],
                    ..ForgottenTopic::default()
                }),
            }
        }
    }

    /// Whether a position is another than the leader was told.
    pub(super) fn is_news(&self, place: u32, position: Position) -> bool {
        let member = self.members.get(place as usize).and_then(Option::as_ref);
        member.is_some_and(|member| member.told != Some(position))
    }

    /// Takes up an answer to the request that [`Session::put_into`] filled.
    pub(super) fn hear(&mut self, response: FetchResponse) -> Heard {
        let was_full = self.epoch == INITIAL_EPOCH;
        match ErrorCode::from_code(response.error_code) {
            ErrorCode::None => {}
            ErrorCode::FetchSessionIdNotFound
            | ErrorCode::InvalidFetchSessionEpoch
            | ErrorCode::FetchSessionTopicIdError
                if !was_full =>
            {
                self.begin_anew();
                return Heard::AskInFull;
            }
            code => return Heard::Refused(code),
        }
        self.id = response.session_id;
        self.epoch = if self.id == 0 { INITIAL_EPOCH } else { self.epoch.checked_add(1).unwrap_or(1) };
        let mut answers = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let Some(&place) = self.by_key.get(&(topic.topic_id, data.partition_index)) else { continue };
                let Some(Some(member)) = self.members.get(place as usize) else { continue };
                let Some(from) = member.told else { continue };
                answers.push(Answer { place, member: member.clone(), from, data });
            }
        }
        if was_full {
            answers.extend(self.unanswered(&answers));
        }
        if self.id == 0 {
            self.begin_anew(); // the leader has no room for a session
        }
        Heard::Answers(answers)
    }

    /// What a full answer lacks is as if it had been refused for now.
    fn unanswered(&self, answers: &[Answer]) -> Vec<Answer> {
        let answered: BTreeSet<u32> = answers.iter().map(|answer| answer.place).collect();
        let lacks = |(place, member): (u32, &Option<Member>)| {
            let member = member.clone().filter(|_| !answered.contains(&place))?;
            let error_code = ErrorCode::UnknownServerError.code();
            Some(Answer {
                place,
                from: member.told?,
                member,
                data: PartitionData { error_code, ..PartitionData::default() },
            })
        };
        (0..).zip(&self.members).filter_map(lacks).collect()
    }

    /// The next request says all.
    fn begin_anew(&mut self) {
        self.epoch = INITIAL_EPOCH;
        for (place, member) in (0..).zip(&mut self.members) {
            if let Some(member) = member {
                member.told = None;
                self.changed.mark(place);
            }
        }
    }

    /// The request that ends the session, if there is one.
    pub(super) fn end(&self) -> Option<FetchRequest> {
        let request =
            FetchRequest { session_id: self.id, session_epoch: FINAL_EPOCH, ..FetchRequest::default() };
        (self.id != 0).then_some(request)
    }
}

fn topics<'a>(
    members: impl Iterator<Item = (&'a Member, Position)>,
    partition_max_bytes: i32,
) -> Vec<FetchTopic> {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for (member, position) in members {
        let (topic_id, partition) = member.key();
        let partition = FetchPartition {
            partition,
            current_leader_epoch: position.leader_epoch.0,
            fetch_offset: position.end.0,
            last_fetched_epoch: position.last_epoch.0,
            log_start_offset: position.noted_start.0,
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
            None => topics.push(FetchTopic {
                topic: (&*member.partition.at().topic).into(),
                topic_id,
                partitions: vec![partition],
            }),
        }
    }
    topics
}
