//! Append, read and flush of one log on the disk that `TMPDIR` is on.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_record::{BatchBuilder, BatchOptions, LeaderEpoch, Millis, Offset, Uuid};
use millstream_storage::{AppendOrigin, Log, LogConfig, Noted, OpenFiles, ReadRequest, RealDisk, Shutdown};

const NOW: Millis = Millis(1_700_000_000_000);
const LEADER: AppendOrigin = AppendOrigin::Leader { epoch: LeaderEpoch(0) };

fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = vec![b'v'; 1000.min(bytes)];
    while builder.size_bytes() + 1000 < bytes.max(1100) {
        builder.append(NOW, None, Some(&value), &[]).expect("a record of a kilobyte fits");
    }
    builder.build().expect("the batch is not empty").freeze()
}

fn open(dir: &Path) -> Log {
    let files = OpenFiles::new(Arc::new(RealDisk), 64);
    let config = LogConfig { segment_bytes: 256 << 20, retention_bytes: 512 << 20, ..LogConfig::default() };
    let config = LogConfig { file_delete_delay_ms: 0, ..config };
    let topic = Uuid([1; 16]);
    Log::open(&files, &dir.join("bench-0"), topic, config, NOW, Shutdown::Clean, Noted::default())
        .expect("an empty directory")
        .0
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for size in [1 << 10, 16 << 10, 1 << 20] {
        let temp = tempfile::tempdir().expect("a folder for the bench");
        let mut log = open(temp.path());
        let batch = batch(size);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(format!("{} bytes", batch.len()), |bencher| {
            bencher.iter(|| {
                log.append(&batch, LEADER, NOW).expect("the disk has room");
                if log.size_bytes() > 768 << 20 {
                    log.flush_blocking().expect("the disk works");
                    log.retention(NOW, Offset(i64::MAX)).expect("the disk works");
                    log.retention(NOW, Offset(i64::MAX)).expect("the disk works");
                }
            });
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let temp = tempfile::tempdir().expect("a folder for the bench");
    let mut log = open(temp.path());
    let batch = batch(64 << 10);
    for _ in 0..1000 {
        log.append(&batch, LEADER, NOW).expect("the disk has room");
    }
    let mut group = criterion.benchmark_group("read");
    for max_bytes in [64 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(max_bytes as u64));
        group.bench_function(format!("{max_bytes} bytes from the page cache"), |bencher| {
            let mut offset = Offset(0);
            bencher.iter(|| {
                let upper_bound = log.end_offset();
                let request =
                    ReadRequest { offset, max_bytes, upper_bound, at_least_one: true, with_aborted: true };
                let slices =
                    log.read_plan(request).and_then(|plan| plan.run_blocking()).expect("it was just written");
                offset = if slices.next_offset >= upper_bound { Offset(0) } else { slices.next_offset };
                black_box(slices)
            });
        });
    }
    group.finish();
}

fn flush(criterion: &mut Criterion) {
    let temp = tempfile::tempdir().expect("a folder for the bench");
    let mut log = open(temp.path());
    let batch = batch(4 << 10);
    criterion.bench_function("append 4 KiB and flush", |bencher| {
        bencher.iter(|| {
            log.append(&batch, LEADER, NOW).expect("the disk has room");
            log.flush_blocking().expect("the disk works")
        });
    });
}

criterion_group!(benches, append, read, flush);
criterion_main!(benches);
