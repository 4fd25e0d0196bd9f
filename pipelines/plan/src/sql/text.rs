//! Where SQL stands in a TOML file.

use std::ops::Range;

use datafusion_common::{Location as PlanLocation, Span as PlanSpan};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};

/// The SQL of one step, with the way back from its lines and columns to bytes of the TOML file.
#[derive(Clone, Debug)]
pub struct SqlText {
    sql: String,
    /// The whole TOML value, quotes included.
    value: Range<usize>,
    /// Where the SQL begins in the file, when it stands there character by character (no escapes).
    begins: Option<usize>,
}

impl SqlText {
    /// The SQL that a TOML string at `value` of `file` holds.
    pub fn new(sql: impl Into<String>, file: &str, value: Range<usize>) -> Self {
        let sql = sql.into();
        let raw = file.get(value.clone()).unwrap_or_default();
        let quotes = if raw.starts_with("'''") || raw.starts_with("\"\"\"") { 3 } else { 1 };
        // TOML drops a newline right behind the opening quotes.
        let skip = [quotes, quotes + 1, quotes + 2].into_iter().find(|skip| {
            raw.get(*skip..).is_some_and(|rest| rest.strip_suffix(&raw[..quotes]) == Some(&*sql))
        });
        Self { begins: skip.map(|skip| value.start + skip), sql, value }
    }

    /// The SQL.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The whole value in the file.
    #[must_use]
    pub fn whole(&self) -> Range<usize> {
        self.value.clone()
    }

    /// The bytes of the file that a span of the parser is about; the whole value when it has none.
    #[must_use]
    pub fn span(&self, span: Span) -> Range<usize> {
        self.between(span.start, span.end)
    }

    /// The bytes of the file that a span of the planner is about.
    #[must_use]
    pub fn plan_span(&self, span: PlanSpan) -> Range<usize> {
        let location = |at: PlanLocation| Location { line: at.line, column: at.column };
        self.between(location(span.start), location(span.end))
    }

    /// The character at a place of the parser.
    #[must_use]
    pub fn at(&self, line: u64, column: u64) -> Range<usize> {
        self.between(Location { line, column }, Location { line, column: column + 1 })
    }

    /// The last character.
    #[must_use]
    pub fn end(&self) -> Range<usize> {
        let (sql, last) = (self.sql.trim_end(), self.sql.trim_end().chars().next_back());
        match (self.begins, last) {
            (Some(begins), Some(last)) => begins + sql.len() - last.len_utf8()..begins + sql.len(),
            _ => self.value.clone(),
        }
    }

    fn between(&self, start: Location, end: Location) -> Range<usize> {
        match (self.begins, self.offset(start), self.offset(end)) {
            (Some(begins), Some(start), Some(end)) if start <= end => begins + start..begins + end,
            _ => self.value.clone(),
        }
    }

    /// Bytes before a location, whose line and column count from 1; (0, 0) is no location.
    fn offset(&self, at: Location) -> Option<usize> {
        let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
        let mut start = 0;
        for _ in 0..line {
            start += self.sql[start..].find('\n')? + 1;
        }
        let rest = &self.sql[start..];
        let in_line = rest.char_indices().nth(column).map_or(rest.len(), |(byte, _)| byte);
        Some(start + in_line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of `file` that the SQL's `line` and `column` (and the two characters behind) are mapped to.
    fn check(file: &str, sql: &str, (line, column): (u64, u64), expected: &str) {
        let start = file.find(['\'', '"']).unwrap();
        let text = SqlText::new(sql, file, start..file.len());
        let span = Span::new(Location { line, column }, Location { line, column: column + 2 });
        assert_eq!(&file[text.span(span)], expected, "{file}");
    }

    #[test]
    fn spans_map_into_every_kind_of_string() {
        check("sql = 'SELECT ab'", "SELECT ab", (1, 8), "ab");
        check("sql = '''SELECT ab'''", "SELECT ab", (1, 8), "ab");
        check("sql = '''\nSELECT\n  äb, cd'''", "SELECT\n  äb, cd", (2, 3), "äb");
        check("sql = '''\nSELECT\n  äb, cd'''", "SELECT\n  äb, cd", (2, 7), "cd");
        check("sql = \"\"\"\nSELECT ab\"\"\"", "SELECT ab", (1, 8), "ab");
    }

    #[test]
    fn what_cannot_be_mapped_is_the_whole_value() {
        check(r#"sql = "SELECT \"ab\"""#, "SELECT \"ab\"", (1, 8), r#""SELECT \"ab\"""#);
        check("sql = 'SELECT ab'", "SELECT ab", (0, 0), "'SELECT ab'");
    }
}
