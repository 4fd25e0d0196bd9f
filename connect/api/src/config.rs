//! Configuration: a tree of values with spans, what a connector accepts, and what it gets.
//!
//! Text becomes a [`Table`] once ([`parse_toml`]); references to the environment and to secrets are resolved in the tree,
//! never in the text ([`resolve_references`]); a [`ConfigDef`] turns the tree into a [`Config`] or into all of its
//! [`Problem`]s, each with the span it is about.

mod def;
mod settings;
mod text;
mod units;
mod value;

pub use def::{ConfigDef, Key, KeyCheck, Type, suggest};
pub use settings::{Config, Setting, SettingValue};
pub use text::{Reference, line_column, parse_toml, resolve_references};
pub use units::{format_duration, format_size, parse_duration, parse_size};
pub use value::{Entry, Span, Table, Value, ValueKind};

/// Something wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The bytes of the text that it is about; none when it is about something that is not in the text.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at `span`.
    pub fn at(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self { span: span.into(), message: message.into(), help: None }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
