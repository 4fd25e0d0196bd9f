//! What a configuration request is about.

use millstream_protocol::ErrorCode;
use millstream_record::NodeId;

/// What a configuration request is about, by Kafka's numbers.
pub(super) enum Resource<'a> {
    /// 2: a topic.
    Topic(&'a str),
    /// 4: this broker.
    Broker,
    /// 4 without a name: what holds for every broker that has no value of its own.
    AllBrokers,
    /// 8: the broker's loggers; they are not set by request.
    Loggers,
    /// 32: a group; none of its configurations are served.
    Group,
}

impl<'a> Resource<'a> {
    pub(super) fn parse(kind: i8, name: &'a str, node: NodeId) -> Result<Self, (ErrorCode, String)> {
        match kind {
            2 => Ok(Self::Topic(name)),
            4 if name.is_empty() => Ok(Self::AllBrokers),
            4 | 8 if name.parse() != Ok(node.0) => Err((
                ErrorCode::InvalidRequest,
                format!("this is broker {node}, and `{name}` was asked for; ask that broker"),
            )),
            4 => Ok(Self::Broker),
            8 => Ok(Self::Loggers),
            32 => Ok(Self::Group),
            other => Err((
                ErrorCode::InvalidRequest,
                format!("configurations of resource type {other} are not served"),
            )),
        }
    }
}
