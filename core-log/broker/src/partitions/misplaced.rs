//! Replicas that are not where the metadata has them.

use millstream_machine::metadata::{Broker as Registered, Image, LOST_DIRECTORY, Partition as Known};
use millstream_record::{TopicId, Uuid};

use super::{Partitions, Slot};

impl Partitions {
    /// The replicas that are not where `image` has them, each with where it is: nowhere, though others count on it; or in the directory of this
    /// broker, `me`, with all that it had, or without anything that others count on.
    pub(crate) fn misplaced(&self, image: &Image, me: &Registered) -> Vec<(TopicId, i32, Uuid)> {
        let own = match me.directories[..] {
            [directory] => Some(directory),
            _ => None,
        };
        let mut found_again = self.found_again.lock();
        found_again.retain(|(topic_id, index)| {
            let known = image.topic_by_id(*topic_id).zip(usize::try_from(*index).ok());
            known
                .and_then(|(topic, index)| topic.partitions.get(index))
                .is_some_and(|known| known.hangs_on(me.id) && known.directory_of(me.id) == LOST_DIRECTORY)
        });
        let place = |slot: &Slot, known: &Known, at: (TopicId, i32)| {
            let is_lost = known.directory_of(me.id) == LOST_DIRECTORY;
            match slot {
                Slot::Broken(_) => (!is_lost && known.hangs_on(me.id)).then_some(LOST_DIRECTORY),
                Slot::Here(_) if is_lost && !known.hangs_on(me.id) => own, // it was copied anew, or will be
                Slot::Here(_) if is_lost && found_again.contains(&at) => own,
                Slot::Here(_) | Slot::Elsewhere => None,
            }
        };
        let table = self.table.read();
        let known = table.iter().filter_map(|(id, slots)| Some((image.topic_by_id(*id)?, slots)));
        let misplaced = known.flat_map(|(topic, slots)| {
            slots.iter().zip(&topic.partitions).zip(0..).filter_map(|((slot, known), index)| {
                Some((topic.id, index, place(slot, known, (topic.id, index))?))
            })
        });
        misplaced.collect()
    }
}
