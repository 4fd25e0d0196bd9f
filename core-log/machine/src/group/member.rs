//! A member of a group.

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::messages::JoinGroupRequest;
use millstream_protocol::messages::group_records::MemberMetadata;

use super::api::Client;
use crate::Waiter;
use crate::wire::{own, own_bytes};

/// A member, and what it waits for.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: ByteString,
    /// `group.instance.id` of a static member (KIP-345).
    pub(super) instance: Option<ByteString>,
    pub(super) client: Client,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// The protocols it supports, the preferred one first, each with what it tells the leader.
    pub(super) protocols: Vec<(ByteString, Bytes)>,
    pub(super) assignment: Bytes,
    /// It has not yet been told that it joined, so it cannot send heartbeats.
    pub(super) is_new: bool,
    pub(super) awaiting_join: Option<Waiter>,
    pub(super) awaiting_sync: Option<Waiter>,
}

impl Member {
    pub(super) fn new(id: ByteString, client: &Client, request: &JoinGroupRequest) -> Self {
        let mut member = Self {
            id,
            instance: request.group_instance_id.as_ref().map(own),
            client: Client { id: own(&client.id), host: own(&client.host) },
            rebalance_timeout_ms: 0,
            session_timeout_ms: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            is_new: true,
            awaiting_join: None,
            awaiting_sync: None,
        };
        member.renew(request);
        member
    }

    /// Takes over what a join says about it.
    pub(super) fn renew(&mut self, request: &JoinGroupRequest) {
        // Before the rebalance timeout existed the session timeout was used for both.
        self.rebalance_timeout_ms = if request.rebalance_timeout_ms < 0 {
            request.session_timeout_ms
        } else {
            request.rebalance_timeout_ms
        };
        self.session_timeout_ms = request.session_timeout_ms;
        self.protocols = request.protocols.iter().map(|p| (own(&p.name), own_bytes(&p.metadata))).collect();
    }

    /// Whether a join says of its protocols what is known already.
    pub(super) fn matches(&self, request: &JoinGroupRequest) -> bool {
        self.protocols.len() == request.protocols.len()
            && self
                .protocols
                .iter()
                .zip(&request.protocols)
                .all(|((name, metadata), asked)| *name == asked.name && *metadata == asked.metadata)
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| &**name == protocol)
            .map(|(_, m)| m.clone())
            .unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| &**name == protocol)
    }

    /// A member that waits for an answer is alive: it cannot send heartbeats meanwhile.
    pub(super) fn is_waiting(&self) -> bool {
        self.awaiting_join.is_some() || self.awaiting_sync.is_some()
    }

    /// As it is stored with its group.
    pub(super) fn to_record(&self, protocol: &str, assignment: Bytes) -> MemberMetadata {
        MemberMetadata {
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            client_id: self.client.id.clone(),
            client_host: self.client.host.clone(),
            rebalance_timeout: self.rebalance_timeout_ms,
            session_timeout: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }

    /// As it was stored.
    pub(super) fn from_record(record: &MemberMetadata, protocol: &ByteString) -> Self {
        Self {
            id: own(&record.member_id),
            instance: record.group_instance_id.as_ref().map(own),
            client: Client { id: own(&record.client_id), host: own(&record.client_host) },
            rebalance_timeout_ms: if record.rebalance_timeout < 0 {
                record.session_timeout
            } else {
                record.rebalance_timeout
            },
            session_timeout_ms: record.session_timeout,
            protocols: vec![(protocol.clone(), record.subscription.clone())],
            assignment: record.assignment.clone(),
            is_new: false,
            awaiting_join: None,
            awaiting_sync: None,
        }
    }
}
