//! What comes in by a controller's listener: the quorum's own messages, and what brokers ask of the active controller.

use std::sync::Arc;

use millstream_protocol::messages::describe_cluster::DescribeClusterBroker;
use millstream_protocol::messages::{ApiVersionsResponse, DescribeClusterRequest, DescribeClusterResponse};
use millstream_protocol::versions::Audience;
use millstream_protocol::{CallError, Ctx, ErrorCode, Receipt, Request, Response};

use super::{api_versions, observe};
use crate::Broker;
use crate::metadata::quorum::MemberStatus;
use crate::refusal::Refusal;
use crate::shared::Shared;

/// The kind of endpoint that this is, in DescribeCluster.
const CONTROLLERS: i8 = 2;

pub(super) fn handle(broker: &Broker, ctx: &Ctx, request: Request) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    match request {
        Request::ApiVersions(request) => {
            let told = api_versions::handle(&shared, ctx, &request);
            super::now(ApiVersionsResponse { api_keys: Audience::Controllers.told(), ..told })
        }
        Request::DescribeCluster(request) => super::now(describe(&shared, &request)),
        Request::Fetch(request) => observe::fetch(broker, request),
        Request::FetchSnapshot(request) => observe::snapshot(broker, request),
        other => {
            let Some(quorum) = shared.metadata.log().quorum() else {
                return unanswered(&shared, &ErrorCode::NotController.into()).into();
            };
            match quorum.serve(other) {
                Ok(answer) => broker.answer("quorum", answer),
                Err(request) => broker.relay("controller", decide(shared, *request)),
            }
        }
    }
}

/// The active controller decides. Any other closes the connection, so that whoever asked looks for it anew: most answers have
/// no place to say so.
async fn decide(shared: Arc<Shared>, request: Request) -> Result<Response, CallError> {
    let decided = shared.metadata.decide_request(request).await;
    decided.map_err(|refusal| unanswered(&shared, &refusal))
}

fn unanswered(shared: &Shared, refusal: &Refusal) -> CallError {
    let peer = format!("node {}", shared.config.node_id);
    CallError::Disconnected { peer, reason: format!("the controller does not decide: {}", refusal.code) }
}

fn describe(shared: &Shared, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    if request.endpoint_type != CONTROLLERS {
        return DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some("this is a controller's address; ask for endpoint type 2".into()),
            endpoint_type: CONTROLLERS,
            ..DescribeClusterResponse::default()
        };
    }
    let log = shared.metadata.log();
    let members = log.quorum().map(|quorum| quorum.status().members).unwrap_or_default();
    let controller = |member: MemberStatus| DescribeClusterBroker {
        broker_id: member.member.node.0,
        host: member.endpoint.host,
        port: i32::from(member.endpoint.port),
        ..DescribeClusterBroker::default()
    };
    let leader = shared.metadata.named_controller();
    DescribeClusterResponse {
        endpoint_type: CONTROLLERS,
        brokers: members.into_iter().filter(|member| member.votes).map(controller).collect(),
        cluster_id: shared.cluster_id.clone(),
        controller_id: leader.map_or(-1, |(member, _)| member.node.0),
        ..DescribeClusterResponse::default()
    }
}
