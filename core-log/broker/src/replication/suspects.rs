//! Leaders whose process is gone, as their followers see it a moment before the controller says so.
//!
//! A client that loses its leader asks for the metadata at once, which is before the controller has decided who leads instead. Told
//! the old leader again, it tries that one, with the backoff of a broker that is down: seconds. Told that there is none for now
//! (LEADER_NOT_AVAILABLE), it soon asks again. A follower knows: its fetch broke off, and the address refuses it.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_machine::metadata::Image;
use millstream_record::NodeId;
use parking_lot::Mutex;

/// How long a suspicion lasts. Where the controller has not confirmed it by then, the broker may well live, behind an address that
/// refuses only us.
const LASTS: Duration = Duration::from_secs(1);

/// Incarnations of brokers (their broker epochs) that are suspected to be gone, each until then.
#[derive(Default)]
pub(crate) struct Suspects(Mutex<BTreeMap<NodeId, (i64, Duration)>>);

impl Suspects {
    /// The address of `node`, in the incarnation that `image` has, refuses connections where it did not before.
    pub(super) fn refused(&self, node: NodeId, image: &Image, now: Duration) {
        if let Some(broker) = image.broker(node) {
            self.0.lock().insert(node, (broker.epoch, now + LASTS));
        }
    }

    /// Whether who leads by `image` does, as far as is known here.
    pub(crate) fn leads(&self, node: NodeId, image: &Image, now: Duration) -> bool {
        let Some(broker) = image.broker(node).filter(|broker| !broker.fenced) else { return false };
        let refused = self.0.lock();
        !refused.get(&node).is_some_and(|(epoch, until)| *epoch == broker.epoch && now < *until)
    }
}

#[cfg(test)]
mod tests {
    use millstream_machine::metadata::Record;
    use millstream_protocol::messages::metadata_records::RegisterBrokerRecord;

    use super::*;

    fn image(broker_epoch: i64, fenced: bool) -> Image {
        let mut image = Image::default();
        let record =
            RegisterBrokerRecord { broker_id: 7, broker_epoch, fenced, ..RegisterBrokerRecord::default() };
        image.apply(&Record::RegisterBroker(record)).unwrap();
        image
    }

    #[test]
    fn a_leader_is_doubted_for_a_moment_and_in_one_life_only() {
        let (suspects, node) = (Suspects::default(), NodeId(7));
        let at = Duration::from_millis;
        let alive = image(1, false);
        assert!(suspects.leads(node, &alive, at(0)));
        assert!(!suspects.leads(NodeId(8), &alive, at(0)), "nobody knows it");
        assert!(!suspects.leads(node, &image(1, true), at(0)), "the controller says that it is gone");
        suspects.refused(node, &alive, at(0));
        assert!(!suspects.leads(node, &alive, at(999)));
        assert!(suspects.leads(node, &alive, at(1_000)), "the controller would have said so by now");
        assert!(suspects.leads(node, &image(2, false), at(10)), "it has started again");
    }
}
