//! OffsetDelete: a group forgets what it committed for partitions (KIP-496). What concerns topics that do not exist is answered
//! here; the group's coordinator sees the rest, and whether there is such a group.

use millstream_machine::group::{Answer, Input};
use millstream_protocol::messages::offset_delete::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use millstream_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use millstream_protocol::{ErrorCode, Receipt};

use crate::shared::Shared;

pub(super) fn handle(shared: &Shared, mut request: OffsetDeleteRequest) -> Receipt {
    let host = match shared.groups.host_of(&request.group_id) {
        Ok(host) => host,
        Err(code) => {
            let refused = OffsetDeleteResponse { error_code: code.code(), ..OffsetDeleteResponse::default() };
            return super::now(refused);
        }
    };
    let unknown = take_unknown(shared, &mut request);
    let (completer, receipt) = Receipt::pending();
    let reply = move |answer| {
        if let Answer::OffsetDelete(answer) = answer {
            completer.complete(Ok(merged(answer, unknown).into()));
        }
    };
    host.ask(reply, |waiter| Input::OffsetDelete { waiter, request });
    receipt
}

/// Takes out what does not exist, and gives the answer to it.
fn take_unknown(shared: &Shared, request: &mut OffsetDeleteRequest) -> Vec<OffsetDeleteResponseTopic> {
    let image = shared.image.load();
    let mut unknown = Vec::new();
    for topic in &mut request.topics {
        let mut partitions = Vec::new();
        topic.partitions.retain(|asked| {
            let is_known = image.partition(&topic.name, asked.partition_index).is_some();
            if !is_known {
                partitions.push(OffsetDeleteResponsePartition {
                    partition_index: asked.partition_index,
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                });
            }
            is_known
        });
        if !partitions.is_empty() {
            unknown.push(OffsetDeleteResponseTopic { name: topic.name.clone(), partitions });
        }
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    unknown
}

/// What is unknown, and then the answer of the coordinator; where something is wrong with the group, that is all that is told.
fn merged(answer: OffsetDeleteResponse, mut topics: Vec<OffsetDeleteResponseTopic>) -> OffsetDeleteResponse {
    if answer.error_code != ErrorCode::None.code() {
        return answer;
    }
    for topic in answer.topics {
        match topics.iter_mut().find(|told| told.name == topic.name) {
            Some(told) => told.partitions.extend(topic.partitions),
            None => topics.push(topic),
        }
    }
    OffsetDeleteResponse { topics, ..answer }
}
