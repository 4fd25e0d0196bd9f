//! Worlds of three whole nodes: they hold, they repeat, and between them faults of every kind happen.

use std::collections::{BTreeMap, BTreeSet};

use millstream_sim::cluster::ClusterWorld;
use millstream_sim::cluster::plan::{Fault, Plan};

/// Worlds that the test runs at least.
const SEEDS: u64 = 10;
/// Every kind of fault, and of work, is in the plan of one of so many.
const SEARCHED: u64 = 200;

/// What a world does by its plan, before it is run.
fn planned(seed: u64) -> BTreeSet<&'static str> {
    let plan = Plan::of_seed(seed);
    let mut planned: BTreeSet<_> = plan.strikes.iter().map(|strike| strike.fault.name()).collect();
    planned.extend(plan.habits.stand_still.then_some("group assignments"));
    planned.extend(plan.settings.map(|_| "settings changed"));
    planned.extend(plan.rolls.then_some("nodes restarted in order"));
    planned
}

/// The first seeds, and behind them those whose plans have what is missing there.
fn seeds() -> Vec<u64> {
    let mut seen = BTreeSet::new();
    (0..SEARCHED)
        .filter(|seed| {
            let before = seen.len();
            seen.extend(planned(*seed));
            *seed < SEEDS || seen.len() > before
        })
        .collect()
}

#[test]
fn clusters_hold_through_faults_of_every_kind_and_become_whole_again() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds() {
        let outcome = ClusterWorld::run(seed, false);
        assert_eq!(outcome.failures, Vec::<String>::new(), "seed {seed}");
        for (what, count) in outcome.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    let work = [
        "records acknowledged",
        "records read",
        "node starts",
        "leader epochs",
        "group assignments",
        "settings changed",
        "nodes restarted in order",
    ];
    for what in work.into_iter().chain(Fault::KINDS) {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "never happened: {what} of {counts:?}");
    }
}

#[test]
fn the_same_seed_twice_is_the_same_cluster() {
    assert_eq!(ClusterWorld::run(100, false).trace_hash, ClusterWorld::run(100, false).trace_hash);
}
