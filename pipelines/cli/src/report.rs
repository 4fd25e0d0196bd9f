//! Errors on standard error: mistakes in a file are drawn on it.

use std::io::{IsTerminal, Write};

use miette::{GraphicalReportHandler, GraphicalTheme};
use millstream_plan::Diagnostics;

/// Writes `error`. Without a terminal each mistake is a line, `file:line:column: message`.
pub(crate) fn error(error: &anyhow::Error) {
    let terminal = std::io::stderr().is_terminal();
    let text = match error.downcast_ref::<Diagnostics>() {
        Some(diagnostics) if terminal => drawn(diagnostics),
        Some(diagnostics) => diagnostics.to_string(),
        None => format!("error: {}", chain(error)),
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}"); // there is no other place to say it
}

/// The error and its causes, each said once: some errors tell their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

fn drawn(diagnostics: &Diagnostics) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode());
    let mut text = String::new();
    for diagnostic in diagnostics.iter() {
        let placed = Placed { diagnostic, all: diagnostics };
        if handler.render_report(&mut text, &placed).is_err() {
            return diagnostics.to_string();
        }
    }
    text
}

/// One mistake with the text of the file that it is in.
#[derive(Debug)]
struct Placed<'a> {
    diagnostic: &'a millstream_plan::Diagnostic,
    all: &'a Diagnostics,
}

impl std::fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.diagnostic.fmt(f)
    }
}

impl std::error::Error for Placed<'_> {}

impl miette::Diagnostic for Placed<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.diagnostic.code()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.diagnostic.help()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        self.diagnostic.labels()
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.all.source_code()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("disk full").context("writing a: disk full").context("sink 'files'");
        assert_eq!(chain(&error), "sink 'files': writing a: disk full");
    }
}
