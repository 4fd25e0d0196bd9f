//! What a connector accepts.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::settings::{Config, Setting, SettingValue};
use super::units::{parse_duration, parse_size};
use super::{Problem, Span, Table, Value, ValueKind};
use crate::types::parse_type;

/// The keys of a table, with their types, defaults and docs.
#[derive(Clone, Debug, Default)]
pub struct ConfigDef {
    keys: IndexMap<String, Key, rustc_hash::FxBuildHasher>,
    /// What relative paths are relative to; the process's own folder when `None`.
    base: Option<PathBuf>,
    /// Checks that look at several keys.
    checks: Vec<fn(&Config) -> Vec<Problem>>,
}

/// A check of one value: what is wrong with it and what would be right.
pub type KeyCheck = fn(&Setting) -> Result<(), String>;

/// One key of a [`ConfigDef`].
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What its value is.
    pub kind: Type,
    /// Whether it must be given.
    pub required: bool,
    /// The default, as it would be written.
    pub default: Option<ValueKind>,
    /// What it does, for `--help`, generated docs and editors.
    pub doc: String,
    check: Option<KeyCheck>,
}

/// The type of a value.
#[derive(Clone, Debug)]
pub enum Type {
    /// Text.
    String,
    /// A path, or a pattern of paths; a relative one is taken from [`ConfigDef::relative_to`].
    Path,
    /// A whole number between both bounds, inclusive.
    Integer {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// A number.
    Float,
    /// `true` or `false`.
    Boolean,
    /// A size, such as `"256MiB"`.
    Size,
    /// A duration, such as `"5m"`.
    Duration,
    /// One of these words.
    OneOf(Vec<String>),
    /// The name of a column type, such as `"int64"`.
    ColumnType,
    /// A list; a single value stands for a list of one.
    List(Box<Type>),
    /// Names that the user chooses, each with a value.
    Map(Box<Type>),
    /// A nested table, mostly written inline.
    Table(Box<ConfigDef>),
}

impl Key {
    /// A key called `name`.
    pub fn new(name: impl Into<String>, kind: Type) -> Self {
        let name = name.into();
        Self { name, kind, required: false, default: None, doc: String::new(), check: None }
    }

    /// A key that takes text.
    pub fn string(name: impl Into<String>) -> Self {
        Self::new(name, Type::String)
    }

    /// A key that takes a path.
    pub fn path(name: impl Into<String>) -> Self {
        Self::new(name, Type::Path)
    }

    /// A key that takes a list of paths or patterns of paths, or one.
    pub fn path_list(name: impl Into<String>) -> Self {
        Self::new(name, Type::List(Box::new(Type::Path)))
    }

    /// A key that takes a whole number in `min..=max`.
    pub fn integer(name: impl Into<String>, min: i64, max: i64) -> Self {
        Self::new(name, Type::Integer { min, max })
    }

    /// A key that takes true or false.
    pub fn boolean(name: impl Into<String>) -> Self {
        Self::new(name, Type::Boolean)
    }

    /// A key that takes a size.
    pub fn size(name: impl Into<String>) -> Self {
        Self::new(name, Type::Size)
    }

    /// A key that takes a duration.
    pub fn duration(name: impl Into<String>) -> Self {
        Self::new(name, Type::Duration)
    }

    /// A key that takes one of `words`.
    pub fn one_of(name: impl Into<String>, words: &[&str]) -> Self {
        Self::new(name, Type::OneOf(words.iter().map(|word| (*word).to_owned()).collect()))
    }

    /// A key that takes a list of texts, or one text.
    pub fn strings(name: impl Into<String>) -> Self {
        Self::new(name, Type::List(Box::new(Type::String)))
    }

    /// A key that takes a nested table.
    pub fn table(name: impl Into<String>, def: ConfigDef) -> Self {
        Self::new(name, Type::Table(Box::new(def)))
    }

    /// The key must be given.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The value when it is left out, as text would be written (`"5m"` for a duration).
    #[must_use]
    pub fn default_str(mut self, text: &str) -> Self {
        self.default = Some(ValueKind::String(text.to_owned()));
        self
    }

    /// The value when it is left out.
    #[must_use]
    pub fn default(mut self, value: ValueKind) -> Self {
        self.default = Some(value);
        self
    }

    /// What the key does.
    #[must_use]
    pub fn doc(mut self, doc: &str) -> Self {
        doc.clone_into(&mut self.doc);
        self
    }

    /// A check beyond the type. It says what is wrong and what would be right.
    #[must_use]
    pub fn check(mut self, check: KeyCheck) -> Self {
        self.check = Some(check);
        self
    }
}

impl ConfigDef {
    /// A definition without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    #[must_use]
    pub fn key(mut self, key: Key) -> Self {
        self.keys.insert(key.name.clone(), key);
        self
    }

    /// Adds a check that looks at several keys. It runs when each key by itself is right.
    #[must_use]
    pub fn check(mut self, check: fn(&Config) -> Vec<Problem>) -> Self {
        self.checks.push(check);
        self
    }

    /// Adds the keys and checks of `other`.
    #[must_use]
    pub fn with(mut self, other: ConfigDef) -> Self {
        self.keys.extend(other.keys);
        self.checks.extend(other.checks);
        self
    }

    /// Takes relative paths from `base`: the folder of the file that the configuration stands in.
    #[must_use]
    pub fn relative_to(mut self, base: impl Into<PathBuf>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// The keys, in the order they were added.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values()
    }

    /// Checks `table` (which stands at `span`) and types its values.
    ///
    /// # Errors
    /// Everything that is wrong, at once: unknown keys with a suggestion, missing keys, wrong types and values.
    pub fn resolve(&self, table: &Table, span: Option<Span>) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        for (name, entry) in &table.entries {
            if !self.keys.contains_key(name) {
                problems.push(self.unknown(name, entry.key_span));
            }
        }
        let mut config = Config { settings: IndexMap::default(), span };
        for key in self.keys.values() {
            match key.resolve(table.get(&key.name), span, self.base.as_deref()) {
                Ok(Some(setting)) => {
                    config.settings.insert(key.name.clone(), setting);
                }
                Ok(None) => {}
                Err(mut found) => problems.append(&mut found),
            }
        }
        if problems.is_empty() {
            problems.extend(self.checks.iter().flat_map(|check| check(&config)));
        }
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    fn unknown(&self, name: &str, span: Span) -> Problem {
        let problem = Problem::at(span, format!("unknown key '{name}'"));
        match suggest(name, self.keys.keys().map(String::as_str)) {
            Some(near) => problem.help(format!("did you mean '{near}'?")),
            None => {
                let names: Vec<_> = self.keys.keys().map(String::as_str).collect();
                problem.help(format!("keys here are {}", names.join(", ")))
            }
        }
    }
}

impl Key {
    fn resolve(
        &self,
        given: Option<&Value>,
        table: Option<Span>,
        base: Option<&Path>,
    ) -> Result<Option<Setting>, Vec<Problem>> {
        let Some(value) = given else {
            if self.required {
                let problem = Problem::at(table, format!("'{}' is missing", self.name));
                return Err(vec![if self.doc.is_empty() { problem } else { problem.help(self.doc.clone()) }]);
            }
            let Some(default) = &self.default else { return Ok(None) };
            let value = Value { kind: default.clone(), span: Span::default() };
            let mut setting = convert(&self.name, &self.kind, &value, base)?;
            setting.span = None;
            return Ok(Some(setting));
        };
        let setting = convert(&self.name, &self.kind, value, base)?;
        if let Some(Err(reason)) = self.check.map(|check| check(&setting)) {
            return Err(vec![Problem::at(value.span, format!("'{}': {reason}", self.name))]);
        }
        Ok(Some(setting))
    }
}

fn convert(name: &str, kind: &Type, value: &Value, base: Option<&Path>) -> Result<Setting, Vec<Problem>> {
    let span = value.span;
    let wrong = |reason: String| vec![Problem::at(span, format!("'{name}': {reason}"))];
    let typed = match (kind, &value.kind) {
        (Type::String, ValueKind::String(text)) => SettingValue::String(text.clone()),
        (Type::Path, ValueKind::String(text)) => {
            let path = base.map(|base| base.join(text).to_string_lossy().into_owned());
            SettingValue::String(path.unwrap_or_else(|| text.clone()))
        }
        (Type::String, ValueKind::Secret(text)) => SettingValue::Secret(text.clone()),
        (Type::Integer { min, max }, ValueKind::Integer(number)) => {
            if number < min || number > max {
                return Err(wrong(format!("{number} is not between {min} and {max}")));
            }
            SettingValue::Integer(*number)
        }
        // What came from the environment is text.
        (Type::Integer { .. }, ValueKind::String(text)) if text.parse::<i64>().is_ok() => {
            let number = text.parse().expect("the guard has read it");
            return convert(name, kind, &Value { kind: ValueKind::Integer(number), span }, base);
        }
        (Type::Float, ValueKind::Float(number)) => SettingValue::Float(*number),
        (Type::Float, ValueKind::Integer(number)) => SettingValue::Float(*number as f64),
        (Type::Boolean, ValueKind::Boolean(value)) => SettingValue::Boolean(*value),
        (Type::Boolean, ValueKind::String(text)) if text == "true" || text == "false" => {
            SettingValue::Boolean(text == "true")
        }
        (Type::Size, ValueKind::String(text)) => SettingValue::Size(parse_size(text).map_err(wrong)?),
        (Type::Duration, ValueKind::String(text)) => {
            SettingValue::Duration(parse_duration(text).map_err(wrong)?)
        }
        (Type::ColumnType, ValueKind::String(text)) => {
            SettingValue::DataType(parse_type(text).map_err(wrong)?)
        }
        (Type::OneOf(words), ValueKind::String(text)) => {
            if !words.contains(text) {
                return Err(vec![not_one_of(name, words, text, span)]);
            }
            SettingValue::String(text.clone())
        }
        (Type::List(item), ValueKind::Array(values)) => {
            SettingValue::List(all(values.iter().map(|v| convert(name, item, v, base)))?)
        }
        (Type::List(item), _) => SettingValue::List(vec![convert(name, item, value, base)?]),
        (Type::Map(item), ValueKind::Table(table)) => {
            let entries = table.entries.iter();
            let pairs = entries.map(|(key, entry)| {
                Ok((key.clone(), convert(&format!("{name}.{key}"), item, &entry.value, base)?))
            });
            SettingValue::Map(all(pairs)?.into_iter().collect())
        }
        (Type::Table(def), ValueKind::Table(table)) => {
            let inherited = || def.as_ref().clone().relative_to(base.unwrap_or(Path::new("")));
            SettingValue::Table(inherited().resolve(table, Some(span))?)
        }
        (kind, other) => return Err(wrong(format!("{} was expected, this is {}", noun(kind), other.noun()))),
    };
    Ok(Setting { value: typed, span: Some(span) })
}

/// All values, or all problems.
fn all<T>(items: impl Iterator<Item = Result<T, Vec<Problem>>>) -> Result<Vec<T>, Vec<Problem>> {
    let (mut good, mut problems) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Ok(value) => good.push(value),
            Err(mut found) => problems.append(&mut found),
        }
    }
    if problems.is_empty() { Ok(good) } else { Err(problems) }
}

fn not_one_of(name: &str, words: &[String], text: &str, span: Span) -> Problem {
    let problem = Problem::at(span, format!("'{name}': '{text}' is not one of {}", words.join(", ")));
    match suggest(text, words.iter().map(String::as_str)) {
        Some(near) => problem.help(format!("did you mean '{near}'?")),
        None => problem,
    }
}

fn noun(kind: &Type) -> &'static str {
    match kind {
        Type::String | Type::OneOf(_) => "a string",
        Type::Path => "a path",
        Type::Integer { .. } => "an integer",
        Type::Float => "a number",
        Type::Boolean => "a boolean",
        Type::Size => "a size such as \"256MiB\"",
        Type::Duration => "a duration such as \"5m\"",
        Type::ColumnType => "a column type such as \"int64\"",
        Type::List(_) => "an array",
        Type::Map(_) | Type::Table(_) => "a table",
    }
}

/// The name nearest to `wrong`, when one is near enough to be meant.
pub fn suggest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &&str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let best = names.into_iter().min_by_key(near)?;
    // A third of the letters may be wrong, and one at least.
    (near(&best) <= (wrong.chars().count() / 3).max(1)).then_some(best)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::parse_toml;

    fn def() -> ConfigDef {
        ConfigDef::new()
            .key(Key::strings("include").required().doc("Files to read."))
            .key(Key::one_of("format", &["json", "csv"]).default_str("json"))
            .key(Key::integer("batch_rows", 1, 100).default(ValueKind::Integer(10)))
            .key(Key::new("columns", Type::Map(Box::new(Type::ColumnType))))
            .key(Key::table(
                "roll",
                ConfigDef::new().key(Key::size("size").default_str("256MiB")).key(Key::duration("age")),
            ))
            .key(Key::string("path").check(|setting| match setting.value.as_str() {
                Some(path) if path.contains("..") => Err("'..' is not allowed".into()),
                _ => Ok(()),
            }))
            .check(|config| match (config.str("format"), config.has("columns")) {
                ("csv", false) => vec![Problem::at(config.span("format"), "csv needs columns")],
                _ => vec![],
            })
    }

    fn resolve(text: &str) -> Result<Config, Vec<Problem>> {
        def().resolve(&parse_toml(text).unwrap(), None)
    }

    #[test]
    fn values_are_typed_and_defaults_filled_in() {
        let config = resolve(
            "include = 'a'\nroll = { age = '5m' }\ncolumns = { b = 'string', a = 'int64' }\nbatch_rows = 7",
        )
        .unwrap();
        assert_eq!(config.strings("include"), ["a"]);
        assert_eq!((config.str("format"), config.integer("batch_rows")), ("json", 7));
        assert_eq!(config.table("roll").size("size"), 256 << 20);
        assert_eq!(config.table("roll").duration_opt("age"), Some(Duration::from_secs(300)));
        assert_eq!(config.map("columns").keys().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(config.str_opt("path"), None);
    }

    #[test]
    fn every_mistake_is_found_at_once_where_it_stands() {
        let text = "inclde = ['a']\nformat = 'jsn'\nbatch_rows = 1000\nroll = { size = 5, agee = '1m' }\ncolumns = { a = 'strin' }\npath = '../x'";
        let problems = resolve(text).unwrap_err();
        let found: Vec<_> = problems
            .iter()
            .map(|p| (p.span.map_or("", |s| &text[s.start..s.end]), p.message.as_str(), p.help.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                ("inclde", "unknown key 'inclde'", Some("did you mean 'include'?")),
                ("", "'include' is missing", Some("Files to read.")),
                ("'jsn'", "'format': 'jsn' is not one of json, csv", Some("did you mean 'json'?")),
                ("1000", "'batch_rows': 1000 is not between 1 and 100", None),
                ("'strin'", "'columns.a': unknown type 'strin'; did you mean 'string'?", None),
                ("agee", "unknown key 'agee'", Some("did you mean 'age'?")),
                ("5", "'size': a size such as \"256MiB\" was expected, this is an integer", None),
                ("'../x'", "'path': '..' is not allowed", None),
            ]
        );
        assert_eq!(resolve("include = 'a'\nformat = 'csv'").unwrap_err()[0].message, "csv needs columns");
    }
}
