//! The types that openraft is made to work with.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use millstream_protocol::Endpoint;
use millstream_record::{LeaderEpoch, NodeId, Offset, Uuid};
use openraft::entry::RaftPayload;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_std};
use openraft::vote::RaftLeaderId;

use super::runtime::EnvRuntime;

/// A member of the quorum: a node together with the directory that holds its log. A node whose disk was emptied comes back with
/// another directory and is another member, so a vote or an acknowledgement that the old disk forgot is never asked of it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId {
    /// Its `node.id`.
    pub node: NodeId,
    /// The id of its metadata log's directory.
    pub directory: Uuid,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.directory)
    }
}

/// openraft's parameters: one leader for each term, ids as above, batches of records as entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Group;
    type R = Offset;
    type NodeId = MemberId;
    type Node = Endpoint;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, MemberId>;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = EnvRuntime;
    type Responder<T: Send + 'static> = OneshotResponder<Self, T>;
    type Batch<T: Send + 'static> = InlineBatch<T>;
    type ErrorSource = BoxedErrorSource;
}

pub(super) type Raft = openraft::Raft<Types, super::state_machine::StateMachine>;
pub(super) type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub(super) type Vote = openraft::impls::Vote<leader_id_std::LeaderId<u64, MemberId>>;
pub(super) type CommittedLeaderId = <leader_id_std::LeaderId<u64, MemberId> as RaftLeaderId>::Committed;
pub(super) type LogId = openraft::LogId<CommittedLeaderId>;
pub(super) type Membership = openraft::Membership<MemberId, Endpoint>;
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, MemberId, Endpoint>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, MemberId, Endpoint>;

/// The id of the entry at `index` that the leader of `term` wrote.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader_id_std::LeaderId { term, voted_for: MemberId::default() }.to_committed(), index)
}

/// The term as records and Kafka's messages have it.
pub(super) fn epoch_of(term: u64) -> LeaderEpoch {
    LeaderEpoch(i32::try_from(term).unwrap_or(i32::MAX))
}

/// The term that an epoch is; epochs below zero stand for none.
pub(super) fn term_of(epoch: LeaderEpoch) -> u64 {
    u64::try_from(epoch.0).unwrap_or(0)
}

/// Who votes according to `membership`, in either half of a change.
pub(super) fn voters(membership: &Membership) -> BTreeSet<MemberId> {
    membership.voter_ids().collect()
}

/// A proposed batch of records, encoded, before it has a place in the log.
#[derive(Clone, Debug)]
pub(super) struct Group(pub(super) Bytes);

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a batch of {} bytes", self.0.len())
    }
}

/// What an entry says.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A leader's first entry, which commits those before it.
    LeaderChange,
    /// A batch of metadata records.
    Group(Bytes),
    /// Who the members are from here on.
    Membership(Membership),
}

/// An entry without its id: what it says, and its bytes once it has been in a log. The bytes travel and are stored as they are, so
/// all members have the same.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    pub(super) content: Content,
    pub(super) stored: Option<Bytes>,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::LeaderChange => f.write_str("leader change"),
            Content::Group(bytes) => write!(f, "{}", Group(bytes.clone())),
            Content::Membership(membership) => write!(f, "members {membership}"),
        }
    }
}

impl RaftPayload for Payload {
    type D = Group;
    type NodeId = MemberId;
    type Node = Endpoint;

    fn blank() -> Self {
        Self { content: Content::LeaderChange, stored: None }
    }

    fn with_normal(self, Group(bytes): Group) -> Self {
        Self { content: Content::Group(bytes), stored: None }
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self { content: Content::Membership(membership), stored: None }
    }

    fn get_membership(&self) -> Option<Membership> {
        match &self.content {
            Content::Membership(membership) => Some(membership.clone()),
            _ => None,
        }
    }
}
