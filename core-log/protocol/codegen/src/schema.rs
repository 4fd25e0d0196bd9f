//! What a message definition says: the model between the definitions, the table and the generated code.

use std::fmt;

/// Versions from `first` to `last`, both included; `last` is [`Range::OPEN`] for "and all later ones".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First version.
    pub first: i16,
    /// Last version.
    pub last: i16,
}

impl Range {
    /// The `last` of a range without an end.
    pub const OPEN: i16 = i16::MAX;
    /// Every version.
    pub const ALL: Self = Self { first: 0, last: Self::OPEN };

    /// Reads `3`, `3-5`, `3+`; `none` and the empty text are `None`.
    ///
    /// # Errors
    /// When the text is none of these.
    pub fn parse(text: &str) -> anyhow::Result<Option<Self>> {
        let number = |text: &str| text.parse::<i16>().map_err(|e| anyhow::anyhow!("version {text:?}: {e}"));
        Ok(match text {
            "" | "none" => None,
            _ => Some(if let Some(first) = text.strip_suffix('+') {
                Self { first: number(first)?, last: Self::OPEN }
            } else if let Some((first, last)) = text.split_once('-') {
                Self { first: number(first)?, last: number(last)? }
            } else {
                Self { first: number(text)?, last: number(text)? }
            }),
        })
    }

    /// The versions in both, if there are any.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }

    /// The least range that holds both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Whether `version` is in it.
    #[must_use]
    pub fn has(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Self::OPEN => write!(f, "{}+", self.first),
            last if last == self.first => write!(f, "{last}"),
            last => write!(f, "{}-{last}", self.first),
        }
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Sent to a broker.
    Request,
    /// Answered by a broker.
    Response,
    /// A record of the metadata log.
    Metadata,
    /// The key of a coordinator's record.
    CoordinatorKey,
    /// The value of a coordinator's record.
    CoordinatorValue,
    /// Bytes inside of other messages, records or files.
    Data,
}

impl Kind {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Request, "request"),
        (Self::Response, "response"),
        (Self::Metadata, "metadata"),
        (Self::CoordinatorKey, "coordinator-key"),
        (Self::CoordinatorValue, "coordinator-value"),
        (Self::Data, "data"),
    ];

    /// Its name in definitions and table.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).expect("every kind has a name").1
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, text)| *text == name).map(|(kind, _)| *kind)
    }
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// One of the protocol's own types, by its name in definitions.
    Basic(&'static str),
    /// A struct of the same message.
    Struct(String),
    /// A list.
    Array(Box<Type>),
}

/// The protocol's own types, and Rust's for each.
pub const BASIC: [(&str, &str); 12] = [
    ("bool", "bool"),
    ("int8", "i8"),
    ("int16", "i16"),
    ("uint16", "u16"),
    ("uint32", "u32"),
    ("int32", "i32"),
    ("int64", "i64"),
    ("float64", "f64"),
    ("string", "ByteString"),
    ("bytes", "Bytes"),
    ("records", "Bytes"),
    ("uuid", "Uuid"),
];

impl Type {
    /// Reads `int32`, `[]string`, `[]Topic`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::Array(Box::new(Self::parse(element)));
        }
        match BASIC.iter().find(|(name, _)| *name == text) {
            Some((name, _)) => Self::Basic(name),
            None => Self::Struct(text.to_owned()),
        }
    }

    /// The struct it is, or is a list of.
    #[must_use]
    pub fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Basic(_) => None,
            Self::Struct(name) => Some(name),
            Self::Array(element) => element.struct_name(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic(name) => f.write_str(name),
            Self::Struct(name) => f.write_str(name),
            Self::Array(element) => write!(f, "[]{element}"),
        }
    }
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, as the definitions write it.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// The versions that have it.
    pub versions: Range,
    /// The versions in which it may be null.
    pub nullable: Option<Range>,
    /// Its tag, and the versions in which it is tagged.
    pub tag: Option<(u32, Range)>,
    /// Its default, where it is not its type's.
    pub default: Option<String>,
    /// Whether a version without it may drop its value.
    pub ignorable: bool,
}

/// The fields of a struct inside of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struct {
    /// Its name.
    pub name: String,
    /// Its fields, in order.
    pub fields: Vec<Field>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is for.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The API key of a request or response; the record type of a record.
    pub key: Option<i16>,
    /// The versions that exist.
    pub versions: Range,
    /// The versions with compact lengths and tags.
    pub flexible: Option<Range>,
    /// The last version may still change.
    pub unstable: bool,
    /// The listeners that serve a request: broker, controller.
    pub listeners: Vec<String>,
    /// Its fields, in order.
    pub fields: Vec<Field>,
    /// Its structs, in order of first use.
    pub structs: Vec<Struct>,
}

impl Message {
    /// The struct of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Struct> {
        self.structs.iter().find(|s| s.name == name)
    }

    /// The file that holds it, without extension: one for an API, one for each kind of record.
    #[must_use]
    pub fn family(&self) -> String {
        let name = &self.name;
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        match self.kind {
            Kind::Request => snake(name.trim_end_matches("Request")),
            Kind::Response => snake(name.trim_end_matches("Response")),
            Kind::Metadata => "metadata_records".to_owned(),
            _ if begins(&["TransactionLog"]) => "transaction_records".to_owned(),
            _ if begins(&["ShareSnapshot", "ShareUpdate"]) => "share_records".to_owned(),
            Kind::CoordinatorKey | Kind::CoordinatorValue => "group_records".to_owned(),
            Kind::Data if begins(&["ConsumerProtocol"]) => "consumer_protocol".to_owned(),
            Kind::Data if begins(&["Remote"]) => "tiered_records".to_owned(),
            Kind::Data if begins(&["Raft"]) => "raft_records".to_owned(),
            Kind::Data if begins(&["ProducerSnapshot"]) => "producer_snapshot".to_owned(),
            Kind::Data => "control_records".to_owned(),
        }
    }
}

/// `ThrottleTimeMs` -> `throttle_time_ms`; a run of capitals is one word.
#[must_use]
pub fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let after_small = at > 0 && !letters[at - 1].is_uppercase();
        let before_small = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && at > 0 && (after_small || before_small) {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}
