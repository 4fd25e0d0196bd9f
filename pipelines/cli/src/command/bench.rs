//! `millstream bench`: measurements against any address that speaks Kafka's protocol.

mod consume;
mod latency;
mod measure;
mod produce;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use millstream_client::{Acks, Client, NewTopic, ProducerConfig};
use millstream_env::Env;
use millstream_record::{Codec, Compression};

use crate::door::ClusterArgs;
use measure::Measured;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// The topic; made when missing
    #[arg(long, default_value = "millstream-bench", global = true)]
    topic: String,

    /// Partitions of the topic, when it is made
    #[arg(long, default_value_t = 1, global = true)]
    partitions: i32,

    /// Write the result as one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Write records as fast as they are acknowledged
    Produce(produce::Args),
    /// Read records as fast as they come
    Consume(consume::Args),
    /// Write at a fixed rate and time each acknowledgement
    Latency(latency::Args),
}

/// How records are written.
#[derive(clap::Args, Clone)]
struct Writing {
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    size: usize,

    /// When a record counts as written
    #[arg(long, value_enum, default_value_t = AcksArg::All)]
    acks: AcksArg,

    /// How long a batch waits for more records, in ms
    #[arg(long, default_value_t = 5)]
    linger_ms: u64,

    /// Bytes of a batch
    #[arg(long, default_value_t = 16 << 10)]
    batch_size: usize,

    /// Compression of batches
    #[arg(long, value_enum, default_value_t = CompressionArg::None)]
    compression: CompressionArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum AcksArg {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompressionArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

pub(crate) async fn execute(args: Args, env: Env) -> Result<ExitCode> {
    let door = args.cluster.open(env.clone())?;
    let client = door.client("millstream-bench");
    let measured = match &args.what {
        What::Produce(own) => {
            make_topic(&client, &args).await?;
            produce::measure(own, &args.topic, &client, &env).await?
        }
        What::Consume(own) => consume::measure(own, &args.topic, &client, &env).await?,
        What::Latency(own) => {
            make_topic(&client, &args).await?;
            latency::measure(own, &args.topic, &client, &env).await?
        }
    };
    measured.show(args.json);
    Ok(ExitCode::SUCCESS)
}

async fn make_topic(client: &Client, args: &Args) -> Result<()> {
    let new = NewTopic::new(args.topic.as_str(), args.partitions);
    client.admin().ensure_topic(new).await.with_context(|| format!("making topic {}", args.topic))?;
    Ok(())
}

impl Writing {
    fn config(&self) -> Result<ProducerConfig> {
        if self.size == 0 {
            bail!("a value of no bytes measures nothing: --size is at least 1");
        }
        let acks = match self.acks {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::All => Acks::All,
        };
        let kind = match self.compression {
            CompressionArg::None => Compression::None,
            CompressionArg::Gzip => Compression::Gzip,
            CompressionArg::Snappy => Compression::Snappy,
            CompressionArg::Lz4 => Compression::Lz4,
            CompressionArg::Zstd => Compression::Zstd,
        };
        Ok(ProducerConfig {
            acks,
            enable_idempotence: matches!(self.acks, AcksArg::All),
            linger_ms: self.linger_ms,
            batch_size: self.batch_size,
            max_request_size: ProducerConfig::default().max_request_size.max(self.size + self.batch_size),
            compression: Codec::from(kind),
            ..ProducerConfig::default()
        })
    }
}

/// A value that compresses about as badly as text does: words of a small alphabet in no order.
fn value(size: usize, env: &Env) -> Vec<u8> {
    const LETTERS: &[u8] = b"etaoin shrdlu";
    let letter = |_| LETTERS[usize::try_from(env.random_below(LETTERS.len() as u64)).unwrap_or(0)];
    (0..size).map(letter).collect()
}
