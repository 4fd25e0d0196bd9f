//! CSV to columns, record by record: a record that is wrong costs itself, not its neighbours.
//!
//! A record is a line, or several when a quoted field holds line breaks. A quote that is never closed must not swallow the
//! rest of the file: if the lines joined up to the closing quote are no record of the right width, only the first line is bad.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use millstream_connect_api::config::suggest;
use millstream_connect_api::convert::exact;
use millstream_connect_api::{ConnectError, Result};

use super::columns::{FieldBuilder, field_builder};
use super::lines::Chunk;

/// Most lines that a quoted field may run over.
const MAX_RECORD_LINES: usize = 1000;

/// How a CSV file is written.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    /// Unquoted fields that are null.
    pub(super) null_values: Vec<String>,
    /// Longest line in bytes.
    pub(super) max_line: usize,
}

/// Where the columns of the table are in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Fields of a record.
    pub(super) width: usize,
    /// The field of each column.
    pub(super) fields: Vec<usize>,
}

impl Layout {
    /// The layout of a file with this header.
    ///
    /// # Errors
    /// Which columns the header lacks, or has twice.
    pub(super) fn of(header: &[String], schema: &SchemaRef) -> Result<Self, String> {
        let is_read = |name: &str| schema.field_with_name(name).is_ok();
        if let Some(name) = name_twice(header).find(|name| is_read(name)) {
            return Err(format!("{} in its header; {RENAME}", stands_twice(name)));
        }
        let place = |name: &String| header.iter().position(|field| field == name);
        let fields = schema.fields().iter().map(|field| {
            let missing = || {
                format!("its header has no column '{0}'; {1}", field.name(), nearest(field.name(), header))
            };
            place(field.name()).ok_or_else(missing)
        });
        Ok(Self { width: header.len(), fields: fields.collect::<Result<_, String>>()? })
    }
}

/// Names in a header that are no columns of the table.
pub(super) fn not_read(header: &[String], schema: &SchemaRef) -> Vec<String> {
    let is_other = |name: &&String| schema.field_with_name(name).is_err();
    header.iter().filter(is_other).cloned().collect()
}

/// What may be meant by a name that a header does not have.
pub(super) fn nearest(name: &str, header: &[String]) -> String {
    match suggest(name, header.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("it has {}", header.join(", ")),
    }
}

/// What became of a chunk's lines.
pub(super) struct Parsed {
    pub(super) rows: RecordBatch,
    /// Index of the line and reason, ascending.
    pub(super) bad: Vec<(usize, String)>,
    /// Lines that were dealt with; a record that is still open at the end of the chunk is left.
    pub(super) consumed: usize,
}

/// Parses the lines of a chunk. `complete` says that nothing will follow them.
pub(super) fn parse(
    chunk: &Chunk,
    complete: bool,
    schema: &SchemaRef,
    layout: &Layout,
    dialect: &Dialect,
) -> Result<Parsed> {
    let mut builders = schema
        .fields()
        .iter()
        .map(|field| field_builder(field.data_type(), chunk.lines.len()))
        .collect::<Result<Vec<_>>>()?;
    let mut record = Record::default();
    let (mut bad, mut keep) = (Vec::new(), Vec::new());
    let mut line = 0;
    while line < chunk.lines.len() {
        let taken = match read_record(chunk, line, dialect, layout.width, complete, &mut record) {
            Read::Blank => 1,
            Read::Held => break,
            Read::Bad(reason) => {
                bad.push((line, reason));
                1
            }
            Read::Record(lines) => {
                let reason = append(&record, schema, layout, dialect, &mut builders);
                keep.push(reason.is_none());
                bad.extend(reason.map(|reason| (line, reason)));
                lines
            }
        };
        line += taken;
    }
    let columns = builders.iter_mut().map(|builder| builder.finish()).collect();
    let failed = |error| ConnectError::fatal("building rows from CSV", error);
    let mut rows = RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)?;
    if keep.contains(&false) {
        rows = filter_record_batch(&rows, &keep.into()).map_err(failed)?;
    }
    Ok(Parsed { rows, bad, consumed: line })
}

/// How to mend a header with a name twice.
pub(super) const RENAME: &str = "give one of the columns another name in the file, or declare columns = { name = \"type\", .. } without it";

/// Names that stand in a header more than once: the values of which column are meant cannot be told.
pub(super) fn name_twice(header: &[String]) -> impl Iterator<Item = &str> {
    let is_again = |(at, name): &(usize, &String)| header.iter().take(*at).any(|before| before == *name);
    header.iter().enumerate().filter(is_again).map(|(_, name)| name.as_str())
}

/// Says that of a name.
pub(super) fn stands_twice(name: &str) -> String {
    if name.is_empty() { "two columns have no name".to_owned() } else { format!("'{name}' stands twice") }
}

/// The names in a header line.
pub(super) fn header(line: &[u8], dialect: &Dialect) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line));
    let text = text.map_err(|_| "its header is not UTF-8".to_owned())?;
    let mut record = Record::default();
    if !record.split(text, dialect) {
        return Err("a quote in its header is not closed".into());
    }
    Ok(record.fields.iter().map(|field| record.text(field).trim().to_owned()).collect())
}

/// The fields of a line for inference; nulls are left as `None`.
pub(super) fn sample_fields(line: &[u8], dialect: &Dialect) -> Option<Vec<Option<String>>> {
    let mut record = Record::default();
    let complete = record.split(std::str::from_utf8(line).ok()?, dialect);
    let value = |field: &Field| {
        let text = record.text(field);
        (!field.is_null(text, dialect)).then(|| text.to_owned())
    };
    complete.then(|| record.fields.iter().map(value).collect())
}

enum Read {
    Blank,
    /// Open at the end of the chunk.
    Held,
    Bad(String),
    /// A record of this many lines.
    Record(usize),
}

fn read_record(
    chunk: &Chunk,
    line: usize,
    dialect: &Dialect,
    width: usize,
    complete: bool,
    record: &mut Record,
) -> Read {
    let first = chunk.line(line);
    if first.is_empty() {
        return Read::Blank;
    }
    if first.len() > dialect.max_line {
        return Read::Bad(format!("the line is longer than max_line ({})", dialect.max_line));
    }
    let Ok(text) = std::str::from_utf8(first) else { return Read::Bad("the line is not UTF-8".into()) };
    if record.split(text, dialect) {
        return match record.fields.len() {
            found if found == width => Read::Record(1),
            found => Read::Bad(format!("the line has {found} fields where {width} are expected")),
        };
    }
    let last = chunk.lines.len().min(line + MAX_RECORD_LINES);
    for end in line + 1..last {
        let range = chunk.lines[line].start..chunk.lines[end].end;
        let Some(Ok(text)) = chunk.bytes.get(range).map(std::str::from_utf8) else { break };
        // Only a line with a quote can close the field; this keeps the search linear.
        if chunk.line(end).contains(&dialect.quote) && record.split(text, dialect) {
            if record.fields.len() == width && !record.sloppy {
                return Read::Record(end - line + 1);
            }
            break;
        }
    }
    // Not at the end of the file: the next chunk begins with this record. At its end: the rest is not written yet.
    let may_close_later =
        last == chunk.lines.len() && !complete && (line > 0 || chunk.at_end) && !record.closed;
    if may_close_later { Read::Held } else { Read::Bad("a quote is opened and not closed".into()) }
}

fn append(
    record: &Record,
    schema: &SchemaRef,
    layout: &Layout,
    dialect: &Dialect,
    builders: &mut [Box<dyn FieldBuilder>],
) -> Option<String> {
    let mut reason = None;
    for ((builder, at), column) in builders.iter_mut().zip(&layout.fields).zip(schema.fields()) {
        let Some(field) = record.fields.get(*at) else {
            builder.append_null();
            continue;
        };
        let text = record.text(field);
        if field.is_null(text, dialect) {
            builder.append_null();
        } else if !builder.append(text) {
            builder.append_null();
            let why = || exact::why_not(text.trim_ascii(), column.data_type());
            reason.get_or_insert_with(|| format!("column '{}': {}", column.name(), why()));
        }
    }
    reason
}

/// The fields of one record, found again and again in the same memory.
#[derive(Default)]
struct Record {
    text: String,
    fields: Vec<Field>,
    /// Quoted fields that hold quotes, without the doubling.
    unescaped: String,
    /// The last split found the end of its last field.
    closed: bool,
    /// Text stood between a closing quote and the delimiter.
    sloppy: bool,
}

struct Field {
    range: Range<usize>,
    quoted: bool,
    unescaped: bool,
}

impl Field {
    /// Whether this field with this text stands for null.
    fn is_null(&self, text: &str, dialect: &Dialect) -> bool {
        !self.quoted && dialect.null_values.iter().any(|null| null == text)
    }
}

impl Record {
    fn text(&self, field: &Field) -> &str {
        let from = if field.unescaped { &self.unescaped } else { &self.text };
        from.get(field.range.clone()).unwrap_or_default()
    }

    /// Splits a record into its fields; false when its last quote is not closed.
    fn split(&mut self, text: &str, dialect: &Dialect) -> bool {
        self.text.clear();
        self.text.push_str(text);
        self.fields.clear();
        self.unescaped.clear();
        self.sloppy = false;
        let bytes = self.text.as_bytes();
        let mut at = 0;
        loop {
            let end = if bytes.get(at) == Some(&dialect.quote) {
                match quoted(&self.text, at, dialect, &mut self.unescaped) {
                    Some((field, close, end)) => {
                        self.sloppy |= end != close + 1;
                        self.fields.push(field);
                        end
                    }
                    None => {
                        self.closed = false;
                        return false;
                    }
                }
            } else {
                let tail = bytes.get(at..).unwrap_or_default();
                let end = tail
                    .iter()
                    .position(|byte| *byte == dialect.delimiter)
                    .map_or(bytes.len(), |found| at + found);
                self.fields.push(Field { range: at..end, quoted: false, unescaped: false });
                end
            };
            if end >= bytes.len() {
                self.closed = true;
                return true;
            }
            at = end + 1;
        }
    }
}

/// The quoted field that begins at `open`, where its closing quote is, and where the delimiter behind it is. What stands between the closing quote and the
/// delimiter belongs to the field, as most readers have it.
fn quoted(
    text: &str,
    open: usize,
    dialect: &Dialect,
    unescaped: &mut String,
) -> Option<(Field, usize, usize)> {
    let bytes = text.as_bytes();
    let from = unescaped.len();
    let (mut run, mut at) = (open + 1, open + 1);
    let mut plain = true;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == dialect.quote)?;
        if bytes.get(at + 1) != Some(&dialect.quote) {
            break;
        }
        unescaped.push_str(text.get(run..=at)?);
        plain = false;
        at += 2;
        run = at;
    }
    let close = at;
    let tail = bytes.get(close + 1..)?;
    let end = tail
        .iter()
        .position(|byte| *byte == dialect.delimiter)
        .map_or(bytes.len(), |found| close + 1 + found);
    if plain && end == close + 1 {
        return Some((Field { range: open + 1..close, quoted: true, unescaped: false }, close, end));
    }
    unescaped.push_str(text.get(run..close)?);
    unescaped.push_str(text.get(close + 1..end)?);
    Some((Field { range: from..unescaped.len(), quoted: true, unescaped: true }, close, end))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field as ArrowField, Int64Type, Schema};
    use proptest::prelude::*;

    use super::*;

    fn dialect() -> Dialect {
        Dialect { delimiter: b',', quote: b'"', null_values: vec!["".into(), "NA".into()], max_line: 1 << 20 }
    }

    fn parse_text(text: &str, complete: bool) -> Parsed {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, text).unwrap();
        let chunk = Chunk::read(&std::fs::File::open(path).unwrap(), 0, 1 << 16, complete).unwrap();
        let schema = Arc::new(Schema::new(vec![
            ArrowField::new("id", DataType::Int64, true),
            ArrowField::new("name", DataType::Utf8, true),
        ]));
        let layout = Layout::of(&["name".into(), "x".into(), "id".into()], &schema).unwrap();
        parse(&chunk, complete, &schema, &layout, &dialect()).unwrap()
    }

    fn check(text: &str, rows: &[(Option<i64>, Option<&str>)], bad: &[(usize, &str)]) {
        let parsed = parse_text(text, true);
        let ids = parsed.rows.column(0).as_primitive::<Int64Type>();
        let names = parsed.rows.column(1).as_string::<i32>();
        let found: Vec<_> = ids.iter().zip(names.iter()).collect();
        assert_eq!(found, rows, "{text:?}");
        let found: Vec<_> = parsed.bad.iter().map(|(line, reason)| (*line, reason.as_str())).collect();
        assert_eq!(found, bad, "{text:?}");
    }

    #[test]
    fn records() {
        check("a,,1\nb,y,2\n", &[(Some(1), Some("a")), (Some(2), Some("b"))], &[]);
        check("NA,,\n\"\",,NA\n\"NA\",,3", &[(None, None), (None, Some("")), (Some(3), Some("NA"))], &[]);
        check("\"a,\"\"b\"\"\",\"x\",\"1\"\r\n", &[(Some(1), Some("a,\"b\""))], &[]);
        check("5\" pipe,,1\n", &[(Some(1), Some("5\" pipe"))], &[]);
        check("\"a\nb\r\n\",,1\nc,,2\n", &[(Some(1), Some("a\nb\r\n")), (Some(2), Some("c"))], &[]);
        check("\n\na,, 1 \n\n", &[(Some(1), Some("a"))], &[]);
    }

    #[test]
    fn a_bad_record_costs_itself_only() {
        check(
            "a,,1\nb,,x\nc,2\nd,,4\n",
            &[(Some(1), Some("a")), (Some(4), Some("d"))],
            &[(1, "column 'id': 'x' is not a int64"), (2, "the line has 2 fields where 3 are expected")],
        );
        check(
            "\"a,,1\nb,,2\nc,,3\n",
            &[(Some(2), Some("b")), (Some(3), Some("c"))],
            &[(0, "a quote is opened and not closed")],
        );
        // The stray quote finds a partner two lines below, but that is no record of three fields.
        check(
            "\"a,,1\nb,,2\n\"c\",,3\n",
            &[(Some(2), Some("b")), (Some(3), Some("c"))],
            &[(0, "a quote is opened and not closed")],
        );
    }

    #[test]
    fn a_record_that_is_still_open_is_held_back() {
        let parsed = parse_text("a,,1\n\"b\n", false);
        assert_eq!((parsed.rows.num_rows(), parsed.consumed, parsed.bad.len()), (1, 1, 0));
    }

    #[test]
    fn a_header_lacks_columns() {
        let schema = Arc::new(Schema::new(vec![ArrowField::new("id", DataType::Int64, true)]));
        let names = header(b"\xef\xbb\xbf\"a\" , b", &dialect()).unwrap();
        assert_eq!(Layout::of(&names, &schema).unwrap_err(), "its header has no column 'id'; it has a, b");
        let names = ["idx".to_owned(), "b".to_owned()];
        assert_eq!(
            Layout::of(&names, &schema).unwrap_err(),
            "its header has no column 'id'; did you mean 'idx'?"
        );
    }

    #[test]
    fn a_header_has_a_name_twice() {
        let schema = Arc::new(Schema::new(vec![ArrowField::new("id", DataType::Int64, true)]));
        let layout = |names: &[&str]| {
            Layout::of(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &schema)
        };
        let error = layout(&["id", "a", "id"]).unwrap_err();
        assert!(
            error.starts_with("'id' stands twice in its header; give one of the columns another name"),
            "{error}"
        );
        assert_eq!(
            layout(&["a", "id", "a", "", ""]).unwrap().fields,
            [1],
            "columns that are not read may be ambiguous"
        );
    }

    #[test]
    fn a_value_that_would_be_cut_or_rounded_is_bad() {
        for (kind, text, expected) in [
            ("int64", "1.5", Err("'1.5' is not exactly a int64")),
            ("int64", "9223372036854775808", Err("'9223372036854775808' does not fit into a int64")),
            ("int64", "9007199254740993", Ok("9007199254740993")),
            ("decimal(18,2)", "1.239", Err("'1.239' is not exactly a decimal(18,2)")),
            ("decimal(18,2)", "1.2300", Ok("1.23")),
            ("decimal(18,2)", "1e3", Ok("1000.00")),
            ("timestamp", "2020-01-01T00:00:00.1234567Z", Err("declare a finer one, such as timestamp(ns)")),
            ("timestamp", "2020-01-01 02:00:00.1234560+02:00", Ok("2020-01-01T00:00:00.123456Z")),
            ("timestamp", "1577836800", Err("use to_timestamp_seconds() or to_timestamp_millis() in a step")),
            ("time", "10:00:00.1234567", Err("declare a finer one, such as time(ns)")),
            ("time", "36000", Err("36000 is a number, and not a time")),
            ("date", "2020-01-01 10:00:00", Err("it has a time")),
            ("date", "2020-01-01 00:00:00", Ok("2020-01-01")),
            ("float64", "9007199254740993", Err("has more digits than a float64 holds")),
            ("float64", "1e400", Err("'1e400' is too large for a float64")),
            ("float64", "NaN", Ok("NaN")),
            ("float64", "-inf", Ok("-inf")),
            ("float32", "1e39", Err("'1e39' is too large for a float32")),
        ] {
            let data_type = millstream_connect_api::types::parse_type(kind).unwrap();
            let schema = Arc::new(Schema::new(vec![ArrowField::new("a", data_type, true)]));
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("x"), text).unwrap();
            let file = std::fs::File::open(folder.path().join("x")).unwrap();
            let chunk = Chunk::read(&file, 0, 1 << 16, true).unwrap();
            let layout = Layout { width: 1, fields: vec![0] };
            let parsed = parse(&chunk, true, &schema, &layout, &dialect()).unwrap();
            match expected {
                Ok(shown) => {
                    assert_eq!(parsed.bad, vec![], "{kind} {text}");
                    let column = parsed.rows.column(0);
                    assert_eq!(arrow::util::display::array_value_to_string(column, 0).unwrap(), shown);
                }
                Err(reason) => {
                    let found = &parsed.bad[0].1;
                    assert!(
                        found.starts_with("column 'a': ") && found.contains(reason),
                        "{kind} {text}: {found}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_the_csv_crate_writes_reads_back(rows in prop::collection::vec((any::<i64>(), "[a-z\",\n\r ]{0,12}"), 0..20)) {
            let mut writer = csv::WriterBuilder::new().has_headers(false).quote_style(csv::QuoteStyle::NonNumeric).from_writer(Vec::new());
            for (id, name) in &rows {
                writer.write_record([name.as_str(), "", &id.to_string()]).unwrap();
            }
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let parsed = parse_text(&text, true);
            prop_assert_eq!(parsed.bad, vec![]);
            let ids = parsed.rows.column(0).as_primitive::<Int64Type>();
            let names = parsed.rows.column(1).as_string::<i32>();
            prop_assert_eq!(parsed.rows.num_rows(), rows.len());
            for (at, (id, name)) in rows.iter().enumerate() {
                prop_assert_eq!((ids.value(at), names.value(at)), (*id, name.as_str()));
            }
        }
    }
}
