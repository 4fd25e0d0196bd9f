//! `millstream topics`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use millstream_client::{
    Admin, AlterConfig, ClientError, ConfigResource, IsolationLevel, NewTopic, OffsetSpec, RecordsToDelete,
};
use millstream_env::Env;
use millstream_protocol::ErrorCode;
use millstream_record::{Offset, TopicPartition};

use crate::door::DoorArgs;
use crate::screen;
use crate::table::Table;

/// Arguments of `topics`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    door: DoorArgs,
}

#[derive(Subcommand)]
enum Action {
    /// List all topics
    List {
        /// Also those that brokers keep their own state in
        #[arg(long)]
        internal: bool,
    },
    /// Create a topic
    Create {
        /// Its name
        topic: String,
        /// How many partitions [default: the broker's]
        #[arg(long, short)]
        partitions: Option<i32>,
        /// How many replicas of each [default: the broker's]
        #[arg(long, short)]
        replication_factor: Option<i16>,
        /// A setting, such as retention.ms=86400000
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Show partitions, offsets and settings of a topic
    Describe {
        /// Its name
        topic: String,
    },
    /// Change settings of a topic, or give it more partitions
    Alter {
        /// Its name
        topic: String,
        /// How many partitions it shall have; never fewer than it has
        #[arg(long, short)]
        partitions: Option<i32>,
        /// A setting, such as retention.ms=86400000
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// A setting that goes back to its default
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
    },
    /// Delete topics and all of their records
    Delete {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Delete the oldest records of a topic, for good; the topic stays
    #[command(group(clap::ArgGroup::new("records").required(true).args(["before", "all"])))]
    DeleteRecords {
        /// Its name
        topic: String,
        /// Delete the records below this offset
        #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
        before: Option<i64>,
        /// Delete all records that are there now
        #[arg(long)]
        all: bool,
        /// Only in this partition; may be given again [default: all partitions]
        #[arg(long, short, value_parser = clap::value_parser!(i32).range(0..))]
        partition: Vec<i32>,
    },
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let door = args.door.open(env).await?;
    let looks = matches!(args.action, Action::List { .. } | Action::Describe { .. });
    let client = if looks { door.looking("millstream-topics") } else { door.client("millstream-topics") };
    let admin = client.admin();
    let done = match args.action {
        Action::List { internal } => list(&admin, internal).await,
        Action::Create { topic, partitions, replication_factor, set } => {
            create(&admin, &topic, partitions, replication_factor, &set).await
        }
        Action::Alter { topic, partitions, set, unset } => {
            alter(&admin, &topic, partitions, &set, unset).await
        }
        Action::Describe { topic } => describe(&admin, &topic).await,
        Action::Delete { topics } => delete(&admin, &topics).await,
        Action::DeleteRecords { topic, before, all: _, partition } => {
            let records =
                before.map_or(RecordsToDelete::All, |offset| RecordsToDelete::Before(Offset(offset)));
            delete_records(&admin, &topic, records, &partition).await
        }
    };
    drop((admin, client));
    door.close().await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn list(admin: &Admin, internal: bool) -> Result<()> {
    let mut names = admin.list_topics().await?;
    names.sort();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let mut table = Table::new(["topic", ">partitions", "id"]);
    for (name, found) in admin.describe_topics(&names).await? {
        let topic = found.with_context(|| format!("describing {name}"))?;
        if internal || !topic.is_internal {
            table.row([topic.name.to_string(), topic.partitions.len().to_string(), topic.id.to_string()]);
        }
    }
    if table.is_empty() {
        screen::note("there is no topic");
    } else {
        screen::line(table);
    }
    Ok(())
}

async fn create(
    admin: &Admin,
    topic: &str,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    set: &[String],
) -> Result<()> {
    let new = NewTopic { name: topic.into(), partitions, replication_factor, configs: settings(set)? };
    for (name, outcome) in admin.create_topics(&[new]).await? {
        let id = outcome.with_context(|| format!("creating {name}"))?;
        screen::line(format_args!("{name}: created, id {id}"));
    }
    Ok(())
}

/// Reads `key=value` texts.
fn settings(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let setting = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("'{text}' is not key=value"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    texts.iter().map(setting).collect()
}

async fn alter(
    admin: &Admin,
    topic: &str,
    partitions: Option<i32>,
    set: &[String],
    unset: Vec<String>,
) -> Result<()> {
    let set = settings(set)?.into_iter().map(|(key, value)| AlterConfig::Set(key, value));
    let changes: Vec<_> = set.chain(unset.into_iter().map(AlterConfig::Delete)).collect();
    if changes.is_empty() && partitions.is_none() {
        bail!("there is nothing to change: give --set, --unset or --partitions");
    }
    if !changes.is_empty() {
        let resource = ConfigResource::Topic(topic.into());
        let changed = admin.incremental_alter_configs(&resource, &changes).await;
        changed.with_context(|| format!("changing {topic}"))?;
    }
    if let Some(count) = partitions {
        admin.create_partitions(topic, count).await.with_context(|| format!("changing {topic}"))?;
    }
    screen::line(format_args!("{topic}: changed"));
    Ok(())
}

async fn describe(admin: &Admin, name: &str) -> Result<()> {
    let found = admin.describe_topics(&[name]).await?.into_iter().next();
    let (_, found) = found.with_context(|| format!("there is no topic {name}"))?;
    let topic = found.with_context(|| format!("describing {name}"))?;
    let partitions = || {
        let led = topic.partitions.iter().filter(|info| info.leader.is_some());
        led.map(|info| TopicPartition::new(Arc::clone(&topic.name), info.partition))
    };
    let offsets = |spec| partitions().map(|partition| (partition, spec)).collect::<BTreeMap<_, _>>();
    let (first, end) = (offsets(OffsetSpec::Earliest), offsets(OffsetSpec::Latest));
    let (first, end) = futures::try_join!(
        admin.list_offsets(&first, IsolationLevel::ReadUncommitted),
        admin.list_offsets(&end, IsolationLevel::ReadUncommitted),
    )?;
    let mut table = Table::new([">partition", ">first", ">end", ">leader", ">epoch", "replicas", "in sync"]);
    for info in &topic.partitions {
        let key = TopicPartition::new(Arc::clone(&topic.name), info.partition);
        let offset = |of: &BTreeMap<TopicPartition, _>| match of.get(&key) {
            Some(Ok(Some(found))) => offset_of(found),
            _ => "-".to_owned(),
        };
        let nodes = |nodes: &[millstream_record::NodeId]| {
            nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(",")
        };
        table.row([
            info.partition.to_string(),
            offset(&first),
            offset(&end),
            info.leader.map_or("-".to_owned(), |leader| leader.0.to_string()),
            info.leader_epoch.0.to_string(),
            nodes(&info.replicas),
            nodes(&info.in_sync),
        ]);
    }
    screen::line(format_args!("{name}, id {}", topic.id));
    screen::line(table);
    for (partition, outcome) in &end {
        if let Err(error) = outcome {
            screen::note(format_args!("the offsets of {partition} are not known: {error}"));
        }
    }
    let mut settings = Table::new(["setting", "value"]);
    for entry in admin.describe_configs(&ConfigResource::Topic(name.into())).await? {
        if !entry.is_default {
            settings
                .row([entry.name.to_string(), entry.value.map_or("-".to_owned(), |value| value.to_string())]);
        }
    }
    if !settings.is_empty() {
        screen::line(format_args!("\n{settings}"));
    }
    Ok(())
}

fn offset_of(found: &millstream_client::OffsetAndTimestamp) -> String {
    found.offset.0.to_string()
}

async fn delete(admin: &Admin, topics: &[String]) -> Result<()> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut failed = Vec::new();
    for (name, outcome) in admin.delete_topics(&names).await? {
        match outcome {
            Ok(()) => screen::line(format_args!("{name}: deleted")),
            Err(error) => failed.push(format!("{name}: {error}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// Says of each partition where it begins now, and then of all that could not be done.
async fn delete_records(admin: &Admin, name: &str, records: RecordsToDelete, chosen: &[i32]) -> Result<()> {
    // Asked first, so that a name that is misspelt is an error at once, and no topic is made of it.
    let found = admin.describe_topics(&[name]).await?.into_iter().next();
    let (_, found) = found.with_context(|| format!("there is no topic {name}"))?;
    let topic = found.with_context(|| format!("describing {name}"))?;
    let count = topic.partitions.len();
    let known: Vec<i32> = topic.partitions.iter().map(|info| info.partition).collect();
    if let Some(unknown) = chosen.iter().find(|index| !known.contains(index)) {
        bail!("{name} has {count} partitions, counted from 0, so there is no partition {unknown}");
    }
    let chosen = if chosen.is_empty() { &known } else { chosen };
    let wanted = chosen.iter().map(|index| (TopicPartition::new(Arc::clone(&topic.name), *index), records));
    let mut table = Table::new([">partition", ">first"]);
    let mut failed = Vec::new();
    for (partition, outcome) in admin.delete_records(&wanted.collect()).await? {
        match outcome {
            Ok(first) => table.row([partition.partition.to_string(), first.0.to_string()]),
            Err(error) => failed.push(refusal(&partition, records, &error)),
        }
    }
    if !table.is_empty() {
        screen::line(table);
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// Why the records of a partition stay, and what would help.
fn refusal(partition: &TopicPartition, records: RecordsToDelete, error: &ClientError) -> String {
    match (error.code(), records) {
        (Some(ErrorCode::OffsetOutOfRange), RecordsToDelete::Before(offset)) => {
            format!("{partition}: offset {offset} is beyond the last record; --all deletes what is there")
        }
        (Some(ErrorCode::PolicyViolation), _) => {
            format!("{partition}: cleanup.policy of the topic has no delete; add it with topics alter --set")
        }
        _ => format!("{partition}: {error}"),
    }
}
