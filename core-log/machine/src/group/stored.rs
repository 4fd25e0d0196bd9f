//! What the log says: stored groups and committed offsets.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::messages::{
    GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue,
};
use millstream_record::ProducerId;

use super::coordinator::Replay;
use crate::wire::{
    SnapshotWriter, decode_key, decode_value, encode_key, encode_value, own, read_snapshot, record_type,
};
use crate::{Error, KeyValue, TransactionOutcome};

/// What this log's records are called in errors.
const WHAT: &str = "__consumer_offsets";
/// Types of records; the first is how Kafka wrote offset commits of old, with the same key.
const LEGACY_OFFSET_COMMIT: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;
/// The versions written; Kafka 4.3 writes the same.
const OFFSET_COMMIT_VERSION: i16 = 3;
const GROUP_METADATA_VERSION: i16 = 3;

/// A committed offset, and where it stands among the partition's records.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Commit {
    pub(super) value: OffsetCommitValue,
    position: i64,
}

/// A topic's partition within a group.
pub(super) type Place = (ByteString, i32);
type Commits = BTreeMap<Place, Commit>;

/// Everything durable. It changes by [`Stored::replay`] alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stored {
    groups: BTreeMap<ByteString, GroupMetadataValue>,
    offsets: BTreeMap<ByteString, Commits>,
    pending: BTreeMap<ProducerId, BTreeMap<ByteString, Commits>>,
    position: i64,
}

impl Stored {
    /// Applies one entry of the log.
    ///
    /// # Errors
    /// When a record of a known kind cannot be read.
    pub(super) fn replay(&mut self, entry: Replay) -> Result<(), Error> {
        self.position += 1;
        match entry {
            Replay::Record { producer_id, record } => self.replay_record(producer_id, record),
            Replay::Marker { producer_id, outcome } => {
                self.end_transaction(producer_id, outcome);
                Ok(())
            }
        }
    }

    fn replay_record(&mut self, producer_id: Option<ProducerId>, record: KeyValue) -> Result<(), Error> {
        match record_type(&record.key, WHAT)? {
            LEGACY_OFFSET_COMMIT | OFFSET_COMMIT => {
                let key: OffsetCommitKey = decode_key(&record.key, WHAT)?;
                let value =
                    record.value.map(|value| decode_value::<OffsetCommitValue>(value, WHAT)).transpose()?;
                self.replay_commit(producer_id, &key, value);
            }
            GROUP_METADATA => {
                let key: GroupMetadataKey = decode_key(&record.key, WHAT)?;
                match record.value {
                    Some(value) => {
                        let value = decode_value(value, WHAT)?;
                        self.groups.insert(own(&key.group), value);
                    }
                    None => {
                        self.groups.remove(&key.group);
                    }
                }
            }
            // Records of the newer group protocols, should Kafka have written this log.
            _ => {}
        }
        Ok(())
    }

    fn replay_commit(
        &mut self,
        producer_id: Option<ProducerId>,
        key: &OffsetCommitKey,
        value: Option<OffsetCommitValue>,
    ) {
        let (group, place) = (own(&key.group), (own(&key.topic), key.partition));
        let Some(value) = value else {
            take_out(&mut self.offsets, &group, &place);
            self.pending.values_mut().for_each(|groups| take_out(groups, &group, &place));
            self.pending.retain(|_, groups| !groups.is_empty());
            return;
        };
        let commit = Commit { value, position: self.position };
        let groups = match producer_id {
            Some(producer_id) => self.pending.entry(producer_id).or_default(),
            None => &mut self.offsets,
        };
        groups.entry(group).or_default().insert(place, commit);
    }

    /// Commits become visible with the transaction, unless one that was written later is there already.
    fn end_transaction(&mut self, producer_id: ProducerId, outcome: TransactionOutcome) {
        let Some(groups) = self.pending.remove(&producer_id) else { return };
        if outcome == TransactionOutcome::Abort {
            return;
        }
        for (group, commits) in groups {
            let visible = self.offsets.entry(group).or_default();
            for (place, commit) in commits {
                if visible.get(&place).is_none_or(|there| there.position < commit.position) {
                    visible.insert(place, commit);
                }
            }
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&ByteString, &GroupMetadataValue)> {
        self.groups.iter()
    }

    pub(super) fn has_group(&self, group: &ByteString) -> bool {
        self.groups.contains_key(group)
    }

    /// The groups that have offsets, visible or pending.
    pub(super) fn groups_with_offsets(&self) -> BTreeSet<&ByteString> {
        self.offsets.keys().chain(self.pending.values().flat_map(BTreeMap::keys)).collect()
    }

    pub(super) fn commits(&self, group: &ByteString) -> impl Iterator<Item = (&Place, &OffsetCommitValue)> {
        self.offsets.get(group).into_iter().flatten().map(|(place, commit)| (place, &commit.value))
    }

    pub(super) fn commit(&self, group: &ByteString, place: &Place) -> Option<&OffsetCommitValue> {
        self.offsets.get(group)?.get(place).map(|commit| &commit.value)
    }

    /// Whether a transaction that has not ended has committed an offset here.
    pub(super) fn is_pending(&self, group: &ByteString, place: &Place) -> bool {
        self.pending
            .values()
            .any(|groups| groups.get(group).is_some_and(|commits| commits.contains_key(place)))
    }

    /// Every topic with a commit of any kind.
    pub(super) fn topics(&self) -> BTreeSet<&ByteString> {
        let groups = self.offsets.values().chain(self.pending.values().flat_map(BTreeMap::values));
        groups.flat_map(|commits| commits.keys().map(|(topic, _)| topic)).collect()
    }

    /// Every place with a commit of any kind in `group`.
    pub(super) fn places(&self, group: &ByteString) -> BTreeSet<Place> {
        let pending = self.pending.values().filter_map(|groups| groups.get(group));
        self.offsets
            .get(group)
            .into_iter()
            .chain(pending)
            .flat_map(|commits| commits.keys().cloned())
            .collect()
    }

    pub(super) fn snapshot(&self) -> Bytes {
        let mut writer = SnapshotWriter::new();
        for (group, value) in &self.groups {
            writer.entry(NO_PRODUCER, &group_record(group, Some(value)));
        }
        // Entries carry their producer; their order is that of the log, which decides between two commits.
        let mut commits: Vec<(i64, i64, &ByteString, &Place, &OffsetCommitValue)> = Vec::new();
        for (producer, groups) in std::iter::once((NO_PRODUCER, &self.offsets))
            .chain(self.pending.iter().map(|(id, groups)| (id.0, groups)))
        {
            for (group, places) in groups {
                commits.extend(
                    places.iter().map(|(place, one)| (one.position, producer, group, place, &one.value)),
                );
            }
        }
        commits.sort_unstable_by_key(|(position, producer, ..)| (*position, *producer));
        for (_, producer, group, place, value) in commits {
            writer.entry(producer, &commit_record(group, place, Some(value)));
        }
        writer.finish()
    }

    pub(super) fn restore(snapshot: Bytes) -> Result<Self, Error> {
        let mut stored = Self::default();
        for (producer, record) in read_snapshot("group", snapshot)? {
            let producer_id = (producer != NO_PRODUCER).then_some(ProducerId(producer));
            stored.replay(Replay::Record { producer_id, record })?;
        }
        Ok(stored)
    }
}

/// In a snapshot: the entry is not pending.
const NO_PRODUCER: i64 = -1;

fn take_out(groups: &mut BTreeMap<ByteString, Commits>, group: &ByteString, place: &Place) {
    if let Some(commits) = groups.get_mut(group) {
        commits.remove(place);
        if commits.is_empty() {
            groups.remove(group);
        }
    }
}

/// The record that stores a group, or its tombstone.
pub(super) fn group_record(group: &ByteString, value: Option<&GroupMetadataValue>) -> KeyValue {
    let key = encode_key(&GroupMetadataKey { group: group.clone() });
    KeyValue { key, value: value.map(|value| encode_value(value, GROUP_METADATA_VERSION)) }
}

/// The record that stores an offset, or its tombstone.
pub(super) fn commit_record(
    group: &ByteString,
    (topic, partition): &Place,
    value: Option<&OffsetCommitValue>,
) -> KeyValue {
    let key =
        encode_key(&OffsetCommitKey { group: group.clone(), topic: topic.clone(), partition: *partition });
    KeyValue { key, value: value.map(|value| encode_value(value, OFFSET_COMMIT_VERSION)) }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::messages::group_records::MemberMetadata;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The expected bytes were written by Kafka 4.3.1's own serializers.
    #[test]
    fn records_are_kafkas_byte_for_byte() {
        let commit = OffsetCommitValue {
            offset: 7,
            leader_epoch: 2,
            metadata: "m".into(),
            commit_timestamp: 1_000,
            ..OffsetCommitValue::default()
        };
        let record = commit_record(&"g".into(), &("topic".into(), 3), Some(&commit));
        assert_eq!(hex(&record.key), "00010001670005746f70696300000003");
        assert_eq!(hex(&record.value.unwrap()), "000300000000000000070000000200016d00000000000003e8");
        let group = GroupMetadataValue {
            protocol_type: "consumer".into(),
            generation: 5,
            protocol: Some("range".into()),
            leader: Some("m1".into()),
            current_state_timestamp: 99,
            members: vec![MemberMetadata {
                member_id: "m1".into(),
                group_instance_id: Some("i".into()),
                client_id: "c".into(),
                client_host: "/h".into(),
                rebalance_timeout: 60_000,
                session_timeout: 10_000,
                subscription: Bytes::from_static(&[1]),
                assignment: Bytes::from_static(&[2, 3]),
            }],
        };
        let record = group_record(&"g".into(), Some(&group));
        assert_eq!(hex(&record.key), "0002000167");
        assert_eq!(
            hex(&record.value.unwrap()),
            "00030008636f6e73756d657200000005000572616e676500026d3100000000000000630000000100026d31000169000163\
             00022f680000ea60000027100000000101000000020203"
        );
    }

    #[test]
    fn bytes_that_are_no_record_are_errors() {
        let replay = |key: &'static [u8], value: &'static [u8]| {
            let record = KeyValue { key: Bytes::from_static(key), value: Some(Bytes::from_static(value)) };
            Stored::default().replay(Replay::Record { producer_id: None, record })
        };
        assert!(replay(&[], &[]).is_err());
        assert!(replay(&[0, 1, 0, 9], &[]).is_err());
        assert!(replay(&[0, 2, 0, 1, b'g'], &[0, 3, 0xff]).is_err());
        assert!(replay(&[0, 99], &[]).is_ok(), "a kind of another group protocol is not ours to read");
        for broken in
            [&b""[..], b"MSC", b"MSC\x02", b"MSC\x01\0\0", b"MSC\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xff"]
        {
            assert!(Stored::restore(Bytes::from_static(broken)).is_err(), "{broken:?}");
        }
    }
}
