//! The suite over TCP against Apache Kafka, where one is named: `MILLSTREAM_PEER=127.0.0.1:19092`.

#![allow(clippy::print_stderr)] // whoever runs the tests must see that this one had nobody to talk to

mod suite;

use std::sync::Arc;

use millstream_env::HostRuntime;
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;

#[test]
fn the_suite_holds_on_apache_kafka() {
    let Ok(peer) = std::env::var("MILLSTREAM_PEER") else {
        eprintln!("MILLSTREAM_PEER names no Apache Kafka; the suite did not run");
        return;
    };
    let endpoint = Endpoint::parse(&peer).expect("MILLSTREAM_PEER is host:port");
    let (runtime, env) = HostRuntime::start("suite", 2).unwrap();
    let door = suite::Door::new(env.clone(), Arc::new(TcpDial::new(env)), endpoint);
    runtime.block_on(suite::all(&door));
}
