//! What a batch does to an image beyond its records.

use millstream_record::{LeaderEpoch, Offset};

use super::{cluster, controller};
use crate::metadata::{Committed, Image};

#[test]
fn batches_of_the_log_itself_move_the_image_on_and_a_snapshot_replaces_it() {
    let mut image = cluster(2);
    let before = image.clone();
    let end = image.end().plus(3);
    let leader_change =
        Committed { base: image.end(), end, epoch: LeaderEpoch(7), snapshot: false, records: Vec::new() };
    image.apply_batch(&leader_change).unwrap();
    assert_eq!((image.end(), image.epoch()), (end, LeaderEpoch(7)));
    assert_eq!(image.brokers().count(), before.brokers().count());
    assert!(controller().bootstrap(&image).is_empty());

    let mut young = Image::default();
    young.apply_batch(&Committed { end: Offset(2), ..leader_change.clone() }).unwrap();
    let first = controller().bootstrap(&young);
    assert!(!first.is_empty(), "what the log itself writes does not make a cluster old");

    let end = Offset(90);
    let whole = Committed { base: Offset(0), end, epoch: LeaderEpoch(8), snapshot: true, records: first };
    image.apply_batch(&whole).unwrap();
    assert_eq!((image.end(), image.epoch(), image.brokers().count()), (end, LeaderEpoch(8), 0));
}
