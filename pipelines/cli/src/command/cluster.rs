//! `millstream cluster`: who votes and leads, adding and removing members, moving replicas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use indicatif::ProgressBar;
use millstream_client::{
    Admin, ClusterDescription, Election, QuorumDescription, QuorumMember, TopicDescription,
};
use millstream_env::Env;
use millstream_protocol::Endpoint;
use millstream_protocol::messages::DescribeClusterRequest;
use millstream_record::{Millis, NodeId, TopicPartition, Uuid};

use crate::door::{Door, DoorArgs};
use crate::placement::{self, Spread};
use crate::screen;
use crate::table::Table;

/// Arguments of `cluster`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Command,
    #[command(flatten)]
    door: DoorArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Prepare a node's directory before its first start, to know the ids beforehand
    Init {
        /// The directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The node's number (node.id)
        #[arg(long, value_name = "N")]
        node_id: i32,
        /// The cluster that it is to be of [default: a new one]
        #[arg(long, value_name = "ID")]
        cluster_id: Option<String>,
    },
    #[command(flatten)]
    Asked(Action),
}

/// What is asked of a cluster.
#[derive(Subcommand)]
enum Action {
    /// Show brokers, the quorum, and partitions that are not as they should be; exits with 1 when there are any
    Status {
        /// There have to be so many brokers and controllers that vote
        #[arg(long, value_name = "N", default_value_t = 1)]
        nodes: usize,
        /// Wait so long until all is as it should be, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
    /// Let a controller vote that follows the metadata already
    Add {
        /// Its node.id
        #[arg(long)]
        node: i32,
        /// The directory that it runs on: directory.id in its meta.properties
        #[arg(long, value_name = "ID")]
        directory: String,
        /// Where its controller listener is
        #[arg(long, value_name = "HOST:PORT")]
        at: String,
        /// The name of that listener
        #[arg(long, default_value = "CONTROLLER")]
        listener: String,
    },
    /// Take a controller out of the quorum
    Remove {
        /// Its node.id
        #[arg(long)]
        node: i32,
        /// The directory, where the node has several entries [default: the node's only one]
        #[arg(long, value_name = "ID")]
        directory: Option<String>,
    },
    /// Give partitions back to their preferred leaders
    Elect {
        /// Topics [default: all]
        topics: Vec<String>,
        /// Where nobody in sync is left, let any replica lead: records may be lost
        #[arg(long)]
        unclean: bool,
    },
    /// Move all replicas off a broker, so that it can go
    Drain {
        /// Its node.id
        node: i32,
        /// Only say what would move
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the move, in seconds; 0 does not wait
        #[arg(long, default_value_t = 3600)]
        wait: u64,
    },
    /// Move a partition to other replicas
    Reassign {
        /// The topic
        topic: String,
        /// The partition
        partition: i32,
        /// The nodes that are to hold it, the first of which is to lead: 1,2,3
        #[arg(value_delimiter = ',', required_unless_present = "cancel")]
        replicas: Vec<i32>,
        /// Take a move back that is under way
        #[arg(long, conflicts_with = "replicas")]
        cancel: bool,
    },
    /// Forget a broker that will not come back
    Unregister {
        /// Its node.id
        node: i32,
    },
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let action = match args.action {
        Command::Init { data, node_id, cluster_id } => {
            return init(&env, &data, NodeId(node_id), cluster_id.as_deref());
        }
        Command::Asked(action) => action,
    };
    let door = args.door.open(env.clone()).await?;
    let done = act(&door, &env, action).await;
    door.close().await?;
    done
}

fn init(env: &Env, data: &Path, node: NodeId, cluster_id: Option<&str>) -> Result<ExitCode> {
    let made = millstream_node::format(env, data, node, cluster_id)?;
    let mut table = Table::new(["directory", "node", "cluster id", "directory id"]);
    table.row([
        data.display().to_string(),
        made.node.to_string(),
        made.cluster_id,
        made.directory.to_string(),
    ]);
    screen::line(format_args!("{table}"));
    Ok(ExitCode::SUCCESS)
}

async fn act(door: &Door, env: &Env, action: Action) -> Result<ExitCode> {
    let admin = &door.client("millstream-cluster").admin();
    match action {
        Action::Status { nodes, wait } => {
            let wait = Duration::from_secs(wait);
            let well = async {
                while !is_well(admin, nodes).await {
                    env.sleep(LOOK).await;
                }
            };
            if !wait.is_zero() && env.timeout(wait, well).await.is_err() {
                screen::note(format_args!("not as it should be after {} s", wait.as_secs()));
            }
            return status(door, admin, env, nodes).await;
        }
        Action::Add { node, directory, at, listener } => {
            let endpoint = Endpoint::parse(&at)
                .with_context(|| format!("'{at}' is not host:port, such as localhost:9093"))?;
            admin.add_voter(NodeId(node), directory_id(&directory)?, &listener, &endpoint).await?;
            screen::line(format_args!("node {node} votes"));
        }
        Action::Remove { node, directory } => remove(admin, NodeId(node), directory).await?,
        Action::Elect { topics, unclean } => return elect(admin, &topics, unclean).await,
        Action::Drain { node, dry_run, wait } => {
            return drain(admin, env, NodeId(node), dry_run, Duration::from_secs(wait)).await;
        }
        Action::Reassign { topic, partition, replicas, cancel } => {
            let at = TopicPartition::new(topic.as_str(), partition);
            let target = (!cancel).then(|| replicas.into_iter().map(NodeId).collect());
            let wanted = BTreeMap::from([(at, target)]);
            for (at, done) in admin.alter_reassignments(&wanted).await? {
                done.with_context(|| format!("moving {at}"))?;
                screen::line(format_args!("{at} {}", if cancel { "stays where it was" } else { "moves" }));
            }
        }
        Action::Unregister { node } => {
            admin.unregister_broker(NodeId(node)).await?;
            screen::line(format_args!("broker {node} is forgotten"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn directory_id(text: &str) -> Result<Uuid> {
    Uuid::parse(text).with_context(|| {
        format!(
            "'{text}' is no directory id; `cluster status` shows them, and meta.properties has the node's own"
        )
    })
}

/// Whether there are so many nodes, and every partition is led and whole. What cannot be asked yet is not well.
async fn is_well(admin: &Admin, nodes: usize) -> bool {
    let (Ok(cluster), Ok(quorum)) = (admin.describe_cluster().await, admin.describe_quorum().await) else {
        return false;
    };
    let enough = cluster.brokers.len() >= nodes && quorum.voters.len() >= nodes;
    enough
        && silent(&quorum).is_empty()
        && all_topics(admin).await.is_ok_and(|topics| amiss(&topics).is_empty())
}

/// Shows the cluster; fails where something is amiss, for scripts.
async fn status(door: &Door, admin: &Admin, env: &Env, nodes: usize) -> Result<ExitCode> {
    let cluster = admin.describe_cluster().await?;
    let Ok(quorum) = env.timeout(CONTROLLER_PATIENCE, admin.describe_quorum()).await else {
        return without_controller(door, env, &cluster).await;
    };
    let quorum = quorum?;
    let topics = all_topics(admin).await?;
    let moving = admin.list_reassignments().await?;
    screen::line(format_args!(
        "cluster {}  controller {}  epoch {}  metadata up to {}",
        cluster.cluster_id.as_deref().unwrap_or("?"),
        quorum.leader.map_or_else(|| "none".to_owned(), |node| node.to_string()),
        quorum.leader_epoch.0,
        quorum.high_watermark.0,
    ));
    let mut table = Table::new(["broker", "address", "rack", ">leads", ">replicas"]);
    let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
    for broker in &cluster.brokers {
        let leads = partitions().filter(|partition| partition.leader == Some(broker.node)).count();
        let holds = partitions().filter(|partition| partition.replicas.contains(&broker.node)).count();
        table.row([
            broker.node.to_string(),
            broker.endpoint.to_string(),
            broker.rack.as_deref().unwrap_or("-").to_owned(),
            leads.to_string(),
            holds.to_string(),
        ]);
    }
    screen::line(format_args!("\n{table}"));
    let mut table = Table::new(["controller", "directory", "address", "role", ">log end", ">lag", "heard"]);
    let now = env.now();
    let members = quorum.voters.iter().map(|member| (member, "voter"));
    for (member, role) in members.chain(quorum.observers.iter().map(|member| (member, "observer"))) {
        let role = if quorum.leader == Some(member.node) { "leader" } else { role };
        table.row(member_row(member, role, quorum.high_watermark.0, now));
    }
    screen::line(format_args!("\n{table}"));
    let amiss = amiss(&topics);
    if !amiss.is_empty() {
        screen::line(format_args!("\n{amiss}"));
    }
    if !moving.is_empty() {
        let mut table = Table::new(["moving", "replicas", "coming", "going"]);
        for (at, reassignment) in &moving {
            table.row([
                at.to_string(),
                ids(&reassignment.replicas),
                ids(&reassignment.adding),
                ids(&reassignment.removing),
            ]);
        }
        screen::line(format_args!("\n{table}"));
    }
    let enough = cluster.brokers.len() >= nodes && quorum.voters.len() >= nodes;
    if !enough {
        let (brokers, voters) = (cluster.brokers.len(), quorum.voters.len());
        screen::line(format_args!(
            "\n{nodes} nodes were asked for; there are {brokers} brokers and {voters} voters"
        ));
    }
    let silent = silent(&quorum);
    for (node, silent_ms) in &silent {
        let since = silent_ms.map_or_else(String::new, |ms| format!(" for {} s", ms / 1000));
        screen::line(format_args!("\nvoter {node} has not been heard{since}; look whether it runs"));
    }
    if !enough || !amiss.is_empty() || !silent.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    screen::line("\nevery partition has a leader, and all replicas are in sync");
    Ok(ExitCode::SUCCESS)
}

/// Voters that the leader does not hear, and for how many milliseconds it has not, where it ever did. Both times are the leader's.
fn silent(quorum: &QuorumDescription) -> Vec<(NodeId, Option<i64>)> {
    let leader = quorum.voters.iter().find(|voter| Some(voter.node) == quorum.leader);
    let Some(now) = leader.and_then(|leader| leader.last_fetch) else { return Vec::new() };
    let since = quorum.voters.iter().map(|voter| (voter.node, voter.last_fetch.map(|at| now.since_ms(at))));
    since.filter(|(_, silent)| silent.is_none_or(|ms| ms > SILENT_MS)).collect()
}

/// Shows what a broker knows by itself. Only an active controller knows the voters.
async fn without_controller(door: &Door, env: &Env, cluster: &ClusterDescription) -> Result<ExitCode> {
    let links = door.links("millstream-cluster", BROKER_PATIENCE);
    let asked = cluster.brokers.iter().map(|broker| {
        let request = DescribeClusterRequest { endpoint_type: 1, ..DescribeClusterRequest::default() };
        let (links, endpoint) = (&links, broker.endpoint.clone());
        async move {
            let answer = env.timeout(BROKER_PATIENCE, links.call(&endpoint, request)).await;
            matches!(answer, Ok(Ok(_)))
        }
    });
    let answers = futures::future::join_all(asked).await;
    let mut table = Table::new(["broker", "address", "answers"]);
    for (broker, answers) in cluster.brokers.iter().zip(&answers) {
        let answers = if *answers { "yes" } else { "no" };
        table.row([broker.node.to_string(), broker.endpoint.to_string(), answers.to_owned()]);
    }
    screen::line(format_args!(
        "cluster {}  controller none\n\n{table}",
        cluster.cluster_id.as_deref().unwrap_or("?")
    ));
    let gone = cluster.brokers.iter().zip(&answers).filter(|(_, answers)| !**answers);
    let gone: Vec<NodeId> = gone.map(|(broker, _)| broker.node).collect();
    let mend = if gone.is_empty() {
        "look at the controllers that are no brokers, and at the network between controllers".to_owned()
    } else {
        format!("start {}", ids(&gone))
    };
    screen::line(format_args!(
        "\nno controller is active: more than half of the controllers that vote have to run and to reach each other; {} of {} \
         brokers answer; {mend}",
        cluster.brokers.len() - gone.len(),
        cluster.brokers.len()
    ));
    Ok(ExitCode::FAILURE)
}

fn member_row(member: &QuorumMember, role: &str, end: i64, now: Millis) -> [String; 7] {
    let unknown = || "?".to_owned();
    let heard = member.last_fetch.map_or_else(unknown, |at| format!("{} ms ago", now.since_ms(at).max(0)));
    [
        member.node.to_string(),
        member.directory.to_string(),
        member.endpoint.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        role.to_owned(),
        member.log_end.map_or_else(unknown, |end| end.0.to_string()),
        member.log_end.map_or_else(unknown, |log_end| (end - log_end.0).max(0).to_string()),
        heard,
    ]
}

/// Partitions without a leader, or with replicas that are not in sync.
fn amiss(topics: &[TopicDescription]) -> Table {
    let mut table = Table::new(["partition", "leader", "replicas", "in sync"]);
    for topic in topics {
        for partition in &topic.partitions {
            let is_whole = partition.replicas.iter().all(|node| partition.in_sync.contains(node));
            if partition.leader.is_some() && is_whole {
                continue;
            }
            table.row([
                format!("{}-{}", topic.name, partition.partition),
                partition.leader.map_or_else(|| "none".to_owned(), |node| node.to_string()),
                ids(&partition.replicas),
                ids(&partition.in_sync),
            ]);
        }
    }
    table
}

fn ids(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    if ids.is_empty() { "-".to_owned() } else { ids.join(",") }
}

async fn all_topics(admin: &Admin) -> Result<Vec<TopicDescription>> {
    let names = admin.list_topics().await?;
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let described = admin.describe_topics(&names).await?;
    // One that was deleted in between is none that is amiss.
    Ok(described.into_values().filter_map(Result::ok).collect())
}

async fn remove(admin: &Admin, node: NodeId, directory: Option<String>) -> Result<()> {
    let directory = match directory {
        Some(text) => directory_id(&text)?,
        None => {
            let quorum = admin.describe_quorum().await?;
            // One that was to vote and never came so far is among the observers.
            let is_member = |observer: &&QuorumMember| observer.directory != Uuid::ZERO;
            let members = quorum.voters.iter().chain(quorum.observers.iter().filter(is_member));
            let mut entries = members.filter(|member| member.node == node);
            let first = entries.next().with_context(|| format!("node {node} does not vote"))?;
            if entries.next().is_some() {
                bail!("node {node} votes with several directories; say which with --directory");
            }
            first.directory
        }
    };
    admin.remove_voter(node, directory).await?;
    screen::line(format_args!("node {node} does not vote any more"));
    Ok(())
}

async fn elect(admin: &Admin, topics: &[String], unclean: bool) -> Result<ExitCode> {
    let election = if unclean { Election::Unclean } else { Election::Preferred };
    let partitions = if topics.is_empty() {
        None
    } else {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut partitions = Vec::new();
        for (name, described) in admin.describe_topics(&names).await? {
            let described = described.with_context(|| format!("describing {name}"))?;
            let of = |partition: &millstream_client::PartitionInfo| {
                TopicPartition::new(std::sync::Arc::clone(&name), partition.partition)
            };
            partitions.extend(described.partitions.iter().map(of));
        }
        Some(partitions)
    };
    let (mut moved, mut failed) = (0, Table::new(["partition", "why not"]));
    for (at, done) in admin.elect_leaders(election, partitions.as_deref()).await? {
        match done {
            Ok(()) => moved += 1,
            Err(error) if error.code() == Some(millstream_protocol::ErrorCode::ElectionNotNeeded) => {}
            Err(error) => failed.row([at.to_string(), error.to_string()]),
        }
    }
    screen::line(format_args!("{moved} leaders elected"));
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    screen::line(&failed);
    Ok(ExitCode::FAILURE)
}

async fn drain(admin: &Admin, env: &Env, node: NodeId, dry_run: bool, wait: Duration) -> Result<ExitCode> {
    let brokers = admin.describe_cluster().await?.brokers;
    let topics = all_topics(admin).await?;
    let moves = placement::off(node, &Spread::of(&brokers, &topics), &topics)?;
    if moves.is_empty() {
        screen::line(format_args!("broker {node} holds no replica"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["partition", "replicas", "will be"]);
    for (at, (before, after)) in &moves {
        table.row([at.to_string(), ids(before), ids(after)]);
    }
    screen::line(&table);
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: BTreeMap<_, _> = moves.into_iter().map(|(at, (_, after))| (at, Some(after))).collect();
    for (at, done) in admin.alter_reassignments(&wanted).await? {
        done.with_context(|| format!("moving {at}"))?;
    }
    if wait.is_zero() {
        screen::line("the partitions move; `cluster status` shows how far they are");
        return Ok(ExitCode::SUCCESS);
    }
    let bar = ProgressBar::new(wanted.len() as u64);
    let moved = async {
        loop {
            let moving = admin.list_reassignments().await?;
            let left = wanted.keys().filter(|at| moving.contains_key(at)).count();
            bar.set_position((wanted.len() - left) as u64);
            if left == 0 {
                return Ok::<(), anyhow::Error>(());
            }
            env.sleep(LOOK).await;
        }
    };
    let waited = env.timeout(wait, moved).await;
    bar.finish_and_clear();
    match waited {
        Ok(done) => done?,
        Err(_) => {
            bail!("not all partitions have moved within {} s; `cluster status` shows which", wait.as_secs())
        }
    }
    screen::line(format_args!("broker {node} holds no replica any more"));
    Ok(ExitCode::SUCCESS)
}

/// How often a move is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long an active controller may take to answer; an election takes a second.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(3);
/// How long a broker may take to say that it is there.
const BROKER_PATIENCE: Duration = Duration::from_secs(1);
/// A voter that was not heard for so long is not well: `broker.session.timeout.ms`, as it is by default.
const SILENT_MS: i64 = 9_000;

#[cfg(test)]
mod tests {
    use millstream_record::{LeaderEpoch, Offset};

    use super::*;

    #[test]
    fn a_voter_is_silent_by_the_leaders_own_clock() {
        let voter = |node, at: Option<i64>| QuorumMember {
            node: NodeId(node),
            directory: Uuid::ZERO,
            endpoint: None,
            log_end: None,
            last_fetch: at.map(Millis),
            last_caught_up: None,
        };
        let quorum = QuorumDescription {
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(1),
            high_watermark: Offset(1),
            voters: vec![
                voter(1, Some(50_000)),
                voter(2, Some(41_000)),
                voter(3, Some(38_000)),
                voter(4, None),
            ],
            observers: Vec::new(),
        };
        assert_eq!(silent(&quorum), [(NodeId(3), Some(12_000)), (NodeId(4), None)]);
    }
}
