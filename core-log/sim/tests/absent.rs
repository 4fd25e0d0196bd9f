//! Clusters of nodes with roles of their own, where somebody is away: what goes on, and who stops in time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{Client, ClientConfig, Links, NewTopic};
use millstream_env::Env;
use millstream_machine::metadata::Image;
use millstream_machine::partition_for;
use millstream_net::TcpDial;
use millstream_node::NodeConfig;
use millstream_protocol::messages::join_group::JoinGroupRequestProtocol;
use millstream_protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millstream_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millstream_protocol::messages::{
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::NodeId;
use millstream_sim::executor::{Owner, Sim};
use millstream_sim::machine::{DATA, Machine};
use millstream_storage::Disk;

/// How long a broker may be silent, which is the default.
const SESSION: Duration = Duration::from_secs(9);
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Between two things that a client does.
const PACE: Duration = Duration::from_millis(300);
/// No story waits longer for one thing.
const PATIENCE: Duration = Duration::from_secs(60);
/// No story takes longer.
const STORY_MAX: Duration = Duration::from_secs(600);
const OFFSETS: &str = "__consumer_offsets";
const OFFSETS_PARTITIONS: i32 = 3;
const TOPIC: &str = "t";

/// The machines, and a client that reaches all of them, whatever is cut between them.
#[derive(Clone)]
struct World {
    sim: Sim,
    env: Env,
    machines: BTreeMap<u16, Machine>,
    links: Arc<Links>,
}

/// A member of a group, and who coordinates it.
struct Member {
    group: String,
    coordinator: u16,
    id: String,
    generation: i32,
}

impl World {
    /// Nodes by number, with their roles; the first is a controller and founds the cluster.
    async fn start(sim: &Sim, roles: &[(u16, &str)], replicas: u16) -> Self {
        Self::start_with(sim, roles, replicas, |_| &[]).await
    }

    /// The same, where a node may have settings of its own.
    async fn start_with(
        sim: &Sim,
        roles: &[(u16, &str)],
        replicas: u16,
        settings: impl Fn(u16) -> &'static [(&'static str, &'static str)],
    ) -> Self {
        let controllers = roles.iter().filter(|(_, roles)| roles.contains("controller"));
        let all: Vec<String> = controllers.map(|(number, _)| format!("host-{number}:9093")).collect();
        let machine = |&(number, roles): &(u16, &str)| {
            let known = if roles.contains("controller") { &all[..1] } else { &all[..] };
            let mut config = config(number, roles, &known.join(","), replicas);
            settings(number).iter().for_each(|(key, value)| config.set(key, value).unwrap());
            (number, Machine::on_host(sim, config, number))
        };
        let machines: BTreeMap<u16, Machine> = roles.iter().map(machine).collect();
        let env = sim.env_of(Owner::WORLD);
        let dial = Arc::new(TcpDial::new(env.clone()));
        let links = Arc::new(Links::new(env.clone(), dial, "test".into(), ANSWER_MAX));
        let world = Self { sim: sim.clone(), env, machines, links };
        world.machines.values().for_each(Machine::boot);
        let brokers = roles.iter().filter(|(_, roles)| roles.contains("broker")).count();
        let voters = all.len();
        world
            .until("all serve", || {
                let serves = |image: &Image| image.brokers().filter(|one| !one.fenced).count() == brokers;
                let controls = |image: &Image| image.controllers().len() == voters;
                world.machines.values().all(|one| one.image().is_some_and(|it| serves(&it) && controls(&it)))
            })
            .await;
        world.create(TOPIC, replicas).await;
        world
    }

    /// Creates a topic, by way of the node with the highest number.
    async fn create(&self, name: &str, replicas: u16) {
        let (last, _) = self.machines.last_key_value().unwrap();
        let topic = NewTopic { replication_factor: Some(replicas as i16), ..NewTopic::new(name, 1) };
        self.client(*last).admin().ensure_topic(topic).await.unwrap();
    }

    /// A client that knows one broker.
    fn client(&self, broker: u16) -> Client {
        let config = ClientConfig::new(vec![clients(broker)]);
        Client::new(self.env.clone(), Arc::new(TcpDial::new(self.env.clone())), config)
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = self.env.elapsed() + PATIENCE;
        while !holds() {
            assert!(self.env.elapsed() < end, "{what}: not within {PATIENCE:?}");
            self.env.sleep(PACE / 10).await;
        }
    }

    fn image(&self, number: u16) -> Arc<Image> {
        self.machines[&number].image().unwrap()
    }

    /// The active controller.
    fn active(&self) -> u16 {
        let is_active = |one: &&Machine| one.broker().is_some_and(|broker| broker.is_active_controller());
        self.machines.values().find(is_active).expect("one is active").host()
    }

    /// Nothing gets from one to the other, nor back.
    fn cut(&self, one: u16, other: u16) {
        self.sim.cut(one, other);
        self.sim.cut(other, one);
    }

    /// Who coordinates a group, as `seen_by` knows, and with how many replicas in sync.
    fn coordinator(&self, group: &str, seen_by: u16) -> Option<(u16, usize)> {
        let image = self.image(seen_by);
        let partition = image.partition(OFFSETS, partition_for(group, OFFSETS_PARTITIONS))?;
        Some((u16::try_from(partition.leader?.0).unwrap(), partition.isr.len()))
    }

    /// A group of one member, which `wanted` coordinates, or anyone.
    async fn join(&self, broker: u16, wanted: Option<u16>, replicas: usize) -> Member {
        let find = |group: &str| FindCoordinatorRequest {
            coordinator_keys: vec![group.into()],
            ..FindCoordinatorRequest::default()
        };
        while self.links.call(&clients(broker), find("g")).await.unwrap().coordinators[0].error_code != 0 {
            self.env.sleep(PACE).await;
        }
        let groups = || (0..100).map(|number| format!("g-{number}"));
        let is_wanted = |group: &String| {
            let found = self.coordinator(group, broker);
            found.is_some_and(|(node, isr)| wanted.is_none_or(|it| it == node) && isr == replicas)
        };
        self.until("a coordinator", || groups().any(|group| is_wanted(&group))).await;
        let group = groups().find(is_wanted).unwrap();
        let (coordinator, _) = self.coordinator(&group, broker).unwrap();
        let mut member = Member { group, coordinator, id: String::new(), generation: -1 };
        while !self.try_join(&mut member).await {
            self.env.sleep(PACE).await;
        }
        assert_eq!(self.commit(&member, 1).await, ErrorCode::None);
        member
    }

    async fn try_join(&self, member: &mut Member) -> bool {
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: "meta".into() };
        let request = JoinGroupRequest {
            group_id: member.group.as_str().into(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 10_000,
            member_id: member.id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..JoinGroupRequest::default()
        };
        let Ok(joined) = self.links.call(&clients(member.coordinator), request).await else { return false };
        (member.id, member.generation) = (joined.member_id.to_string(), joined.generation_id);
        let request = SyncGroupRequest {
            group_id: member.group.as_str().into(),
            generation_id: member.generation,
            member_id: member.id.as_str().into(),
            protocol_type: joined.protocol_type,
            protocol_name: joined.protocol_name,
            ..SyncGroupRequest::default()
        };
        let synced = self.links.call(&clients(member.coordinator), request).await;
        joined.error_code == 0 && synced.is_ok_and(|synced| synced.error_code == 0)
    }

    async fn heartbeat(&self, member: &Member) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: member.group.as_str().into(),
            generation_id: member.generation,
            member_id: member.id.as_str().into(),
            ..HeartbeatRequest::default()
        };
        let answer = self.links.call(&clients(member.coordinator), request).await.unwrap();
        ErrorCode::from_code(answer.error_code)
    }

    async fn commit(&self, member: &Member, offset: i64) -> ErrorCode {
        let request = OffsetCommitRequest {
            group_id: member.group.as_str().into(),
            generation_id_or_member_epoch: member.generation,
            member_id: member.id.as_str().into(),
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC.into(),
                topic_id: self.image(member.coordinator).topic(TOPIC).unwrap().id,
                partitions: vec![OffsetCommitRequestPartition {
                    committed_offset: offset,
                    ..OffsetCommitRequestPartition::default()
                }],
            }],
            ..OffsetCommitRequest::default()
        };
        let answer = self.links.call(&clients(member.coordinator), request).await.unwrap();
        ErrorCode::from_code(answer.topics[0].partitions[0].error_code)
    }

    /// The offset that the group has, as its coordinator says.
    async fn committed(&self, member: &Member) -> Result<i64, ErrorCode> {
        let topic = OffsetFetchRequestTopics {
            name: TOPIC.into(),
            topic_id: self.image(member.coordinator).topic(TOPIC).unwrap().id,
            partition_indexes: vec![0],
        };
        let group = OffsetFetchRequestGroup {
            group_id: member.group.as_str().into(),
            topics: Some(vec![topic]),
            member_epoch: -1,
            ..OffsetFetchRequestGroup::default()
        };
        let request = OffsetFetchRequest { groups: vec![group], ..OffsetFetchRequest::default() };
        let answer = self.links.call(&clients(member.coordinator), request).await.unwrap();
        ErrorCode::from_code(answer.groups[0].error_code).ok()?;
        Ok(answer.groups[0].topics[0].partitions[0].committed_offset)
    }

    /// The member lives and commits, for three sessions.
    async fn goes_on(&self, member: &Member) {
        let end = self.env.elapsed() + 3 * SESSION;
        let mut offset = 1;
        while self.env.elapsed() < end {
            offset += 1;
            assert_eq!(self.heartbeat(member).await, ErrorCode::None, "at {:?}", self.env.elapsed());
            assert_eq!(self.commit(member, offset).await, ErrorCode::None);
            assert_eq!(self.committed(member).await, Ok(offset));
            self.env.sleep(PACE).await;
        }
    }

    /// Once others know that another coordinates the group, its first coordinator says no more of it.
    async fn is_left_in_time(&self, member: &Member, witness: u16) {
        let is_replaced =
            || self.coordinator(&member.group, witness).is_none_or(|(node, _)| node != member.coordinator);
        self.until("another coordinates", is_replaced).await;
        assert_eq!(self.committed(member).await, Err(ErrorCode::NotCoordinator));
        assert_eq!(self.heartbeat(member).await, ErrorCode::NotCoordinator);
    }
}

fn clients(number: u16) -> Endpoint {
    Endpoint::new(format!("host-{number}"), 9092)
}

fn config(number: u16, roles: &str, controllers: &str, replicas: u16) -> NodeConfig {
    let mut listeners = Vec::new();
    if roles.contains("broker") {
        listeners.push(format!("PLAINTEXT://host-{number}:9092"));
    }
    if roles.contains("controller") {
        listeners.push(format!("CONTROLLER://host-{number}:9093"));
    }
    let replicas = replicas.to_string();
    let mut config = NodeConfig::new("/data");
    for (key, value) in [
        ("node.id", number.to_string().as_str()),
        ("process.roles", roles),
        ("listeners", &listeners.join(",")),
        ("controller.listener.names", "CONTROLLER"),
        ("controller.quorum.bootstrap.servers", controllers),
        ("controller.quorum.auto.join.enable", "true"),
        ("default.replication.factor", &replicas),
        ("min.insync.replicas", "2"),
        ("offsets.topic.replication.factor", &replicas),
        ("offsets.topic.num.partitions", &OFFSETS_PARTITIONS.to_string()),
        ("group.initial.rebalance.delay.ms", "0"),
    ] {
        config.set(key, value).unwrap();
    }
    config
}

/// Runs a story in a world of its own.
fn tell<F: Future<Output = ()> + Send + 'static>(seed: u64, story: impl FnOnce(Sim) -> F) {
    let sim = Sim::new(seed, false);
    sim.run(STORY_MAX, story(sim.clone())).unwrap();
    sim.shut_down();
}

const APART: [(u16, &str); 3] = [(1, "controller"), (2, "broker"), (3, "broker")];
const FOUR: [(u16, &str); 4] = [(1, "controller"), (2, "broker"), (3, "broker"), (4, "broker")];
const COMBINED: [(u16, &str); 3] =
    [(1, "broker,controller"), (2, "broker,controller"), (3, "broker,controller")];

#[test]
fn a_group_lives_while_its_offsets_cannot_be_written() {
    tell(1, async |sim| {
        let world = World::start(&sim, &APART, 2).await;
        let member = world.join(2, None, 2).await;
        let other = if member.coordinator == 2 { 3 } else { 2 };
        world.machines[&other].stop(false);
        let in_sync = || world.coordinator(&member.group, member.coordinator).map(|(_, isr)| isr);
        world.until("too few are in sync", || in_sync() == Some(1)).await;
        let end = world.env.elapsed() + 3 * SESSION;
        while world.env.elapsed() < end {
            assert_eq!(world.commit(&member, 2).await, ErrorCode::CoordinatorNotAvailable);
            assert_eq!(world.heartbeat(&member).await, ErrorCode::None, "the group lives");
            assert_eq!(world.committed(&member).await, Ok(1));
            world.env.sleep(PACE).await;
        }
        world.machines[&other].boot();
        world.until("all are in sync", || in_sync() == Some(2)).await;
        assert_eq!(world.commit(&member, 2).await, ErrorCode::None, "the same generation goes on");
    });
}

#[test]
fn a_group_outlives_what_its_coordinator_cannot_replicate_in_time() {
    tell(2, async |sim| {
        let world = World::start(&sim, &APART, 2).await;
        let member = world.join(2, None, 2).await;
        // The other is in sync still, so this is written; but it is not replicated before the other is back.
        world.cut(2, 3);
        assert_eq!(world.commit(&member, 2).await, ErrorCode::CoordinatorNotAvailable);
        assert_eq!(world.heartbeat(&member).await, ErrorCode::None, "the group lives");
        world.sim.mend();
        while world.committed(&member).await != Ok(2) {
            world.env.sleep(PACE).await;
        }
        assert_eq!(world.heartbeat(&member).await, ErrorCode::None, "the same generation goes on");
    });
}

#[test]
fn a_group_with_one_replica_needs_no_controller() {
    tell(3, async |sim| {
        let world = World::start(&sim, &[(1, "controller"), (2, "broker")], 1).await;
        let member = world.join(2, None, 1).await;
        world.machines[&1].stop(false);
        world.goes_on(&member).await;
    });
}

#[test]
fn a_group_with_replicas_needs_no_controller_that_is_dead() {
    tell(4, async |sim| {
        let world = World::start(&sim, &APART, 2).await;
        let member = world.join(2, None, 2).await;
        world.machines[&1].stop(false);
        world.goes_on(&member).await;
    });
}

#[test]
fn a_broker_that_controllers_do_not_hear_leaves_its_groups_though_it_is_followed() {
    tell(5, async |sim| {
        let world = World::start(&sim, &APART, 2).await;
        let member = world.join(2, None, 2).await;
        let other = if member.coordinator == 2 { 3 } else { 2 };
        world.cut(1, member.coordinator);
        world.is_left_in_time(&member, other).await;
    });
}

#[test]
fn a_broker_takes_the_session_of_the_controller_that_fences_it() {
    tell(9, async |sim| {
        let short = |number| match number {
            1 => &[("broker.session.timeout.ms", "3000")][..],
            _ => &[],
        };
        let world = World::start_with(&sim, &APART, 2, short).await;
        let member = world.join(2, None, 2).await;
        let other = if member.coordinator == 2 { 3 } else { 2 };
        world.cut(1, member.coordinator);
        world.is_left_in_time(&member, other).await;
    });
}

#[test]
fn who_was_replaced_says_nothing_of_its_groups_before_it_knows_that() {
    for seed in 100..103 {
        tell(seed, async move |sim| {
            let world = World::start(&sim, &FOUR, 3).await;
            world.create("again", 3).await;
            let mut member = world.join(2, None, 3).await;
            let replaced = member.coordinator;
            let others = [2, 3, 4].into_iter().filter(|number| *number != replaced);
            let witness = others.clone().max().unwrap();
            others.chain([1]).for_each(|other| world.cut(replaced, other));
            world.is_left_in_time(&member, witness).await;
            world
                .until("another coordinates", || {
                    world
                        .coordinator(&member.group, witness)
                        .is_some_and(|(node, isr)| node != replaced && isr == 2)
                })
                .await;
            member.coordinator = world.coordinator(&member.group, witness).unwrap().0;
            while world.commit(&member, 2).await != ErrorCode::None {
                world.env.sleep(PACE).await;
            }
            // What it has to do before it knows more takes it long: a topic that is another by now, and a slow disk.
            world.client(witness).admin().delete_topics(&["again"]).await.unwrap();
            let again = NewTopic { replication_factor: Some(2), ..NewTopic::new("again", 1) };
            world.client(witness).admin().ensure_topic(again).await.unwrap();
            world.machines[&replaced].slow(Duration::from_secs(2));
            member.coordinator = replaced;
            world.sim.mend();
            let end = world.env.elapsed() + SESSION;
            while world.env.elapsed() < end {
                assert_ne!(world.committed(&member).await, Ok(1), "seed {seed}: another has committed since");
                world.env.sleep(PACE / 300).await;
            }
            assert!(!world.image(witness).broker(NodeId(i32::from(replaced))).unwrap().fenced);
        });
    }
}

#[test]
fn a_controller_that_is_left_alone_keeps_its_groups() {
    tell(10, async move |sim| {
        let world = World::start(&sim, &COMBINED, 3).await;
        let active = world.active();
        let member = world.join(active, Some(active), 3).await;
        let others = [1, 2, 3].into_iter().filter(|number| *number != active);
        others.for_each(|other| world.machines[&other].stop(false));
        let end = world.env.elapsed() + 3 * SESSION;
        while world.env.elapsed() < end {
            assert_eq!(world.heartbeat(&member).await, ErrorCode::None, "at {:?}", world.env.elapsed());
            assert_eq!(world.committed(&member).await, Ok(1));
            world.env.sleep(PACE).await;
        }
    });
}

#[test]
fn a_replica_that_begins_anew_is_where_its_broker_says() {
    tell(11, async |sim| {
        let world = World::start(&sim, &APART, 2).await;
        let directory = |number: u16| {
            let image = world.image(1);
            let partition = image.partition(TOPIC, 0).unwrap();
            (partition.directory_of(NodeId(i32::from(number))), partition.isr.len())
        };
        let leader = u16::try_from(world.image(1).partition(TOPIC, 0).unwrap().leader.unwrap().0).unwrap();
        let lost = if leader == 2 { 3 } else { 2 };
        let (own, _) = directory(lost);
        world.machines[&lost].stop(false);
        let disk = world.machines[&lost].disk();
        let log = PathBuf::from(format!("{DATA}/{TOPIC}-0"));
        for entry in disk.list(&log).unwrap() {
            disk.remove(&log.join(entry.name)).unwrap();
        }
        world.cut(leader, lost); // so it is not in sync again
        world.machines[&lost].boot();
        let begins_anew = || disk.list(&log).unwrap().iter().any(|entry| entry.name.ends_with(".log"));
        world.until("it begins anew", begins_anew).await;
        world.until("it is where it was", || directory(lost) == (own, 1)).await;
    });
}

#[test]
fn a_controller_that_lost_the_majority_leaves_its_groups() {
    tell(6, async move |sim| {
        let world = World::start(&sim, &COMBINED, 3).await;
        let active = world.active();
        let member = world.join(active, Some(active), 3).await;
        let others = [1, 2, 3].into_iter().filter(|number| *number != active);
        others.clone().for_each(|other| world.cut(active, other));
        world.is_left_in_time(&member, others.max().unwrap()).await;
    });
}

#[test]
fn a_broker_follows_the_controller_that_the_majority_elected() {
    let roles = [(1, "controller"), (2, "controller"), (3, "controller"), (4, "broker")];
    tell(7, async move |sim| {
        let world = World::start(&sim, &roles, 1).await;
        let deposed = world.active();
        let others = [1, 2, 3].into_iter().filter(|number| *number != deposed);
        others.clone().for_each(|other| world.cut(deposed, other));
        let elected = || {
            others.clone().find(|other| {
                world.machines[other].broker().is_some_and(|broker| broker.is_active_controller())
            })
        };
        world.until("another is elected", || elected().is_some()).await;
        let end = world.env.elapsed() + 3 * SESSION;
        while world.env.elapsed() < end {
            let known = world.image(elected().expect("it leads on"));
            assert!(!known.broker(NodeId(4)).unwrap().fenced, "the new controller hears the broker");
            world.env.sleep(PACE).await;
        }
        world.create("decided", 1).await;
    });
}

#[test]
fn groups_go_on_and_the_quorum_is_described_without_a_majority_of_controllers() {
    let roles = [(1, "controller"), (2, "controller"), (3, "controller"), (4, "broker"), (5, "broker")];
    tell(8, async move |sim| {
        let world = World::start(&sim, &roles, 2).await;
        let member = world.join(4, None, 2).await;
        let active = world.active();
        let gone = [1, 2, 3].into_iter().filter(|number| *number != active);
        gone.clone().for_each(|number| world.machines[&number].stop(false));
        world.goes_on(&member).await;
        let quorum = world.client(5).admin().describe_quorum().await.unwrap();
        assert_eq!((quorum.leader, quorum.voters.len()), (Some(NodeId(i32::from(active))), 3));

        // The majority is back, and takes nobody for silent who was not heard meanwhile.
        gone.for_each(|number| world.machines[&number].boot());
        world.goes_on(&member).await;
        assert!(world.image(4).brokers().all(|broker| !broker.fenced));
        world.create("decided", 2).await;
    });
}
