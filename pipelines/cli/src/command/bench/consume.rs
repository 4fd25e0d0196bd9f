//! `millstream bench consume`.

use std::time::Duration;

use anyhow::{Result, bail};
use millstream_client::{Client, ConsumerConfig};
use millstream_env::Env;

use super::Measured;
use crate::door::partitions;

/// Longest wait of one poll.
const POLL: Duration = Duration::from_secs(1);
/// Polls without a record after which the topic is taken to hold no more.
const EMPTY_POLLS: u32 = 10;

/// Arguments of `bench consume`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Records to read
    #[arg(long, short = 'n', default_value_t = 1_000_000)]
    records: u64,
}

pub(super) async fn measure(args: &Args, topic: &str, client: &Client, env: &Env) -> Result<Measured> {
    let config = ConsumerConfig { max_poll_records: 10_000, ..ConsumerConfig::default() };
    let mut consumer = client.consumer(config)?;
    let partitions = partitions(client, topic).await?;
    consumer.assign(partitions.clone())?;
    consumer.seek_to_beginning(&partitions)?;
    let (mut records, mut bytes, mut empty) = (0u64, 0u64, 0);
    let began = env.elapsed();
    while records < args.records {
        let before = records;
        for batch in consumer.poll(POLL).await? {
            records += batch.records.len() as u64;
            let size = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            bytes += batch.records.iter().map(|record| size(&record.key) + size(&record.value)).sum::<u64>();
        }
        empty = if records == before { empty + 1 } else { 0 };
        if empty == EMPTY_POLLS {
            bail!("{topic} holds {records} records only; write more with: millstream bench produce");
        }
    }
    let took = env.elapsed() - began;
    consumer.close().await?;
    Ok(Measured::throughput(records, bytes, took))
}
