//! The table: our own dense text form of the definitions, one file for each family of messages.
//!
//! ```text
//! request FetchRequest key=1 versions=4-18 flexible=12+ listeners=broker,controller
//!   ClusterId string? 12+ tag=0 default=null ignorable
//!   Topics []FetchTopic 0+
//! struct FetchTopic
//!   Topic string 0-12 ignorable
//! ```
//! A field line is: name, type, versions, then what is unusual. `?` says nullable wherever it exists; `null=8+` says from when,
//! `tag=1@9+` says that it is tagged from 9 only. A struct belongs to the message above it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::schema::{Field, Kind, Message, Range, Struct, Type};

/// The extension of the table's files.
const EXTENSION: &str = "table";

/// Writes `messages` as text files, by family: (name without extension, text).
#[must_use]
pub fn write(messages: &[Message]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for message in messages {
        let out = files.entry(message.family()).or_default();
        if !out.is_empty() {
            out.push('\n');
        }
        write_message(out, message);
    }
    files
}

fn write_message(out: &mut String, message: &Message) {
    let _ = write!(out, "{} {}", message.kind.name(), message.name);
    if let Some(key) = message.key {
        let _ = write!(out, " key={key}");
    }
    let _ = write!(out, " versions={}", message.versions);
    if let Some(flexible) = message.flexible {
        let _ = write!(out, " flexible={flexible}");
    }
    if !message.listeners.is_empty() {
        let _ = write!(out, " listeners={}", message.listeners.join(","));
    }
    if message.unstable {
        out.push_str(" unstable");
    }
    out.push('\n');
    message.fields.iter().for_each(|field| write_field(out, field));
    for inner in &message.structs {
        let _ = writeln!(out, "struct {}", inner.name);
        inner.fields.iter().for_each(|field| write_field(out, field));
    }
}

fn write_field(out: &mut String, field: &Field) {
    let always_nullable =
        field.nullable.is_some_and(|range| range.and(field.versions) == Some(field.versions));
    let mark = if always_nullable { "?" } else { "" };
    let _ = write!(out, "  {} {}{mark} {}", field.name, field.ty, field.versions);
    if let (Some(range), false) = (field.nullable, always_nullable) {
        let _ = write!(out, " null={range}");
    }
    match field.tag {
        Some((tag, range)) if range == field.versions => {
            let _ = write!(out, " tag={tag}");
        }
        Some((tag, range)) => {
            let _ = write!(out, " tag={tag}@{range}");
        }
        None => {}
    }
    if let Some(default) = &field.default {
        let _ = write!(out, " default={default}");
    }
    if field.ignorable {
        out.push_str(" ignorable");
    }
    out.push('\n');
}

/// Reads every file of the table in `dir`.
///
/// # Errors
/// When a file cannot be read; with file and line, when a line says nothing.
pub fn load(dir: &Path) -> Result<Vec<Message>> {
    let mut paths: Vec<_> =
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
    paths.sort();
    let mut messages = Vec::new();
    for path in paths {
        messages.extend(read(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())?);
    }
    Ok(messages)
}

/// Writes the table into `dir`, in place of the one that is there.
///
/// # Errors
/// When a file cannot be written.
pub fn store(dir: &Path, messages: &[Message]) -> Result<()> {
    fs::create_dir_all(dir)?;
    for (family, text) in write(messages) {
        fs::write(dir.join(family).with_extension(EXTENSION), text)?;
    }
    Ok(())
}

/// Reads the text of one file.
///
/// # Errors
/// With the line's number, when a line says nothing.
pub fn read(text: &str) -> Result<Vec<Message>> {
    let mut messages: Vec<Message> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        read_line(line, &mut messages).with_context(|| format!("line {}: {line}", at + 1))?;
    }
    Ok(messages)
}

fn read_line(line: &str, messages: &mut Vec<Message>) -> Result<()> {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else { return Ok(()) };
    let second = words.next().context("a line has at least two words")?;
    if line.starts_with(' ') {
        let message = messages.last_mut().context("a field belongs to a message")?;
        let field = read_field(first, second, words)?;
        match message.structs.last_mut() {
            Some(inner) => inner.fields.push(field),
            None => message.fields.push(field),
        }
    } else if first == "struct" {
        let message = messages.last_mut().context("a struct belongs to a message")?;
        message.structs.push(Struct { name: second.to_owned(), fields: Vec::new() });
    } else {
        messages.push(read_message(first, second, words)?);
    }
    Ok(())
}

fn read_message<'a>(kind: &str, name: &str, words: impl Iterator<Item = &'a str>) -> Result<Message> {
    let mut message = Message {
        kind: Kind::parse(kind).context("the first word says the kind of message")?,
        name: name.to_owned(),
        key: None,
        versions: Range::ALL,
        flexible: None,
        unstable: false,
        listeners: Vec::new(),
        fields: Vec::new(),
        structs: Vec::new(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("key", key)) => message.key = Some(key.parse()?),
            Some(("versions", range)) => {
                message.versions = Range::parse(range)?.context("a message has versions")?;
            }
            Some(("flexible", range)) => message.flexible = Range::parse(range)?,
            Some(("listeners", names)) => message.listeners = names.split(',').map(str::to_owned).collect(),
            None if word == "unstable" => message.unstable = true,
            _ => bail!("{word:?} says nothing about a message"),
        }
    }
    Ok(message)
}

fn read_field<'a>(name: &str, ty: &str, mut words: impl Iterator<Item = &'a str>) -> Result<Field> {
    let (ty, nullable) = match ty.strip_suffix('?') {
        Some(ty) => (ty, true),
        None => (ty, false),
    };
    let versions =
        Range::parse(words.next().context("a field has versions")?)?.context("a field has versions")?;
    let mut field = Field {
        name: name.to_owned(),
        ty: Type::parse(ty),
        versions,
        nullable: nullable.then_some(versions),
        tag: None,
        default: None,
        ignorable: false,
    };
    for word in words {
        match word.split_once('=') {
            Some(("null", range)) => field.nullable = Range::parse(range)?,
            Some(("tag", tag)) => {
                let (tag, range) = tag.split_once('@').unwrap_or((tag, ""));
                field.tag = Some((tag.parse()?, Range::parse(range)?.unwrap_or(versions)));
            }
            Some(("default", text)) => field.default = Some(text.to_owned()),
            None if word == "ignorable" => field.ignorable = true,
            _ => bail!("{word:?} says nothing about a field"),
        }
    }
    Ok(field)
}
