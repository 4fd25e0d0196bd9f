//! One shape for each message, whatever its version.
//!
//! Some messages changed their form and not just their fields: one group became a list of groups, an empty list came to mean
//! none where it had meant all. Handlers and clients see only the newest form: [`settle_request`] and [`settle_response`] bring an
//! older one there after reading, [`fit_request`] and [`fit_response`] bring it back before writing.

use std::mem::take;

use bytestring::ByteString;

use crate::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, DeleteTopicsRequest, FetchResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, LeaveGroupRequest, LeaveGroupResponse, MetadataRequest,
    OffsetFetchRequest, OffsetFetchResponse, ProduceResponse, add_partitions_to_txn as txn, delete_topics,
    find_coordinator, leave_group, offset_fetch,
};
use crate::{CodecError, Request, Response};

/// Brings a request that was read in `version` into the newest form.
pub(crate) fn settle_request(request: &mut Request, version: i16) {
    match request {
        Request::Metadata(m) if version == 0 && m.topics.as_ref().is_some_and(Vec::is_empty) => {
            m.topics = None
        }
        Request::FindCoordinator(m) if version < 4 => m.coordinator_keys = vec![take(&mut m.key)],
        Request::OffsetFetch(m) if version < 8 => settle_offset_fetch(m),
        Request::DeleteTopics(m) if version < 6 => {
            let named = |name| delete_topics::DeleteTopicState { name: Some(name), ..Default::default() };
            m.topics = take(&mut m.topic_names).into_iter().map(named).collect();
        }
        Request::JoinGroup(m) if version == 0 => m.rebalance_timeout_ms = m.session_timeout_ms,
        Request::LeaveGroup(m) if version < 3 => {
            m.members =
                vec![leave_group::MemberIdentity { member_id: take(&mut m.member_id), ..Default::default() }];
        }
        Request::AddPartitionsToTxn(m) if version < 4 => {
            m.transactions = vec![txn::AddPartitionsToTxnTransaction {
                transactional_id: take(&mut m.v3_and_below_transactional_id),
                producer_id: take(&mut m.v3_and_below_producer_id),
                producer_epoch: take(&mut m.v3_and_below_producer_epoch),
                verify_only: false,
                topics: take(&mut m.v3_and_below_topics),
            }];
        }
        _ => {}
    }
}

fn settle_offset_fetch(m: &mut OffsetFetchRequest) {
    let newer = |topic: offset_fetch::OffsetFetchRequestTopic| offset_fetch::OffsetFetchRequestTopics {
        name: topic.name,
        partition_indexes: topic.partition_indexes,
        ..Default::default()
    };
    m.groups = vec![offset_fetch::OffsetFetchRequestGroup {
        group_id: take(&mut m.group_id),
        topics: m.topics.take().map(|topics| topics.into_iter().map(newer).collect()),
        ..Default::default()
    }];
    m.topics = Some(Vec::new());
}

/// Brings a request from the newest form into that of `version`.
pub(crate) fn fit_request(request: Request, version: i16) -> Result<Request, CodecError> {
    Ok(match request {
        Request::Metadata(m) if version == 0 => fit_metadata(m)?.into(),
        Request::FindCoordinator(m) if version < 4 => fit_find_coordinator(m, version)?.into(),
        Request::OffsetFetch(m) if version < 8 => fit_offset_fetch(m, version)?.into(),
        Request::DeleteTopics(m) if version < 6 => fit_delete_topics(m, version)?.into(),
        Request::LeaveGroup(m) if version < 3 => fit_leave_group(m, version)?.into(),
        Request::AddPartitionsToTxn(m) if version < 4 => fit_add_partitions(m, version)?.into(),
        other => other,
    })
}

/// The only element, where an older version has room for one.
fn only<T>(list: Vec<T>, message: &'static str, field: &'static str, version: i16) -> Result<T, CodecError> {
    let [one] = <[T; 1]>::try_from(list).map_err(|_| CodecError::Absent { message, field, version })?;
    Ok(one)
}

fn fit_metadata(mut m: MetadataRequest) -> Result<MetadataRequest, CodecError> {
    m.topics = match m.topics {
        None => Some(Vec::new()),
        Some(none) if none.is_empty() => {
            return Err(CodecError::Absent { message: "MetadataRequest", field: "Topics", version: 0 });
        }
        some => some,
    };
    Ok(m)
}

fn fit_find_coordinator(
    mut m: FindCoordinatorRequest,
    version: i16,
) -> Result<FindCoordinatorRequest, CodecError> {
    m.key = only(take(&mut m.coordinator_keys), "FindCoordinatorRequest", "CoordinatorKeys", version)?;
    Ok(m)
}

fn fit_offset_fetch(mut m: OffsetFetchRequest, version: i16) -> Result<OffsetFetchRequest, CodecError> {
    let group = only(take(&mut m.groups), "OffsetFetchRequest", "Groups", version)?;
    let older = |topic: offset_fetch::OffsetFetchRequestTopics| offset_fetch::OffsetFetchRequestTopic {
        name: topic.name,
        partition_indexes: topic.partition_indexes,
    };
    m.group_id = group.group_id;
    m.topics = group.topics.map(|topics| topics.into_iter().map(older).collect());
    Ok(m)
}

fn fit_delete_topics(mut m: DeleteTopicsRequest, version: i16) -> Result<DeleteTopicsRequest, CodecError> {
    let absent = CodecError::Absent { message: "DeleteTopicsRequest", field: "TopicId", version };
    let names = take(&mut m.topics).into_iter().map(|topic| topic.name.ok_or_else(|| absent.clone()));
    m.topic_names = names.collect::<Result<_, _>>()?;
    Ok(m)
}

fn fit_leave_group(mut m: LeaveGroupRequest, version: i16) -> Result<LeaveGroupRequest, CodecError> {
    let member = only(take(&mut m.members), "LeaveGroupRequest", "Members", version)?;
    if member.group_instance_id.is_some() {
        let (message, field) = ("LeaveGroupRequest", "GroupInstanceId");
        return Err(CodecError::Absent { message, field, version });
    }
    m.member_id = member.member_id;
    Ok(m)
}

fn fit_add_partitions(
    mut m: AddPartitionsToTxnRequest,
    version: i16,
) -> Result<AddPartitionsToTxnRequest, CodecError> {
    let one = only(take(&mut m.transactions), "AddPartitionsToTxnRequest", "Transactions", version)?;
    if one.verify_only {
        let (message, field) = ("AddPartitionsToTxnRequest", "VerifyOnly");
        return Err(CodecError::Absent { message, field, version });
    }
    m.v3_and_below_transactional_id = one.transactional_id;
    m.v3_and_below_producer_id = one.producer_id;
    m.v3_and_below_producer_epoch = one.producer_epoch;
    m.v3_and_below_topics = one.topics;
    Ok(m)
}

/// Brings a response that was read in `version` into the newest form. What the older form does not say (the group's id, the
/// coordinator's key, the transactional id) stays empty: there is one, and the caller knows which.
pub(crate) fn settle_response(response: &mut Response, version: i16) {
    match response {
        Response::FindCoordinator(m) if version < 4 => {
            m.coordinators = vec![find_coordinator::Coordinator {
                key: ByteString::new(),
                node_id: take(&mut m.node_id),
                host: take(&mut m.host),
                port: take(&mut m.port),
                error_code: take(&mut m.error_code),
                error_message: m.error_message.replace(ByteString::new()),
            }];
        }
        Response::OffsetFetch(m) if version < 8 => settle_fetched_offsets(m),
        Response::AddPartitionsToTxn(m) if version < 4 => {
            m.results_by_transaction = vec![txn::AddPartitionsToTxnResult {
                topic_results: take(&mut m.results_by_topic_v3_and_below),
                ..Default::default()
            }];
        }
        _ => {}
    }
}

fn settle_fetched_offsets(m: &mut OffsetFetchResponse) {
    let newer = |p: offset_fetch::OffsetFetchResponsePartition| offset_fetch::OffsetFetchResponsePartitions {
        partition_index: p.partition_index,
        committed_offset: p.committed_offset,
        committed_leader_epoch: p.committed_leader_epoch,
        metadata: p.metadata,
        error_code: p.error_code,
    };
    let topic = |topic: offset_fetch::OffsetFetchResponseTopic| offset_fetch::OffsetFetchResponseTopics {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(newer).collect(),
        ..Default::default()
    };
    m.groups = vec![offset_fetch::OffsetFetchResponseGroup {
        group_id: ByteString::new(),
        topics: take(&mut m.topics).into_iter().map(topic).collect(),
        error_code: take(&mut m.error_code),
    }];
}

/// Brings a response from the newest form into that of `version`.
pub(crate) fn fit_response(response: Response, version: i16) -> Result<Response, CodecError> {
    Ok(match response {
        Response::Metadata(mut m) if version < 12 => {
            for topic in &mut m.topics {
                topic.name.get_or_insert_default();
            }
            m.into()
        }
        Response::JoinGroup(mut m) if version < 7 => {
            m.protocol_name.get_or_insert_default();
            m.into()
        }
        Response::Produce(m) if version < 10 => without_leaders(m).into(),
        Response::Fetch(m) if version < 16 => without_hints(m, version).into(),
        Response::ListOffsets(mut m) if version < 4 => {
            m.topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(|p| p.leader_epoch = -1);
            m.into()
        }
        Response::DescribeGroups(mut m) if version < 6 => {
            m.groups.iter_mut().for_each(|group| group.error_message = None);
            m.into()
        }
        Response::FindCoordinator(m) if version < 4 => fit_found_coordinator(m, version)?.into(),
        Response::OffsetFetch(m) if version < 8 => fit_fetched_offsets(m, version)?.into(),
        Response::LeaveGroup(m) if version < 3 => fit_left_group(m).into(),
        Response::AddPartitionsToTxn(m) if version < 4 => fit_added_partitions(m, version)?.into(),
        other => other,
    })
}

/// Where to go instead (KIP-951) is advice: a version without room for it does without.
fn without_leaders(mut m: ProduceResponse) -> ProduceResponse {
    for partition in m.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        partition.current_leader = Default::default();
    }
    m.node_endpoints.clear();
    m
}

/// As [`without_leaders`]; and a version without the diverging epoch lets its followers find it out by OffsetForLeaderEpoch.
fn without_hints(mut m: FetchResponse, version: i16) -> FetchResponse {
    m.node_endpoints.clear();
    if version < 12 {
        for partition in m.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.current_leader = Default::default();
            partition.diverging_epoch = Default::default();
            partition.snapshot_id = Default::default();
        }
    }
    m
}

fn fit_found_coordinator(
    mut m: FindCoordinatorResponse,
    version: i16,
) -> Result<FindCoordinatorResponse, CodecError> {
    if m.coordinators.is_empty() {
        return Ok(m);
    }
    let one = only(take(&mut m.coordinators), "FindCoordinatorResponse", "Coordinators", version)?;
    m.node_id = one.node_id;
    m.host = one.host;
    m.port = one.port;
    m.error_code = one.error_code;
    m.error_message = one.error_message;
    Ok(m)
}

/// Before version 2 there is no error for the whole group: each partition says it.
fn fit_fetched_offsets(mut m: OffsetFetchResponse, version: i16) -> Result<OffsetFetchResponse, CodecError> {
    if m.groups.is_empty() {
        return Ok(m);
    }
    let group = only(take(&mut m.groups), "OffsetFetchResponse", "Groups", version)?;
    let error_for_all = if version < 2 { group.error_code } else { 0 };
    let older = |p: offset_fetch::OffsetFetchResponsePartitions| offset_fetch::OffsetFetchResponsePartition {
        partition_index: p.partition_index,
        committed_offset: p.committed_offset,
        committed_leader_epoch: p.committed_leader_epoch,
        metadata: p.metadata,
        error_code: if error_for_all == 0 { p.error_code } else { error_for_all },
    };
    let topic = |topic: offset_fetch::OffsetFetchResponseTopics| offset_fetch::OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(older).collect(),
    };
    m.topics = group.topics.into_iter().map(topic).collect();
    m.error_code = group.error_code;
    Ok(m)
}

/// Before version 3 one member leaves at a time, and the response's error is the member's.
fn fit_left_group(mut m: LeaveGroupResponse) -> LeaveGroupResponse {
    let member = take(&mut m.members).into_iter().next();
    if m.error_code == 0 {
        m.error_code = member.map_or(0, |member| member.error_code);
    }
    m
}

fn fit_added_partitions(
    mut m: AddPartitionsToTxnResponse,
    version: i16,
) -> Result<AddPartitionsToTxnResponse, CodecError> {
    if m.results_by_transaction.is_empty() {
        return Ok(m);
    }
    let results = take(&mut m.results_by_transaction);
    let one = only(results, "AddPartitionsToTxnResponse", "ResultsByTransaction", version)?;
    m.results_by_topic_v3_and_below = one.topic_results;
    Ok(m)
}
