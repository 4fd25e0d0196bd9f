//! What operators ask of the cluster: elections, reassignments, features, members of the quorum. The active controller decides.

use std::sync::Arc;

use millstream_machine::metadata::Controller;
use millstream_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse, DescribeQuorumRequest, DescribeQuorumResponse, ElectLeadersRequest,
    ElectLeadersResponse, ListPartitionReassignmentsRequest, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
    UnregisterBrokerRequest, UnregisterBrokerResponse, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use millstream_protocol::{Receipt, Response, Rpc};

use crate::Broker;
use crate::refusal::Refusal;
use crate::shared::Shared;

pub(super) fn elect_leaders(broker: &Broker, request: ElectLeadersRequest) -> Receipt {
    ask(broker, "elect leaders", request, |refusal| ElectLeadersResponse {
        error_code: refusal.code.code(),
        ..ElectLeadersResponse::default()
    })
}

pub(super) fn alter_reassignments(broker: &Broker, request: AlterPartitionReassignmentsRequest) -> Receipt {
    ask(broker, "alter reassignments", request, |refusal| AlterPartitionReassignmentsResponse {
        error_code: refusal.code.code(),
        error_message: refusal.why,
        ..AlterPartitionReassignmentsResponse::default()
    })
}

/// Any broker knows, from the image.
pub(super) fn list_reassignments(shared: &Shared, request: &ListPartitionReassignmentsRequest) -> Receipt {
    super::now(Controller::list_reassignments(&shared.image.load(), request))
}

pub(super) fn update_features(broker: &Broker, request: UpdateFeaturesRequest) -> Receipt {
    ask(broker, "update features", request, |refusal| UpdateFeaturesResponse {
        error_code: refusal.code.code(),
        error_message: refusal.why,
        ..UpdateFeaturesResponse::default()
    })
}

pub(super) fn unregister_broker(broker: &Broker, request: UnregisterBrokerRequest) -> Receipt {
    ask(broker, "unregister a broker", request, |refusal| UnregisterBrokerResponse {
        error_code: refusal.code.code(),
        error_message: refusal.why,
        ..UnregisterBrokerResponse::default()
    })
}

pub(super) fn describe_quorum(broker: &Broker, request: DescribeQuorumRequest) -> Receipt {
    ask(broker, "describe the quorum", request, |refusal| DescribeQuorumResponse {
        error_code: refusal.code.code(),
        error_message: refusal.why,
        ..DescribeQuorumResponse::default()
    })
}

pub(super) fn add_voter(broker: &Broker, request: AddRaftVoterRequest) -> Receipt {
    ask(broker, "add a voter", request, |refusal| AddRaftVoterResponse {
        error_code: refusal.code.code(),
        error_message: refusal.why,
        ..AddRaftVoterResponse::default()
    })
}

pub(super) fn remove_voter(broker: &Broker, request: RemoveRaftVoterRequest) -> Receipt {
    ask(broker, "remove a voter", request, |refusal| RemoveRaftVoterResponse {
        error_code: refusal.code.code(),
        error_message: refusal.why,
        ..RemoveRaftVoterResponse::default()
    })
}

/// Asks the active controller; `refused` makes the answer where none decides.
fn ask<R>(
    broker: &Broker,
    name: &'static str,
    request: R,
    refused: impl FnOnce(Refusal) -> R::Response + Send + 'static,
) -> Receipt
where
    R: Rpc + Clone + Send + 'static,
    R::Response: Into<Response> + Send,
{
    let shared = Arc::clone(&broker.shared);
    broker.answer(name, async move { shared.metadata.ask(request).await.unwrap_or_else(refused) })
}
