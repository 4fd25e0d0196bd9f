//! What a connector gets: every key that it defined, checked and typed.

use std::time::Duration;

use arrow::datatypes::DataType;
use indexmap::IndexMap;

use super::Span;

/// The checked values of a [`super::ConfigDef`].
///
/// The getters that return a plain value panic when the definition neither requires the key nor gives it a default, or
/// gives it another type: that is a mistake of the connector, not of its user. Their `_opt` twins return `None` for a key
/// that the user left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub(super) settings: IndexMap<String, Setting, rustc_hash::FxBuildHasher>,
    pub(super) span: Option<Span>,
}

/// One checked value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value.
    pub value: SettingValue,
    /// Where it stands in the text; none for a default.
    pub span: Option<Span>,
}

/// What a [`Setting`] holds; one variant for each [`super::Type`].
#[derive(Clone, PartialEq)]
pub enum SettingValue {
    /// Text, or one of the words of a choice.
    String(String),
    /// Text that is never shown.
    Secret(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A size in bytes.
    Size(u64),
    /// A duration.
    Duration(Duration),
    /// A type of a column.
    DataType(DataType),
    /// A list.
    List(Vec<Setting>),
    /// Values by names that the user chose, in the order of the text.
    Map(IndexMap<String, Setting, rustc_hash::FxBuildHasher>),
    /// A nested table.
    Table(Config),
}

impl std::fmt::Debug for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::String(text) => text.fmt(f),
            Self::Secret(_) => f.write_str("***"),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::Size(bytes) => f.write_str(&super::format_size(*bytes)),
            Self::Duration(duration) => f.write_str(&super::format_duration(*duration)),
            Self::DataType(data_type) => f.write_str(&crate::types::type_name(data_type)),
            Self::List(items) => items.fmt(f),
            Self::Map(map) => map.fmt(f),
            Self::Table(config) => config.fmt(f),
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $opt:ident: $out:ty, $pattern:pat => $value:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Panics
        /// When the connector's definition does not promise it.
        pub fn $name(&self, key: &str) -> $out {
            self.$opt(key).unwrap_or_else(|| panic!("the definition neither requires '{key}' nor gives it a default"))
        }

        $(#[$doc])*
        /// `None` when it was left out.
        ///
        /// # Panics
        /// When the connector's definition gives the key another type.
        pub fn $opt(&self, key: &str) -> Option<$out> {
            match &self.settings.get(key)?.value {
                $pattern => Some($value),
                other => panic!("the definition gives '{key}' another type: it is {other:?}"),
            }
        }
    )*};
}

impl Config {
    getters! {
        /// The text of `key`.
        str, str_opt: &str, SettingValue::String(text) | SettingValue::Secret(text) => text.as_str();
        /// The whole number of `key`.
        integer, integer_opt: i64, SettingValue::Integer(number) => *number;
        /// The number of `key`.
        float, float_opt: f64, SettingValue::Float(number) => *number;
        /// Whether `key` is true.
        boolean, boolean_opt: bool, SettingValue::Boolean(value) => *value;
        /// The size of `key` in bytes.
        size, size_opt: u64, SettingValue::Size(bytes) => *bytes;
        /// The duration of `key`.
        duration, duration_opt: Duration, SettingValue::Duration(duration) => *duration;
        /// The items of `key`.
        list, list_opt: &[Setting], SettingValue::List(items) => items.as_slice();
        /// The nested table of `key`.
        table, table_opt: &Config, SettingValue::Table(config) => config;
        /// The entries of `key`, by names that the user chose.
        map, map_opt: &IndexMap<String, Setting, rustc_hash::FxBuildHasher>, SettingValue::Map(map) => map;
    }

    /// The texts of a list of strings; empty when it was left out.
    pub fn strings(&self, key: &str) -> Vec<&str> {
        let items = self.list_opt(key).unwrap_or_default();
        items.iter().filter_map(|item| item.value.as_str()).collect()
    }

    /// Whether `key` was given or has a default.
    pub fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    /// Where the value of `key` stands; the whole table when it was left out.
    pub fn span(&self, key: &str) -> Option<Span> {
        self.settings.get(key).and_then(|setting| setting.span).or(self.span)
    }
}

impl SettingValue {
    /// The text of a string or a secret.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Secret(text) => Some(text),
            _ => None,
        }
    }

    /// The type of a column.
    pub fn as_data_type(&self) -> Option<&DataType> {
        match self {
            Self::DataType(data_type) => Some(data_type),
            _ => None,
        }
    }
}
