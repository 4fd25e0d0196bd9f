//! [`VoteFile`]: for whom this member voted last.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_protocol::messages::RaftVoteData;
use millstream_protocol::wire::Message;
use millstream_record::NodeId;
use millstream_storage::{Log, SideFile, StorageError};

use super::error::QuorumError;
use super::types::{MemberId, Vote};

/// The file's name, beside the segments.
const FILE: &str = "quorum-vote";
/// The version of what is in it.
const VERSION: i16 = 0;

/// The durable vote. It is replaced as a whole, and never guessed: a member that forgets its vote could vote twice in a term.
#[derive(Clone, Debug)]
pub(super) struct VoteFile(SideFile);

impl VoteFile {
    pub(super) fn beside(log: &Log) -> Self {
        Self(log.side_file(FILE))
    }

    /// Blocks.
    pub(super) fn read(&self) -> Result<Option<Vote>, QuorumError> {
        let Some(mut bytes) = self.0.read()? else { return Ok(None) };
        let path = self.0.path();
        let version = bytes.try_get_i16().unwrap_or(-1);
        StorageError::refuse_newer(path, version, VERSION)?;
        if version != VERSION {
            return Err(QuorumError::format(format!("{} is of another version", path.display())));
        }
        let data = RaftVoteData::decode(bytes, VERSION).map_err(QuorumError::format)?;
        Ok(Some(from_data(&data)))
    }

    /// The vote is durable on return. Blocks.
    pub(super) fn write(&self, vote: &Vote) -> Result<(), QuorumError> {
        let mut bytes = BytesMut::new();
        bytes.put_i16(VERSION);
        bytes.put(to_data(vote).encode(VERSION).map_err(QuorumError::format)?);
        Ok(self.0.write(&Bytes::from(bytes))?)
    }
}

/// A vote in fields, as files and messages have it.
pub(super) fn to_data(vote: &Vote) -> RaftVoteData {
    RaftVoteData {
        term: i64::try_from(vote.leader_id.term).unwrap_or(i64::MAX),
        node_id: vote.leader_id.voted_for.node.0,
        directory_id: vote.leader_id.voted_for.directory,
        granted: vote.committed,
    }
}

/// Reads what [`to_data`] made.
pub(super) fn from_data(data: &RaftVoteData) -> Vote {
    let member = MemberId { node: NodeId(data.node_id), directory: data.directory_id };
    let term = u64::try_from(data.term).unwrap_or(0);
    if data.granted { Vote::new_committed(term, member) } else { Vote::new(term, member) }
}
