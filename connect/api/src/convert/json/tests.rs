//! The fast ways beside the library's.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;
use arrow_json::writer::{LineDelimited, WriterBuilder};
use proptest::prelude::*;

use super::*;
use crate::types::UTC;

/// What the library writes.
fn lines(rows: &RecordBatch) -> Vec<Bytes> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(false).build::<_, LineDelimited>(Vec::new());
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    let text = Bytes::from(writer.into_inner());
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| text.slice_ref(line))
        .collect()
}

fn schema() -> SchemaRef {
    let utc = |unit| DataType::Timestamp(unit, Some(UTC.into()));
    Arc::new(Schema::new(vec![
        Field::new("b", DataType::Boolean, true),
        Field::new("i", DataType::Int64, true),
        Field::new("i16", DataType::Int16, true),
        Field::new("u", DataType::UInt64, true),
        Field::new("u8", DataType::UInt8, true),
        Field::new("f", DataType::Float64, true),
        Field::new("f32", DataType::Float32, true),
        Field::new("na\"me\n", DataType::Utf8, true),
        Field::new("ts", utc(TimeUnit::Second), true),
        Field::new("ms", utc(TimeUnit::Millisecond), true),
        Field::new("us", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("ns", utc(TimeUnit::Nanosecond), true),
        Field::new("date", DataType::Date32, true),
        Field::new("dec", DataType::Decimal128(12, 3), true),
    ]))
}

/// An instant that the library can write, near and far.
fn seconds() -> impl Strategy<Value = i64> {
    prop_oneof![-100_000_000_000i64..500_000_000_000, -2_000_000_000i64..4_000_000_000]
}

type Plain = (
    Option<bool>,
    Option<i64>,
    Option<i16>,
    Option<u64>,
    Option<u8>,
    Option<f64>,
    Option<f32>,
    Option<String>,
);

type Row = (Plain, (Option<i64>, Option<(i64, u16)>, Option<(i64, u32)>, Option<i64>), Exact);

/// A day of the years 0 to 9999, and thousandths.
type Exact = (Option<i32>, Option<i64>);

fn row() -> impl Strategy<Value = Row> {
    (
        any::<Plain>(),
        (
            prop::option::of(seconds()),
            prop::option::of((seconds(), prop_oneof![Just(0u16), 0u16..1000])),
            prop::option::of((
                seconds(),
                prop_oneof![Just(0u32), (0u32..1000).prop_map(|ms| 1000 * ms), 0u32..1_000_000],
            )),
            any::<Option<i64>>(),
        ),
        (prop::option::of(-700_000i32..2_900_000), prop::option::of(-999_999_999_999i64..1_000_000_000_000)),
    )
}

fn batch(rows: &[Row]) -> RecordBatch {
    let of = |data_type: &DataType, counts: Vec<Option<i64>>| -> ArrayRef {
        arrow::compute::cast(&Int64Array::from(counts), data_type).unwrap()
    };
    let schema = schema();
    let kind = |at: usize| schema.field(at).data_type();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0.0).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.0.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.0.2).collect::<Int16Array>()),
        Arc::new(rows.iter().map(|row| row.0.3).collect::<UInt64Array>()),
        Arc::new(rows.iter().map(|row| row.0.4).collect::<UInt8Array>()),
        Arc::new(rows.iter().map(|row| row.0.5).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.0.6).collect::<Float32Array>()),
        Arc::new(rows.iter().map(|row| row.0.7.clone()).collect::<StringArray>()),
        of(kind(8), rows.iter().map(|row| row.1.0).collect()),
        of(kind(9), rows.iter().map(|row| row.1.1.map(|(s, ms)| s * 1_000 + i64::from(ms))).collect()),
        of(kind(10), rows.iter().map(|row| row.1.2.map(|(s, us)| s * 1_000_000 + i64::from(us))).collect()),
        of(kind(11), rows.iter().map(|row| row.1.3).collect()),
        Arc::new(rows.iter().map(|row| row.2.0).collect::<Date32Array>()),
        Arc::new(
            rows.iter()
                .map(|row| row.2.1.map(i128::from))
                .collect::<Decimal128Array>()
                .with_data_type(kind(13).clone()),
        ),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// A JSON value; most are such as a column of [`schema`] takes.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-300i64..300).prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| serde_json::to_string(&n).unwrap()),
        "-?[0-9]{1,25}([.][0-9]{0,3})?([eE][+-]?[0-9]{0,3})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "\"(\\\\[\"\\\\/bfnrtu]|[0-9a-f]|ä){0,12}\"",
        "\"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]([.][0-9]{0,10})?(Z|[+]01:00)?\"",
        "\"[0-9]{4}-[01][0-9]-[0-3][0-9]( 10:00:00)?\"",
        "[\\[{]{0,3}[0-9]*[\\]}]{0,3}",
        Just("[1,{\"a\":[true,null]},\"x\"]".to_owned()),
        Just("{}".to_owned()),
    ]
}

fn object() -> impl Strategy<Value = Bytes> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "b", "i", "i16", "u", "u8", "f", "f32", "na\"me\n", "ts", "ms", "us", "ns", "date", "dec"
        ])
        .prop_map(str::to_owned),
        "[a-c]{1,2}",
    ];
    let space = prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\n\t\r")];
    let member = (name, value(), space).prop_map(|(name, value, space)| {
        format!("{space}{}{space}:{space}{value}{space}", serde_json::to_string(&name).unwrap())
    });
    (
        prop::collection::vec(member, 0..5),
        prop_oneof![12 => Just(""), 1 => Just(" "), 1 => Just("}"), 1 => Just(",")],
    )
        .prop_map(|(members, tail)| Bytes::from(format!("{{{}}}{tail}", members.join(","))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn rows_are_written_as_the_library_writes_them(rows in prop::collection::vec(row(), 0..12)) {
        let rows = batch(&rows);
        let written = write::write(&rows).unwrap();
        prop_assert_eq!(&written, &lines(&rows));
    }

    #[test]
    fn what_was_written_is_read_the_fast_way(rows in prop::collection::vec(row(), 1..12)) {
        let rows = batch(&rows);
        let written = write::write(&rows).unwrap();
        let expected = general::decode(&rows.schema(), &written).unwrap();
        if let Some(read) = read::read(&rows.schema(), &written) {
            prop_assert_eq!(Some(read), expected);
        } else {
            // A year of five digits, or one before 0.
            let text = String::from_utf8_lossy(&written.concat()).into_owned();
            prop_assert!(text.contains("\"+") || text.contains("\"-") , "{}", text);
        }
    }

    #[test]
    fn any_objects_are_read_as_the_library_reads_them_or_not_at_all(objects in prop::collection::vec(object(), 1..4)) {
        if let Some(read) = read::read(&schema(), &objects) {
            prop_assert_eq!(Some(read), general::decode(&schema(), &objects).unwrap());
        }
    }
}

#[test]
fn the_fast_way_is_taken() {
    let text = r#" {"x":{"deep":[1,"\u00e4"]}, "i" : -7,"ms":"2013-01-01T10:00:00.5Z","na\"me\n":"a\tb\u0041","f":1e3,"b":null} "#;
    let values =
        [Bytes::from(text), Bytes::from_static(b"{}"), Bytes::from_static(b"{\"u\":18446744073709551615}")];
    let read = read::read(&schema(), &values).unwrap();
    assert_eq!(Some(&read), general::decode(&schema(), &values).unwrap().as_ref());
    assert_eq!(read.column(1).as_primitive::<Int64Type>().value(0), -7);
    assert_eq!(read.column(7).as_string::<i32>().value(0), "a\tbA");
    for odd in [
        r#"{"i":1,"i":2}"#,
        r#"{"i":"1"}"#,
        r#"{"i":1.0}"#,
        r#"{"f":1e400}"#,
        r#"{"f":9007199254740993}"#,
        r#"{"f":"nan"}"#,
        r#"{"us":"2013-01-01T10:00:00.1234567"}"#,
        r#"{"i":01}"#,
        r#"{"i":1} x"#,
        r#"{"u8":256}"#,
        "",
        "[]",
        r#"{"i":1"#,
    ] {
        assert!(read::read(&schema(), &[Bytes::from(odd)]).is_none(), "{odd}");
    }
}
