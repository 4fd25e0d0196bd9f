//! The client's suite, through both of a node's doors.

use std::sync::Arc;

use millstream_env::HostRuntime;
use millstream_net::TcpDial;
use millstream_node::{EmbeddedConfig, NodeConfig, embedded, serve};

#[path = "../../client/tests/suite/mod.rs"]
mod suite;

/// Groups of tests need not wait for members that are not coming.
const NO_DELAY: (&str, &str) = ("group.initial.rebalance.delay.ms", "0");

#[test]
fn the_suite_holds_on_an_embedded_broker() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("suite", 2).unwrap();
    runtime.block_on(async {
        let config = EmbeddedConfig::new(dir.path()).with(NO_DELAY.0, NO_DELAY.1);
        let broker = embedded(config).await.unwrap();
        let endpoint = broker.bootstrap().remove(0);
        suite::all(&suite::Door::new(env, broker.dial(), endpoint)).await;
        broker.shutdown().await.unwrap();
    });
}

#[test]
fn the_suite_holds_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("suite", 2).unwrap();
    runtime.block_on(async {
        let mut config = NodeConfig::new(dir.path());
        config.set("listeners", "PLAINTEXT://127.0.0.1:0").unwrap();
        config.set(NO_DELAY.0, NO_DELAY.1).unwrap();
        let node = serve(env.clone(), config).await.unwrap();
        let endpoint = node.bootstrap().remove(0);
        suite::all(&suite::Door::new(env.clone(), Arc::new(TcpDial::new(env)), endpoint)).await;
        node.shutdown().await.unwrap();
    });
}
