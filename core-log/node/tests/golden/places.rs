//! The nodes whose directories are golden: where they are, and what they are told.

use std::path::Path;

use millstream_node::NodeConfig;

/// The directory of the node that was alone.
pub(crate) const ALONE: &str = "alone";
/// The nodes of the cluster.
pub(crate) const MEMBERS: [i32; 3] = [1, 2, 3];

/// The directory of a node of the cluster.
pub(crate) fn member(id: i32) -> String {
    format!("member-{id}")
}

/// The host of a node of the cluster. Members find each other where their log says, so the addresses are as golden as the bytes; and
/// loopback has enough of them for nobody else to want these.
pub(crate) fn host(id: i32) -> String {
    format!("127.83.77.{id}")
}

/// Where clients find a member, and where controllers do.
pub(crate) const CLIENTS: u16 = 19_092;
pub(crate) const CONTROLLERS: u16 = 19_093;

/// What nothing is forgotten with for being old.
const PATIENT: [(&str, &str); 5] = [
    ("log.retention.ms", "-1"),
    ("offsets.retention.minutes", "2147483647"),
    ("transactional.id.expiration.ms", "2147483647"),
    ("offsets.topic.num.partitions", "1"),
    ("transaction.state.log.num.partitions", "1"),
];

/// What the node is told that is alone, in the directory given.
pub(crate) fn alone(dir: &Path) -> NodeConfig {
    told(dir, &[("node.id", "7"), ("listeners", "PLAINTEXT://127.0.0.1:0")])
}

/// What a node of the cluster is told. It cuts its metadata log down as soon as it may.
pub(crate) fn of_cluster(dir: &Path, id: i32) -> NodeConfig {
    let (own, founder) = (host(id), host(MEMBERS[0]));
    let listeners = format!("PLAINTEXT://{own}:{CLIENTS},CONTROLLER://{own}:{CONTROLLERS}");
    let more = [
        ("node.id", id.to_string()),
        ("listeners", listeners),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.bootstrap.servers", format!("{founder}:{CONTROLLERS}")),
        ("controller.quorum.auto.join.enable", "true".to_owned()),
        ("metadata.log.max.record.bytes.between.snapshots", "2048".to_owned()),
        ("metadata.max.retention.bytes", "1".to_owned()),
        ("offsets.topic.replication.factor", "3".to_owned()),
        ("transaction.state.log.replication.factor", "3".to_owned()),
    ];
    told(dir, &more.each_ref().map(|(key, value)| (*key, value.as_str())))
}

fn told(dir: &Path, more: &[(&str, &str)]) -> NodeConfig {
    let mut config = NodeConfig::new(dir);
    for (key, value) in PATIENT.iter().chain(more) {
        config.set(key, value).unwrap();
    }
    config
}
