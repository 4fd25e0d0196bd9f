//! What it costs to build a batch and to walk its records.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_record::{Batch, BatchBuilder, BatchOptions, Compression, Millis};

const RECORDS: i64 = 1000;

fn build(compression: Compression) -> Batch {
    let options = BatchOptions { codec: compression.into(), ..BatchOptions::default() };
    let mut builder = BatchBuilder::with_capacity(options, 128 << 10);
    for n in 0..RECORDS {
        let key = n.to_be_bytes();
        builder.append(Millis(n), Some(&key), Some(&[b'v'; 100]), &[]).expect("fits");
    }
    Batch::parse(builder.build().expect("builds").freeze()).expect("is whole")
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("build", |bench| bench.iter(|| build(black_box(Compression::None))));
    group.bench_function("build lz4", |bench| bench.iter(|| build(black_box(Compression::Lz4))));
    let batch = build(Compression::None);
    let body = batch.body();
    group.bench_function("iterate", |bench| {
        bench.iter(|| {
            batch
                .records(&body)
                .map(|record| record.expect("is valid").value.map_or(0, <[u8]>::len))
                .sum::<usize>()
        });
    });
    group.bench_function("to records", |bench| {
        bench.iter(|| {
            let records = batch.records(&body).map(|record| record.expect("is valid").to_record(&body));
            records.map(|record| record.value.map_or(0, |value| value.len())).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
