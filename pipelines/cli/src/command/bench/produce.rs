//! `millstream bench produce`.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use millstream_client::{Client, Delivery, ProducerRecord};
use millstream_env::Env;

use super::{Measured, Writing, value};

/// Records whose acknowledgements are waited for at once.
const IN_FLIGHT: usize = 100_000;

/// Arguments of `bench produce`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Records to write
    #[arg(long, short = 'n', default_value_t = 1_000_000)]
    records: u64,
    #[command(flatten)]
    writing: Writing,
}

pub(super) async fn measure(args: &Args, topic: &str, client: &Client, env: &Env) -> Result<Measured> {
    let producer = client.producer(args.writing.config()?)?;
    let topic: Arc<str> = topic.into();
    let value = Bytes::from(value(args.writing.size, env));
    let mut waiting: VecDeque<Delivery> = VecDeque::new();
    let began = env.elapsed();
    for _ in 0..args.records {
        if waiting.len() >= IN_FLIGHT
            && let Some(first) = waiting.pop_front()
        {
            first.await?;
        }
        waiting.push_back(producer.send(ProducerRecord::new(Arc::clone(&topic), value.clone())).await?);
    }
    producer.flush().await?;
    for delivery in waiting {
        delivery.await?;
    }
    let took = env.elapsed() - began;
    producer.close().await?;
    Ok(Measured::throughput(args.records, args.records * args.writing.size as u64, took))
}
