use std::sync::Arc;

use arrow::array::*;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit};
use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

/// These bytes are in topics. A change of any of them breaks partitioning, joins and compaction of data that exists.
#[test]
fn golden_bytes() {
    let cases: Vec<(ArrayRef, &[&str])> = vec![
        (array(NullArray::new(1)), &["00"]),
        (array(BooleanArray::from(vec![Some(false), Some(true), None])), &["01", "02", "00"]),
        (
            array(Int32Array::from(vec![Some(0), Some(-1), Some(1), None])),
            &["108000000000000000", "107fffffffffffffff", "108000000000000001", "00"],
        ),
        (array(Int64Array::from(vec![i64::MIN, i64::MAX])), &["100000000000000000", "10ffffffffffffffff"]),
        (array(UInt8Array::from(vec![7])), &["108000000000000007"]),
        (array(UInt64Array::from(vec![7, u64::MAX])), &["108000000000000007", "11ffffffffffffffff"]),
        (
            array(Float64Array::from(vec![0.0, -0.0, 1.5, -1.5, f64::NAN, f64::NEG_INFINITY])),
            &[
                "208000000000000000",
                "208000000000000000",
                "20bff8000000000000",
                "204007ffffffffffff",
                "20fff8000000000000",
                "20000fffffffffffff",
            ],
        ),
        (array(Float32Array::from(vec![1.5])), &["20bff8000000000000"]),
        (
            array(Decimal128Array::from(vec![-1, 150]).with_precision_and_scale(10, 2).unwrap()),
            &["30027fffffffffffffffffffffffffffffff", "300280000000000000000000000000000096"],
        ),
        (
            array(StringArray::from(vec!["", "UA", "a\0b", "ä"])),
            &["400000", "4055410000", "406100ff620000", "40c3a40000"],
        ),
        (array(LargeStringArray::from(vec!["UA"])), &["4055410000"]),
        (array(StringViewArray::from(vec!["UA"])), &["4055410000"]),
        (array(BinaryArray::from(vec![&b"\x00\xff"[..]])), &["4100ffff0000"]),
        (
            array(Date32Array::from(vec![0, 19_000, -1])),
            &["508000000000000000", "508000000000004a38", "507fffffffffffffff"],
        ),
        (array(Date64Array::from(vec![86_400_000])), &["508000000000000001"]),
        (
            array(TimestampMillisecondArray::from(vec![1_500, -1]).with_timezone("+00:00")),
            &["5180000000000000011dcd6500", "517fffffffffffffff3b8b87c0"],
        ),
        (array(TimestampSecondArray::from(vec![1]).with_timezone("+00:00")), &["51800000000000000100000000"]),
        (array(TimestampNanosecondArray::from(vec![1_000_000_001])), &["52800000000000000100000001"]),
        (array(Time32SecondArray::from(vec![1])), &["53000000003b9aca00"]),
        (array(Time64MicrosecondArray::from(vec![1])), &["5300000000000003e8"]),
        (array(DurationMillisecondArray::from(vec![1])), &["548000000000000000000f4240"]),
    ];
    for (column, expected) in cases {
        let found: Vec<_> = encode(&[Arc::clone(&column)]).unwrap().iter().map(|key| hex(key)).collect();
        assert_eq!(found, expected, "{:?}", column.data_type());
    }
    let two = [array(StringArray::from(vec!["UA"])), array(Int64Array::from(vec![1]))];
    assert_eq!(hex(&encode(&two).unwrap()[0]), "4055410000108000000000000001");
}

#[test]
fn a_dictionary_is_the_same_key_as_its_values() {
    let plain = array(StringArray::from(vec!["a", "b", "a"]));
    let dictionary =
        cast(&plain, &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))).unwrap();
    assert_eq!(encode(&[plain]).unwrap(), encode(&[dictionary]).unwrap());
}

#[test]
fn what_is_no_key_is_refused_and_hostile_bytes_do_not_panic() {
    let list = array(ListArray::from_iter_primitive::<types::Int32Type, _, _>([Some([Some(1)])]));
    assert!(encode(&[list]).unwrap_err().to_string().contains("cannot be a key"));
    let fields = Fields::from(vec![Field::new("a", DataType::Int64, true)]);
    for bytes in
        ["", "10", "1080", "99", "40", "4000", "400001", "208000000000000000", "1080000000000000000a"]
    {
        let bytes: Vec<u8> = (0..bytes.len() / 2)
            .map(|at| u8::from_str_radix(&bytes[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        assert!(decode(&fields, &[Bytes::from(bytes)]).is_err());
    }
}

proptest! {
    #[test]
    fn any_key_reads_back_and_sorts_like_its_columns(
        rows in prop::collection::vec((any::<Option<i64>>(), any::<Option<String>>(), any::<Option<Vec<u8>>>(), -4_000_000_000_000_000i64..4_000_000_000_000_000), 1..40),
    ) {
        let columns = [
            array(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            array(rows.iter().map(|row| row.1.clone()).collect::<StringArray>()),
            array(BinaryArray::from_iter(rows.iter().map(|row| row.2.clone()))),
            array(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.3)).with_timezone("+00:00")),
        ];
        let keys = encode(&columns).unwrap();
        let types = columns.iter().enumerate().map(|(at, column)| Field::new(format!("c{at}"), column.data_type().clone(), true));
        let back = decode(&types.collect::<Fields>(), &keys).unwrap();
        prop_assert_eq!(&back[..], &columns[..]);
        for (a, key_a) in rows.iter().zip(&keys) {
            for (b, key_b) in rows.iter().zip(&keys) {
                prop_assert_eq!(a.cmp(b), key_a.cmp(key_b));
            }
        }
    }

    #[test]
    fn floats_sort_as_numbers(values in prop::collection::vec(any::<f64>(), 2..20)) {
        let values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        let keys = encode(&[array(Float64Array::from(values.clone()))]).unwrap();
        for (a, key_a) in values.iter().zip(&keys) {
            for (b, key_b) in values.iter().zip(&keys) {
                prop_assert_eq!(a.partial_cmp(b).unwrap(), key_a.cmp(key_b));
            }
        }
    }

    #[test]
    fn hostile_keys_are_errors_never_panics(
        random in prop::collection::vec(any::<u8>(), 0..40),
        (nanos, text) in (any::<i64>(), ".{0,6}"),
        (at, changed, cut) in (any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>()),
    ) {
        let fields = Fields::from(vec![
            Field::new("a", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
            Field::new("b", DataType::Utf8, true),
        ]);
        let columns = [array(TimestampNanosecondArray::from(vec![nanos])), array(StringArray::from(vec![text]))];
        let good = encode(&columns).unwrap().remove(0);
        prop_assert_eq!(&decode(&fields, std::slice::from_ref(&good)).unwrap()[..], &columns[..]);
        let short = good.slice(..cut.index(good.len()));
        let told = decode(&fields, std::slice::from_ref(&short)).unwrap_err().to_string();
        prop_assert!(told.contains("decoding a key"), "{}", told);
        let mut other = good.to_vec();
        let at = at.index(other.len());
        other[at] = changed;
        for hostile in [Bytes::from(random), other.into(), [good, Bytes::from_static(&[0])].concat().into()] {
            match decode(&fields, &[hostile]) {
                Err(error) => prop_assert!(error.to_string().contains("decoding a key"), "{}", error),
                // It happens to be the key of something: then of something that has the right types, and stays what it is.
                Ok(found) => {
                    let is_as_asked = |(column, field): (&ArrayRef, &Arc<Field>)| column.len() == 1 && column.data_type() == field.data_type();
                    prop_assert!(found.len() == 2 && found.iter().zip(&fields).all(is_as_asked), "{:?}", found);
                    let again = decode(&fields, &encode(&found).unwrap()).unwrap();
                    prop_assert_eq!(again, found);
                }
            }
        }
    }
}
