//! Feature levels: what every node must understand before anybody uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::update_features::{FeatureUpdateKey, UpdatableFeatureResult};
use millstream_protocol::messages::{FeatureLevelRecord, UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::Record;
use super::controller::{Controller, Decision, Refusal};
use super::image::Image;
use super::partition_change::{Change, ELR_FEATURE};

/// The version of the metadata's records; never lowered, since older nodes cannot read what was written.
const METADATA_VERSION: &str = "metadata.version";

/// What this build supports of each feature, from lowest to highest; a new cluster has the highest. `metadata.version` 30 is
/// Kafka's 4.3-IV0, whose records we write; `transaction.version` 1 tells clients to run transactions v1.
const SUPPORTED: [(&str, i16, i16); 3] =
    [(ELR_FEATURE, 0, 1), (METADATA_VERSION, 7, 30), ("transaction.version", 0, 1)];

/// Which way a feature's level may go. The numbers are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    DownIfNothingIsLost,
    Down,
}

impl Direction {
    fn of(update: &FeatureUpdateKey) -> Option<Self> {
        match update.upgrade_type {
            1 if update.allow_downgrade => Some(Self::DownIfNothingIsLost),
            1 => Some(Self::Up),
            2 => Some(Self::DownIfNothingIsLost),
            3 => Some(Self::Down),
            _ => None,
        }
    }
}

impl Controller {
    /// The first records of a new cluster's log; none where the log has them already. What the log itself
    /// writes may stand before them.
    #[must_use]
    pub fn bootstrap(&self, image: &Image) -> Vec<Record> {
        if image.features().next().is_some() {
            return Vec::new();
        }
        SUPPORTED.into_iter().map(|(name, _, highest)| level(name, highest)).collect()
    }

    /// The levels of each feature that this build supports: name, lowest, highest; ordered by name.
    #[must_use]
    pub fn supported_features() -> [(&'static str, i16, i16); 3] {
        SUPPORTED
    }

    /// Decides UpdateFeatures, all of it or nothing. A level is raised when every registered node supports it, and lowered when
    /// the request says so and nothing is lost by it.
    #[must_use]
    pub fn update_features(
        &self,
        image: &Image,
        request: &UpdateFeaturesRequest,
    ) -> Decision<UpdateFeaturesResponse> {
        let mut levels: BTreeMap<ByteString, i16> = BTreeMap::new();
        for update in &request.feature_updates {
            let decided = judge(image, update).and_then(|()| {
                let is_first = levels.insert(update.feature.clone(), update.max_version_level).is_none();
                is_first.then_some(()).ok_or_else(|| {
                    Refusal::new(ErrorCode::InvalidRequest, format!("{} is named twice.", update.feature))
                })
            });
            if let Err(refusal) = decided {
                let response = UpdateFeaturesResponse {
                    error_code: refusal.code.code(),
                    error_message: Some(
                        format!("The update failed for all features since {}", refusal.message).into(),
                    ),
                    ..UpdateFeaturesResponse::default()
                };
                return Decision { records: Vec::new(), response };
            }
        }
        let mut records = Vec::new();
        for (name, wanted) in levels.iter().filter(|(name, wanted)| image.feature(name) != **wanted) {
            records.push(level(name, *wanted));
            if &**name == ELR_FEATURE && *wanted == 0 {
                records.extend(self.drop_eligible(image));
            }
        }
        if request.validate_only {
            records.clear();
        }
        let result = |feature| UpdatableFeatureResult { feature, ..UpdatableFeatureResult::default() };
        let results = levels.into_keys().map(result).collect();
        Decision {
            records,
            response: UpdateFeaturesResponse { results, ..UpdateFeaturesResponse::default() },
        }
    }

    /// Eligible replicas are kept only while the feature is on: were they left, they would count again when it comes back.
    fn drop_eligible(&self, image: &Image) -> Vec<Record> {
        let partitions = image.topics().flat_map(|topic| {
            let numbered = topic.partitions.iter().zip(0..);
            numbered.map(move |(partition, index)| (topic, index, partition))
        });
        self.change_partitions(image, partitions, |change: &mut Change<'_>| change.forget_eligible())
    }
}

/// Whether a node with this range, or without one, understands `level`.
pub(super) fn is_within(level: i16, range: Option<(i16, i16)>) -> bool {
    range.map_or(level == 0, |(lowest, highest)| (lowest..=highest).contains(&level))
}

fn level(name: &str, feature_level: i16) -> Record {
    Record::FeatureLevel(FeatureLevelRecord { name: name.into(), feature_level })
}

fn judge(image: &Image, update: &FeatureUpdateKey) -> Result<(), Refusal> {
    let (name, wanted) = (&*update.feature, update.max_version_level);
    let invalid = |why: String| Refusal::new(ErrorCode::InvalidUpdateVersion, why);
    let direction = Direction::of(update).ok_or_else(|| {
        let why = format!("upgrade type {} of {name} is unknown.", update.upgrade_type);
        Refusal::new(ErrorCode::InvalidRequest, why)
    })?;
    if wanted < 0 {
        return Err(invalid(format!("the level of {name} cannot be {wanted}.")));
    }
    let supported = SUPPORTED.iter().find(|(supported, ..)| *supported == name);
    if !is_within(wanted, supported.map(|(_, lowest, highest)| (*lowest, *highest))) {
        return Err(invalid(format!("this controller does not support level {wanted} of {name}.")));
    }
    all_support(image, name, wanted)?;
    let current = image.feature(name);
    if wanted > current && direction != Direction::Up {
        return Err(invalid(format!(
            "level {wanted} of {name} is above {current}, and a downgrade was asked for."
        )));
    }
    if wanted >= current {
        return Ok(());
    }
    if direction == Direction::Up {
        return Err(invalid(format!(
            "level {wanted} of {name} is below {current}, and neither a safe nor an unsafe downgrade was asked for."
        )));
    }
    if name == METADATA_VERSION {
        return Err(invalid(format!("{name} cannot be lowered: metadata is written at level {current}.")));
    }
    let hangs_on_eligible =
        || image.topics().flat_map(|topic| topic.partitions.iter()).any(|partition| partition.isr.is_empty());
    if name == ELR_FEATURE && hangs_on_eligible() {
        return Err(invalid(format!("{name} cannot be lowered while a partition has nobody in sync.")));
    }
    Ok(())
}

fn all_support(image: &Image, name: &str, wanted: i16) -> Result<(), Refusal> {
    type Ranges = BTreeMap<Arc<str>, (i16, i16)>;
    let brokers = image.brokers().map(|broker| ("broker", broker.id, &broker.features));
    let controllers = image.controllers().map(|node| ("controller", node.id, &node.features));
    let lacks = |(_, _, ranges): &(&str, _, &Ranges)| !is_within(wanted, ranges.get(name).copied());
    match brokers.chain(controllers).find(lacks) {
        Some((role, id, _)) => {
            let why = format!("{role} {id} does not support level {wanted} of {name}.");
            Err(Refusal::new(ErrorCode::InvalidUpdateVersion, why))
        }
        None => Ok(()),
    }
}
