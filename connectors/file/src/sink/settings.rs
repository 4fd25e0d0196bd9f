//! The settings of a file sink.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_connect_api::config::ValueKind;
use millstream_connect_api::{Config, ConfigDef, Key, Problem};

use super::template::Template;

/// Checked settings.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) base_dir: PathBuf,
    pub(super) template: Template,
    pub(super) format: Format,
    pub(super) roll_size: u64,
    pub(super) roll_age: Duration,
    pub(super) csv_header: bool,
    pub(super) snappy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Parquet,
}

pub(super) fn definition() -> ConfigDef {
    ConfigDef::new()
        .key(Key::path("path").required().doc("Name of the files: {seq} stands for partition, first and last offset; {topic}, {partition}, {first} and {last} stand for themselves."))
        .key(Key::path("base_dir").doc("The folder that all files are below. Left out, it is the part of path before the first { up to a /."))
        .key(Key::one_of("format", &["json", "csv", "parquet"]).doc("Left out, the ending of path says it: .ndjson, .jsonl, .json, .csv or .parquet. JSON leaves a null out, and has \"NaN\", \"Infinity\" and \"-Infinity\" for floats that are no numbers; CSV writes an empty text as \"\", and a null as nothing."))
        .key(Key::table(
            "roll",
            ConfigDef::new()
                .key(Key::size("size").default_str("256MiB").doc("A file of this size is finished."))
                .key(Key::duration("age").default_str("5m").doc("A file this old is finished.")),
        ).default(ValueKind::Table(Default::default())).doc("When a file is finished and appears under its name."))
        .key(Key::boolean("header").default(ValueKind::Boolean(true)).doc("CSV: whether each file begins with the names of the columns."))
        .key(Key::one_of("compression", &["snappy", "none"]).default_str("snappy").doc("Parquet: compression of the columns."))
        .check(|config| Settings::from_config(config).err().unwrap_or_default())
}

impl Settings {
    pub(super) fn from_config(config: &Config) -> Result<Self, Vec<Problem>> {
        let path = config.str("path");
        let at = |problem: Problem| Problem { span: config.span("path"), ..problem };
        let mut problems = Vec::new();
        let base_dir = config.str_opt("base_dir").map_or_else(|| literal_folder(path), PathBuf::from);
        if Path::new(path).components().any(|part| part == std::path::Component::ParentDir) {
            problems.push(at(Problem::at(None, "path may not hold '..'")));
        }
        let format = match config.str_opt("format").or_else(|| by_ending(path)) {
            Some("json") => Format::Json,
            Some("csv") => Format::Csv,
            Some("parquet") => Format::Parquet,
            _ => {
                let problem = Problem::at(None, "the ending of path does not tell the format");
                problems.push(at(problem.help("set format to json, csv or parquet")));
                Format::Json
            }
        };
        let template = match Path::new(path).strip_prefix(&base_dir) {
            Ok(below) => Template::parse(&below.to_string_lossy()).map_err(at),
            Err(_) => {
                let problem = Problem::at(
                    config.span("base_dir"),
                    format!("path is not below base_dir ({})", base_dir.display()),
                );
                Err(problem.help("begin path with base_dir"))
            }
        };
        let roll = config.table("roll");
        match template {
            Ok(template) if problems.is_empty() => Ok(Self {
                base_dir,
                template,
                format,
                roll_size: roll.size("size"),
                roll_age: roll.duration("age"),
                csv_header: config.boolean("header"),
                snappy: config.str("compression") == "snappy",
            }),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }
}

/// The folder before the first placeholder.
fn literal_folder(path: &str) -> PathBuf {
    let literal = path.split('{').next().unwrap_or_default();
    match literal.rfind('/') {
        Some(0) => PathBuf::from("/"),
        Some(slash) => PathBuf::from(&literal[..slash]),
        None => PathBuf::new(),
    }
}

fn by_ending(path: &str) -> Option<&'static str> {
    match Path::new(path).extension()?.to_str()? {
        "ndjson" | "jsonl" | "json" => Some("json"),
        "csv" => Some("csv"),
        "parquet" => Some("parquet"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use millstream_connect_api::config::parse_toml;

    use super::*;

    fn check(text: &str) -> Result<Settings, Vec<String>> {
        let config = definition().resolve(&parse_toml(text).unwrap(), None);
        let text =
            |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>();
        Settings::from_config(&config.map_err(text)?).map_err(text)
    }

    #[test]
    fn what_is_meant() {
        let settings = check("path = '/out/x/{seq}.parquet'").unwrap();
        assert_eq!((settings.base_dir, settings.format), (PathBuf::from("/out/x"), Format::Parquet));
        assert_eq!((settings.roll_size, settings.roll_age), (256 << 20, Duration::from_secs(300)));
        let settings =
            check("path = 'p={partition}/{first}-{last}.x'\nformat = 'csv'\nroll = { size = '1KiB' }")
                .unwrap();
        assert_eq!((settings.base_dir, settings.roll_size), (PathBuf::new(), 1024));
    }

    #[test]
    fn what_is_wrong() {
        for (text, expected) in [
            ("path = '/out/{seq}'", "the ending of path does not tell the format"),
            ("path = '/out/all.csv'", "the name does not tell which rows are in a file"),
            ("path = '/out/{first}.csv'", "the name does not tell which rows are in a file"),
            ("path = '/out/{seq}/../x.csv'", "path may not hold '..'"),
            ("path = '/out/{day}-{seq}.csv'", "there is no placeholder '{day}'"),
            ("path = '/out/{seq.csv'", "a { in the name is not closed"),
            ("path = '/out/{partition}{first}-{last}.csv'", "two placeholders stand side by side"),
            ("path = '/out/{seq}.csv'\nbase_dir = '/other'", "path is not below base_dir (/other)"),
        ] {
            assert_eq!(check(text).unwrap_err(), [expected], "{text}");
        }
    }
}
