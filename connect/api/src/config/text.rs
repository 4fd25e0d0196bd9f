//! TOML to tree, and the references in it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Problem, Span, Table, Value, ValueKind};

/// Reads TOML. All syntax errors are found at once.
///
/// # Errors
/// The syntax errors, with their spans.
pub fn parse_toml(text: &str) -> Result<Table, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| Problem::at(error.span().map(Span::from), error.message().to_owned()))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let table = table(root.get_ref(), &mut problems);
    if problems.is_empty() { Ok(table) } else { Err(problems) }
}

fn table(from: &DeTable<'_>, problems: &mut Vec<Problem>) -> Table {
    // The parser sorts by name; the order of the text is in the spans.
    let mut entries: Vec<_> = from.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut table = Table::default();
    for (key, entry) in entries {
        table.insert(key.get_ref().as_ref(), key.span().into(), value(entry, problems));
    }
    table
}

fn value(from: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Value {
    let span: Span = from.span().into();
    let kind = match from.get_ref() {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => ValueKind::Integer(number),
            Err(_) => {
                problems.push(Problem::at(span, "this number does not fit in 64 bits"));
                ValueKind::Integer(0)
            }
        },
        DeValue::Float(digits) => match digits.as_str().parse() {
            Ok(number) => ValueKind::Float(number),
            Err(_) => {
                problems.push(Problem::at(span, "this is not a number"));
                ValueKind::Float(0.0)
            }
        },
        DeValue::Boolean(value) => ValueKind::Boolean(*value),
        DeValue::Datetime(value) => ValueKind::Datetime(value.to_string()),
        DeValue::Array(items) => ValueKind::Array(items.iter().map(|item| value(item, problems)).collect()),
        DeValue::Table(entries) => ValueKind::Table(table(entries, problems)),
    };
    Value { kind, span }
}

/// What `{ env = "X" }` and `{ secret = "x" }` refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A variable of the environment.
    Env(String),
    /// A secret by name.
    Secret(String),
}

/// Replaces every `{ env = "X" }`, `{ env = "X", default = .. }` and `{ secret = "x" }` below `table` by what `lookup` finds. This
/// happens in the tree, after parsing, so that a value can never become syntax.
pub fn resolve_references(
    table: &mut Table,
    lookup: &dyn Fn(&Reference) -> Result<Option<String>, String>,
    problems: &mut Vec<Problem>,
) {
    for entry in table.entries.values_mut() {
        resolve_value(&mut entry.value, lookup, problems);
    }
}

fn resolve_value(
    value: &mut Value,
    lookup: &dyn Fn(&Reference) -> Result<Option<String>, String>,
    problems: &mut Vec<Problem>,
) {
    match &mut value.kind {
        ValueKind::Array(items) => items.iter_mut().for_each(|item| resolve_value(item, lookup, problems)),
        ValueKind::Table(table) => match reference(table) {
            None => resolve_references(table, lookup, problems),
            Some((reference, default)) => match (lookup(&reference), default) {
                (Ok(Some(text)), _) if matches!(reference, Reference::Secret(_)) => {
                    value.kind = ValueKind::Secret(text);
                }
                (Ok(Some(text)), _) => value.kind = ValueKind::String(text),
                (Ok(None), Some(default)) => value.kind = default,
                (Ok(None), None) => problems.push(missing(value.span, &reference)),
                (Err(reason), _) => problems.push(Problem::at(value.span, reason)),
            },
        },
        _ => {}
    }
}

fn missing(span: Span, reference: &Reference) -> Problem {
    match reference {
        Reference::Env(name) => Problem::at(span, format!("the environment variable {name} is not set"))
            .help(format!("set it, or give a default: {{ env = \"{name}\", default = \"...\" }}")),
        Reference::Secret(name) => Problem::at(span, format!("there is no secret '{name}'")),
    }
}

/// The reference that a table is, with its default: `env` or `secret`, `default` only with `env`, and nothing else.
fn reference(table: &Table) -> Option<(Reference, Option<ValueKind>)> {
    let default = table.get("default").map(|value| value.kind.clone());
    let only = table.entries.len() == 1;
    if let Some(ValueKind::String(name)) = table.get("env").map(|value| &value.kind) {
        let whole = only || (table.entries.len() == 2 && default.is_some());
        return whole.then(|| (Reference::Env(name.clone()), default));
    }
    match table.get("secret").map(|value| &value.kind) {
        Some(ValueKind::String(name)) if only => Some((Reference::Secret(name.clone()), None)),
        _ => None,
    }
}

/// Line and column (both from 1, the column in characters) of byte `at` of `text`.
pub fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_keeps_order_and_spans() {
        let text = "b = 1\n[a]\nz = [true, 0xff]\ny = { x = 2026-01-01T10:00:00Z }\n";
        let root = parse_toml(text).unwrap();
        assert_eq!(root.entries.keys().collect::<Vec<_>>(), ["b", "a"]);
        let Some(Value { kind: ValueKind::Table(a), .. }) = root.get("a") else { panic!("{root:?}") };
        assert_eq!(a.entries.keys().collect::<Vec<_>>(), ["z", "y"]);
        let z = a.get("z").unwrap();
        assert_eq!(&text[z.span.start..z.span.end], "[true, 0xff]");
        assert_eq!(line_column(text, z.span.start), (3, 5));
        assert_eq!(
            format!("{:?}", z.kind),
            "[Value { kind: true, span: Span { start: 15, end: 19 } }, Value { kind: 255, span: Span { start: 21, end: 25 } }]"
        );
    }

    #[test]
    fn all_syntax_errors_come_at_once() {
        let problems = parse_toml("a = \nb = 99999999999999999999\nc ? 1\n").unwrap_err();
        assert!(problems.len() >= 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.span.is_some()));
        assert_eq!(parse_toml("b = 99999999999999999999").unwrap_err().len(), 1);
    }

    #[test]
    fn references_are_values_not_text() {
        let mut root = parse_toml(
            "a = { env = \"HOME\" }\nb = [{ secret = \"k\" }]\nc = { env = \"NO\", default = 5 }\nd = { env = \"NO\" }\ne = { secret = \"no\" }",
        )
        .unwrap();
        let mut problems = Vec::new();
        resolve_references(
            &mut root,
            &|reference| match reference {
                Reference::Env(name) if name == "HOME" => Ok(Some("x\"\nz = 1".into())),
                Reference::Secret(name) if name == "k" => Ok(Some("hush".into())),
                _ => Ok(None),
            },
            &mut problems,
        );
        assert_eq!(root.get("a").unwrap().kind, ValueKind::String("x\"\nz = 1".into()));
        assert_eq!(root.get("c").unwrap().kind, ValueKind::Integer(5));
        assert!(!format!("{root:?}").contains("hush"));
        let messages: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(messages, ["the environment variable NO is not set", "there is no secret 'no'"]);
    }
}
