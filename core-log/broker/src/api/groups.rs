//! The classic group protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup; DescribeGroups, ListGroups, DeleteGroups.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_machine::Waiter;
use millstream_machine::group::{Answer, Client, Coordinator, Input};
use millstream_protocol::messages::delete_groups::DeletableGroupResult;
use millstream_protocol::messages::describe_groups::DescribedGroup;
use millstream_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use millstream_protocol::{Ctx, ErrorCode, Receipt, Response};

use super::permissions;
use crate::coordinator::Host;
use crate::gather::Gather;
use crate::shared::Shared;

pub(super) fn join(shared: &Shared, ctx: &Ctx, request: JoinGroupRequest) -> Receipt {
    let client = Client { id: ctx.client_id.clone().unwrap_or_default(), host: host_of(&ctx.peer) };
    let random = (u128::from(shared.env.random()) << 64) | u128::from(shared.env.random());
    let facts = ctx.facts;
    let group = request.group_id.clone();
    let refused = JoinGroupResponse { member_id: request.member_id.clone(), ..JoinGroupResponse::default() };
    ask(
        shared,
        &group,
        |waiter| Input::Join {
            waiter,
            client,
            request,
            must_know_member_id: facts.must_know_member_id,
            can_skip_assignment: facts.can_skip_assignment,
            random,
        },
        |code| JoinGroupResponse { error_code: code.code(), generation_id: -1, ..refused }.into(),
    )
}

pub(super) fn sync(shared: &Shared, ctx: &Ctx, request: SyncGroupRequest) -> Receipt {
    let group = request.group_id.clone();
    let refused =
        |code: ErrorCode| SyncGroupResponse { error_code: code.code(), ..Default::default() }.into();
    let names_it = request.protocol_type.is_some() && request.protocol_name.is_some();
    if ctx.facts.must_name_protocol && !names_it {
        return Receipt::from(refused(ErrorCode::InconsistentGroupProtocol));
    }
    ask(shared, &group, |waiter| Input::Sync { waiter, request }, refused)
}

pub(super) fn heartbeat(shared: &Shared, request: HeartbeatRequest) -> Receipt {
    let group = request.group_id.clone();
    let refused =
        |code: ErrorCode| HeartbeatResponse { error_code: code.code(), ..Default::default() }.into();
    ask(shared, &group, |waiter| Input::Heartbeat { waiter, request }, refused)
}

pub(super) fn leave(shared: &Shared, request: LeaveGroupRequest) -> Receipt {
    let group = request.group_id.clone();
    let refused =
        |code: ErrorCode| LeaveGroupResponse { error_code: code.code(), ..Default::default() }.into();
    ask(shared, &group, |waiter| Input::Leave { waiter, request }, refused)
}

/// Asks the coordinator of `group`; `refused` makes the answer where there is none.
fn ask(
    shared: &Shared,
    group: &str,
    input: impl FnOnce(Waiter) -> Input,
    refused: impl FnOnce(ErrorCode) -> Response,
) -> Receipt {
    match shared.groups.host_of(group) {
        Ok(host) => {
            let (completer, receipt) = Receipt::pending();
            host.ask(move |answer| completer.complete(Ok(response(answer))), input);
            receipt
        }
        Err(code) => refused(code).into(),
    }
}

/// The answers that go to the client as the machine gives them; the others are parts of one, and never come here.
fn response(answer: Answer) -> Response {
    match answer {
        Answer::Join(response) => response.into(),
        Answer::Sync(response) => response.into(),
        Answer::Heartbeat(response) => response.into(),
        Answer::Leave(response) => response.into(),
        Answer::OffsetCommit(response) => response.into(),
        Answer::TxnOffsetCommit(response) => response.into(),
        Answer::OffsetFetch(_) | Answer::OffsetDelete(_) | Answer::Delete(_) | Answer::EndTransaction(_) => {
            unreachable!("an answer of the kind that was asked for")
        }
    }
}

pub(super) fn describe(
    shared: &Shared,
    ctx: &Ctx,
    request: &DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let operations =
        if request.include_authorized_operations { permissions::GROUP } else { permissions::NOT_ASKED };
    let groups = request.groups.iter().map(|id| {
        let described = match shared.groups.host_of(id) {
            Ok(host) => host.with(|machine| machine.describe(id, ctx.facts.group_id_not_found_known)),
            Err(code) => {
                DescribedGroup { group_id: id.clone(), error_code: code.code(), ..DescribedGroup::default() }
            }
        };
        DescribedGroup { authorized_operations: operations, ..described }
    });
    DescribeGroupsResponse { groups: groups.collect(), ..DescribeGroupsResponse::default() }
}

pub(super) fn list(shared: &Shared, request: &ListGroupsRequest) -> ListGroupsResponse {
    let (hosts, is_loading) = shared.groups.ready();
    let listed = |host: &Arc<Host<Coordinator>>| {
        host.with(|machine| machine.list(&request.states_filter, &request.types_filter))
    };
    let error = if is_loading { ErrorCode::CoordinatorLoadInProgress } else { ErrorCode::None };
    ListGroupsResponse {
        error_code: error.code(),
        groups: hosts.iter().flat_map(listed).collect(),
        ..ListGroupsResponse::default()
    }
}

pub(super) fn delete(shared: &Shared, request: DeleteGroupsRequest) -> Receipt {
    let (gather, receipt) = Gather::new(DeleteGroupsResponse::default(), request.groups_names.len());
    for group_id in request.groups_names {
        match shared.groups.host_of(&group_id) {
            Ok(host) => {
                let gather = Arc::clone(&gather);
                let settle = move |answer| {
                    if let Answer::Delete(result) = answer {
                        gather.settle(|response| response.results.push(result));
                    }
                };
                host.ask(settle, |waiter| Input::Delete { waiter, group_id });
            }
            Err(code) => gather.settle(|response| {
                response.results.push(DeletableGroupResult { group_id, error_code: code.code() });
            }),
        }
    }
    gather.all_admitted();
    receipt
}

/// The address without its port, as Kafka shows it: `/127.0.0.1`.
fn host_of(peer: &str) -> ByteString {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    format!("/{}", host.trim_matches(['[', ']'])).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_shown_as_kafka_shows_them() {
        for (peer, expected) in
            [("127.0.0.1:4711", "/127.0.0.1"), ("[::1]:4711", "/::1"), ("embedded", "/embedded")]
        {
            assert_eq!(&*host_of(peer), expected);
        }
    }
}
