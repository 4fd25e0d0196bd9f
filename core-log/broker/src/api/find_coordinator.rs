//! FindCoordinator: which broker coordinates a group or a transactional id. Creates the internal topic on first use.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_machine::metadata::InternalTopic;
use millstream_protocol::messages::find_coordinator::Coordinator;
use millstream_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use millstream_protocol::{Ctx, ErrorCode, Receipt};

use super::metadata;
use crate::Broker;
use crate::shared::Shared;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) fn handle(broker: &Broker, ctx: Ctx, request: FindCoordinatorRequest) -> Receipt {
    let topic = match request.key_type {
        GROUP => InternalTopic::Offsets,
        TRANSACTION => InternalTopic::Transactions,
        _ => return super::now(refused(&request, ErrorCode::InvalidRequest)),
    };
    let shared = Arc::clone(&broker.shared);
    if shared.image.load().topic(topic.name()).is_some() {
        return super::now(respond(&shared, &ctx, &request));
    }
    broker.answer("create internal topic", async move {
        let failed = shared.metadata.auto_create(BTreeSet::from([topic.name().into()])).await;
        match failed.into_values().next() {
            None => respond(&shared, &ctx, &request),
            Some(code) => {
                tracing::error!(topic = topic.name(), %code, "an internal topic cannot be created");
                refused(&request, ErrorCode::CoordinatorNotAvailable)
            }
        }
    })
}

/// With one broker every coordinator is here.
fn respond(shared: &Shared, ctx: &Ctx, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
    let brokers = metadata::brokers(&shared.image.load(), &ctx.listener);
    let Some(here) = brokers.iter().find(|broker| broker.node_id == shared.config.node_id.0) else {
        return refused(request, ErrorCode::CoordinatorNotAvailable);
    };
    let coordinators = request.coordinator_keys.iter().map(|key| Coordinator {
        key: key.clone(),
        node_id: here.node_id,
        host: here.host.clone(),
        port: here.port,
        ..Coordinator::default()
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..FindCoordinatorResponse::default() }
}

fn refused(request: &FindCoordinatorRequest, code: ErrorCode) -> FindCoordinatorResponse {
    let coordinators = request.coordinator_keys.iter().map(|key| Coordinator {
        key: key.clone(),
        node_id: -1,
        port: -1,
        error_code: code.code(),
        ..Coordinator::default()
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..FindCoordinatorResponse::default() }
}
