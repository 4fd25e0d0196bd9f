//! The way of a request to its handler, one file for each API or family of them.
//!
//! A handler only translates: it finds the partition or coordinator, asks it, and puts what it says into the answer.

mod api_versions;
mod cluster;
mod controller;
mod delete_records;
mod describe_cluster;
mod describe_configs;
mod describe_log_dirs;
mod describe_topic_partitions;
mod fetch;
mod find_coordinator;
mod groups;
mod leader_hint;
mod list_offsets;
mod metadata;
mod observe;
mod offset_delete;
mod offset_for_leader_epoch;
mod offsets;
mod permissions;
mod produce;
mod resource;
mod topics;
mod transactions;
mod write_txn_markers;

pub(crate) use fetch::Sessions;
use millstream_protocol::{CallError, Ctx, Receipt, Request, Response};

use crate::Broker;

/// Hands `request` to its handler. What must be in order is in order when this returns.
pub(crate) fn dispatch(broker: &Broker, ctx: Ctx, request: Request) -> Receipt {
    let shared = &broker.shared;
    if shared.config.quorum.as_ref().is_some_and(|quorum| quorum.listener == *ctx.listener) {
        return controller::handle(broker, &ctx, request);
    }
    if !shared.metadata.has_caught_up() && !matches!(request, Request::ApiVersions(_)) {
        let peer = format!("node {}", shared.config.node_id);
        let reason = "it has not caught up with its cluster yet; ask another node, or again".to_owned();
        return CallError::Disconnected { peer, reason }.into();
    }
    match request {
        Request::Produce(request) => produce::handle(shared, &ctx, request),
        Request::Fetch(request) => fetch::handle(broker, ctx, request),
        Request::ListOffsets(request) => list_offsets::handle(broker, ctx, request),
        Request::OffsetForLeaderEpoch(request) => now(offset_for_leader_epoch::handle(shared, &request)),
        Request::Metadata(request) => metadata::handle(broker, ctx, request),
        Request::ApiVersions(request) => now(api_versions::handle(shared, &ctx, &request)),
        Request::DescribeCluster(request) => now(describe_cluster::handle(shared, &ctx, &request)),
        Request::DescribeConfigs(request) => now(describe_configs::handle(shared, &request)),
        Request::DescribeLogDirs(request) => describe_log_dirs::handle(broker, request),
        Request::DescribeTopicPartitions(request) => now(describe_topic_partitions::handle(shared, &request)),
        Request::IncrementalAlterConfigs(request) => topics::alter_configs(broker, request),
        Request::AlterConfigs(request) => topics::replace_configs(broker, request),
        Request::CreateTopics(request) => topics::create(broker, request),
        Request::DeleteTopics(request) => topics::delete(broker, &ctx, request),
        Request::CreatePartitions(request) => topics::create_partitions(broker, request),
        Request::DeleteRecords(request) => delete_records::handle(broker, request),
        Request::ElectLeaders(request) => cluster::elect_leaders(broker, request),
        Request::AlterPartitionReassignments(request) => cluster::alter_reassignments(broker, request),
        Request::ListPartitionReassignments(request) => cluster::list_reassignments(shared, &request),
        Request::UpdateFeatures(request) => cluster::update_features(broker, request),
        Request::UnregisterBroker(request) => cluster::unregister_broker(broker, request),
        Request::DescribeQuorum(request) => cluster::describe_quorum(broker, request),
        Request::AddRaftVoter(request) => cluster::add_voter(broker, request),
        Request::RemoveRaftVoter(request) => cluster::remove_voter(broker, request),
        Request::FindCoordinator(request) => find_coordinator::handle(broker, ctx, request),
        Request::JoinGroup(request) => groups::join(shared, &ctx, request),
        Request::SyncGroup(request) => groups::sync(shared, &ctx, request),
        Request::Heartbeat(request) => groups::heartbeat(shared, request),
        Request::LeaveGroup(request) => groups::leave(shared, request),
        Request::DescribeGroups(request) => now(groups::describe(shared, &ctx, &request)),
        Request::ListGroups(request) => now(groups::list(shared, &request)),
        Request::DeleteGroups(request) => groups::delete(shared, request),
        Request::OffsetCommit(request) => offsets::commit(shared, request),
        Request::OffsetFetch(request) => offsets::fetch(shared, request),
        Request::OffsetDelete(request) => offset_delete::handle(shared, request),
        Request::TxnOffsetCommit(request) => offsets::commit_in_transaction(shared, &ctx, request),
        Request::InitProducerId(request) => transactions::init_producer_id(broker, &ctx, request),
        Request::AddPartitionsToTxn(request) => transactions::add_partitions(shared, &ctx, request),
        Request::AddOffsetsToTxn(request) => transactions::add_offsets(broker, &ctx, request),
        Request::EndTxn(request) => transactions::end(shared, &ctx, request),
        Request::WriteTxnMarkers(request) => write_txn_markers::handle(shared, request),
        other => CallError::Unsupported {
            peer: format!("node {}", shared.config.node_id),
            api: other.api().name(),
        }
        .into(),
    }
}

/// An answer that is known at once.
fn now(response: impl Into<Response>) -> Receipt {
    Receipt::from(response.into())
}
