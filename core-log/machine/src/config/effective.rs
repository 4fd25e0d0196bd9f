//! Which value applies.

use std::collections::BTreeMap;

use millstream_record::NodeId;

use super::definition::{
    Definition, Update, broker_definition, broker_definitions, topic_definition, topic_definitions,
};
use super::{TopicConfig, synonym};
use crate::metadata::{ConfigScope, Image};

/// What the broker's own file and command line set, by Kafka's names.
pub type Static = BTreeMap<String, String>;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Set on the topic.
    DynamicTopic,
    /// Set on this broker at run time.
    DynamicBroker,
    /// Set on all brokers at run time.
    DynamicDefaultBroker,
    /// Set in this broker's file.
    StaticBroker,
    /// Set by nobody.
    Default,
}

impl Source {
    /// Kafka's number for it in DescribeConfigs.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Self::DynamicTopic => 1,
            Self::DynamicBroker => 2,
            Self::DynamicDefaultBroker => 3,
            Self::StaticBroker => 4,
            Self::Default => 5,
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The configuration that is set; a synonym may have another name.
    pub name: &'static str,
    /// The value in that configuration's own unit; `None` for a secret.
    pub value: Option<String>,
    /// Who set it.
    pub source: Source,
}

/// A configuration as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it is.
    pub definition: &'static Definition,
    /// The value that applies; `None` for a secret, or where there is none.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// Whether it can be changed only by a restart.
    pub read_only: bool,
    /// Everything that is set for it, the strongest first: the first is what applies, the others what would in its place.
    pub synonyms: Vec<Setting>,
}

/// The configuration that applies at one broker.
#[derive(Clone, Copy, Debug)]
pub struct Effective<'a> {
    image: &'a Image,
    node: NodeId,
    statics: &'a Static,
}

impl<'a> Effective<'a> {
    /// What applies at broker `node`, whose file says `statics`, by the metadata in `image`.
    #[must_use]
    pub fn new(image: &'a Image, node: NodeId, statics: &'a Static) -> Self {
        Self { image, node, statics }
    }

    /// The value of a broker configuration.
    #[must_use]
    pub fn broker_value(&self, name: &str) -> Option<String> {
        self.broker_settings(name)
            .into_iter()
            .find(|setting| setting.name == name)
            .and_then(|found| found.value)
    }

    /// A broker configuration that is a number; `fallback` where it has no value.
    #[must_use]
    pub fn broker_number(&self, name: &str, fallback: i64) -> i64 {
        self.broker_value(name).and_then(|value| value.trim().parse().ok()).unwrap_or(fallback)
    }

    /// A broker configuration that is true or false.
    #[must_use]
    pub fn broker_flag(&self, name: &str) -> bool {
        self.broker_value(name).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// The value of a topic configuration for `topic`, or for a topic that sets nothing.
    #[must_use]
    pub fn topic_value(&self, topic: Option<&str>, name: &str) -> Option<String> {
        if let Some(topic) = topic
            && let Some(value) = self.image.config(&ConfigScope::Topic(topic.into()), name)
        {
            return Some(value.to_string());
        }
        self.inherited(name)
    }

    /// Everything this room's neighbours need to know of a topic's configuration.
    #[must_use]
    pub fn topic_config(&self, topic: &str) -> TopicConfig {
        TopicConfig::parse(|name| self.topic_value(Some(topic), name))
    }

    /// Every configuration of `topic`, ordered by name.
    #[must_use]
    pub fn describe_topic(&self, topic: &str) -> Vec<Entry> {
        topic_definitions().iter().map(|definition| self.describe_topic_value(topic, definition)).collect()
    }

    /// Every configuration of this broker, ordered by name; what nobody set and has no default included.
    #[must_use]
    pub fn describe_broker(&self) -> Vec<Entry> {
        broker_definitions().iter().map(|definition| self.describe_broker_value(definition)).collect()
    }

    /// What is set at run time for all brokers.
    #[must_use]
    pub fn describe_broker_defaults(&self) -> Vec<Entry> {
        self.image
            .configs(&ConfigScope::BrokerDefault)
            .filter_map(|(name, value)| {
                let definition = broker_definition(name)?;
                let setting = setting(definition, value, Source::DynamicDefaultBroker);
                Some(entry(definition, setting.value.clone(), vec![setting]))
            })
            .collect()
    }

    fn describe_topic_value(&self, topic: &str, definition: &'static Definition) -> Entry {
        let own = self.image.config(&ConfigScope::Topic(topic.into()), definition.name);
        let mut synonyms: Vec<Setting> =
            own.map(|value| setting(definition, value, Source::DynamicTopic)).into_iter().collect();
        if let Some((broker_name, _)) = synonym::of_topic(definition.name).first() {
            synonyms.extend(self.shown_settings(broker_name));
        }
        let value = own.map(|value| value.to_string()).or_else(|| self.inherited(definition.name));
        Entry { read_only: false, ..entry(definition, value, synonyms) }
    }

    fn describe_broker_value(&self, definition: &'static Definition) -> Entry {
        let synonyms = self.shown_settings(definition.name);
        let value = synonyms.first().and_then(|setting| setting.value.clone());
        entry(definition, value, synonyms)
    }

    /// What describing shows of the settings: from the first of that very name on, as Kafka does. What is set in another unit
    /// before decides what applies, but nobody has set `name` with it.
    fn shown_settings(&self, name: &str) -> Vec<Setting> {
        self.broker_settings(name).into_iter().skip_while(|setting| setting.name != name).collect()
    }

    /// Every value set for a broker configuration or for what says the same in other units, the strongest first.
    fn broker_settings(&self, name: &str) -> Vec<Setting> {
        let family = synonym::of_broker(name);
        let dynamic = |scope: ConfigScope, source: Source| {
            let image = self.image;
            family
                .iter()
                .filter_map(move |definition| {
                    image.config(&scope, definition.name).map(|value| setting(definition, value, source))
                })
                .collect::<Vec<_>>()
        };
        let mut settings = dynamic(ConfigScope::Broker(self.node), Source::DynamicBroker);
        settings.extend(dynamic(ConfigScope::BrokerDefault, Source::DynamicDefaultBroker));
        settings.extend(family.iter().filter_map(|definition| {
            self.statics.get(definition.name).map(|value| setting(definition, value, Source::StaticBroker))
        }));
        settings.extend(family.iter().filter_map(|definition| {
            definition.default.map(|value| setting(definition, value, Source::Default))
        }));
        settings
    }

    /// What a topic that sets nothing gets from the broker.
    fn inherited(&self, name: &str) -> Option<String> {
        let synonyms = synonym::of_topic(name);
        let Some((strongest, _)) = synonyms.first() else {
            return topic_definition(name)?.default.map(str::to_owned);
        };
        let applied = self.broker_settings(strongest).into_iter().next();
        let factor = applied
            .as_ref()
            .and_then(|set| synonyms.iter().find(|(name, _)| *name == set.name))
            .map_or(1, |s| s.1);
        applied
            .and_then(|set| set.value)
            .map(|value| synonym::convert(&value, factor))
            .or_else(|| topic_definition(name)?.default.map(str::to_owned))
    }
}

fn setting(definition: &Definition, value: &str, source: Source) -> Setting {
    let value = (!definition.is_sensitive()).then(|| value.to_owned());
    Setting { name: definition.name, value, source }
}

fn entry(definition: &'static Definition, value: Option<String>, synonyms: Vec<Setting>) -> Entry {
    let source = synonyms.first().map_or(Source::Default, |setting| setting.source);
    Entry { definition, value, source, read_only: definition.update == Update::ReadOnly, synonyms }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::messages::ConfigRecord;

    use super::*;
    use crate::metadata::Record;

    fn statics(pairs: &[(&str, &str)]) -> Static {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_topic_inherits_through_synonyms_in_other_units() {
        let image = Image::default();
        type Row = (&'static [(&'static str, &'static str)], &'static str, &'static str);
        let table: &[Row] = &[
            (&[], "retention.ms", "604800000"),
            (&[("log.retention.hours", "1")], "retention.ms", "3600000"),
            (&[("log.retention.hours", "1"), ("log.retention.minutes", "2")], "retention.ms", "120000"),
            (&[("log.retention.hours", "-1")], "retention.ms", "-1"),
            (&[("log.retention.ms", "5"), ("log.retention.minutes", "2")], "retention.ms", "5"),
            (&[("message.max.bytes", "77")], "max.message.bytes", "77"),
            (&[], "flush.ms", "9223372036854775807"),
            (&[], "segment.ms", "604800000"),
            (&[], "remote.storage.enable", "false"),
        ];
        for (set, name, expected) in table {
            let statics = statics(set);
            let effective = Effective::new(&image, NodeId(1), &statics);
            assert_eq!(effective.topic_value(Some("t"), name).as_deref(), Some(*expected), "{set:?}");
        }
    }

    #[test]
    fn describing_shows_source_and_synonyms_as_kafka_does() {
        type Shown<'a> = (Option<&'a str>, Source, Vec<(&'a str, Source)>);
        fn shown<'a>(entries: &'a [Entry], name: &str) -> Shown<'a> {
            let entry = entries.iter().find(|entry| entry.definition.name == name).unwrap();
            let synonyms = entry.synonyms.iter().map(|setting| (setting.name, setting.source));
            (entry.value.as_deref(), entry.source, synonyms.collect())
        }
        const HOURS: (&str, Source) = ("log.retention.hours", Source::Default);
        // What Kafka 4.3.1 shows where only a weaker synonym is set: it applies, but is none of what is described.
        let image = Image::default();
        let minutes = statics(&[("log.retention.minutes", "2")]);
        let entries = Effective::new(&image, NodeId(1), &minutes).describe_topic("t");
        assert_eq!(shown(&entries, "retention.ms"), (Some("120000"), Source::Default, vec![]));
        let message = ("message.max.bytes", Source::Default);
        assert_eq!(
            shown(&entries, "max.message.bytes"),
            (Some("1048588"), Source::Default, vec![message]),
            "one that has its broker's default"
        );
        // What it shows after `--alter --entity-name 1 --add-config log.retention.ms=99`.
        let record = ConfigRecord {
            resource_type: 4,
            resource_name: "1".into(),
            name: "log.retention.ms".into(),
            value: Some("99".into()),
        };
        let mut image = Image::default();
        image.apply(&Record::Config(record)).unwrap();
        let nothing = statics(&[]);
        let effective = Effective::new(&image, NodeId(1), &nothing);
        let set = ("log.retention.ms", Source::DynamicBroker);
        let broker = effective.describe_broker();
        assert_eq!(
            shown(&broker, "log.retention.ms"),
            (Some("99"), Source::DynamicBroker, vec![set, HOURS]),
            "who is set"
        );
        assert_eq!(shown(&broker, "log.retention.hours"), (Some("168"), Source::Default, vec![HOURS]));
        assert_eq!(shown(&broker, "log.retention.minutes"), (None, Source::Default, vec![]));
        let topic = effective.describe_topic("t");
        assert_eq!(
            shown(&topic, "retention.ms"),
            (Some("99"), Source::DynamicBroker, vec![set, HOURS]),
            "which a topic inherits"
        );
        let secret = broker.iter().find(|entry| entry.definition.name == "ssl.key.password").unwrap();
        assert!(secret.definition.is_sensitive() && secret.value.is_none());
        let node_id = broker.iter().find(|entry| entry.definition.name == "node.id").unwrap();
        assert!(node_id.read_only);
    }
}
