//! `millstream consume`: records become lines.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use millstream_client::{
    ClientConfig, Consumer, ConsumerConfig, ConsumerRecord, IsolationLevel, OffsetReset,
};
use millstream_env::Env;
use millstream_record::{Offset, TopicPartition};

use crate::door::DoorArgs;
use crate::screen;
use crate::signal::Signals;

/// How long one poll waits for records.
const POLL: Duration = Duration::from_millis(500);

/// Print the records of a topic, a line each.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    door: DoorArgs,
    /// Topic to read.
    topic: String,
    /// Begin at the first record that there is, not at the end.
    #[arg(long)]
    from_beginning: bool,
    /// Stop at the end that each partition has now.
    #[arg(long, short = 'e')]
    exit: bool,
    /// Stop after so many records.
    #[arg(long, short = 'n', value_name = "COUNT")]
    max: Option<u64>,
    /// Read as a member of this group, and commit.
    #[arg(long, short = 'g', conflicts_with = "exit")]
    group: Option<String>,
    /// Leave out records of transactions that are aborted or undecided.
    #[arg(long)]
    read_committed: bool,
    /// Show partition, offset, time and key before each value.
    #[arg(long, short = 'd')]
    details: bool,
}

/// Runs the command.
pub(crate) async fn execute(args: Args, env: Env) -> anyhow::Result<ExitCode> {
    let door = args.door.open(env).await?;
    // A name that is mistyped is no wish for a topic.
    let client = door.client_with(ClientConfig {
        client_id: "millstream-consume".into(),
        allow_auto_create_topics: false,
        ..ClientConfig::new(door.bootstrap.clone())
    });
    let mut consumer = client.consumer(ConsumerConfig {
        group_id: args.group.as_deref().map(Into::into),
        auto_offset_reset: if args.from_beginning { OffsetReset::Earliest } else { OffsetReset::Latest },
        isolation_level: if args.read_committed {
            IsolationLevel::ReadCommitted
        } else {
            IsolationLevel::ReadUncommitted
        },
        ..ConsumerConfig::default()
    })?;
    let mut open = begin(&client, &mut consumer, &args).await?;
    let mut signals = Signals::listen()?;
    let mut left = args.max.unwrap_or(u64::MAX);
    while left > 0 && open.as_ref().is_none_or(|ends| !ends.is_empty()) {
        let polled = tokio::select! {
            biased;
            () = signals.wait() => break,
            polled = consumer.poll(POLL) => polled?,
        };
        for batch in polled {
            if let Some(unshown) = show(&args, &batch.topic_partition, &batch.records, &mut left) {
                // What is committed is where the consumer stands. Refused, the partition is another member's by now.
                let _ = consumer.seek(&batch.topic_partition, unshown);
            }
            if let Some(ends) = &mut open
                && ends.get(&batch.topic_partition).is_some_and(|end| batch.next_offset >= *end)
            {
                ends.remove(&batch.topic_partition);
            }
        }
        if args.group.is_some() {
            consumer.commit_positions().await?;
        }
    }
    consumer.close().await?;
    door.close().await?;
    Ok(ExitCode::SUCCESS)
}

/// Takes up the partitions; gives the ends at which to stop, if to stop at all.
async fn begin(
    client: &millstream_client::Client,
    consumer: &mut Consumer,
    args: &Args,
) -> anyhow::Result<Option<BTreeMap<TopicPartition, Offset>>> {
    let described = client.admin().describe_topics(&[args.topic.as_str()]).await?;
    let mut partitions = Vec::new();
    for (name, topic) in described {
        partitions.extend(topic?.partitions.iter().map(|p| TopicPartition::new(name.clone(), p.partition)));
    }
    if args.group.is_some() {
        consumer.subscribe([args.topic.as_str()], None)?;
        return Ok(None);
    }
    consumer.assign(partitions.clone())?;
    if !args.exit {
        return Ok(None);
    }
    let mut ends = consumer.end_offsets(&partitions).await?;
    let starts =
        if args.from_beginning { consumer.beginning_offsets(&partitions).await? } else { ends.clone() };
    ends.retain(|partition, end| starts.get(partition).is_some_and(|start| start < end));
    Ok(Some(ends))
}

/// Prints up to `left` records, and gives the offset of the first one that was not printed.
fn show(
    args: &Args,
    partition: &TopicPartition,
    records: &[ConsumerRecord],
    left: &mut u64,
) -> Option<Offset> {
    for record in records {
        if *left == 0 {
            return Some(record.offset);
        }
        *left -= 1;
        let mut line = Vec::new();
        if args.details {
            let key = record.key.as_deref().map_or_else(|| "null".into(), String::from_utf8_lossy);
            let head = format!("{}@{}  {}  {key}  ", partition.partition, record.offset, record.timestamp);
            line.extend_from_slice(head.as_bytes());
        }
        line.extend_from_slice(record.value.as_deref().unwrap_or(b"null"));
        screen::bytes(&line);
    }
    None
}
