//! Fetch sessions (KIP-227): what a fetch asks for is kept, so that the next one names only what has changed, and is told only that.
//!
//! A session knows which of its partitions may have something new ([`Changed`]), so a fetch of 10,000 partitions costs as much as
//! those of them are worth that were written to. Whoever fetches without a session has one for as long as the fetch takes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytestring::ByteString;
use millstream_env::Env;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::FetchRequest;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic};
use millstream_record::{NodeId, Offset, TopicId};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::changed::{Changed, Watcher};
use crate::partition::{Partition, Reader};

/// What a client sends as epoch that wants a session: it fetches in full.
const INITIAL_EPOCH: i32 = 0;
/// What a client sends as epoch that has no session: it fetches in full, and opens none.
const FINAL_EPOCH: i32 = -1;
/// Kafka's `min.incremental.fetch.session.eviction.ms`: a session that was not used for so long makes room for a new one.
const EVICTION: Duration = Duration::from_secs(120);

/// The partitions of one request, or of all requests of a session.
pub(super) struct Session {
    places: Vec<Option<Place>>,
    free: Vec<u32>,
    /// Where a session has its partitions; empty for a single request.
    by_name: FxHashMap<Name, u32>,
    /// Places that are to be looked at.
    pub(super) changed: Arc<Changed>,
    /// Under which partitions know it.
    pub(super) watch_key: u64,
    /// Who fetched last; when that is another, all is looked at again.
    who: Option<Who>,
}

/// A partition as clients name it: by topic id, or by the topic's name where they know no ids.
type Name = (TopicId, ByteString, i32);

fn name(id: TopicId, topic: &ByteString, partition: i32) -> Name {
    (id, if id.is_zero() { topic.clone() } else { ByteString::new() }, partition)
}

/// As whom a client fetches: its incarnation and standing, where it is a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) reader: Reader,
    /// Node, broker epoch, and whether it may be in sync.
    pub(super) replica: Option<(NodeId, i64, bool)>,
}

/// A partition of a session.
pub(super) struct Place {
    pub(super) topic: ByteString,
    pub(super) topic_id: TopicId,
    pub(super) asked: FetchPartition,
    /// High watermark and log start as the client was told them; it is told when they are others.
    pub(super) told: Option<(Offset, Offset)>,
    /// How far the fetch that is under way has seen it.
    pub(super) seen: Seen,
    /// Whom the session waits for.
    watched: Weak<Partition>,
}

/// How much of a partition a fetch has seen that may wait for more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Where it goes on.
    pub(super) next: Offset,
    pub(super) bytes: usize,
    /// The bytes, or as many as are asked for at most where there are more.
    pub(super) available: usize,
    /// It is among those that the next round is to look at.
    pub(super) is_listed: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self { next: Offset(0), bytes: 0, available: 0, is_listed: false }
    }
}

/// What becomes of a session once its fetch is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// The client wants none.
    No,
    /// The client wants a new one.
    New,
    /// It goes on.
    Known(i32),
}

impl Session {
    fn of(topics: &[FetchTopic], watch_key: u64, named: bool) -> Self {
        let mut session = Self {
            places: Vec::with_capacity(topics.iter().map(|topic| topic.partitions.len()).sum()),
            free: Vec::new(),
            by_name: FxHashMap::default(),
            changed: Changed::new(),
            watch_key,
            who: None,
        };
        for (topic, asked) in each(topics) {
            if named {
                session.ask(topic, asked);
            } else {
                session.places.push(Some(Place::new(topic, asked)));
            }
        }
        session
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.places).filter_map(|(at, place)| place.is_some().then_some(at))
    }

    /// Takes a place out of the session, while it is looked at.
    pub(super) fn take(&mut self, at: u32) -> Option<Place> {
        self.places.get_mut(at as usize)?.take()
    }

    pub(super) fn put_back(&mut self, at: u32, place: Place) {
        self.places[at as usize] = Some(place);
    }

    pub(super) fn watcher(&self, at: u32) -> Watcher {
        Watcher::new(&self.changed, at)
    }

    /// The client was told a high watermark and a log start, or an error.
    pub(super) fn told(&mut self, at: u32, told: Option<(Offset, Offset)>) {
        if let Some(Some(place)) = self.places.get_mut(at as usize) {
            place.told = told;
        }
    }

    /// All is looked at again, if somebody else fetches now than before.
    pub(super) fn fetched_by(&mut self, who: Who) {
        if self.who.replace(who) != Some(who) {
            self.all().for_each(|at| self.changed.mark(at));
        }
    }

    /// Adds a partition, or asks for something else of it.
    fn ask(&mut self, topic: &FetchTopic, asked: &FetchPartition) {
        let name = name(topic.topic_id, &topic.topic, asked.partition);
        if let Some(&at) = self.by_name.get(&name) {
            if let Some(place) = &mut self.places[at as usize] {
                place.asked = asked.clone();
            }
            self.changed.mark(at);
            return;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        self.places[at as usize] = Some(Place::new(topic, asked));
        self.by_name.insert(name, at);
        self.changed.mark(at);
    }

    fn forget(&mut self, name: &Name) {
        let Some(at) = self.by_name.remove(name) else { return };
        if let Some(place) = self.take(at) {
            place.unwatch(self.watch_key);
        }
        self.free.push(at);
    }

    /// Takes up what an incremental request says.
    ///
    /// # Errors
    /// Topics are named by id in one and by name in the other.
    fn update(&mut self, request: &FetchRequest) -> Result<(), ErrorCode> {
        let by_id = self.by_name.keys().next().map(|(id, ..)| !id.is_zero());
        let mut named = request.topics.iter().map(|topic| topic.topic_id);
        if by_id.is_some_and(|by_id| named.any(|id| id.is_zero() == by_id)) {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        for topic in &request.forgotten_topics_data {
            for &partition in &topic.partitions {
                self.forget(&name(topic.topic_id, &topic.topic, partition));
            }
        }
        for (topic, asked) in each(&request.topics) {
            self.ask(topic, asked);
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for place in self.places.iter().flatten() {
            place.unwatch(self.watch_key);
        }
    }
}

impl Place {
    fn new(topic: &FetchTopic, asked: &FetchPartition) -> Self {
        Self {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id,
            asked: asked.clone(),
            told: None,
            seen: Seen::default(),
            watched: Weak::new(),
        }
    }

    fn unwatch(&self, key: u64) {
        if let Some(partition) = self.watched.upgrade() {
            partition.unwatch(key);
        }
    }

    /// The session waits for `partition`, and no more for what had the name before.
    pub(super) fn watches(&mut self, partition: &Arc<Partition>, key: u64) {
        if !std::ptr::eq(self.watched.as_ptr(), Arc::as_ptr(partition)) {
            self.unwatch(key);
            self.watched = Arc::downgrade(partition);
        }
    }
}

fn each(topics: &[FetchTopic]) -> impl Iterator<Item = (&FetchTopic, &FetchPartition)> {
    topics.iter().flat_map(|topic| topic.partitions.iter().map(move |asked| (topic, asked)))
}

/// The sessions that clients have with this broker: as many as `max.incremental.fetch.session.cache.slots`.
pub(crate) struct Sessions {
    env: Env,
    slots: usize,
    by_id: Mutex<FxHashMap<i32, Entry>>,
}

struct Entry {
    /// A follower's: consumers do not push it out.
    is_privileged: bool,
    partitions: usize,
    created: Duration,
    used: Duration,
    /// What the next request has to say.
    epoch: i32,
    /// None while a fetch is under way.
    session: Option<Box<Session>>,
}

impl Entry {
    /// Those that are worth less go first: consumers' before followers', small before large (KIP-227).
    fn worth(&self) -> (bool, usize) {
        (self.is_privileged, self.partitions)
    }
}

impl Sessions {
    pub(crate) fn new(env: Env, slots: i32) -> Self {
        Self { env, slots: usize::try_from(slots).unwrap_or(0), by_id: Mutex::default() }
    }

    /// What `request` asks for, by itself or with what its session knows.
    ///
    /// # Errors
    /// There is no such session, it expects another request, or names topics in another way: the client then fetches in full.
    pub(super) fn open(
        &self,
        request: &FetchRequest,
        watch_key: impl FnOnce() -> u64,
    ) -> Result<(Box<Session>, Keep), ErrorCode> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        if matches!(epoch, INITIAL_EPOCH | FINAL_EPOCH) {
            let ended = if id == 0 { None } else { self.by_id.lock().remove(&id) };
            drop(ended); // outside of the lock: its partitions are told
            let is_wanted = epoch == INITIAL_EPOCH && self.slots > 0;
            let session = Session::of(&request.topics, watch_key(), is_wanted);
            return Ok((Box::new(session), if is_wanted { Keep::New } else { Keep::No }));
        }
        let mut session = {
            let mut by_id = self.by_id.lock();
            let entry = by_id.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
            if entry.epoch != epoch {
                return Err(ErrorCode::InvalidFetchSessionEpoch);
            }
            entry.used = self.env.elapsed();
            entry.session.take().ok_or(ErrorCode::InvalidFetchSessionEpoch)?
        };
        let updated = session.update(request);
        if updated.is_err() || session.len() == 0 {
            self.by_id.lock().remove(&id);
        }
        updated.map(|()| (session, Keep::Known(id)))
    }

    /// Keeps the session for the next request, if the client wants that and there is room; gives its id.
    pub(super) fn close(&self, session: Box<Session>, keep: Keep, is_privileged: bool) -> i32 {
        let now = self.env.elapsed();
        let mut by_id = self.by_id.lock();
        match keep {
            Keep::Known(id) => {
                let Some(entry) = by_id.get_mut(&id) else { return 0 }; // pushed out meanwhile
                entry.partitions = session.len();
                entry.epoch = entry.epoch.checked_add(1).unwrap_or(1);
                entry.session = Some(session);
                id
            }
            Keep::New if session.len() > 0 => {
                let new = Entry {
                    is_privileged,
                    partitions: session.len(),
                    created: now,
                    used: now,
                    epoch: INITIAL_EPOCH + 1,
                    session: Some(session),
                };
                let is_full = by_id.len() >= self.slots;
                let pushed_out = is_full.then(|| least(&by_id, &new, now)).flatten();
                let pushed_out = pushed_out.and_then(|id| by_id.remove(&id));
                if is_full && pushed_out.is_none() {
                    return 0;
                }
                let id = self.new_id(&by_id);
                by_id.insert(id, new);
                drop(by_id);
                drop(pushed_out);
                id
            }
            Keep::New | Keep::No => 0,
        }
    }

    fn new_id(&self, by_id: &FxHashMap<i32, Entry>) -> i32 {
        loop {
            let id = i32::try_from(self.env.random_below(i32::MAX as u64)).unwrap_or(0) + 1;
            if !by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

/// The session that goes for a new one, if one may: the one that was not used for the longest, and for long enough; else the one
/// that is worth least, if that is less than `new` and it is not new itself. A follower's pushes out even a consumer's that is new.
fn least(by_id: &FxHashMap<i32, Entry>, new: &Entry, now: Duration) -> Option<i32> {
    let oldest = by_id.iter().min_by_key(|(id, entry)| (entry.used, **id));
    let stale = oldest.filter(|(_, entry)| now.saturating_sub(entry.used) > EVICTION);
    let may_go = |entry: &Entry| {
        let is_new = now.saturating_sub(entry.created) <= EVICTION;
        !is_new || (new.is_privileged && !entry.is_privileged)
    };
    let cheapest = || {
        let goes = by_id.iter().filter(|(_, entry)| may_go(entry));
        goes.min_by_key(|(id, entry)| (entry.worth(), **id)).filter(|(_, entry)| entry.worth() < new.worth())
    };
    stale.or_else(cheapest).map(|(id, _)| *id)
}
