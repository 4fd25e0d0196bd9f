//! Batches and logs for tests.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millstream_record::{
    Batch, BatchBuilder, BatchOptions, Batches, Codec, Compression, EndTxnMarker, LeaderEpoch, Millis,
    Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use millstream_storage::{
    AppendOrigin, Disk, Log, LogConfig, LogDir, MemoryDisk, Noted, OpenFiles, ReadRequest, RecoveryReport,
    Result, Shutdown,
};

pub(crate) const LEADER: AppendOrigin = AppendOrigin::Leader { epoch: LeaderEpoch(0) };
pub(crate) const COORDINATOR: AppendOrigin = AppendOrigin::Coordinator { epoch: LeaderEpoch(0) };
pub(crate) const TOPIC: TopicId = millstream_record::Uuid([7; 16]);
/// A time that is far from zero.
pub(crate) const NOW: Millis = Millis(1_700_000_000_000);

/// A batch of records with these timestamps and values.
pub(crate) fn batch_of(options: BatchOptions, records: &[(Millis, &[u8])]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (timestamp, value) in records {
        builder.append(*timestamp, None, Some(value), &[]).unwrap();
    }
    builder.build().unwrap().freeze()
}

/// A plain batch of `count` records of `size` bytes each, at [`NOW`].
pub(crate) fn plain(count: usize, size: usize) -> Bytes {
    let value = vec![b'v'; size];
    batch_of(BatchOptions::default(), &vec![(NOW, &value[..]); count])
}

/// A batch of an idempotent producer.
pub(crate) fn produced(id: i64, epoch: i16, sequence: i32, count: usize, transactional: bool) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
        transactional,
        ..BatchOptions::default()
    };
    batch_of(options, &vec![(NOW, &b"produced"[..]); count])
}

/// A batch compressed with `compression`.
pub(crate) fn compressed(compression: Compression, records: &[(Millis, &[u8])]) -> Bytes {
    batch_of(BatchOptions { codec: Codec::from(compression), ..BatchOptions::default() }, records)
}

/// The marker that ends a transaction.
pub(crate) fn marker(id: i64, epoch: i16, committed: bool) -> Bytes {
    let marker = EndTxnMarker { committed, coordinator_epoch: 0 };
    BatchBuilder::end_txn_marker(NOW, ProducerId(id), ProducerEpoch(epoch), marker)
}

/// Segments of 2,000 bytes, an index entry every 200.
pub(crate) fn small() -> LogConfig {
    LogConfig { segment_bytes: 2000, index_interval_bytes: 200, ..LogConfig::default() }
}

pub(crate) fn at(offset: i64) -> ReadRequest {
    ReadRequest {
        offset: Offset(offset),
        max_bytes: 1 << 20,
        upper_bound: Offset(i64::MAX),
        at_least_one: true,
        with_aborted: false,
    }
}

/// How a log's last life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Clean,
    Crash { recovery_point: Offset },
}

/// One log on a disk, without a log directory around it.
pub(crate) struct Bench {
    pub(crate) files: Arc<OpenFiles>,
    pub(crate) log: Log,
    pub(crate) report: RecoveryReport,
}

pub(crate) const DIR: &str = "/logs/topic-0";

impl Bench {
    pub(crate) fn new(config: LogConfig) -> Self {
        Self::on(Arc::new(MemoryDisk::new()), config)
    }

    pub(crate) fn on(disk: Arc<dyn Disk>, config: LogConfig) -> Self {
        Self::open(disk, config, Ended::Clean).unwrap()
    }

    /// The log as a directory opens it that notes no more of it than where it was durable when it crashed.
    pub(crate) fn open(disk: Arc<dyn Disk>, config: LogConfig, ended: Ended) -> Result<Self> {
        Self::open_at(disk, config, ended, Noted::default())
    }

    fn open_at(disk: Arc<dyn Disk>, config: LogConfig, ended: Ended, noted: Noted) -> Result<Self> {
        let (shutdown, noted) = match ended {
            Ended::Clean => (Shutdown::Clean, noted),
            Ended::Crash { recovery_point } => {
                (Shutdown::Crash, Noted { recovery_point: Some(recovery_point), ..noted })
            }
        };
        let files = OpenFiles::new(disk, 16);
        let (log, report) = Log::open(&files, Path::new(DIR), TOPIC, config, NOW, shutdown, noted)?;
        Ok(Self { files, log, report })
    }

    /// The same log opened again, after a clean close if `shutdown` says so.
    pub(crate) fn reopen(self, ended: Ended) -> Result<Self> {
        self.reopen_with_mark(ended, None)
    }

    /// The same log opened again, where a checkpoint says that all below `high_watermark` is replicated.
    pub(crate) fn reopen_with_mark(mut self, ended: Ended, high_watermark: Option<Offset>) -> Result<Self> {
        if ended == Ended::Clean {
            self.log.close().unwrap();
        }
        let recovery_point = Some(self.log.recovery_point());
        let noted = Noted { recovery_point, log_start: Some(self.log.start_offset()), high_watermark };
        Self::open_at(Arc::clone(self.files.disk()), self.log.config().clone(), ended, noted)
    }

    pub(crate) fn append(&mut self, batch: &[u8]) -> i64 {
        self.log.append(batch, LEADER, NOW).unwrap().base_offset.0
    }

    /// Base offsets and next offsets of what a read gives.
    pub(crate) fn spans(&self, request: ReadRequest) -> Vec<(i64, i64)> {
        spans(&self.log.read(request).unwrap().bytes)
    }
}

/// The whole log from `from` on, batch by batch, as a follower would read it.
pub(crate) fn read_all(log: &Log, from: Offset) -> Result<Vec<Batch>> {
    let mut next = from;
    let mut all = Vec::new();
    while next < log.end_offset() {
        let slices = log.read(ReadRequest { max_bytes: 700, ..at(next.0) })?;
        assert!(
            slices.next_offset > next,
            "a read at {next} of a log that ends at {} goes nowhere",
            log.end_offset()
        );
        all.extend(Batches::new(slices.bytes).map(|batch| batch.unwrap()));
        next = slices.next_offset;
    }
    Ok(all)
}

pub(crate) fn spans(bytes: &Bytes) -> Vec<(i64, i64)> {
    let span = |batch: Batch| {
        batch.check_crc().unwrap();
        (batch.header().base_offset.0, batch.header().next_offset().0)
    };
    Batches::new(bytes.clone()).map(|batch| span(batch.unwrap())).collect()
}

/// A log directory with one partition.
pub(crate) fn open_dir(disk: Arc<dyn Disk>, config: LogConfig) -> Result<(LogDir, Log, RecoveryReport)> {
    let mut dir = LogDir::open(disk, Path::new("/logs"), 16)?;
    let (log, report) = dir.open_log(&TopicPartition::new("topic", 0), TOPIC, config, NOW)?;
    dir.begin_use()?;
    Ok((dir, log, report))
}
