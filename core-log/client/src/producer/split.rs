//! A batch that is too large for its topic, in two.

use bytes::Bytes;
use millstream_record::{Batch, BatchBuilder, BatchOptions, Codec, Header, RecordError, advance_sequence};

/// The halves of a batch that was built, by number of records.
#[derive(Debug, PartialEq)]
pub(super) struct Halves {
    pub first: Bytes,
    pub second: Bytes,
    /// Records in the first.
    pub count: i32,
}

impl Halves {
    /// The halves of a batch of ours, under its sequences; `None` when it has one record only, which cannot be made smaller.
    ///
    /// # Errors
    /// What the codec says.
    pub(super) fn of(bytes: Bytes, codec: Codec) -> Result<Option<Self>, RecordError> {
        let batch = Batch::parse(bytes)?;
        let header = batch.header();
        let count = header.record_count / 2;
        if count == 0 {
            return Ok(None);
        }
        let options = BatchOptions {
            codec,
            timestamp_type: header.attributes.timestamp_type(),
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: header.attributes.is_transactional(),
            ..BatchOptions::default()
        };
        let behind = match header.has_producer() {
            true => advance_sequence(header.base_sequence, count),
            false => header.base_sequence,
        };
        let mut halves = [options, BatchOptions { base_sequence: behind, ..options }].map(BatchBuilder::new);
        let body = batch.decompress(usize::MAX)?; // these are bytes of ours, so they are as large as they were
        for (record, at) in batch.records(&body).zip(0..) {
            let record = record?;
            let headers: Vec<Header> = record.headers.map(|header| header.to_header(&body)).collect();
            halves[usize::from(at >= count)].append(record.timestamp, record.key, record.value, &headers)?;
        }
        let [first, second] = halves;
        Ok(Some(Self { first: first.build()?.freeze(), second: second.build()?.freeze(), count }))
    }
}

#[cfg(test)]
mod tests {
    use millstream_record::{Compression, Millis, ProducerEpoch, ProducerId, Record};

    use super::*;

    fn records(bytes: &Bytes) -> Vec<Record> {
        let batch = Batch::parse(bytes.clone()).unwrap();
        batch.check_crc().unwrap();
        let body = batch.decompress(usize::MAX).unwrap();
        batch.records(&body).map(|record| record.unwrap().to_record(&body)).collect()
    }

    #[test]
    fn halves_hold_the_records_under_the_sequences_they_had() {
        for compression in Compression::ALL {
            for (count, sequence) in [(2, 7), (5, i32::MAX - 1), (40, 0)] {
                let codec = Codec::from(compression);
                let mut builder =
                    BatchBuilder::new(BatchOptions { codec, transactional: true, ..BatchOptions::default() });
                builder.set_producer(ProducerId(9), ProducerEpoch(3), sequence);
                for n in 0..count {
                    let value = n.to_string();
                    let value = (n % 3 != 0).then_some(value.as_bytes());
                    builder.append(Millis(1_000 - n), Some(b"k"), value, &[Header::new("a", "1")]).unwrap();
                }
                let whole = builder.build().unwrap().freeze();
                let halves = Halves::of(whole.clone(), codec).unwrap().unwrap();
                let mut found = records(&halves.first);
                assert_eq!(found.len(), halves.count as usize);
                found.extend(records(&halves.second));
                for (record, n) in found.iter_mut().zip(0..) {
                    record.offset = millstream_record::Offset(n);
                }
                assert_eq!(found, records(&whole));
                for (half, from) in
                    [(halves.first, sequence), (halves.second, advance_sequence(sequence, halves.count))]
                {
                    let header = *Batch::parse(half).unwrap().header();
                    assert_eq!(
                        (header.producer_id, header.producer_epoch),
                        (ProducerId(9), ProducerEpoch(3))
                    );
                    assert_eq!(header.base_sequence, from);
                    assert!(header.attributes.is_transactional() && header.is_dense());
                    assert_eq!(header.attributes.compression().unwrap(), compression);
                }
            }
        }
    }

    #[test]
    fn a_single_record_is_not_split() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Millis(0), None, Some(b"v"), &[]).unwrap();
        let bytes = builder.build().unwrap().freeze();
        assert!(Halves::of(bytes, Codec::default()).unwrap().is_none());
    }
}
