//! `millstream bench latency`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millstream_client::{Client, ProducerRecord};
use millstream_env::Env;

use super::{Measured, Writing, value};

/// Records on their way at most; a broker that is this far behind the rate has failed the test.
const IN_FLIGHT: usize = 100_000;

/// Arguments of `bench latency`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Records written each second
    #[arg(long, default_value_t = 1000)]
    rate: u64,

    /// How long, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,

    /// Seconds before, which are not counted
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    #[command(flatten)]
    writing: Writing,
}

/// Times each record from the moment it was due, not from when it could be sent: a stall counts for all that waited behind it.
pub(super) async fn measure(args: &Args, topic: &str, client: &Client, env: &Env) -> Result<Measured> {
    if args.rate == 0 {
        bail!("--rate is at least 1 record a second");
    }
    let producer = client.producer(args.writing.config()?)?;
    let topic: Arc<str> = topic.into();
    let value = Bytes::from(value(args.writing.size, env));
    let total = (args.warm_up + args.seconds) * args.rate;
    let skipped = args.warm_up * args.rate;
    let began = env.elapsed();
    let mut waiting = FuturesUnordered::new();
    let mut latencies = Vec::new();
    for number in 0..total {
        let due = began + Duration::from_nanos(number.saturating_mul(1_000_000_000) / args.rate);
        while env.elapsed() < due {
            let sleep = env.sleep_until(due);
            match futures::future::select(sleep, waiting.next()).await {
                futures::future::Either::Left(_) => break,
                futures::future::Either::Right((Some(done), _)) => keep(&mut latencies, skipped, done)?,
                futures::future::Either::Right((None, sleep)) => sleep.await,
            }
        }
        if waiting.len() >= IN_FLIGHT {
            bail!("{IN_FLIGHT} records wait for their acknowledgement: the rate is too high for this broker");
        }
        let delivery = producer.send(ProducerRecord::new(Arc::clone(&topic), value.clone())).await?;
        let clock = env.clone();
        waiting.push(async move { delivery.await.map(|_| (number, clock.elapsed() - due)) });
    }
    while let Some(done) = waiting.next().await {
        keep(&mut latencies, skipped, done)?;
    }
    let took = env.elapsed() - began - Duration::from_secs(args.warm_up);
    producer.close().await?;
    let counted = latencies.len() as u64;
    Ok(Measured::throughput(counted, counted * args.writing.size as u64, took).with_latencies(latencies))
}

fn keep(
    latencies: &mut Vec<Duration>,
    skipped: u64,
    done: Result<(u64, Duration), millstream_client::ClientError>,
) -> Result<()> {
    let (number, latency) = done?;
    if number >= skipped {
        latencies.push(latency);
    }
    Ok(())
}
