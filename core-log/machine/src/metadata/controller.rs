//! The controller: decides which facts become true.

use std::sync::Arc;

use millstream_protocol::ErrorCode;
use millstream_record::Uuid;

use super::Record;
use super::features::SupportedFeatures;
use super::image::Image;
use crate::config::Static;

/// Most partitions that one request may create, as in Kafka: a batch of records must stay small enough to apply at once.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// What the controller decided: the records to propose as one batch, and the answer that waits until they are committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<R> {
    /// Facts to append; none when everything was refused, or the request only asked whether it would work.
    pub records: Vec<Record>,
    /// What to answer once they are committed.
    pub response: R,
}

/// Where new ids come from; they are random, so they are an input.
pub type NewIds<'a> = &'a mut dyn FnMut() -> Uuid;

/// Decides against an image. It has no state: what it decided is not true before the image says so, so the shell lets one
/// decision commit before it asks for the next.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    pub(super) statics: Arc<Static>,
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) supported: SupportedFeatures,
}

/// Why a part of a request was refused: the code, and a sentence for the user.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Controller {
    /// A controller that takes defaults (`num.partitions`, ...) from `statics`, its node's file.
    #[must_use]
    pub fn new(statics: Arc<Static>) -> Self {
        Self { statics, ..Self::default() }
    }

    /// The same, for the cluster with this id: brokers of other clusters are refused.
    #[must_use]
    pub fn of_cluster(self, cluster_id: &str) -> Self {
        Self { cluster_id: Some(cluster_id.into()), ..self }
    }

    /// The same, on a node that supports other features than this build does.
    #[must_use]
    pub fn supporting(self, supported: SupportedFeatures) -> Self {
        Self { supported, ..self }
    }
}

/// Applies what was decided so far to a scratch image, so that the rest of a request is decided against it.
pub(super) fn assume(image: &mut Image, records: &[Record]) {
    for record in records {
        image.apply(record).expect("the controller decides only what fits the image");
    }
}
