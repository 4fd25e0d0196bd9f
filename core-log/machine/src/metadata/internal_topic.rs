//! The broker's own topics.

use bytestring::ByteString;
use millstream_protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig};

use crate::config::Effective;

/// The topics that the broker keeps its own state in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalTopic {
    /// `__consumer_offsets`: groups.
    Offsets,
    /// `__transaction_state`: transactions.
    Transactions,
}

impl InternalTopic {
    /// The internal topic called `name`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Offsets, Self::Transactions].into_iter().find(|topic| topic.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offsets => "__consumer_offsets",
            Self::Transactions => "__transaction_state",
        }
    }

    /// How to create it by this broker's settings. Where there are fewer brokers than replicas asked for it cannot be created yet,
    /// as in Kafka: made with fewer, it would have them for ever.
    #[must_use]
    pub fn request(self, effective: &Effective<'_>) -> CreatableTopic {
        let (prefix, replicas) = match self {
            Self::Offsets => ("offsets.topic", "offsets.topic.replication.factor"),
            Self::Transactions => ("transaction.state.log", "transaction.state.log.replication.factor"),
        };
        let replication_factor = effective.broker_number(replicas, 3).max(1);
        let number = |name: &str, fallback| effective.broker_number(&format!("{prefix}.{name}"), fallback);
        let mut configs = vec![
            ("cleanup.policy", "compact".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("segment.bytes", number("segment.bytes", 104_857_600).max(1_048_576).to_string()),
        ];
        if self == Self::Transactions {
            let min_isr = number("min.isr", 2).clamp(1, replication_factor);
            configs.push(("min.insync.replicas", min_isr.to_string()));
            configs.push(("unclean.leader.election.enable", "false".to_owned()));
        }
        CreatableTopic {
            name: ByteString::from_static(self.name()),
            num_partitions: i32::try_from(number("num.partitions", 50)).unwrap_or(50),
            replication_factor: i16::try_from(replication_factor).unwrap_or(1),
            configs: configs
                .into_iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: ByteString::from_static(name),
                    value: Some(value.into()),
                })
                .collect(),
            ..CreatableTopic::default()
        }
    }
}
