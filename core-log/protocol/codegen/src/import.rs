//! Kafka's JSON definitions -> the model. Only facts are taken: names, types, versions, tags, defaults.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::schema::{Field, Kind, Message, Range, Struct, Type};

/// Reads every definition in the folders `dirs`, in order of name.
///
/// # Errors
/// When a file cannot be read, or says what the model cannot hold.
pub fn import(dirs: &[impl AsRef<Path>]) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    for dir in dirs {
        let dir = dir.as_ref();
        let mut paths: Vec<_> = fs::read_dir(dir)
            .with_context(|| format!("folder {}", dir.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        for path in paths {
            let text = fs::read_to_string(&path)?;
            let found = message(&text).with_context(|| format!("file {}", path.display()))?;
            messages.extend(found);
        }
    }
    messages.sort_by(|a, b| (a.family(), a.kind, a.key, &a.name).cmp(&(b.family(), b.kind, b.key, &b.name)));
    Ok(messages)
}

/// Reads one definition; `None` for what is no message of ours: headers (written by hand), enums, and APIs that were removed.
///
/// # Errors
/// When it says what the model cannot hold.
pub fn message(text: &str) -> Result<Option<Message>> {
    let json: Value = serde_json::from_str(&without_comments(text))?;
    let Some(kind) = Kind::parse(text_of(&json, "type").unwrap_or_default()) else { return Ok(None) };
    let name = text_of(&json, "name").context("no name")?.to_owned();
    // Tiered storage calls its records metadata too, but they live in another topic and share numbers with the real ones.
    let kind = if name.starts_with("Remote") { Kind::Data } else { kind };
    let Some(versions) = Range::parse(text_of(&json, "validVersions").context("no validVersions")?)? else {
        return Ok(None);
    };
    let mut structs = Vec::new();
    let mut fields = Vec::new();
    for field in list(&json, "fields") {
        fields.push(read_field(field, &mut structs)?);
    }
    for common in list(&json, "commonStructs") {
        let name = text_of(common, "name").context("struct without a name")?.to_owned();
        add_struct(&name, common, &mut structs)?;
    }
    Ok(Some(Message {
        kind,
        name,
        key: json["apiKey"].as_i64().map(i16::try_from).transpose()?,
        versions,
        flexible: Range::parse(text_of(&json, "flexibleVersions").unwrap_or("none"))?,
        unstable: json["latestVersionUnstable"].as_bool().unwrap_or(false),
        listeners: list(&json, "listeners").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        fields,
        structs,
    }))
}

fn read_field(json: &Value, structs: &mut Vec<Struct>) -> Result<Field> {
    let name = text_of(json, "name").context("field without a name")?.to_owned();
    let ty = Type::parse(text_of(json, "type").with_context(|| format!("{name} has no type"))?);
    if let (Some(inner), false) = (ty.struct_name(), list(json, "fields").is_empty()) {
        add_struct(inner, json, structs)?;
    }
    let tagged = Range::parse(text_of(json, "taggedVersions").unwrap_or("none"))?;
    let versions = match text_of(json, "versions") {
        Some(versions) => Range::parse(versions)?,
        None => tagged,
    };
    let tag = match (json["tag"].as_u64(), tagged) {
        (Some(tag), Some(tagged)) => Some((u32::try_from(tag)?, tagged)),
        (None, None) => None,
        _ => bail!("{name}: a tag needs taggedVersions, and the other way round"),
    };
    let default = match &json["default"] {
        Value::Null => None, // Kafka reads a bare null as no default at all; only the text "null" is one
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    Ok(Field {
        versions: versions.ok_or_else(|| anyhow!("{name} is in no version"))?,
        nullable: Range::parse(text_of(json, "nullableVersions").unwrap_or("none"))?,
        ignorable: json["ignorable"].as_bool().unwrap_or(false),
        default: default.filter(|text| !text.is_empty()),
        name,
        ty,
        tag,
    })
}

fn add_struct(name: &str, json: &Value, structs: &mut Vec<Struct>) -> Result<()> {
    if structs.iter().any(|known| known.name == name) {
        bail!("struct {name} is defined twice");
    }
    let at = structs.len();
    structs.push(Struct { name: name.to_owned(), fields: Vec::new() });
    for field in list(json, "fields") {
        let field = read_field(field, structs)?;
        structs[at].fields.push(field);
    }
    Ok(())
}

fn text_of<'a>(json: &'a Value, key: &str) -> Option<&'a str> {
    json[key].as_str()
}

fn list<'a>(json: &'a Value, key: &str) -> &'a [Value] {
    json[key].as_array().map_or(&[], Vec::as_slice)
}

/// The definitions are JSON with `//` comments.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_text = false;
        let mut end = line.len();
        let bytes = line.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' if at == 0 || bytes[at - 1] != b'\\' => in_text = !in_text,
                b'/' if !in_text && bytes.get(at + 1) == Some(&b'/') => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}
