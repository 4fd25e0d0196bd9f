//! Feature levels: what every node must understand before anybody uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::update_features::{FeatureUpdateKey, UpdatableFeatureResult};
use millstream_protocol::messages::{FeatureLevelRecord, UpdateFeaturesRequest, UpdateFeaturesResponse};
use millstream_record::NodeId;

use super::Record;
use super::controller::{Controller, Decision, Refusal};
use super::image::Image;
use super::partition_change::{Change, ELR_FEATURE};
use crate::Error;

/// The version of the metadata's records; never lowered, since older nodes cannot read what was written.
const METADATA_VERSION: &str = "metadata.version";

/// What this build supports of each feature, from lowest to highest; a new cluster has the highest. `metadata.version` 30 is
/// Kafka's 4.3-IV0, whose records we write; `transaction.version` 1 tells clients to run transactions v1.
const SUPPORTED: [(&str, i16, i16); 3] =
    [(ELR_FEATURE, 0, 1), (METADATA_VERSION, 7, 30), ("transaction.version", 0, 1)];

/// The levels that a node supports of each feature: name, lowest, highest; ordered by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupportedFeatures(Vec<(&'static str, i16, i16)>);

impl Default for SupportedFeatures {
    /// What this build supports.
    fn default() -> Self {
        Self(SUPPORTED.to_vec())
    }
}

impl SupportedFeatures {
    /// The same, but for the levels of one feature: what an older or a newer build supports.
    #[must_use]
    pub fn with(mut self, name: &'static str, lowest: i16, highest: i16) -> Self {
        self.0.retain(|(known, ..)| *known != name);
        self.0.push((name, lowest, highest));
        self.0.sort_unstable();
        self
    }

    /// Each feature with its lowest and highest level, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, i16, i16)> {
        self.0.iter().copied()
    }

    fn range(&self, name: &str) -> Option<(i16, i16)> {
        self.iter().find(|(known, ..)| *known == name).map(|(_, lowest, highest)| (lowest, highest))
    }

    /// Whether the node can take part in a cluster whose metadata is `image`.
    ///
    /// # Errors
    /// [`Error::UnsupportedLevel`]: others may write what it does not know, and it must stop before it meets that.
    pub fn check(&self, image: &Image) -> Result<(), Error> {
        match image.features().find(|(name, level)| !is_within(*level, self.range(name))) {
            None => Ok(()),
            Some((name, level)) => {
                let (lowest, highest) = self.range(name).unwrap_or_default();
                Err(Error::UnsupportedLevel { feature: name.to_string(), level, lowest, highest })
            }
        }
    }
}

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
        self.supported.iter().map(|(name, _, highest)| level(name, highest)).collect()
    }

    /// Whether a controller that supports `features` can take part in a cluster whose metadata is `image`.
    ///
    /// # Errors
    /// A sentence with the level that it does not support.
    pub fn check_levels(image: &Image, features: &BTreeMap<Arc<str>, (i16, i16)>) -> Result<(), String> {
        let range = |name: &str| features.get(name).copied();
        match image.features().find(|(name, level)| !is_within(*level, range(name))) {
            None => Ok(()),
            Some((name, level)) => Err(format!("The controller does not support level {level} of {name}.")),
        }
    }

    /// Decides UpdateFeatures, all of it or nothing. A level is raised when every registered broker supports it, and every one of
    /// `controllers`, the members of the quorum; it is lowered when the request says so and nothing is lost by it.
    #[must_use]
    pub fn update_features(
        &self,
        image: &Image,
        controllers: &BTreeSet<NodeId>,
        request: &UpdateFeaturesRequest,
    ) -> Decision<UpdateFeaturesResponse> {
        let mut levels: BTreeMap<ByteString, i16> = BTreeMap::new();
        for update in &request.feature_updates {
            let decided = self.judge(image, controllers, update).and_then(|()| {
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

    fn judge(
        &self,
        image: &Image,
        controllers: &BTreeSet<NodeId>,
        update: &FeatureUpdateKey,
    ) -> Result<(), Refusal> {
        let (name, wanted) = (&*update.feature, update.max_version_level);
        let invalid = |why: String| Refusal::new(ErrorCode::InvalidUpdateVersion, why);
        let direction = Direction::of(update).ok_or_else(|| {
            let why = format!("upgrade type {} of {name} is unknown.", update.upgrade_type);
            Refusal::new(ErrorCode::InvalidRequest, why)
        })?;
        if wanted < 0 {
            return Err(invalid(format!("the level of {name} cannot be {wanted}.")));
        }
        all_support(image, controllers, name, wanted)?;
        if !is_within(wanted, self.supported.range(name)) {
            return Err(invalid(format!("this controller does not support level {wanted} of {name}.")));
        }
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
            return Err(invalid(format!(
                "{name} cannot be lowered: metadata is written at level {current}."
            )));
        }
        let hangs_on_eligible = || {
            image.topics().flat_map(|topic| topic.partitions.iter()).any(|partition| partition.isr.is_empty())
        };
        if name == ELR_FEATURE && hangs_on_eligible() {
            return Err(invalid(format!("{name} cannot be lowered while a partition has nobody in sync.")));
        }
        Ok(())
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

/// Refuses a level with the names of all who do not support it. A controller says what it supports when it registers, or as the broker
/// that it also is; one that has said nothing is taken for an older build.
fn all_support(
    image: &Image,
    controllers: &BTreeSet<NodeId>,
    name: &str,
    wanted: i16,
) -> Result<(), Refusal> {
    let range = |features: &BTreeMap<_, (i16, i16)>| features.get(name).copied();
    let brokers = image.brokers().map(|broker| ("broker", broker.id, range(&broker.features)));
    let controllers = controllers.iter().map(|id| {
        let registered = image.controllers().find(|node| node.id == *id).map(|node| &node.features);
        let features = registered.or_else(|| image.broker(*id).map(|broker| &broker.features));
        ("controller", *id, features.and_then(range))
    });
    let lacking = brokers.chain(controllers).filter(|(.., range)| !is_within(wanted, *range));
    let lacking = lacking.map(|(role, id, range)| match range {
        Some((lowest, highest)) => format!("{role} {id} ({lowest} to {highest})"),
        None => format!("{role} {id} (none)"),
    });
    let lacking: Vec<String> = lacking.collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let why = format!("level {wanted} of {name} is not supported by {}.", lacking.join(", "));
    Err(Refusal::new(ErrorCode::InvalidUpdateVersion, why))
}
