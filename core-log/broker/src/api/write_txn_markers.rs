//! WriteTxnMarkers: transaction coordinators of other brokers end their transactions in the partitions that are led here.

use std::sync::Arc;

use millstream_machine::TransactionOutcome;
use millstream_protocol::Receipt;
use millstream_protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
};
use millstream_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use millstream_record::{ProducerEpoch, ProducerId, TopicPartition};

use crate::coordinator::Ending;
use crate::gather::Gather;
use crate::shared::Shared;

pub(super) fn handle(shared: &Shared, request: WriteTxnMarkersRequest) -> Receipt {
    let skeleton = skeleton(&request);
    let topics = request.markers.iter().flat_map(|marker| &marker.topics);
    let places = topics.map(|topic| topic.partition_indexes.len()).sum();
    let (gather, receipt) = Gather::new(skeleton, places);
    for (m, marker) in request.markers.into_iter().enumerate() {
        let ending = ending(&marker);
        for (t, topic) in marker.topics.into_iter().enumerate() {
            let name: Arc<str> = Arc::from(&*topic.name);
            for (p, index) in topic.partition_indexes.into_iter().enumerate() {
                let gather = Arc::clone(&gather);
                shared.markers.write(&TopicPartition::new(Arc::clone(&name), index), ending, move |code| {
                    gather.settle(|response: &mut WriteTxnMarkersResponse| {
                        response.markers[m].topics[t].partitions[p].error_code = code.code();
                    });
                });
            }
        }
    }
    gather.all_admitted();
    receipt
}

fn ending(marker: &WritableTxnMarker) -> Ending {
    Ending {
        producer_id: ProducerId(marker.producer_id),
        producer_epoch: ProducerEpoch(marker.producer_epoch),
        coordinator_epoch: marker.coordinator_epoch,
        outcome: match marker.transaction_result {
            true => TransactionOutcome::Commit,
            false => TransactionOutcome::Abort,
        },
    }
}

/// A place for each partition that is named.
fn skeleton(request: &WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let markers = request.markers.iter().map(|marker| WritableTxnMarkerResult {
        producer_id: marker.producer_id,
        topics: marker
            .topics
            .iter()
            .map(|topic| WritableTxnMarkerTopicResult {
                name: topic.name.clone(),
                partitions: topic
                    .partition_indexes
                    .iter()
                    .map(|&partition_index| WritableTxnMarkerPartitionResult {
                        partition_index,
                        error_code: 0,
                    })
                    .collect(),
            })
            .collect(),
    });
    WriteTxnMarkersResponse { markers: markers.collect() }
}
