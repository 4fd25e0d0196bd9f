//! Standard output.

use std::fmt::Display;
use std::io::Write;

/// Writes a line of results. A reader that has gone away (`| head`) ends the command quietly, as it does for other tools.
pub(crate) fn line(text: impl Display) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}") {
        end(&error);
    }
}

/// Writes bytes of results and ends the line.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.write_all(b"\n")) {
        end(&error);
    }
}

/// Ends the command where its results cannot be written.
fn end(error: &std::io::Error) -> ! {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    note(format_args!("error: writing to standard output: {error}"));
    std::process::exit(1);
}

/// Writes a line for the person who looks on, not a part of the results.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}"); // nobody is looking
}
