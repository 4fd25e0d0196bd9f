//! A fourth node: it joins while everybody works and things go wrong, is given a vote and replicas. In half of the worlds that have one
//! it is drained, leaves the quorum and is forgotten; in the others it stays.
//!
//! It votes because the operator says so, and not by itself: started again after it was taken out of the quorum, it would vote once more.
//! It is stopped only then, as a voter that is gone and another whose disk is lost would be half of the quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{Admin, ClientError};
use millstream_env::Env;
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{NodeId, TopicPartition};

use super::ClusterWorld;
use super::plan::NODES;
use super::room::{CONTROLLER, CONTROLLERS, host};
use crate::machine::Machine;
use crate::workload::TOPIC;

/// The guest's number.
pub const GUEST: u16 = NODES + 1;
/// What happens while it holds replicas.
const STAY_MAX_MS: u64 = 3_000;
/// Between two looks at whether something has come about.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row in which a node that left must be nowhere: what was asked for twice may take effect a second time.
const NOWHERE: u32 = 5;

/// A guest, as the plan has it.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// After the work has begun.
    pub arrives: Duration,
    /// Whether it goes again.
    pub leaves: bool,
}

impl ClusterWorld {
    /// Plays the guest's part to its end. Whatever is refused or gets lost is asked for again.
    pub(super) async fn receive(self, guest: Guest) {
        let (env, client) = self.scene.client("host");
        let admin = client.admin();
        env.sleep(guest.arrives).await;
        self.room.admit();
        while let Err(why) = self.give_vote(&admin).await {
            tracing::debug!(why, "the guest does not vote yet");
            env.sleep(LOOK).await;
        }
        while !is_broker(&admin).await {
            env.sleep(LOOK).await;
        }
        let replicas: BTreeMap<_, _> = (0..self.plan.partitions)
            .map(|p| (TopicPartition::new(TOPIC, p as i32), Some(self.with_guest())))
            .collect();
        while let Err(why) = reassign(&admin, &replicas).await {
            tracing::debug!(why, "the guest is not given replicas yet");
            env.sleep(LOOK).await;
        }
        self.scene.dither(&env, STAY_MAX_MS).await;
        if !guest.leaves {
            return;
        }
        drain(&admin, &env).await;
        until_nowhere(&admin, &env, Place::Quorum).await;
        self.room.dismiss().await;
        until_nowhere(&admin, &env, Place::Cluster).await;
    }

    /// Has the guest vote, with the directory that it has now; an error as long as it may not.
    async fn give_vote(&self, admin: &Admin) -> Result<(), String> {
        let guest = NodeId(i32::from(GUEST));
        let quorum = admin.describe_quorum().await.map_err(|error| error.to_string())?;
        if quorum.voters.iter().any(|voter| voter.node == guest) {
            return Ok(());
        }
        let machine = self.room.machines().iter().find(|machine| machine.host() == GUEST);
        let directory = machine.and_then(Machine::directory).ok_or("it has no directory yet")?;
        let endpoint = Endpoint::new(host(GUEST), CONTROLLERS);
        let added = admin.add_voter(guest, directory, CONTROLLER, &endpoint).await;
        Err(format!("added: {added:?}"))
    }

    /// Three of the four nodes in any order, the guest among them.
    fn with_guest(&self) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = (1..=i32::from(NODES)).map(NodeId).collect();
        all.remove(self.sim.below(u64::from(NODES)) as usize);
        all.insert(self.sim.below(u64::from(NODES)) as usize, NodeId(i32::from(GUEST)));
        all
    }
}

async fn is_broker(admin: &Admin) -> bool {
    let cluster = admin.describe_cluster().await;
    cluster.is_ok_and(|cluster| cluster.brokers.iter().any(|broker| broker.node.0 == i32::from(GUEST)))
}

async fn reassign(
    admin: &Admin,
    wanted: &BTreeMap<TopicPartition, Option<Vec<NodeId>>>,
) -> Result<(), String> {
    let moved = admin.alter_reassignments(wanted).await.map_err(|error| error.to_string())?;
    moved.into_iter().try_for_each(|(at, moved)| moved.map_err(|error| format!("{at}: {error}")))
}

/// Has the others hold everything, until the guest holds nothing.
async fn drain(admin: &Admin, env: &Env) {
    loop {
        match held(admin).await {
            Ok(held) if held.is_empty() => return,
            Ok(held) => {
                let others: Vec<NodeId> = (1..=i32::from(NODES)).map(NodeId).collect();
                let moves = held.into_iter().map(|at| (at, Some(others.clone()))).collect();
                if let Err(why) = reassign(admin, &moves).await {
                    tracing::debug!(why, "not drained yet");
                }
            }
            Err(why) => tracing::debug!(why, "what the guest holds is not known"),
        }
        env.sleep(LOOK).await;
    }
}

/// The partitions that the guest holds, or is to hold, by the word of one broker.
async fn held(admin: &Admin) -> Result<BTreeSet<TopicPartition>, String> {
    let guest = NodeId(i32::from(GUEST));
    let names = admin.list_topics().await.map_err(|error| error.to_string())?;
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let topics = admin.describe_topics(&names).await.map_err(|error| error.to_string())?;
    let mut held = BTreeSet::new();
    for (name, topic) in topics {
        let Ok(topic) = topic else { continue }; // it is gone by now
        let on_guest = topic.partitions.iter().filter(|partition| partition.replicas.contains(&guest));
        held.extend(on_guest.map(|partition| TopicPartition::new(Arc::clone(&name), partition.partition)));
    }
    Ok(held)
}

/// Where the guest is known.
enum Place {
    Quorum,
    Cluster,
}

/// Has the guest be forgotten there, until several looks in a row find that it is.
async fn until_nowhere(admin: &Admin, env: &Env, place: Place) {
    let mut looks = 0;
    while looks < NOWHERE {
        let gone = match place {
            Place::Quorum => take_vote(admin).await,
            Place::Cluster => {
                drain(admin, env).await; // a topic that was made meanwhile may have come to lie on it
                forget(admin).await
            }
        };
        match gone {
            Ok(()) => looks += 1,
            Err(why) => {
                tracing::debug!(why, "the guest is not gone yet");
                looks = 0;
            }
        }
        env.sleep(LOOK).await;
    }
}

/// Has the guest vote no more; an error as long as it may.
async fn take_vote(admin: &Admin) -> Result<(), String> {
    let guest = NodeId(i32::from(GUEST));
    let quorum = admin.describe_quorum().await.map_err(|error| error.to_string())?;
    let Some(voter) = quorum.voters.iter().find(|voter| voter.node == guest) else { return Ok(()) };
    let removed = admin.remove_voter(voter.node, voter.directory).await;
    Err(format!("it votes; removed: {removed:?}"))
}

/// Has the cluster forget the guest; an error as long as it may know it.
async fn forget(admin: &Admin) -> Result<(), String> {
    match admin.unregister_broker(NodeId(i32::from(GUEST))).await {
        Ok(()) => Err("it was registered until now".to_owned()),
        Err(ClientError::Broker { code: ErrorCode::BrokerIdNotRegistered, .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
