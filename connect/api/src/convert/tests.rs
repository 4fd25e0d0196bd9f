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

fn type_of(name: &str) -> DataType {
    crate::types::parse_type(name).unwrap()
}

/// What one value of a column of this type is read as, shown as CSV would.
fn read_one(kind: &str, json: &str) -> Result<String, String> {
    let schema = Arc::new(Schema::new(vec![Field::new("a", type_of(kind), true)]));
    let decoded = JsonConverter.decode(&schema, &[Bytes::from(format!("{{\"a\":{json}}}"))]).unwrap();
    match decoded.bad.first() {
        Some((_, reason)) => Err(reason.clone()),
        None => Ok(arrow::util::display::array_value_to_string(decoded.rows.column(0), 0).unwrap()),
    }
}

#[test]
fn a_value_is_read_exactly() {
    for (kind, json, expected) in [
        ("int64", "2", "2"),
        ("int64", "2.0", "2"),
        ("int64", "1e3", "1000"),
        ("int64", "9007199254740993.0", "9007199254740993"),
        ("int64", "\"9007199254740993\"", "9007199254740993"),
        ("uint64", "18446744073709551615", "18446744073709551615"),
        ("decimal(18,2)", "1.23", "1.23"),
        ("decimal(18,2)", "1.2300", "1.23"),
        ("decimal(18,2)", "\"1.23\"", "1.23"),
        ("decimal(38,0)", "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ("decimal(5,-2)", "12300", "12300"),
        ("timestamp", "\"2020-01-01T00:00:00.123456Z\"", "2020-01-01T00:00:00.123456Z"),
        ("timestamp", "\"2020-01-01T00:00:00.1234560Z\"", "2020-01-01T00:00:00.123456Z"),
        ("timestamp", "\"2020-01-01T02:00:00+02:00\"", "2020-01-01T00:00:00Z"),
        ("timestamp(ns)", "\"2020-01-01T00:00:00.1234567Z\"", "2020-01-01T00:00:00.123456700Z"),
        ("float64", "0.1", "0.1"),
        ("float64", "12345678901234567000", "1.2345678901234567e19"),
        ("float64", "\"1.5\"", "1.5"),
        ("float64", "\"NaN\"", "NaN"),
        ("float32", "\"-Infinity\"", "-inf"),
        ("string", "18446744073709551616", "18446744073709551616"),
        ("string", "1.50", "1.50"),
        ("string", "true", "true"),
        ("string", "\"NaN\"", "NaN"),
        ("list<decimal(4,1)>", "[1.5,null,2]", "[1.5, , 2.0]"),
        ("struct<x:int64,y:string>", "{\"x\":1.0,\"y\":2}", "{x: 1, y: 2}"),
        ("list<float64>", "[\"Infinity\"]", "[inf]"),
        ("date", "\"2020-01-01\"", "2020-01-01"),
        ("date", "\"20200101\"", "2020-01-01"),
        ("date", "\"2020-01-01T00:00:00Z\"", "2020-01-01"),
        ("time", "\"10:00:00.5\"", "10:00:00.500"),
    ] {
        assert_eq!(read_one(kind, json).as_deref(), Ok(expected), "{kind} {json}");
    }
}

#[test]
fn a_value_that_would_be_cut_is_bad_and_named() {
    for (kind, json, expected) in [
        (
            "int64",
            "2.5",
            "column 'a': '2.5' is not exactly a int64; declare the column as float64 or decimal(p,s)",
        ),
        ("int8", "300.0", "300.0"),
        ("uint8", "-1.0", "-1.0"),
        ("decimal(18,2)", "1.239", "column 'a': '1.239' is not exactly a decimal(18,2)"),
        ("decimal(18,2)", "\"1.239\"", "column 'a': '1.239' is not exactly a decimal(18,2)"),
        ("decimal(3,2)", "12.34", "12.34"),
        ("timestamp", "\"2020-01-01T00:00:00.1234567Z\"", "declare a finer one, such as timestamp(ns)"),
        ("datetime(ms)", "\"2020-01-01 00:00:00.1234\"", "declare a finer one, such as datetime(ns)"),
        ("time(ms)", "\"00:00:00.1234\"", "declare a finer one, such as time(ns)"),
        (
            "timestamp",
            "1577836800",
            "declare the column as int64, and use to_timestamp_seconds() or to_timestamp_millis() in a step",
        ),
        ("datetime", "1577836800.0", "1577836800.0 is a number"),
        ("date", "20200101", "20200101 is a number, and not a date"),
        ("date", "\"2020-01-01T10:00:00\"", "it has a time; declare the column as timestamp or datetime"),
        ("float64", "1e400", "column 'a': '1e400' is too large for a float64"),
        ("float64", "\"-1e400\"", "'-1e400' is too large for a float64"),
        (
            "float64",
            "9007199254740993",
            "has more digits than a float64 holds; declare the column as string or decimal(38,0)",
        ),
        ("float64", "\"nan\"", "'nan' is not a float64"),
        ("float64", "\"inf\"", "'inf' is not a float64"),
        ("float32", "1e39", "'1e39' is too large for a float32"),
        ("list<int64>", "[1,2.5]", "column 'a[]': '2.5' is not exactly a int64"),
        (
            "struct<x:list<struct<y:decimal(3,1)>>>",
            "{\"x\":[{\"y\":1.25}]}",
            "column 'a.x[].y': '1.25' is not exactly",
        ),
        ("string", "[1]", "expected string"),
    ] {
        let found = read_one(kind, json).expect_err(json);
        assert!(found.contains(expected), "{kind} {json}: {found}");
    }
}

#[test]
fn what_is_no_finite_number_survives_json() {
    let floats = vec![Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(1.5), None];
    let wide: ArrayRef = Arc::new(Float64Array::from(floats.clone()));
    let narrow = arrow::compute::cast(&wide, &DataType::Float32).unwrap();
    let list = Arc::new(ListArray::from_iter_primitive::<types::Float64Type, _, _>(
        floats.iter().map(|value| Some(vec![*value, Some(2.0)])),
    ));
    let rows = rows(vec![("a", wide), ("b", narrow), ("c", list as ArrayRef)]);
    let values = JsonConverter.encode(&rows).unwrap();
    assert_eq!(values[0], r#"{"a":"NaN","b":"NaN","c":["NaN",2.0]}"#);
    assert_eq!(values[2], r#"{"a":"-Infinity","b":"-Infinity","c":["-Infinity",2.0]}"#);
    assert_eq!(values[3], r#"{"a":1.5,"b":1.5,"c":[1.5,2.0]}"#);
    round_trip(&rows);
    round_trip(&rows.project(&[0, 1]).unwrap()); // the fast way
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
        values in prop::collection::vec((any::<Option<i64>>(), any::<Option<String>>(), prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY)], any::<Option<Vec<u8>>>(), any::<Option<bool>>()), 1..30),
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
