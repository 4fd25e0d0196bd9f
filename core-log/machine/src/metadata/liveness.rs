//! Who was heard when: the soft state of the active controller. It is in no record; a new active controller begins with the
//! assumption that everybody was heard just now, as Kafka's does.

use std::collections::BTreeMap;

use millstream_protocol::messages::BrokerHeartbeatRequest;
use millstream_record::{Millis, NodeId, Offset};

use super::image::Image;

/// Into how many looks a session is divided: see [`Liveness::next_look`].
const LOOKS_PER_SESSION: i64 = 8;

/// What the active controller knows of each broker beside the records.
///
/// The clock only has to run evenly; `now` is never compared with a time from elsewhere. A controller that was itself stopped for
/// a while (a paused process) does not hold the silence of that while against the brokers.
#[derive(Clone, Debug)]
pub struct Liveness {
    session_timeout_ms: i64,
    looked: Option<Millis>,
    brokers: BTreeMap<NodeId, Contact>,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    /// The incarnation it is about.
    epoch: i64,
    heard: Millis,
    /// The last metadata record that the broker has applied; -1 where it did not say yet.
    metadata_offset: i64,
    /// In controlled shutdown: the last record of the batch by which it led nothing any more.
    handed_over: Option<i64>,
    /// While it is fenced: the last record of the batch by which it was.
    fenced_at: Option<i64>,
}

impl Liveness {
    /// For `broker.session.timeout.ms`.
    #[must_use]
    pub fn new(session_timeout_ms: i64) -> Self {
        Self { session_timeout_ms: session_timeout_ms.max(1), looked: None, brokers: BTreeMap::new() }
    }

    /// This node became the active controller: every broker counts as heard at `heard`, now or when the controller before may have
    /// answered the last heartbeat.
    pub fn lead(&mut self, heard: Millis, image: &Image) {
        self.brokers.clear();
        self.looked = Some(heard);
        self.observe(heard, image);
    }

    /// The image changed: call it before anything is decided against the new one. A new incarnation counts as heard now; who is gone is
    /// forgotten; who has handed over the last of its partitions is remembered with the offset that the others must reach, and who is
    /// fenced with the one that it must reach itself.
    pub fn observe(&mut self, now: Millis, image: &Image) {
        self.brokers
            .retain(|id, contact| image.broker(*id).is_some_and(|broker| broker.epoch == contact.epoch));
        let Offset(end) = image.end();
        for broker in image.brokers() {
            let new = Contact {
                epoch: broker.epoch,
                heard: now,
                metadata_offset: -1,
                handed_over: None,
                fenced_at: None,
            };
            let contact = self.brokers.entry(broker.id).or_insert(new);
            contact.fenced_at = broker.fenced.then(|| contact.fenced_at.unwrap_or(end - 1));
            if broker.fenced || !broker.in_controlled_shutdown {
                contact.handed_over = None;
            } else if contact.handed_over.is_none() && !image.leads_any(broker.id) {
                contact.handed_over = Some(end - 1);
            }
        }
    }

    /// A heartbeat arrived; one of an earlier incarnation tells nothing. Call it before [`super::Controller::heartbeat`].
    pub fn heard(&mut self, now: Millis, request: &BrokerHeartbeatRequest) {
        if let Some(contact) = self.brokers.get_mut(&NodeId(request.broker_id))
            && contact.epoch == request.broker_epoch
        {
            contact.heard = contact.heard.max(now);
            contact.metadata_offset = contact.metadata_offset.max(request.current_metadata_offset);
        }
    }

    /// The unfenced brokers that were silent for a session: give them to [`super::Controller::fence`].
    ///
    /// Call it at [`Liveness::next_look`]. When it is called much later than that, the controller itself stood still, and all
    /// sessions are longer by that time.
    pub fn expired(&mut self, now: Millis, image: &Image) -> Vec<NodeId> {
        let slept_ms = now.0.saturating_sub(self.looked.unwrap_or(now).0);
        if slept_ms > self.session_timeout_ms / 2 {
            self.extend(now, slept_ms);
        }
        self.looked = Some(now);
        let unfenced = image.brokers().filter(|broker| !broker.fenced);
        unfenced.filter(|broker| !self.has_session(now, broker.id, broker.epoch)).map(|b| b.id).collect()
    }

    /// Nobody could be heard in the `deaf_ms` before `now`: all sessions are longer by that time.
    pub fn extend(&mut self, now: Millis, deaf_ms: i64) {
        self.looked = Some(now);
        for contact in self.brokers.values_mut() {
            let later = Millis(contact.heard.0.saturating_add(deaf_ms).min(now.0));
            contact.heard = contact.heard.max(later);
        }
    }

    /// At `now` somebody is told that this is no active controller. A broker may take it that it keeps its place for a session from then on,
    /// unless its own has run out before.
    pub fn denied(&mut self, now: Millis) {
        let session_timeout_ms = self.session_timeout_ms;
        let has_session = |contact: &&mut Contact| now.0.saturating_sub(contact.heard.0) < session_timeout_ms;
        for contact in self.brokers.values_mut().filter(has_session) {
            contact.heard = contact.heard.max(now);
        }
    }

    /// `broker.session.timeout.ms`.
    #[must_use]
    pub fn session_timeout_ms(&self) -> i64 {
        self.session_timeout_ms
    }

    /// When to call [`Liveness::expired`] again, after a call at `now`.
    #[must_use]
    pub fn next_look(&self, now: Millis) -> Millis {
        now.plus_ms((self.session_timeout_ms / LOOKS_PER_SESSION).max(1))
    }

    /// Whether this incarnation of a broker was heard within the session timeout.
    #[must_use]
    pub fn has_session(&self, now: Millis, id: NodeId, epoch: i64) -> bool {
        self.brokers.get(&id).is_some_and(|contact| {
            contact.epoch == epoch && now.0.saturating_sub(contact.heard.0) < self.session_timeout_ms
        })
    }

    /// Whether every active broker knows that `id` has nothing to lead any more, so that none sends clients to it; and it knows itself, so
    /// that it has told those who still came.
    pub(super) fn is_handed_over(&self, image: &Image, id: NodeId) -> bool {
        let Some(offset) = self.brokers.get(&id).and_then(|contact| contact.handed_over) else {
            return false;
        };
        let concerned = image.brokers().filter(|broker| broker.is_active() || broker.id == id);
        concerned.map(|broker| self.metadata_offset(broker.id)).all(|reached| reached >= offset)
    }

    /// Whether who has applied all up to `offset` knows that this incarnation of a broker is fenced, where it is.
    pub(super) fn is_fencing_known(&self, id: NodeId, epoch: i64, offset: i64) -> bool {
        let contact = self.brokers.get(&id).filter(|contact| contact.epoch == epoch);
        contact.and_then(|contact| contact.fenced_at).is_none_or(|fenced_at| offset >= fenced_at)
    }

    /// The last metadata record that a broker has applied, as far as is known; -1 where nothing is.
    #[must_use]
    pub fn metadata_offset(&self, id: NodeId) -> i64 {
        self.brokers.get(&id).map_or(-1, |contact| contact.metadata_offset)
    }
}
