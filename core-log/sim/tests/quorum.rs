//! The metadata quorum: it elects, survives, grows, shrinks, and repeats.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_broker::quorum::QuorumError;
use millstream_client::NewTopic;
use millstream_machine::metadata::{Committed, MetadataLog, ProposeError, Record};
use millstream_node::NodeConfig;
use millstream_protocol::messages::NoOpRecord;
use millstream_record::{LeaderEpoch, Offset};
use millstream_sim::disk::Faults;
use millstream_sim::executor::Sim;
use millstream_sim::machine::Machine;
use millstream_sim::quorum::member::{Member, Setup, endpoint, founders, member_id};
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
        story.propose_many(20).await?;
        story.agree().await
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
    assert!(acked > 1_000 && epochs > 40 && torn > 0, "acked {acked}, epochs {epochs}, torn {torn}");
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in 500..503 {
        assert_eq!(QuorumWorld::chaos(seed, false), QuorumWorld::chaos(seed, false), "seed {seed}");
    }
}

/// Runs a story with `count` members, the first `founding` of which found the quorum.
fn story<F>(
    seed: u64,
    count: u16,
    founding: u16,
    setup: Setup,
    tell: impl FnOnce(QuorumWorld) -> F,
) -> Verdict
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let sim = Sim::new(seed, false);
    let world = QuorumWorld::new(&sim, count, setup);
    world.found(1..=founding);
    let main = tell(world.clone());
    world.judge(main)
}

fn text(error: QuorumError) -> String {
    error.to_string()
}

/// openraft does not wait for the sync that it ordered last.
#[test]
fn a_member_that_closes_waits_for_the_sync_that_is_under_way() {
    for seed in 0..40 {
        holds(&story(seed, 1, 1, Setup::default(), |world| async move {
            let member = world.wait_for_leader().await?;
            world.propose_many(1).await?;
            member.slow_disk(Duration::from_millis(50));
            let quorum = member.quorum().ok_or("it is gone")?;
            let (proposing, env) = (world.clone(), world.env());
            let proposer = env.spawn("proposer", async move {
                let _ = proposing.propose().await; // whether it is told depends on the seed
            });
            env.sleep(Duration::from_millis(world.sim.below(60))).await;
            quorum.close().await.map_err(text)?;
            drop((proposer, quorum));
            member.stop(false);
            member.boot(BTreeMap::new());
            world.wait_for_leader().await?;
            world.agree().await
        }));
    }
}

/// Makes `member` a voter.
async fn grow(world: &QuorumWorld, member: u16) -> Result<(), String> {
    world.member(member).boot(BTreeMap::new());
    let leader = world.wait_for_leader().await?.quorum().ok_or("the leader is gone")?;
    leader.add_learner(member_id(member), endpoint(member)).await.map_err(text)?;
    leader.promote(member_id(member)).await.map_err(text)
}

fn voters(leader: &Member) -> Vec<i32> {
    let status = leader.quorum().map(|quorum| quorum.status());
    let members = status.map(|status| status.members).unwrap_or_default();
    members.into_iter().filter(|known| known.votes).map(|known| known.member.node.0).collect()
}

#[test]
fn a_quorum_grows_from_one_to_three_and_shrinks_back_to_one() {
    for seed in 0..5 {
        holds(&story(seed, 3, 1, Setup::default(), |world| async move {
            world.propose_many(10).await?;
            grow(&world, 2).await?;
            world.propose_many(5).await?;
            grow(&world, 3).await?;
            world.agree().await?;

            // Three voters survive the loss of the one that began.
            let first = world.member(1);
            first.stop(false);
            world.propose_many(10).await?;
            let leader = world.wait_for_leader().await?;
            if voters(&leader) != [1, 2, 3] {
                return Err(format!("the voters are {:?}", voters(&leader)));
            }
            first.boot(BTreeMap::new());
            world.agree().await?;

            // The leader takes out the others, and last of all itself would be refused.
            let leader = world.wait_for_leader().await?;
            let quorum = leader.quorum().ok_or("the leader is gone")?;
            for other in (1..=3).filter(|other| *other != leader.number) {
                quorum.remove(member_id(other)).await.map_err(text)?;
                world.member(other).stop(false);
            }
            if voters(&leader) != [i32::from(leader.number)] {
                return Err(format!("the voters are {:?}", voters(&leader)));
            }
            if quorum.remove(member_id(leader.number)).await.is_ok() {
                return Err("the last voter took itself out".to_owned());
            }
            drop(quorum);
            leader.stop(true);
            leader.boot(BTreeMap::new());
            world.propose_many(10).await?;
            world.agree().await
        }));
    }
}

#[test]
fn a_leader_can_be_taken_out_and_can_hand_over() {
    holds(&story(7, 3, 3, Setup::default(), |world| async move {
        world.propose_many(5).await?;
        let leader = world.wait_for_leader().await?;
        let heir = if leader.number == 1 { 2 } else { 1 };
        let quorum = leader.quorum().ok_or("the leader is gone")?;
        quorum.hand_over_to(member_id(heir)).await.map_err(text)?;
        let handed = world.clone();
        world.until("nobody took over", || handed.leader().is_some_and(|now| now.number == heir)).await?;
        world.propose_many(5).await?;

        let heirs = world.member(heir).quorum().ok_or("the heir is gone")?;
        heirs.remove(member_id(heir)).await.map_err(text)?;
        world.member(heir).stop(false);
        world.propose_many(5).await?;
        let last = world.wait_for_leader().await?;
        if last.number == heir || voters(&last).contains(&i32::from(heir)) {
            return Err(format!("{heir} is still there: {:?}", voters(&last)));
        }
        world.agree().await
    }));
}

#[test]
fn a_member_that_was_away_for_long_gets_a_snapshot_and_the_log_stays_short() {
    let setup = Setup { snapshot_after: 50, keep: 5, ..Setup::default() };
    for seed in 0..5 {
        holds(&story(seed, 3, 3, setup.clone(), |world| async move {
            world.propose_many(10).await?;
            let leader = world.wait_for_leader().await?;
            let away = world.member(if leader.number == 1 { 2 } else { 1 });
            away.stop(true);
            world.propose_many(300).await?;
            let (start, end) = {
                let quorum = leader.quorum().ok_or("the leader is gone")?;
                quorum.with_log(|log| (log.start_offset(), log.end_offset()))
            };
            if start == Offset(0) || end.0 - start.0 > 600 {
                return Err(format!("the log is not kept short: it goes from {start} to {end}"));
            }
            away.boot(BTreeMap::new());
            world.agree().await?;
            if world.history.lock().snapshots() == 0 {
                return Err("it caught up without a snapshot".to_owned());
            }
            // All of them start again from snapshots of their own, also after a power cut.
            world.members().iter().for_each(|member| member.stop(true));
            world.members().iter().for_each(|member| member.boot(BTreeMap::new()));
            world.propose_many(5).await?;
            world.agree().await
        }));
    }
}

#[test]
fn a_failed_sync_stops_the_member_with_its_reason_and_loses_nothing() {
    holds(&story(3, 3, 3, Setup::default(), |world| async move {
        world.propose_many(10).await?;
        let leader = world.wait_for_leader().await?;
        leader.disk().set_faults(Faults { sync_error: true, ..Faults::default() });
        world.propose_many(10).await?;
        let failed = leader.clone();
        world.until("the failure is not told", || failed.failed().is_some()).await?;
        let reason = leader.failed().unwrap_or_default();
        if !reason.contains("offline") {
            return Err(format!("the reason does not say what failed: {reason}"));
        }
        let quorum = leader.quorum().ok_or("it is gone")?;
        let (epoch, leads) = quorum.leadership();
        let refused = quorum.propose(epoch, vec![Record::NoOp(NoOpRecord::default())]).await;
        if leads || !matches!(refused, Err(ProposeError::Storage(_))) {
            return Err(format!("a member with a broken disk leads ({leads}) or proposes: {refused:?}"));
        }
        drop(quorum);
        leader.stop(true);
        leader.boot(BTreeMap::new());
        world.agree().await
    }));
}

#[test]
fn a_proposal_is_void_in_another_epoch_and_on_a_follower() {
    holds(&story(4, 3, 3, Setup::default(), |world| async move {
        world.propose_many(3).await?;
        let leader = world.wait_for_leader().await?;
        let quorum = leader.quorum().ok_or("the leader is gone")?;
        let (LeaderEpoch(epoch), _) = quorum.leadership();
        let nothing = || vec![Record::NoOp(NoOpRecord::default())];
        for other in [epoch - 1, epoch + 1] {
            let void = quorum.propose(LeaderEpoch(other), nothing()).await;
            let expected = (LeaderEpoch(other), LeaderEpoch(epoch));
            match void {
                Err(ProposeError::EpochEnded { decided, current }) if (decided, current) == expected => {}
                other => return Err(format!("{other:?}")),
            }
        }
        let follower = world.members().into_iter().find(|member| member.number != leader.number);
        let follower = follower.and_then(|member| member.quorum()).ok_or("there is no follower")?;
        let void = follower.propose(LeaderEpoch(epoch), nothing()).await;
        let named = i32::from(leader.number);
        match void {
            Err(ProposeError::NotLeader { leader: Some(id) }) if id.0 == named => {}
            other => return Err(format!("{other:?}")),
        }
        world.agree().await
    }));
}

#[test]
fn a_member_whose_disk_was_emptied_is_not_taken_for_the_old_one() {
    holds(&story(5, 3, 3, Setup::default(), |world| async move {
        world.propose_many(5).await?;
        let leader = world.wait_for_leader().await?;
        let quorum = leader.quorum().ok_or("the leader is gone")?;
        let request = millstream_protocol::messages::RaftVoteRequest {
            target_id: i32::from(leader.number),
            target_directory_id: millstream_record::Uuid::from_random(1, 2),
            ..Default::default()
        };
        let answer = quorum.serve(request.into()).map_err(|_| "it is not served")?.await;
        match answer {
            millstream_protocol::messages::Response::RaftVote(answer) if answer.error_code != 0 => {}
            other => return Err(format!("it answered for a directory that it does not have: {other:?}")),
        }
        world.agree().await
    }));
}

/// What a node without a quorum wrote, read by the log that it then becomes.
#[test]
fn the_directory_of_a_single_node_opens_as_one_voter_and_grows_to_three() {
    for seed in 0..3 {
        let sim = Sim::new(seed, false);
        let world = QuorumWorld::new(&sim, 0, Setup::default());
        let mut config = NodeConfig::new(millstream_sim::quorum::member::DATA);
        config.set("listeners", "PLAINTEXT://node:9092").unwrap();
        let machine = Machine::new(&sim, config);
        let one = world.add(1, machine.disk().clone());
        for number in [2, 3] {
            world.add(number, millstream_sim::disk::SimDisk::new(&sim));
        }
        let story = world.clone();
        holds(&world.judge(async move {
            // Three starts are three epochs.
            for _ in 0..3 {
                machine.boot();
                let up = machine.clone();
                story.until("the node is not up", move || up.is_up()).await?;
                create_topic(&story).await?;
                machine.stop(seed % 2 == 0);
            }
            one.boot(founders([1]));
            story.wait_for_leader().await?;
            let quorum = one.quorum().ok_or("it is gone")?;
            let batches = quorum.read(Offset(0), 1_000).await.map_err(|error| error.to_string())?;
            let old: Vec<&Committed> = batches.iter().filter(|batch| !batch.records.is_empty()).collect();
            let (epoch, _) = quorum.leadership();
            let sound = old.len() >= 6
                && old[0].base == Offset(0)
                && old[0].epoch == LeaderEpoch(1)
                && old.last().is_some_and(|last| last.epoch == LeaderEpoch(3))
                && epoch > LeaderEpoch(3)
                && batches.windows(2).all(|pair| pair[0].end == pair[1].base);
            if !sound {
                return Err(format!("epoch {epoch}: {batches:?}"));
            }
            drop(quorum);
            for number in [2, 3] {
                grow(&story, number).await?;
            }
            one.stop(true);
            story.propose_many(10).await?;
            one.boot(BTreeMap::new());
            story.agree().await
        }));
    }
}

async fn create_topic(world: &QuorumWorld) -> Result<(), String> {
    let (_, env) = world.sim.process();
    let scene = millstream_sim::workload::Scene::new(&world.sim);
    let (_, client) = scene.client("setup");
    let name = format!("topic-{}", env.random());
    let created = client.admin().create_topics(&[NewTopic::new(name.as_str(), 2)]).await;
    created.map(drop).map_err(|error| error.to_string())
}
