//! Worlds of three whole nodes: they hold, they repeat, and between them faults of every kind happen.

use std::collections::BTreeMap;

use millstream_sim::cluster::ClusterWorld;

/// Worlds that the test runs.
const SEEDS: u64 = 10;

#[test]
fn clusters_hold_through_faults_and_become_whole_again() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let outcome = ClusterWorld::run(seed, false);
        assert_eq!(outcome.failures, Vec::<String>::new(), "seed {seed}");
        for (what, count) in outcome.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in ["records acknowledged", "records read", "node starts", "leader epochs", "kills", "pauses"] {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "never happened: {what} of {counts:?}");
    }
}

#[test]
fn the_same_seed_twice_is_the_same_cluster() {
    assert_eq!(ClusterWorld::run(100, false).trace_hash, ClusterWorld::run(100, false).trace_hash);
}
