//! Names of finished files, which tell what is in them: the sink's position is read back from them.

use millstream_connect_api::Problem;
use millstream_record::{Offset, TopicPartition};

use crate::source::glob::escape;

/// Digits of an offset in a name, so that names sort as offsets do.
const OFFSET_DIGITS: usize = 20;

/// A name below the base folder, with places for the range of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Topic,
    Partition,
    First,
    Last,
}

/// The rows of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) partition: TopicPartition,
    pub(super) first: Offset,
    pub(super) last: Offset,
}

impl Template {
    /// Reads a template. `{seq}` is short for `{partition}-{first}-{last}`.
    ///
    /// # Errors
    /// Why names made by it could not be read back.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let spelled = text.replace("{seq}", "{partition}-{first}-{last}");
        let mut pieces = Vec::new();
        let mut rest = spelled.as_str();
        while let Some(open) = rest.find('{') {
            let (literal, tail) = rest.split_at(open);
            let close = tail.find('}').ok_or_else(|| Problem::at(None, "a { in the name is not closed"))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            } else if !pieces.is_empty() {
                return Err(Problem::at(None, "two placeholders stand side by side")
                    .help("put a '-' or a '/' between them"));
            }
            pieces.push(placeholder(&tail[1..close])?);
            rest = &tail[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        if [Piece::Partition, Piece::First, Piece::Last].iter().any(|needed| !pieces.contains(needed)) {
            let problem = Problem::at(None, "the name does not tell which rows are in a file");
            return Err(problem.help("put {seq} into it, such as \"{seq}.parquet\""));
        }
        Ok(Self { pieces })
    }

    /// Whether names tell topics apart.
    pub(super) fn has_topic(&self) -> bool {
        self.pieces.contains(&Piece::Topic)
    }

    /// The template of the files of `topic` alone, spelled out.
    pub(super) fn of_topic(&self, topic: &str) -> String {
        let part = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Topic => topic.to_owned(),
            Piece::Partition => "{partition}".to_owned(),
            Piece::First => "{first}".to_owned(),
            Piece::Last => "{last}".to_owned(),
        };
        self.pieces.iter().map(part).collect()
    }

    /// The pattern that all names match.
    pub(super) fn pattern(&self) -> String {
        let part = |piece: &Piece| match piece {
            Piece::Literal(text) => escape(text),
            _ => "*".to_owned(),
        };
        self.pieces.iter().map(part).collect()
    }

    /// The name of a file with these rows.
    pub(super) fn name(&self, range: &Range) -> String {
        let part = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Topic => range.partition.topic.to_string(),
            Piece::Partition => range.partition.partition.to_string(),
            Piece::First => format!("{:0OFFSET_DIGITS$}", range.first.0),
            Piece::Last => format!("{:0OFFSET_DIGITS$}", range.last.0),
        };
        self.pieces.iter().map(part).collect()
    }

    /// The rows of the file with this name; `None` for a name that is not of this template. A name without a topic is of `topic`.
    pub(super) fn read(&self, name: &str, topics: &[&str]) -> Option<Range> {
        let mut rest = name;
        let (mut topic, mut partition, mut first, mut last) = (topics.first().copied(), None, None, None);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => rest = rest.strip_prefix(text.as_str())?,
                Piece::Topic => {
                    // The longest one, in case that one is the beginning of another.
                    let mut found: Vec<_> = topics.iter().filter(|topic| rest.starts_with(**topic)).collect();
                    found.sort_by_key(|topic| topic.len());
                    topic = Some(**found.last()?);
                    rest = rest.strip_prefix(topic?)?;
                }
                Piece::Partition | Piece::First | Piece::Last => {
                    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                    let (digits, tail) = rest.split_at(end);
                    let number: i64 = digits.parse().ok()?;
                    match piece {
                        Piece::Partition => partition = Some(i32::try_from(number).ok()?),
                        Piece::First => first = Some(number),
                        _ => last = Some(number),
                    }
                    rest = tail;
                }
            }
        }
        let range = Range {
            partition: TopicPartition::new(topic?, partition?),
            first: Offset(first?),
            last: Offset(last?),
        };
        (rest.is_empty() && range.first <= range.last).then_some(range)
    }
}

fn placeholder(name: &str) -> Result<Piece, Problem> {
    match name {
        "topic" => Ok(Piece::Topic),
        "partition" => Ok(Piece::Partition),
        "first" => Ok(Piece::First),
        "last" => Ok(Piece::Last),
        _ => Err(Problem::at(None, format!("there is no placeholder '{{{name}}}'"))
            .help("placeholders are {seq}, {topic}, {partition}, {first} and {last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let range = Range { partition: TopicPartition::new("a-b", 3), first: Offset(0), last: Offset(1234) };
        for (text, name) in [
            ("{seq}.parquet", "3-00000000000000000000-00000000000000001234.parquet"),
            (
                "{topic}/p={partition}/{first}_{last}.csv",
                "a-b/p=3/00000000000000000000_00000000000000001234.csv",
            ),
            ("{topic}-{seq}", "a-b-3-00000000000000000000-00000000000000001234"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.name(&range), name);
            assert_eq!(template.read(name, &["a-b", "a"]), Some(range.clone()), "{text}");
        }
    }

    #[test]
    fn other_names_are_passed_over() {
        let template = Template::parse("{seq}.csv").unwrap();
        for name in
            ["x.csv", "0-1-2.csvx", "0-1.csv", "0-5-2.csv", "0-1-99999999999999999999999.csv", "a0-1-2.csv"]
        {
            assert_eq!(template.read(name, &["t"]), None, "{name}");
        }
        assert_eq!(template.pattern(), "*-*-*.csv");
    }
}
