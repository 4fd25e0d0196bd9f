//! Counts the words of topic `lines` into topic `counts`, exactly once. On its own it brings a broker, open to any Kafka client:
//! `cargo run -p millstream-example-wordcount`, then `kcat -P -b 127.0.0.1:9092 -t lines`. With `-- --bootstrap host:port` it
//! runs on that cluster instead, be it Millstream or Apache Kafka.
use std::sync::Arc;

use anyhow::Context;
use millstream_node::{EmbeddedConfig, embedded};
use millstream_streams::dsl::{StreamBuilder, store};
use millstream_streams::{StreamsApp, StreamsConfig};

fn main() -> anyhow::Result<()> {
    let option = |name: &str| std::env::args().skip_while(|arg| arg != name).nth(1);
    let data = option("--data").unwrap_or_else(|| "wordcount-data".to_owned());
    let listen = format!("PLAINTEXT://{}", option("--listen").as_deref().unwrap_or("127.0.0.1:9092"));
    let builder = StreamBuilder::new();
    builder
        .stream::<Option<String>, String>("lines")
        .flat_map_values(|_, line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
        .group_by("by-word", |_, word| word.clone())
        .count(store("word-counts"))
        .to_stream()
        .map_values(|_, count| count.map(|count| count.to_string()))
        .to("counts");
    let config = StreamsConfig::new("wordcount", format!("{data}/state"));
    let config = config.create_topic("lines", 1).create_topic("counts", 1);
    let (runtime, env) = millstream_env::HostRuntime::start("wordcount", 2)?;
    runtime.block_on(async {
        if let Some(address) = option("--bootstrap") {
            let server =
                millstream_protocol::Endpoint::parse(&address).context("--bootstrap wants host:port")?;
            let dial = Arc::new(millstream_net::TcpDial::new(env.clone()));
            return Ok(StreamsApp::new(builder.build()?, config, env, dial, vec![server])
                .run()
                .await
                .map(drop)?);
        }
        let broker = embedded(EmbeddedConfig::new(format!("{data}/log")).with("listeners", &listen)).await?;
        let (dial, servers) = (broker.dial(), broker.bootstrap());
        Ok(StreamsApp::new(builder.build()?, config, env, dial, servers).run().await.map(drop)?)
    })
}
