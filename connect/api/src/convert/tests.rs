use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::types::UTC;

fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

fn round_trip(rows: &RecordBatch) {
    let values = JsonConverter.encode(rows).unwrap();
    assert_eq!(values.len(), rows.num_rows());
    let back = JsonConverter.decode(&rows.schema(), &values).unwrap();
    assert_eq!(back.bad, vec![]);
    assert_eq!(&back.rows, rows);
}

/// Each type at its ends and at null.
#[test]
fn every_type_survives_json() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
        Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None])),
        Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None])),
        Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None])),
        Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None])),
        Arc::new(Float32Array::from(vec![Some(f32::MIN), Some(f32::MIN_POSITIVE), None])),
        Arc::new(Float64Array::from(vec![Some(f64::MAX), Some(0.1), None])),
        Arc::new(
            Decimal128Array::from(vec![Some(-12_345), Some(1), None])
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
        Arc::new(StringArray::from(vec![Some("a\n\"\\\u{1}ä\u{1f600}"), Some(""), None])),
        Arc::new(LargeStringArray::from(vec![Some("a"), Some(""), None])),
        Arc::new(StringViewArray::from(vec![Some("longer than twelve bytes"), Some(""), None])),
        Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b""), None])),
        Arc::new(Date32Array::from(vec![Some(-719_162), Some(19_000), None])),
        Arc::new(Time32SecondArray::from(vec![Some(0), Some(86_399), None])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        Arc::new(
            TimestampMicrosecondArray::from(vec![Some(-1), Some(1_357_034_400_000_001), None])
                .with_timezone(UTC),
        ),
        Arc::new(TimestampMillisecondArray::from(vec![Some(-1), Some(1_357_034_400_001), None])),
        Arc::new(TimestampSecondArray::from(vec![Some(-1), Some(1_357_034_400), None]).with_timezone(UTC)),
        Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(1_357_034_400_000_000_001), None])),
        Arc::new(ListArray::from_iter_primitive::<types::Int32Type, _, _>([
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
        ])),
        Arc::new(StructArray::from(vec![(
            Arc::new(Field::new("x", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
        )])),
    ];
    for column in columns {
        let name = column.data_type().to_string();
        round_trip(&rows(vec![(&name, column)]));
    }
}

#[test]
fn a_bad_value_is_named_and_costs_only_itself() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let good = |n: i64| Bytes::from(format!("{{\"a\":{n}}}"));
    let texts =
        ["oops", "{\"a\":\"x\"}", "{\"a\":1}{\"a\":2}", "{\"a\":1", "", "[1]", "7", "{\"a\":1} {", "null"];
    let mut values = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        values.extend([good(n as i64), Bytes::from_static(text.as_bytes())]);
    }
    let decoded = JsonConverter.decode(&schema, &values).unwrap();
    let bad: Vec<_> = decoded.bad.iter().map(|(at, _)| *at).collect();
    assert_eq!(bad, (0..texts.len()).map(|n| 2 * n + 1).collect::<Vec<_>>(), "{:?}", decoded.bad);
    let expected = Int64Array::from_iter_values(0..texts.len() as i64);
    assert_eq!(decoded.rows.column(0).as_primitive::<types::Int64Type>(), &expected);
    assert!(decoded.bad.iter().all(|(_, reason)| !reason.is_empty()), "{:?}", decoded.bad);
}

#[test]
fn no_values_are_no_rows() {
    let schema =
        Arc::new(Schema::new(vec![Field::new("a", DataType::Timestamp(TimeUnit::Second, None), true)]));
    for converter in CONVERTERS.iter().map(|name| converter(name).unwrap()) {
        if let Ok(decoded) = converter.decode(&schema, &[]) {
            assert_eq!((decoded.rows.num_rows(), decoded.bad.len()), (0, 0));
        }
    }
    assert!(converter("avro").is_none());
}

#[test]
fn text_and_bytes_take_one_column() {
    let text = rows(vec![("line", Arc::new(StringArray::from(vec!["a", "ä"])) as ArrayRef)]);
    let values = StringConverter.encode(&text).unwrap();
    assert_eq!(values, [Bytes::from("a"), Bytes::from("ä")]);
    let decoded =
        StringConverter.decode(&text.schema(), &[values[0].clone(), Bytes::from_static(b"\xff")]).unwrap();
    assert_eq!((decoded.rows.num_rows(), decoded.bad[0].0), (1, 1));
    let raw = rows(vec![("raw", Arc::new(BinaryArray::from(vec![&b"\xff\x00"[..]])) as ArrayRef)]);
    let values = BytesConverter.encode(&raw).unwrap();
    assert_eq!(BytesConverter.decode(&raw.schema(), &values).unwrap().rows, raw);
    let two = rows(vec![("a", text.column(0).clone()), ("b", text.column(0).clone())]);
    for error in [StringConverter.encode(&two).unwrap_err(), BytesConverter.encode(&two).unwrap_err()] {
        assert!(error.to_string().contains("it holds exactly one column, the rows have 2"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_rows_survive_json(
        values in prop::collection::vec((any::<Option<i64>>(), any::<Option<String>>(), any::<f64>().prop_filter("JSON has none", |v| v.is_finite()), any::<Option<Vec<u8>>>(), any::<Option<bool>>()), 1..30),
    ) {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(values.iter().map(|row| row.0).collect::<Int64Array>())),
            ("s", Arc::new(values.iter().map(|row| row.1.clone()).collect::<StringArray>())),
            ("f", Arc::new(Float64Array::from_iter_values(values.iter().map(|row| row.2)))),
            ("b", Arc::new(BinaryArray::from_iter(values.iter().map(|row| row.3.clone())))),
            ("t", Arc::new(values.iter().map(|row| row.4).collect::<BooleanArray>())),
        ];
        round_trip(&rows(columns));
    }

    #[test]
    fn hostile_values_are_bad_never_panics(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..10)) {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let values: Vec<Bytes> = values.into_iter().map(Bytes::from).collect();
        let decoded = JsonConverter.decode(&schema, &values).unwrap();
        prop_assert_eq!(decoded.rows.num_rows() + decoded.bad.len(), values.len());
    }
}
