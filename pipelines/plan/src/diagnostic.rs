//! What is wrong with a pipeline file: every mistake, each with the place it is at and how to mend it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{LabeledSpan, NamedSource, SourceCode};
use millstream_connect_api::Problem;
use millstream_connect_api::config::line_column;

/// One mistake in a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Short stable name of the kind of mistake, for searching: `unknown-key`, `sql-refused`.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Bytes of the file that it is about.
    pub span: Range<usize>,
    /// How to mend it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake at `span`.
    pub fn new(code: &'static str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), span, help: None }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A problem that connect's configuration found; one without a place is about `table`.
    pub fn from_problem(code: &'static str, problem: Problem, table: &Range<usize>) -> Self {
        let span = problem.span.map_or_else(|| table.clone(), |span| span.start..span.end);
        Self { code, message: problem.message, span, help: problem.help }
    }

    /// Adds how to mend it, if that is known.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = LabeledSpan::new(None, self.span.start, self.span.len());
        Some(Box::new(std::iter::once(span)))
    }
}

/// All mistakes of one file, in the order of the file.
///
/// `Display` writes one line for each, `file:line:column: message`, and its help below; miette draws them on the source.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    file: String,
    source: NamedSource<Arc<String>>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Mistakes of the file named `file` with this text; at least one.
    pub fn new(file: impl Into<String>, text: impl Into<String>, mut list: Vec<Diagnostic>) -> Self {
        debug_assert!(!list.is_empty(), "a refusal gives a reason");
        list.sort_by(|a, b| (a.span.start, a.span.end, a.code).cmp(&(b.span.start, b.span.end, b.code)));
        list.dedup();
        let file = file.into();
        let source = NamedSource::new(&file, Arc::new(text.into())).with_language("toml");
        Self { file, source, list }
    }

    /// The mistakes, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Number of mistakes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Never: a refusal gives a reason.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let (line, column) = line_column(self.source.inner(), diagnostic.span.start);
            write!(f, "{}:{line}:{column}: {}", self.file, diagnostic.message)?;
            if let Some(help) = &diagnostic.help {
                write!(f, "\n  help: {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl miette::Diagnostic for Diagnostics {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.list.iter().map(|diagnostic| diagnostic as &dyn miette::Diagnostic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_listed_in_the_order_of_the_file() {
        let list = vec![
            Diagnostic::new("b", 5..6, "second"),
            Diagnostic::new("a", 0..1, "first").help("mend it"),
            Diagnostic::new("b", 5..6, "second"),
        ];
        let diagnostics = Diagnostics::new("p.toml", "a = 1\nb = 2", list);
        assert_eq!(diagnostics.to_string(), "p.toml:1:1: first\n  help: mend it\np.toml:1:6: second");
    }
}
