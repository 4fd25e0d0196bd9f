//! `millstream produce`: lines of standard input become records.

use std::collections::VecDeque;
use std::io::BufRead;
use std::process::ExitCode;

use bytes::Bytes;
use millstream_client::{Acks, Delivery, ProducerConfig, ProducerRecord};
use millstream_env::{Env, Pool};
use millstream_record::{Codec, Compression};
use tokio::sync::mpsc::Receiver;

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
    let mut lines = lines(&env);
    let mut sending = Sending::default();
    while let Some(line) = lines.recv().await {
        let taken = async { anyhow::Ok(producer.send(record(&args, line?)).await?) };
        match taken.await {
            Ok(delivery) => sending.open.push_back(delivery),
            Err(error) => {
                let line = sending.sent + sending.open.len() as u64 + 1;
                sending.fail(|| error.context(format!("line {line}")));
            }
        }
        if sending.open.len() > OPEN_MAX {
            sending.settle_oldest().await;
        }
        if sending.failure.is_some() {
            break;
        }
    }
    // Each record's own outcome tells what the flush met.
    let _ = producer.flush().await;
    while !sending.open.is_empty() {
        sending.settle_oldest().await;
    }
    if let Err(error) = producer.close().await {
        sending.fail(|| error.into());
    }
    screen::note(format_args!("{} records sent to {}", sending.sent, args.topic));
    door.close().await?;
    sending.failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Records on their way, and how it went with those before.
#[derive(Default)]
struct Sending {
    open: VecDeque<Delivery>,
    sent: u64,
    /// The first one; what comes behind it is mostly of the same cause.
    failure: Option<anyhow::Error>,
}

impl Sending {
    async fn settle_oldest(&mut self) {
        let Some(oldest) = self.open.pop_front() else { return };
        match oldest.await {
            Ok(_) => self.sent += 1,
            Err(error) => self.fail(|| error.into()),
        }
    }

    fn fail(&mut self, error: impl FnOnce() -> anyhow::Error) {
        self.failure.get_or_insert_with(error);
    }
}

/// The lines of standard input, without their ends. They are bytes: a record holds any.
fn lines(env: &Env) -> Receiver<std::io::Result<Vec<u8>>> {
    let (send, lines) = tokio::sync::mpsc::channel(LINES_AHEAD);
    env.submit(Pool::General, move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => Ok(line),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if send.blocking_send(read.map(without_end)).is_err() || failed {
                return;
            }
        }
    });
    lines
}

fn without_end(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    line
}

fn record(args: &Args, line: Vec<u8>) -> ProducerRecord {
    let separator = args.key_separator.as_deref().map(str::as_bytes).filter(|bytes| !bytes.is_empty());
    let split = separator.and_then(|separator| {
        let at = line.windows(separator.len()).position(|window| window == separator)?;
        Some((at, at + separator.len()))
    });
    let line = Bytes::from(line);
    let mut record = match split {
        Some((end, begin)) => {
            ProducerRecord::new(args.topic.as_str(), line.slice(begin..)).with_key(line.slice(..end))
        }
        None => ProducerRecord::new(args.topic.as_str(), line),
    };
    record.partition = args.partition;
    record
}
