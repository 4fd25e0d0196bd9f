//! DescribeCluster: the brokers, without their topics (KIP-700).

use millstream_protocol::messages::describe_cluster::DescribeClusterBroker;
use millstream_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use millstream_protocol::{Ctx, ErrorCode};

use super::{metadata, permissions};
use crate::shared::Shared;

/// The kind of endpoint that clients use; the other one (2) is controllers'.
const BROKERS: i8 = 1;

pub(super) fn handle(
    shared: &Shared,
    ctx: &Ctx,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let asked = request.include_cluster_authorized_operations;
    let base = DescribeClusterResponse {
        endpoint_type: request.endpoint_type,
        cluster_id: shared.cluster_id.clone(),
        cluster_authorized_operations: if asked { permissions::CLUSTER } else { permissions::NOT_ASKED },
        ..DescribeClusterResponse::default()
    };
    if request.endpoint_type != BROKERS {
        return DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some("this is a broker's address; ask for endpoint type 1".into()),
            ..base
        };
    }
    let brokers = metadata::brokers(&shared.image.load(), &ctx.listener).into_iter();
    DescribeClusterResponse {
        controller_id: shared.config.node_id.0,
        brokers: brokers
            .map(|broker| DescribeClusterBroker {
                broker_id: broker.node_id,
                host: broker.host,
                port: broker.port,
                rack: broker.rack,
                is_fenced: false,
            })
            .collect(),
        ..base
    }
}
