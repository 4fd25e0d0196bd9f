//! FindCoordinator: which broker coordinates a group or a transactional id. Creates the internal topic on first use.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_machine::metadata::InternalTopic;
use millstream_machine::partition_for;
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
        return super::now(respond(&shared, &ctx, topic, &request));
    }
    broker.answer("create internal topic", async move {
        let failed = shared.metadata.auto_create(BTreeSet::from([topic.name().into()])).await;
        match failed.into_values().next() {
            None => respond(&shared, &ctx, topic, &request),
            Some(code) => {
                tracing::warn!(
                    topic = topic.name(), %code,
                    "an internal topic cannot be created yet; its replication factor asks for as many brokers"
                );
                refused(&request, ErrorCode::CoordinatorNotAvailable)
            }
        }
    })
}

/// The coordinator of a key is whoever leads the partition that the key belongs to.
fn respond(
    shared: &Shared,
    ctx: &Ctx,
    topic: InternalTopic,
    request: &FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let image = shared.image.load();
    let brokers = metadata::brokers(&image, &ctx.listener);
    let partitions = image.topic(topic.name()).map_or(0, |topic| topic.partitions.len());
    let coordinator = |key: &ByteString| {
        let index = partition_for(key, i32::try_from(partitions).ok().filter(|count| *count > 0)?);
        let leader = image.partition(topic.name(), index)?.leader?;
        let leader = Some(leader).filter(|node| shared.is_leading(*node, &image))?;
        brokers.iter().find(|broker| broker.node_id == leader.0)
    };
    let coordinators = request.coordinator_keys.iter().map(|key| match coordinator(key) {
        Some(broker) => Coordinator {
            key: key.clone(),
            node_id: broker.node_id,
            host: broker.host.clone(),
            port: broker.port,
            ..Coordinator::default()
        },
        None => unavailable(key, ErrorCode::CoordinatorNotAvailable),
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..FindCoordinatorResponse::default() }
}

fn unavailable(key: &ByteString, code: ErrorCode) -> Coordinator {
    Coordinator { key: key.clone(), node_id: -1, port: -1, error_code: code.code(), ..Coordinator::default() }
}

fn refused(request: &FindCoordinatorRequest, code: ErrorCode) -> FindCoordinatorResponse {
    let coordinators = request.coordinator_keys.iter().map(|key| unavailable(key, code));
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..FindCoordinatorResponse::default() }
}
