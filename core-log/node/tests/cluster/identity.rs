//! Who is who in the quorum: no process takes the place of a node that lives, and one that has moved is found again.

use std::sync::Arc;

use millstream_client::{Admin, Client, ClientConfig, QuorumMember};
use millstream_env::testing::until;
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{NodeId, Uuid};

use crate::growth::member;
use crate::lone::{Lone, Lones, with};

/// Three nodes that vote, and a client that knows them.
async fn three(env: &Env) -> (Lones, Client) {
    let mut nodes: Lones = (1..=3).map(|id| (id, Lone::new(id))).collect();
    let first = nodes[&1].controllers;
    with(&mut nodes, 1, move |node| node.start(&member(first, &[])));
    for id in 2..=3 {
        with(&mut nodes, id, move |node| node.start(&member(node.controllers, &[first])));
    }
    let client = client_of(env, &nodes);
    let admin = client.admin();
    let brokers = async || admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
    until(env, "three vote and serve", async || voters(&admin).await.len() == 3 && brokers().await == 3)
        .await;
    (nodes, client)
}

fn client_of(env: &Env, nodes: &Lones) -> Client {
    let bootstrap = nodes.values().map(|node| Endpoint::new("127.0.0.1", node.clients)).collect();
    let config = ClientConfig { metadata_max_age_ms: 1_000, ..ClientConfig::new(bootstrap) };
    Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config)
}

async fn voters(admin: &Admin) -> Vec<QuorumMember> {
    admin.describe_quorum().await.map(|quorum| quorum.voters).unwrap_or_default()
}

fn ids(voters: &[QuorumMember]) -> Vec<(NodeId, Uuid)> {
    let mut ids: Vec<_> = voters.iter().map(|voter| (voter.node, voter.directory)).collect();
    ids.sort();
    ids
}

/// One cluster for all that may be mistaken for another: tests of one process share few ports.
#[test]
fn no_process_takes_the_place_of_a_node_that_lives_and_one_that_is_back_is_known_again() {
    let (runtime, env) = HostRuntime::start("identity", 2).unwrap();
    runtime.block_on(async {
        let (mut nodes, client) = three(&env).await;
        let before = ids(&voters(&client.admin()).await);
        let mut impostor = Lones::from([(3, Lone::new(3))]);
        impostors_end(&nodes, &mut impostor);
        assert_eq!(ids(&voters(&client.admin()).await), before);
        strangers_are_not_added(&client.admin(), &nodes, &impostor).await;
        assert_eq!(ids(&voters(&client.admin()).await), before);
        one_that_was_taken_out_joins_again(&env, &client.admin(), &mut nodes).await;
        drop(client);

        // Others start where they were not before. The founder knows nobody but by its log.
        let first = nodes[&1].controllers;
        let [impostors, free] = [&impostor[&3], &nodes[&2]].map(|node| (node.clients, node.controllers));
        move_to(&env, &mut nodes, 2, impostors, vec![first]).await;
        move_to(&env, &mut nodes, 1, free, Vec::new()).await;
        assert_eq!(ids(&voters(&client_of(&env, &nodes).admin()).await), before);
    });
}

/// As a controller it asks for a vote, and is refused it; as a broker only, where it registers.
fn impostors_end(nodes: &Lones, impostor: &mut Lones) {
    let (first, third) = (nodes[&1].controllers, &nodes[&3]);
    let (controllers, clients) = (third.controllers, third.clients);
    let as_controller = move |own: u16| {
        let mut told = member(own, &[first]);
        told.push(("broker.session.timeout.ms", "1000".to_owned()));
        told
    };
    let as_broker = move |_: u16| {
        vec![
            ("process.roles", "broker".to_owned()),
            ("listeners", "CLIENTS".to_owned()),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.bootstrap.servers", format!("127.0.0.1:{first}")),
            ("broker.session.timeout.ms", "1000".to_owned()),
            ("initial.broker.registration.timeout.ms", "1000".to_owned()),
        ]
    };
    let (one, other) = with(impostor, 3, move |node| {
        let one = node.fails(&as_controller(node.controllers));
        node.wipe();
        let other = node.fails(&as_broker(node.controllers));
        node.crash();
        (one, other)
    });
    for (why, at) in [(one, controllers), (other, clients)] {
        assert!(why.contains(&format!("node 3 is running at 127.0.0.1:{at}")), "{why}");
        assert!(why.contains("another --node-id"), "{why}");
    }
}

async fn strangers_are_not_added(admin: &Admin, nodes: &Lones, impostor: &Lones) {
    let directory = Uuid::from_random(7, 7);
    let nowhere = Endpoint::new("127.0.0.1", impostor[&3].controllers);
    let refused = admin.add_voter(NodeId(9), directory, "CONTROLLER", &nowhere).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest), "{refused}");
    assert!(refused.to_string().contains("no node 9 answers"), "{refused}");
    let third = Endpoint::new("127.0.0.1", nodes[&3].controllers);
    let refused = admin.add_voter(NodeId(9), directory, "CONTROLLER", &third).await.unwrap_err();
    assert!(refused.to_string().contains("another one"), "{refused}");
    let voters = voters(admin).await;
    let taken = voters.iter().find(|voter| voter.node == NodeId(3)).unwrap().directory;
    let refused = admin.add_voter(NodeId(9), taken, "CONTROLLER", &third).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DuplicateVoter), "{refused}");
    let quorum = admin.describe_quorum().await.unwrap();
    assert!(quorum.observers.iter().all(|observer| observer.node != NodeId(9)), "{quorum:?}");
}

/// Its own log says that it votes, since it was away.
async fn one_that_was_taken_out_joins_again(env: &Env, admin: &Admin, nodes: &mut Lones) {
    let before = voters(admin).await;
    let gone = before.iter().find(|voter| voter.node == NodeId(3)).unwrap();
    let first = nodes[&1].controllers;
    with(nodes, 3, Lone::crash);
    let removed = async || {
        let _ = admin.remove_voter(NodeId(3), gone.directory).await; // asked again, it is out already
        voters(admin).await.len() == 2
    };
    until(env, "it is out", removed).await;
    with(nodes, 3, move |node| node.start(&member(node.controllers, &[first])));
    until(env, "it votes again", async || ids(&voters(admin).await) == ids(&before)).await;
}

async fn move_to(env: &Env, nodes: &mut Lones, id: i32, to: (u16, u16), others: Vec<u16>) {
    with(nodes, id, move |node| {
        node.stop();
        (node.clients, node.controllers) = to;
        node.start(&member(node.controllers, &others));
    });
    let client = client_of(env, nodes);
    let admin = client.admin();
    let moved = Endpoint::new("127.0.0.1", to.1);
    let is_found = async || {
        let voters = voters(&admin).await;
        let there = voters.iter().find(|voter| voter.node == NodeId(id));
        let is_heard = there.is_some_and(|voter| {
            voter.endpoint.as_ref() == Some(&moved) && voter.log_end.is_some() && voter.last_fetch.is_some()
        });
        is_heard && admin.describe_cluster().await.is_ok_and(|cluster| cluster.brokers.len() == 3)
    };
    until(env, "it is found where it is", is_found).await;
}
