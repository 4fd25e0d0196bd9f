//! CSV as our own source reads it back: a null is nothing, and an empty text is a pair of quotes.

use std::fmt::Write as _;
use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Writes rows as lines.
pub(super) struct CsvWriter<W> {
    out: W,
    /// The names of the columns are still to be written.
    header: bool,
    line: String,
}

impl<W: Write> CsvWriter<W> {
    pub(super) fn new(out: W, header: bool) -> Self {
        Self { out, header, line: String::new() }
    }

    /// What the lines go to.
    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        if self.header {
            self.header = false;
            let schema = rows.schema();
            for field in schema.fields() {
                self.field(Some(field.name()));
            }
            self.end_line()?;
        }
        let options = FormatOptions::default();
        let formatters = rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let formatters = formatters.collect::<Result<Vec<_>, _>>()?;
        let mut text = String::new();
        for row in 0..rows.num_rows() {
            for (formatter, column) in formatters.iter().zip(rows.columns()) {
                if column.is_null(row) {
                    self.field(None);
                    continue;
                }
                text.clear();
                formatter.value(row).write(&mut text)?;
                self.field(Some(&text));
            }
            self.end_line()?;
        }
        Ok(())
    }

    /// Adds a field with the delimiter behind it.
    fn field(&mut self, text: Option<&str>) {
        match text {
            None => self.line.push(','),
            Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r']) => {
                write!(self.line, "\"{}\",", text.replace('"', "\"\"")).expect("a string takes any text");
            }
            Some(text) => {
                self.line.push_str(text);
                self.line.push(',');
            }
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.line.pop(); // the delimiter behind the last field
        if self.line.is_empty() {
            self.line.push_str("\"\""); // a null alone: an empty line would be no row at all
        }
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())?;
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    fn written(columns: Vec<(&str, ArrayRef)>) -> String {
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let mut writer = CsvWriter::new(Vec::new(), true);
        writer.write(&rows).unwrap();
        writer.write(&rows.slice(0, 0)).unwrap();
        String::from_utf8(std::mem::take(writer.out())).unwrap()
    }

    #[test]
    fn an_empty_text_is_not_null() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None, Some("a,\"b\"\n"), Some("x")]));
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::NAN), None, Some(1.0), None]));
        assert_eq!(
            written(vec![("a", Arc::clone(&texts)), ("b,", floats), ("c", Arc::clone(&texts))]),
            "a,\"b,\",c\n\"\",NaN,\"\"\n,,\n\"a,\"\"b\"\"\n\",1.0,\"a,\"\"b\"\"\n\"\nx,,x\n"
        );
        assert_eq!(written(vec![("a", texts)]), "a\n\"\"\n\"\"\n\"a,\"\"b\"\"\n\"\nx\n");
    }

    proptest! {
        #[test]
        fn another_reader_reads_the_same(rows in prop::collection::vec(("[a-z\",\n\r ]{0,6}", any::<Option<i64>>()), 1..10)) {
            let texts = rows.iter().map(|row| Some(row.0.as_str())).collect::<StringArray>();
            let numbers = rows.iter().map(|row| row.1).collect::<Int64Array>();
            let text = written(vec![("a", Arc::new(texts)), ("b", Arc::new(numbers))]);
            let read: Vec<_> = csv::Reader::from_reader(text.as_bytes()).into_records().map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), rows.len());
            for (record, (text, number)) in read.iter().zip(&rows) {
                prop_assert_eq!(&record[0], text);
                prop_assert_eq!(&record[1], number.map(|number| number.to_string()).unwrap_or_default());
            }
        }
    }
}
