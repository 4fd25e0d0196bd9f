//! Counts the words of topic `lines` into topic `counts`, exactly once, on a broker of its own that is open to any Kafka
//! client (`kcat -P -b 127.0.0.1:9092 -t lines`), or with `--bootstrap host:port` on that cluster.
use anyhow::Context;
use millstream_node::{EmbeddedConfig, embedded};
use millstream_protocol::Endpoint;
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
    let mut config = StreamsConfig::new("wordcount", format!("{data}/state"));
    config.create_topics = vec![("lines".to_owned(), 1), ("counts".to_owned(), 1)];
    let (runtime, env) = millstream_env::HostRuntime::start("wordcount", 2)?;
    runtime.block_on(async {
        if let Some(address) = option("--bootstrap") {
            let servers = vec![Endpoint::parse(&address).context("--bootstrap wants host:port")?];
            let dial = std::sync::Arc::new(millstream_net::TcpDial::new(env.clone()));
            StreamsApp::new(builder.build()?, config, env, dial, servers).run().await?;
        } else {
            let broker = EmbeddedConfig::new(format!("{data}/log")).with("listeners", &listen);
            let broker = embedded(broker).await?;
            let (dial, servers) = (broker.dial(), broker.bootstrap());
            StreamsApp::new(builder.build()?, config, env, dial, servers).run().await?;
        }
        Ok(())
    })
}
