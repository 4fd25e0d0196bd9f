//! Whole worlds: they hold, they repeat, and between them they do everything there is to do.

use std::collections::BTreeMap;

use millstream_sim::world::World;

#[test]
fn fifty_worlds_hold_and_leave_nothing_out() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..50 {
        let outcome = World::run(seed, false);
        assert_eq!(outcome.failures, Vec::<String>::new(), "seed {seed}");
        for (what, count) in outcome.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    let idle: Vec<_> = counts.iter().filter(|(_, count)| **count == 0).collect();
    assert!(counts.len() > 10 && idle.is_empty(), "never happened: {idle:?} of {counts:?}");
}

#[test]
fn the_same_seed_twice_is_the_same_world() {
    for seed in 100..103 {
        assert_eq!(World::run(seed, false).trace_hash, World::run(seed, false).trace_hash, "seed {seed}");
    }
}
