//! The suite over TCP against Apache Kafka, where there is one: `PEER_DIR` is set, and the peer listens on 127.0.0.1:19092.

mod suite;

use std::io::Write;
use std::sync::Arc;

use millstream_env::HostRuntime;
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;

#[test]
fn the_suite_holds_on_apache_kafka() {
    if std::env::var_os("PEER_DIR").is_none() {
        // Not by a macro: whoever runs the tests must see that this one had nobody to talk to.
        let _ = writeln!(std::io::stderr(), "not run: the client's suite on Apache Kafka (set PEER_DIR)");
        return;
    }
    let (runtime, env) = HostRuntime::start("suite", 2).unwrap();
    let door = suite::Door::new(env.clone(), Arc::new(TcpDial::new(env)), Endpoint::new("127.0.0.1", 19092));
    runtime.block_on(suite::all(&door));
}
