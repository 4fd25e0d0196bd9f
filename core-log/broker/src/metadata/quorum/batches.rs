//! Entries as record batches, and back.
//!
//! A group of metadata records is a batch as [`crate::metadata`] writes it. A leader change is Kafka's control record of that name.
//! Members are a control record of our own: Kafka's has one set of voters, while a change of members has two for a while.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use millstream_protocol::Endpoint;
use millstream_protocol::messages::raft_records::{Config, Member, Voter};
use millstream_protocol::messages::{LeaderChangeMessage, RaftMembershipRecord};
use millstream_protocol::wire::Message;
use millstream_record::{Batch, BatchBuilder, BatchOptions, ControlKind, Millis, NodeId};

use super::error::QuorumError;
use super::types::{Content, Entry, MemberId, Membership, Payload, log_id, term_of, voters};

/// Kafka's number for a leader change.
const LEADER_CHANGE: i16 = 2;
/// Our number for the members: far from Kafka's, which are small.
const MEMBERSHIP: i16 = 20_000;
/// The version of control records' keys and of the values that begin with one.
const VERSION: i16 = 0;

/// A batch with one control record. `value` writes its message.
pub(super) fn control<M: Message>(kind: i16, message: &M, now: Millis) -> Result<Bytes, QuorumError> {
    let mut key = BytesMut::with_capacity(4);
    key.put_i16(VERSION);
    key.put_i16(kind);
    let mut builder = BatchBuilder::new(BatchOptions { control: true, ..BatchOptions::default() });
    let value = message.encode(VERSION).map_err(QuorumError::format)?;
    builder.append(now, Some(&key), Some(&value), &[]).map_err(QuorumError::format)?;
    Ok(builder.build().map_err(QuorumError::format)?.freeze())
}

/// Reads the one control record of `batch`: its kind and its value.
pub(super) fn read_control(batch: &Batch) -> Result<(i16, Bytes), QuorumError> {
    let body = batch.body();
    let record = batch.records(&body).next();
    let record = record.ok_or_else(|| QuorumError::format("a control batch without a record"))?;
    let record = record.map_err(QuorumError::format)?;
    let kind = ControlKind::from_key(record.key.unwrap_or_default())
        .ok_or_else(|| QuorumError::format("a control record without a kind"))?;
    Ok((kind.id(), body.slice_ref(record.value.unwrap_or_default())))
}

/// The batch of an entry, without its place in the log. `leader` is who writes it.
pub(super) fn encode(content: &Content, leader: MemberId, now: Millis) -> Result<Bytes, QuorumError> {
    match content {
        Content::Group(bytes) => Ok(bytes.clone()),
        Content::LeaderChange => {
            let message = LeaderChangeMessage {
                version: VERSION,
                leader_id: leader.node.0,
                ..LeaderChangeMessage::default()
            };
            control(LEADER_CHANGE, &message, now)
        }
        Content::Membership(membership) => control(MEMBERSHIP, &membership_record(membership), now),
    }
}

/// The entry at `index` that `batch` is.
pub(super) fn decode(batch: Batch, index: u64) -> Result<Entry, QuorumError> {
    let term = term_of(batch.header().leader_epoch);
    let content = content(&batch)?;
    let payload = Payload { content, stored: Some(batch.into_bytes()) };
    Ok(Entry { log_id: log_id(term, index), payload })
}

fn content(batch: &Batch) -> Result<Content, QuorumError> {
    if !batch.header().attributes.is_control() {
        return Ok(Content::Group(batch.bytes().clone()));
    }
    let (kind, value) = read_control(batch)?;
    match kind {
        LEADER_CHANGE => Ok(Content::LeaderChange),
        MEMBERSHIP => {
            let record = RaftMembershipRecord::decode(value, VERSION).map_err(QuorumError::format)?;
            Ok(Content::Membership(read_membership(record)?))
        }
        other => Err(QuorumError::format(format!(
            "a control record of kind {other}, which this build does not know"
        ))),
    }
}

/// Who the members are, as a record.
pub(super) fn membership_record(membership: &Membership) -> RaftMembershipRecord {
    let voter = |id: &MemberId| Voter { voter_id: id.node.0, voter_directory_id: id.directory };
    let config = |voters: &BTreeSet<MemberId>| Config { voters: voters.iter().map(voter).collect() };
    let member = |(id, at): (&MemberId, &Endpoint)| Member {
        member_id: id.node.0,
        member_directory_id: id.directory,
        host: at.host.clone(),
        port: at.port,
    };
    RaftMembershipRecord {
        configs: membership.get_joint_config().iter().map(config).collect(),
        members: membership.nodes().map(member).collect(),
    }
}

/// Reads what [`membership_record`] made.
pub(super) fn read_membership(record: RaftMembershipRecord) -> Result<Membership, QuorumError> {
    let voter = |voter: Voter| MemberId { node: NodeId(voter.voter_id), directory: voter.voter_directory_id };
    let configs = record.configs.into_iter().map(|config| config.voters.into_iter().map(voter).collect());
    let member = |member: Member| {
        let id = MemberId { node: NodeId(member.member_id), directory: member.member_directory_id };
        (id, Endpoint::new(member.host, member.port))
    };
    let nodes: BTreeMap<MemberId, Endpoint> = record.members.into_iter().map(member).collect();
    Membership::new(configs.collect(), nodes).map_err(QuorumError::format)
}

/// The membership of a quorum whose only voters are `members`.
pub(super) fn first_membership(members: &BTreeMap<MemberId, Endpoint>) -> Result<Membership, QuorumError> {
    let ids: BTreeSet<MemberId> = members.keys().copied().collect();
    Membership::new(vec![ids], members.clone()).map_err(QuorumError::format)
}

/// Whether `member` is the only voter.
pub(super) fn votes_alone(membership: &Membership, member: MemberId) -> bool {
    voters(membership).into_iter().eq([member])
}

#[cfg(test)]
mod tests {
    use millstream_record::patch::set_offset_and_epoch;
    use millstream_record::{LeaderEpoch, Offset, Uuid};

    use super::*;

    fn member(node: i32) -> MemberId {
        MemberId { node: NodeId(node), directory: Uuid::from_random(7, u64::try_from(node).unwrap()) }
    }

    fn stored(content: &Content) -> Entry {
        let bytes = encode(content, member(1), Millis(5)).unwrap();
        let mut placed = BytesMut::from(&bytes[..]);
        set_offset_and_epoch(&mut placed, Offset(40), LeaderEpoch(3)).unwrap();
        let entry = decode(Batch::parse(placed.freeze()).unwrap(), 9).unwrap();
        assert_eq!(entry.log_id, log_id(3, 9));
        entry
    }

    #[test]
    fn a_change_of_members_is_read_back_with_both_of_its_halves() {
        let nodes = (1..=4).map(|node| (member(node), Endpoint::new("host", 9_000 + node as u16)));
        let nodes: BTreeMap<MemberId, Endpoint> = nodes.collect();
        let old = BTreeSet::from([member(1)]);
        let new = BTreeSet::from([member(1), member(2), member(3)]);
        let membership = Membership::new(vec![old, new], nodes).unwrap();
        let entry = stored(&Content::Membership(membership.clone()));
        let Content::Membership(read) = entry.payload.content else { panic!("{entry:?}") };
        assert_eq!(read, membership);
        assert!(!votes_alone(&read, member(1)));
    }

    #[test]
    fn a_leader_change_is_a_control_batch_that_names_the_leader() {
        let entry = stored(&Content::LeaderChange);
        assert!(matches!(entry.payload.content, Content::LeaderChange));
        let batch = Batch::parse(entry.payload.stored.unwrap()).unwrap();
        let (kind, value) = read_control(&batch).unwrap();
        assert_eq!(kind, LEADER_CHANGE);
        assert_eq!(LeaderChangeMessage::decode(value, VERSION).unwrap().leader_id, 1);
    }

    #[test]
    fn an_unknown_control_record_is_refused() {
        let bytes = control(77, &LeaderChangeMessage::default(), Millis(0)).unwrap();
        let error = decode(Batch::parse(bytes).unwrap(), 0).unwrap_err();
        assert!(error.to_string().contains("77"), "{error}");
    }
}
