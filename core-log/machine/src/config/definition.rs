//! What a configuration may be.

use super::broker_table::BROKER;
use super::topic_table::TOPIC;

/// One configuration: its name, and what values it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Definition {
    /// Kafka's name.
    pub name: &'static str,
    /// How its text is read.
    pub kind: Type,
    /// The value where nobody set one; `None` when there is none.
    pub default: Option<&'static str>,
    /// Which values are allowed.
    pub check: Check,
    /// Whether it can be changed while the broker runs.
    pub update: Update,
}

/// How a configuration's text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `true` or `false`.
    Boolean,
    /// Any text.
    String,
    /// A 32-bit number.
    Int,
    /// A 16-bit number.
    Short,
    /// A 64-bit number.
    Long,
    /// A number with a fraction.
    Double,
    /// Texts, separated by commas.
    List,
    /// A secret; never shown.
    Password,
    /// Name of a Java class.
    Class,
}

impl Type {
    /// Kafka's number for it in DescribeConfigs.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }
}

/// Which values a configuration allows, beyond what its type does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    /// All.
    Any,
    /// A number from this one up.
    AtLeast(i64),
    /// A number in this range, both ends included.
    Between(i64, i64),
    /// A fraction in this range, both ends included.
    Fraction(f64, f64),
    /// One of these; for a list, each of its texts.
    OneOf(&'static [&'static str]),
    /// One of these, in capitals or not.
    OneOfAnyCase(&'static [&'static str]),
    /// -1 for the library's default, or 1 to 9.
    GzipLevel,
    /// At least one character.
    NotEmpty,
    /// `*`, or `partition:broker` pairs.
    Throttled,
}

/// Whether and for whom a configuration can be changed while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Only by a restart.
    ReadOnly,
    /// For one broker at a time.
    PerBroker,
    /// For one broker, or for all at once.
    ClusterWide,
}

pub(super) const fn topic(
    name: &'static str,
    kind: Type,
    default: Option<&'static str>,
    check: Check,
) -> Definition {
    Definition { name, kind, default, check, update: Update::ClusterWide }
}

pub(super) const fn broker(
    name: &'static str,
    kind: Type,
    default: Option<&'static str>,
    check: Check,
    update: Update,
) -> Definition {
    Definition { name, kind, default, check, update }
}

/// Every topic configuration, ordered by name.
#[must_use]
pub fn topic_definitions() -> &'static [Definition] {
    TOPIC
}

/// Every broker configuration, ordered by name.
#[must_use]
pub fn broker_definitions() -> &'static [Definition] {
    BROKER
}

/// The topic configuration called `name`.
#[must_use]
pub fn topic_definition(name: &str) -> Option<&'static Definition> {
    find(TOPIC, name)
}

/// The broker configuration called `name`.
#[must_use]
pub fn broker_definition(name: &str) -> Option<&'static Definition> {
    find(BROKER, name)
}

fn find(table: &'static [Definition], name: &str) -> Option<&'static Definition> {
    table.binary_search_by(|definition| definition.name.cmp(name)).ok().and_then(|at| table.get(at))
}

impl Definition {
    /// Whether its value is a secret.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Type::Password
    }

    /// Judges a value as it is written in a file or a request.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right, as a sentence.
    pub fn validate(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        self.well_typed(value)
            .and_then(|()| self.allowed(value))
            .map_err(|why| format!("Invalid value {value} for configuration {}: {why}", self.name))
    }

    /// A value as it is kept and shown: what Kafka makes of it when it reads it, however it was written.
    ///
    /// # Errors
    /// As [`Definition::validate`].
    pub fn canonical(&self, value: &str) -> Result<String, String> {
        self.validate(value)?;
        let text = value.trim();
        let number = text.parse::<i64>().map(|number| number.to_string());
        let fraction = text.parse::<f64>().map(|number| format!("{number:?}"));
        Ok(match self.kind {
            Type::Boolean => text.to_ascii_lowercase(),
            Type::Short | Type::Int | Type::Long => number.unwrap_or_else(|_| text.to_owned()),
            Type::Double => fraction.unwrap_or_else(|_| text.to_owned()),
            Type::List => {
                let mut items: Vec<&str> = Vec::new();
                for item in self.texts(text) {
                    if !(self.is_choice() && items.contains(&item)) {
                        items.push(item);
                    }
                }
                items.join(",")
            }
            Type::String | Type::Class => text.to_owned(),
            Type::Password => value.to_owned(),
        })
    }

    /// Whether it is made of words of which there are only so many.
    fn is_choice(&self) -> bool {
        matches!(self.check, Check::OneOf(_) | Check::OneOfAnyCase(_))
    }

    fn well_typed(&self, value: &str) -> Result<(), String> {
        let (ok, wanted) = match self.kind {
            Type::Boolean => (
                ["true", "false"].iter().any(|word| value.eq_ignore_ascii_case(word)),
                "either true or false",
            ),
            Type::Short => (value.parse::<i16>().is_ok(), "a number of 16 bits"),
            Type::Int => (value.parse::<i32>().is_ok(), "a number of 32 bits"),
            Type::Long => (value.parse::<i64>().is_ok(), "a number of 64 bits"),
            Type::Double => (value.parse::<f64>().is_ok(), "a number"),
            Type::String | Type::List | Type::Password | Type::Class => (true, ""),
        };
        if ok { Ok(()) } else { Err(format!("it must be {wanted}.")) }
    }

    fn allowed(&self, value: &str) -> Result<(), String> {
        let is_list = self.kind == Type::List && self.is_choice() && !value.is_empty();
        if is_list && value.split(',').any(|text| text.trim().is_empty()) {
            return Err("its values must not be empty; there is a comma too many.".to_owned());
        }
        let whole = || value.parse::<i64>().unwrap_or_default();
        let (ok, wanted) = match self.check {
            Check::Any => return Ok(()),
            Check::AtLeast(least) if self.kind == Type::Double => {
                (value.parse::<f64>().is_ok_and(|v| v >= least as f64), format!("at least {least}"))
            }
            Check::AtLeast(least) => (whole() >= least, format!("at least {least}")),
            Check::Between(low, high) => ((low..=high).contains(&whole()), format!("from {low} to {high}")),
            Check::Fraction(low, high) => (
                value.parse::<f64>().is_ok_and(|v| (low..=high).contains(&v)),
                format!("from {low} to {high}"),
            ),
            Check::OneOf(words) => {
                (self.texts(value).all(|text| words.contains(&text)), format!("one of {}", words.join(", ")))
            }
            Check::OneOfAnyCase(words) => (
                self.texts(value).all(|text| words.iter().any(|word| word.eq_ignore_ascii_case(text))),
                format!("one of {}", words.join(", ")),
            ),
            Check::GzipLevel => (whole() == -1 || (1..=9).contains(&whole()), "-1, or from 1 to 9".into()),
            Check::NotEmpty => (!value.is_empty(), "not empty".into()),
            Check::Throttled => (
                value == "*" || self.texts(value).all(is_partition_and_broker),
                "*, or pairs such as 0:1,1:2 of a partition and a broker".into(),
            ),
        };
        if ok { Ok(()) } else { Err(format!("it must be {wanted}.")) }
    }

    /// The texts of a list, or the one text of anything else.
    fn texts<'a>(&self, value: &'a str) -> impl Iterator<Item = &'a str> {
        let separator = if self.kind == Type::List { ',' } else { '\0' };
        let is_list = self.kind == Type::List;
        value.split(separator).map(str::trim).filter(move |text| !(is_list && text.is_empty()))
    }
}

fn is_partition_and_broker(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(partition, broker)| partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_ordered_and_their_defaults_are_valid() {
        for table in [TOPIC, BROKER] {
            assert!(table.is_sorted_by(|a, b| a.name < b.name), "binary search needs the order");
            for definition in table {
                if let Some(default) = definition.default
                    && !default.is_empty()
                {
                    assert_eq!(definition.validate(default), Ok(()), "{}", definition.name);
                }
            }
        }
        assert_eq!(topic_definition("retention.ms").unwrap().default, Some("604800000"));
        assert_eq!(broker_definition("num.partitions").unwrap().default, Some("1"));
        assert!(topic_definition("retention.msec").is_none());
    }

    #[test]
    fn values_are_judged_as_kafka_judges_them() {
        let table = [
            ("retention.ms", "-1", true),
            ("retention.ms", "-2", false),
            ("retention.ms", "soon", false),
            ("retention.bytes", "-5", true),
            ("segment.bytes", "1048575", false),
            ("segment.bytes", "1048576", true),
            ("segment.bytes", "3000000000", false),
            ("cleanup.policy", "compact,delete", true),
            ("cleanup.policy", "compact, delete", true),
            ("cleanup.policy", "shred", false),
            ("cleanup.policy", "", true),
            ("cleanup.policy", ",delete", false),
            ("cleanup.policy", "compact,,delete", false),
            ("compression.type", "zstd", true),
            ("compression.type", "brotli", false),
            ("compression.gzip.level", "0", false),
            ("compression.gzip.level", "-1", true),
            ("min.cleanable.dirty.ratio", "0.5", true),
            ("min.cleanable.dirty.ratio", "1.5", false),
            ("preallocate", "TRUE", true),
            ("preallocate", "yes", false),
            ("message.timestamp.type", "LogAppendTime", true),
            ("message.timestamp.type", "logappendtime", false),
            ("leader.replication.throttled.replicas", "*", true),
            ("leader.replication.throttled.replicas", "0:1,1:2", true),
            ("leader.replication.throttled.replicas", "0-1", false),
            ("min.insync.replicas", "0", false),
        ];
        for (name, value, expected) in table {
            let verdict = topic_definition(name).unwrap().validate(value);
            assert_eq!(verdict.is_ok(), expected, "{name}={value}: {verdict:?}");
        }
        assert_eq!(
            topic_definition("retention.ms").unwrap().validate("-2"),
            Err("Invalid value -2 for configuration retention.ms: it must be at least -1.".into())
        );
    }

    #[test]
    fn values_are_kept_as_kafka_reads_them() {
        let table = [
            ("cleanup.policy", " compact , delete ", "compact,delete"),
            ("cleanup.policy", "delete,delete", "delete"),
            ("cleanup.policy", " ", ""),
            ("retention.ms", " 77 ", "77"),
            ("retention.ms", "+78", "78"),
            ("retention.ms", "007", "7"),
            ("retention.bytes", "-0", "0"),
            ("preallocate", " TRUE ", "true"),
            ("min.cleanable.dirty.ratio", "1e-1", "0.1"),
            ("min.cleanable.dirty.ratio", "0.50", "0.5"),
            ("min.cleanable.dirty.ratio", "1", "1.0"),
            ("compression.type", " gzip ", "gzip"),
            ("leader.replication.throttled.replicas", " 0:1 , 1:2", "0:1,1:2"),
            ("leader.replication.throttled.replicas", "0:1,0:1", "0:1,0:1"),
            ("leader.replication.throttled.replicas", " * ", "*"),
        ];
        for (name, value, expected) in table {
            let definition = topic_definition(name).unwrap();
            assert_eq!(definition.canonical(value).as_deref(), Ok(expected), "{name}={value:?}");
            assert_eq!(definition.canonical(expected).as_deref(), Ok(expected), "{name}: stays as it is");
        }
        let password = broker_definition("ssl.key.password").unwrap();
        assert_eq!(password.canonical(" s ").as_deref(), Ok(" s "), "a secret is no matter of taste");
        assert!(topic_definition("retention.ms").unwrap().canonical("soon").is_err());
    }
}
