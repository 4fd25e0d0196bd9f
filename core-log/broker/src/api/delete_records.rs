//! DeleteRecords: the leader's log begins at an offset (KIP-107). The answer waits until no replica that is alive could show again what
//! was deleted.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select;
use millstream_machine::metadata::{Image, InternalTopic};
use millstream_protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use millstream_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use millstream_protocol::{ErrorCode, Receipt};
use millstream_record::{NodeId, Offset, TopicId};

use crate::Broker;
use crate::changed::{Changed, Watcher};
use crate::partition::Partition;
use crate::refusal::Refusal;
use crate::shared::Shared;

/// Asks for all records that are replicated.
const HIGH_WATERMARK: i64 = -1;
/// The answer's low watermark where there is none.
const UNKNOWN: i64 = -1;
/// This broker's own disk is waited for even by a request that waits for nobody, but not for ever.
const OWN_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn handle(broker: &Broker, request: DeleteRecordsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let begun = shared.env.elapsed();
    let mut response = DeleteRecordsResponse::default();
    let mut deletions = Vec::new();
    for (topic, t) in request.topics.into_iter().zip(0..) {
        let mut partitions = Vec::new();
        for (asked, p) in topic.partitions.into_iter().zip(0..) {
            let deleted = delete(&shared, &topic.name, &asked);
            // What waits has timed out until it is done.
            let code = deleted.as_ref().map_or_else(|refusal| refusal.code, |_| ErrorCode::RequestTimedOut);
            partitions.push(answer(asked.partition_index, UNKNOWN, code));
            deletions.extend(deleted.map(|(partition, below)| Deletion { partition, below, at: (t, p) }));
        }
        response.topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    let wait = Wait {
        deadline: begun.saturating_add(timeout),
        last_deadline: begun.saturating_add(timeout.max(OWN_PATIENCE)),
        key: shared.partitions.next_watcher(),
        watched: deletions.iter().map(|deletion: &Deletion| Arc::clone(&deletion.partition)).collect(),
        changed: Changed::new(),
        shared,
        response,
        deletions,
    };
    broker.answer("delete records", wait.run())
}

fn answer(partition_index: i32, low_watermark: i64, code: ErrorCode) -> DeleteRecordsPartitionResult {
    DeleteRecordsPartitionResult { partition_index, low_watermark, error_code: code.code() }
}

/// Deletes here, and gives what is to be waited for.
fn delete(
    shared: &Shared,
    topic: &str,
    asked: &DeleteRecordsPartition,
) -> Result<(Arc<Partition>, Offset), Refusal> {
    if shared.image.load().partition(topic, asked.partition_index).is_none() {
        return Err(ErrorCode::UnknownTopicOrPartition.into());
    }
    if InternalTopic::of_name(topic).is_some() {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let partition = shared.partition(topic, TopicId::ZERO, asked.partition_index)?;
    let below = (asked.offset != HIGH_WATERMARK).then_some(Offset(asked.offset));
    let below = partition.delete_records(below)?;
    Ok((partition, below))
}

/// Records that were deleted here, and are to be gone everywhere.
struct Deletion {
    partition: Arc<Partition>,
    below: Offset,
    /// Its place in the answer.
    at: (usize, usize),
}

/// How a look at a deletion ended.
enum Look {
    /// Nothing more is to be waited for.
    Settled,
    /// This broker has not noted it.
    Own,
    /// Another replica may show the records again.
    Others,
}

/// A request until it is answered.
struct Wait {
    shared: Arc<Shared>,
    response: DeleteRecordsResponse,
    /// Those that are not settled.
    deletions: Vec<Deletion>,
    /// Those that tell of changes.
    watched: Vec<Arc<Partition>>,
    changed: Arc<Changed>,
    key: u64,
    deadline: Duration,
    /// The deadline while this broker's own disk is waited for.
    last_deadline: Duration,
}

impl Wait {
    async fn run(mut self) -> DeleteRecordsResponse {
        let env = self.shared.env.clone();
        let place = Arc::clone(&self.shared.parking).try_acquire_owned();
        if place.is_err() {
            self.deadline = Duration::ZERO; // too many wait already
        }
        loop {
            let image = self.shared.image.load_full();
            let waits_for_own = self.look(&image);
            let deadline = if waits_for_own { self.last_deadline } else { self.deadline };
            let left = deadline.saturating_sub(env.elapsed());
            if self.deletions.is_empty() || left.is_zero() {
                break;
            }
            let changed = Arc::clone(&self.changed);
            let woken = std::pin::pin!(changed.woken());
            // Who is not alive any more is not waited for.
            let metadata = std::pin::pin!(changes(&self.shared, image.end()));
            let _ = env.timeout(left, select(woken, metadata)).await;
        }
        for partition in self.watched {
            partition.unwatch(self.key);
        }
        self.response
    }

    /// Looks at all that is not settled; true while this broker's own disk is waited for.
    fn look(&mut self, image: &Image) -> bool {
        let mut waits_for_own = false;
        for deletion in std::mem::take(&mut self.deletions) {
            match self.look_at(&deletion, image) {
                Look::Settled => continue,
                Look::Own => waits_for_own = true,
                Look::Others => {}
            }
            self.deletions.push(deletion);
        }
        waits_for_own
    }

    fn look_at(&mut self, deletion: &Deletion, image: &Image) -> Look {
        let Deletion { partition, below, at: (t, p) } = deletion;
        let is_alive = |node: NodeId| image.broker(node).is_some_and(|broker| !broker.fenced);
        let waits = (self.key, Watcher::new(&self.changed, 0));
        let online = self.shared.partitions.check_online().map_err(Refusal::from);
        let found = online.and_then(|()| partition.deleted(is_alive, waits));
        let place = &mut self.response.topics[*t].partitions[*p]; // as it was made
        match found {
            Ok(deleted) => {
                place.low_watermark = deleted.low_watermark.0;
                if deleted.own < *below {
                    return Look::Own;
                }
                if deleted.low_watermark < *below {
                    return Look::Others;
                }
                place.error_code = ErrorCode::None.code();
            }
            Err(refusal) => {
                *place = answer(place.partition_index, UNKNOWN, refusal.code);
            }
        }
        Look::Settled
    }
}

/// Until there is other metadata than that which ends at `since`.
async fn changes(shared: &Shared, since: Offset) {
    if !shared.metadata.changed(since).await {
        pending().await // there will be none
    }
}
