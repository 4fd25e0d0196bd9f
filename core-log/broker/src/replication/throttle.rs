//! Limits on what replicas that are not in sync may copy (KIP-73), so that a move does not take the network from everybody else.
//!
//! A topic names the replicas that are limited, `leader.replication.throttled.replicas` for the sending side and
//! `follower.replication.throttled.replicas` for the receiving one; the rates, in bytes a second, are the brokers'. Who is in sync is
//! never held back: acks=all waits for it.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_machine::config::{Effective, Static};
use millstream_machine::metadata::Image;
use millstream_record::{NodeId, TopicId};
use parking_lot::Mutex;

/// A side of copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Sending to followers.
    Leader,
    /// Receiving from leaders.
    Follower,
}

impl Side {
    /// The broker's configuration with the rate.
    fn rate_name(self) -> &'static str {
        match self {
            Self::Leader => "leader.replication.throttled.rate",
            Self::Follower => "follower.replication.throttled.rate",
        }
    }

    /// The topic's configuration with the replicas.
    pub(crate) fn replicas_name(self) -> &'static str {
        match self {
            Self::Leader => "leader.replication.throttled.replicas",
            Self::Follower => "follower.replication.throttled.replicas",
        }
    }
}

/// Which replicas of a topic are limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Limited {
    #[default]
    None,
    All,
    /// Partition and broker.
    These(BTreeSet<(i32, i32)>),
}

impl Limited {
    /// Reads the topic's configuration, which has been validated.
    pub(crate) fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::All;
        }
        let pairs = text.split(',').filter_map(|pair| {
            let (partition, broker) = pair.trim().split_once(':')?;
            Some((partition.parse().ok()?, broker.parse().ok()?))
        });
        let pairs: BTreeSet<_> = pairs.collect();
        if pairs.is_empty() { Self::None } else { Self::These(pairs) }
    }

    fn has(&self, partition: i32, broker: NodeId) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(pairs) => pairs.contains(&(partition, broker.0)),
        }
    }
}

/// What was copied lately, against a rate.
#[derive(Default)]
struct Quota(Mutex<Bucket>);

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Bytes that may go at once: what a second brings at most, and less than none after a large answer.
    left: i64,
    at: Duration,
}

impl Quota {
    /// How long nothing may be copied at `rate` bytes a second; none while something may.
    fn wait(&self, now: Duration, rate: i64) -> Option<Duration> {
        let mut bucket = self.0.lock();
        let since = i64::try_from(now.saturating_sub(bucket.at).as_millis()).unwrap_or(i64::MAX);
        let refill = rate.saturating_mul(since) / 1_000;
        if refill > 0 {
            bucket.left = bucket.left.saturating_add(refill).min(rate);
            bucket.at = now;
        }
        if bucket.left > 0 {
            return None;
        }
        let missing = bucket.left.saturating_neg().saturating_add(1);
        let wait_ms = missing.saturating_mul(1_000) / rate.max(1);
        Some(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0).clamp(1, LOOK_MS)))
    }

    fn took(&self, bytes: usize) {
        let mut bucket = self.0.lock();
        bucket.left = bucket.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Longest wait before the rate, which may have been changed, is looked at again.
const LOOK_MS: u64 = 1_000;

/// The limits of one broker.
pub(crate) struct Throttle {
    node: NodeId,
    statics: Static,
    leading: Quota,
    following: Quota,
}

impl Throttle {
    pub(crate) fn new(node: NodeId, statics: Static) -> Self {
        Self { node, statics, leading: Quota::default(), following: Quota::default() }
    }

    fn quota(&self, side: Side) -> &Quota {
        match side {
            Side::Leader => &self.leading,
            Side::Follower => &self.following,
        }
    }

    /// Whether copying of a partition to `follower` is limited here.
    pub(crate) fn limits(
        &self,
        limited: &Limited,
        (topic, partition): (TopicId, i32),
        follower: NodeId,
        image: &Image,
    ) -> bool {
        limited.has(partition, self.node) && !is_in_sync(image, topic, partition, follower)
    }

    /// How long nothing that is limited may be copied; none while something may.
    pub(crate) fn wait(&self, side: Side, now: Duration, image: &Image) -> Option<Duration> {
        let rate = Effective::new(image, self.node, &self.statics).broker_number(side.rate_name(), i64::MAX);
        if rate == i64::MAX { None } else { self.quota(side).wait(now, rate) }
    }

    /// So much that is limited was copied.
    pub(crate) fn took(&self, side: Side, bytes: usize) {
        self.quota(side).took(bytes);
    }
}

fn is_in_sync(image: &Image, topic: TopicId, partition: i32, node: NodeId) -> bool {
    let at = usize::try_from(partition).unwrap_or(usize::MAX);
    let known = image.topic_by_id(topic).and_then(|topic| topic.partitions.get(at));
    known.is_some_and(|partition| partition.isr.contains(&node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_kafka_writes_them() {
        let cases = [
            ("", Limited::None),
            ("*", Limited::All),
            ("0:1, 3:2", Limited::These(BTreeSet::from([(0, 1), (3, 2)]))),
        ];
        for (text, expected) in cases {
            assert_eq!(Limited::parse(text), expected, "{text}");
        }
        let these = Limited::parse("0:1");
        assert!(these.has(0, NodeId(1)) && !these.has(0, NodeId(2)) && !these.has(1, NodeId(1)));
    }

    #[test]
    fn what_was_taken_beyond_the_rate_is_waited_for() {
        let (quota, rate) = (Quota::default(), 1_000);
        let at = Duration::from_millis;
        assert_eq!(quota.wait(at(1_000), rate), None);
        quota.took(1_500); // an answer is whole, however large
        assert_eq!(quota.wait(at(1_000), rate), Some(at(501)));
        assert_eq!(quota.wait(at(1_400), rate), Some(at(101)));
        assert_eq!(quota.wait(at(1_501), rate), None);
        // A long rest saves up one second's worth and no more.
        assert_eq!(quota.wait(at(60_000), rate), None);
        quota.took(1_001);
        assert_eq!(quota.wait(at(60_000), rate), Some(at(2)));
        // Nobody waits for ever for a rate that may change.
        quota.took(1_000_000);
        assert_eq!(quota.wait(at(60_001), 1), Some(at(LOOK_MS)));
    }
}
