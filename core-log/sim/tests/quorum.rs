//! The metadata quorum: it elects, survives, grows, shrinks, and repeats.

use std::time::Duration;

use millstream_machine::metadata::{MetadataLog, ProposeError};
use millstream_record::{LeaderEpoch, Offset};
use millstream_sim::disk::Faults;
use millstream_sim::executor::Sim;
use millstream_sim::quorum::member::{Setup, endpoint, founders, member_id};
use millstream_sim::quorum::{QuorumWorld, Verdict};

/// Worlds with faults that the test runs.
const CHAOS_SEEDS: u64 = 20;

fn holds(verdict: &Verdict) {
    assert_eq!(verdict.failures, Vec::<String>::new(), "{verdict:?}");
}

#[test]
fn a_single_voter_leads_within_milliseconds() {
    let sim = Sim::new(1, false);
    let world = QuorumWorld::new(&sim, 1, Setup::default());
    world.found([1]);
    let story = world.clone();
    holds(&world.judge(async move {
        story.wait_for_leader().await?;
        let took = story.sim.elapsed();
        // Votes and entries are synced six times on the way, up to 3 ms each.
        if took > Duration::from_millis(40) {
            return Err(format!("it took {took:?}"));
        }
        story.propose_many(20).await
    }));
}

#[test]
fn three_voters_elect_and_another_leads_when_the_leader_dies() {
    let sim = Sim::new(2, false);
    let world = QuorumWorld::new(&sim, 3, Setup::default());
    world.found(1..=3);
    let story = world.clone();
    holds(&world.judge(async move {
        let first = story.wait_for_leader().await?;
        story.propose_many(10).await?;
        first.stop(true);
        let killed = story.sim.elapsed();
        story.propose_many(10).await?;
        let took = story.sim.elapsed() - killed;
        if took > Duration::from_secs(3) {
            return Err(format!("ten proposals after the leader's death took {took:?}"));
        }
        first.boot(founders(1..=3));
        story.agree().await
    }));
}

#[test]
fn a_quorum_holds_through_crashes_cuts_pauses_and_failed_syncs() {
    let (mut acked, mut epochs, mut torn) = (0, 0, 0);
    for seed in 0..CHAOS_SEEDS {
        let verdict = QuorumWorld::chaos(seed, false);
        assert_eq!(verdict.failures, Vec::<String>::new(), "seed {seed}: {verdict:?}");
        acked += verdict.acked;
        epochs += verdict.epochs;
        torn += verdict.torn;
    }
    println!("acked {acked}, epochs {epochs}, torn {torn}");
    assert!(acked > 1_000 && epochs > 40 && torn > 0, "acked {acked}, epochs {epochs}, torn {torn}");
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in 500..503 {
        assert_eq!(QuorumWorld::chaos(seed, false), QuorumWorld::chaos(seed, false), "seed {seed}");
    }
}
