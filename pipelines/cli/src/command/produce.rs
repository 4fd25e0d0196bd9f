//! `millstream produce`: lines of standard input become records.

use std::collections::VecDeque;
use std::io::BufRead;
use std::process::ExitCode;

use anyhow::Context;
use millstream_client::{Acks, Delivery, ProducerConfig, ProducerRecord};
use millstream_env::{Env, Pool};
use millstream_record::{Codec, Compression};

use crate::door::DoorArgs;
use crate::screen;

/// Lines read ahead of the sender.
const LINES_AHEAD: usize = 1_000;
/// Records without an answer before the oldest is waited for.
const OPEN_MAX: usize = 10_000;

/// Send each line of standard input as a record.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    door: DoorArgs,
    /// Topic to write to.
    topic: String,
    /// Text between key and value; without it lines have no key.
    #[arg(long, short = 'K', value_name = "TEXT")]
    key_separator: Option<String>,
    /// Partition to write to; the key decides when absent.
    #[arg(long, short = 'p')]
    partition: Option<i32>,
    /// When a record counts as sent: 0, 1 or all (durable).
    #[arg(long, default_value = "all", value_parser = ["0", "1", "all"])]
    acks: String,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, short = 'z', default_value = "none", value_parser = compression)]
    compression: Compression,
}

/// Reads a compression's name.
pub(crate) fn compression(text: &str) -> Result<Compression, String> {
    Compression::from_name(text).ok_or_else(|| "one of none, gzip, snappy, lz4, zstd".to_owned())
}

/// Reads the value of `acks`.
pub(crate) fn acks(text: &str) -> Acks {
    match text {
        "0" => Acks::None,
        "1" => Acks::Leader,
        _ => Acks::All,
    }
}

/// Runs the command; fails when a record was not acknowledged.
pub(crate) async fn execute(args: Args, env: Env) -> anyhow::Result<ExitCode> {
    let door = args.door.open(env.clone()).await?;
    let client = door.client("millstream-produce");
    let acks = acks(&args.acks);
    let producer = client.producer(ProducerConfig {
        acks,
        enable_idempotence: acks == Acks::All,
        compression: Codec::from(args.compression),
        ..ProducerConfig::default()
    })?;
    let (send, mut lines) = tokio::sync::mpsc::channel::<std::io::Result<String>>(LINES_AHEAD);
    env.submit(Pool::General, move || {
        for line in std::io::stdin().lock().lines() {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut open: VecDeque<Delivery> = VecDeque::new();
    let mut sent = 0u64;
    while let Some(line) = lines.recv().await {
        open.push_back(producer.send(record(&args, line.context("standard input cannot be read")?)).await?);
        sent += 1;
        if open.len() > OPEN_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.await?;
        }
    }
    producer.flush().await?;
    for delivery in open {
        delivery.await?;
    }
    producer.close().await?;
    screen::note(format_args!("{sent} records sent to {}", args.topic));
    door.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn record(args: &Args, line: String) -> ProducerRecord {
    let split = args.key_separator.as_deref().and_then(|separator| line.split_once(separator));
    let mut record = match split {
        Some((key, value)) => {
            ProducerRecord::new(args.topic.as_str(), value.to_owned()).with_key(key.to_owned())
        }
        None => ProducerRecord::new(args.topic.as_str(), line),
    };
    record.partition = args.partition;
    record
}
