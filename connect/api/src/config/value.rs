//! The neutral tree that any text format becomes.

use indexmap::IndexMap;

/// A range of bytes in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Byte after the last one.
    pub end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What it is.
    pub kind: ValueKind,
    /// Where it stands.
    pub span: Span,
}

/// What a [`Value`] is.
#[derive(Clone, PartialEq)]
pub enum ValueKind {
    /// Text.
    String(String),
    /// Text from a secret: shown as `***`.
    Secret(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A date, a time or both, as text.
    Datetime(String),
    /// A list.
    Array(Vec<Value>),
    /// Values by name.
    Table(Table),
}

impl std::fmt::Debug for ValueKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::String(text) => text.fmt(f),
            Self::Secret(_) => f.write_str("***"),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::Datetime(text) => f.write_str(text),
            Self::Array(items) => items.fmt(f),
            Self::Table(table) => table.fmt(f),
        }
    }
}

impl ValueKind {
    /// The word for this kind in messages.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::String(_) | Self::Secret(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date or time",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }

    /// The text of a string or a secret.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Secret(text) => Some(text),
            _ => None,
        }
    }
}

/// Values by name, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The entries.
    pub entries: IndexMap<String, Entry, rustc_hash::FxBuildHasher>,
}

/// One `name = value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the name stands.
    pub key_span: Span,
    /// The value.
    pub value: Value,
}

impl Table {
    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries.get(name).map(|entry| &entry.value)
    }

    /// Takes the value called `name` out; the order of the others stays.
    pub fn take(&mut self, name: &str) -> Option<Entry> {
        self.entries.shift_remove(name)
    }

    /// Adds or replaces a value.
    pub fn insert(&mut self, name: impl Into<String>, key_span: Span, value: Value) {
        self.entries.insert(name.into(), Entry { key_span, value });
    }
}
