//! An operator: moves replicas and leaders while everybody works, and has every node hold everything again at the end.

use std::collections::BTreeMap;

use millstream_client::{Admin, Election};
use millstream_env::Env;
use millstream_record::{NodeId, TopicPartition};

use super::{Scene, TOPIC};

/// What is done between two looks at whether the last moves are over.
const LOOK_MS: u64 = 300;
/// Looks before everything is asked for again.
const LOOKS_MAX: u32 = 40;

/// Moves something `rounds` times; `nodes` are numbered from 1.
pub async fn operate(scene: Scene, partitions: u32, nodes: u16, rounds: u64) {
    let (env, client) = scene.client("operator");
    let admin = client.admin();
    for _ in 0..rounds {
        scene.dither(&env, 1_500).await;
        let at = TopicPartition::new(TOPIC, scene.sim.below(u64::from(partitions)) as i32);
        match scene.sim.below(5) {
            0 => {
                let elected = admin.elect_leaders(Election::Preferred, None).await;
                tracing::debug!(?elected, "elected");
            }
            1 => {
                let cancelled = admin.alter_reassignments(&BTreeMap::from([(at, None)])).await;
                tracing::debug!(?cancelled, "cancelled");
            }
            _ => {
                let replicas = some(&scene, nodes);
                let moved = admin.alter_reassignments(&BTreeMap::from([(at, Some(replicas))])).await;
                tracing::debug!(?moved, "moves");
            }
        }
    }
    while let Err(why) = put_back(&scene, &env, &admin, partitions, nodes).await {
        tracing::debug!(why, "not put back yet");
        scene.dither(&env, LOOK_MS).await;
    }
}

/// At least two nodes, in any order.
fn some(scene: &Scene, nodes: u16) -> Vec<NodeId> {
    let mut all: Vec<NodeId> = (1..=i32::from(nodes)).map(NodeId).collect();
    for at in (1..all.len()).rev() {
        all.swap(at, scene.sim.below(at as u64 + 1) as usize);
    }
    all.truncate(2 + scene.sim.below(u64::from(nodes) - 1) as usize);
    all
}

/// Has every node hold every partition, with the leaders spread.
async fn put_back(
    scene: &Scene,
    env: &Env,
    admin: &Admin,
    partitions: u32,
    nodes: u16,
) -> Result<(), String> {
    let spread = |first: u32| {
        (0..nodes)
            .map(|next| NodeId(1 + (first as i32 + i32::from(next)) % i32::from(nodes)))
            .collect::<Vec<_>>()
    };
    let wanted: BTreeMap<_, _> =
        (0..partitions).map(|p| (TopicPartition::new(TOPIC, p as i32), Some(spread(p)))).collect();
    let moved = admin.alter_reassignments(&wanted).await.map_err(|error| error.to_string())?;
    for (at, moved) in moved {
        moved.map_err(|error| format!("{at}: {error}"))?;
    }
    for _ in 0..LOOKS_MAX {
        let moving = admin.list_reassignments().await.map_err(|error| error.to_string())?;
        let topics = admin.describe_topics(&[TOPIC]).await.map_err(|error| error.to_string())?;
        let Some(Ok(topic)) = topics.get(TOPIC) else { return Err(format!("{topics:?}")) };
        // A broker that has not heard of the moves yet says that there are none.
        let is_there = |(at, replicas): (&TopicPartition, &Option<Vec<NodeId>>)| {
            let partition = topic.partitions.get(at.partition as usize);
            partition.is_some_and(|partition| Some(&partition.replicas) == replicas.as_ref())
        };
        if moving.is_empty() && wanted.iter().all(is_there) {
            return Ok(());
        }
        scene.dither(env, LOOK_MS).await;
    }
    // A request that was sent again may take effect twice, the second time after this one.
    Err("it is not as wanted yet".to_owned())
}
