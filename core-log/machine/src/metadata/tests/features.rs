//! Feature levels.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::controller_registration::Feature;
use millstream_protocol::messages::update_features::FeatureUpdateKey;
use millstream_protocol::messages::{ControllerRegistrationRequest, UpdateFeaturesRequest};
use millstream_record::{NodeId, Uuid};

use super::{Stage, controller, registration};
use crate::metadata::SupportedFeatures;
use crate::metadata::partition_change::ELR_FEATURE;

/// The quorum: a broker that is a controller, too.
const MEMBERS: [NodeId; 1] = [NodeId(1)];

fn update(stage: &mut Stage, feature: &str, max_version_level: i16, upgrade_type: i8) -> ErrorCode {
    let key = FeatureUpdateKey {
        feature: feature.into(),
        max_version_level,
        upgrade_type,
        ..FeatureUpdateKey::default()
    };
    let request = UpdateFeaturesRequest { feature_updates: vec![key], ..UpdateFeaturesRequest::default() };
    let asked = UpdateFeaturesRequest { validate_only: true, ..request.clone() };
    let validated = controller().update_features(&stage.image, &MEMBERS.into(), &asked);
    assert!(validated.records.is_empty());
    let decision = controller().update_features(&stage.image, &MEMBERS.into(), &request);
    assert_eq!(validated.response, decision.response);
    stage.commit(decision.records);
    ErrorCode::from_code(decision.response.error_code)
}

#[test]
fn levels_move_where_all_nodes_follow_and_nothing_is_lost() {
    use ErrorCode as E;
    const UP: i8 = 1;
    const SAFE: i8 = 2;
    const UNSAFE: i8 = 3;
    let table = [
        ("transaction.version", 1, UP, E::None, 1),
        ("transaction.version", 0, UP, E::InvalidUpdateVersion, 1),
        ("transaction.version", 0, SAFE, E::None, 0),
        ("transaction.version", 0, UNSAFE, E::None, 0),
        ("transaction.version", 1, SAFE, E::None, 1),
        ("transaction.version", 2, UP, E::InvalidUpdateVersion, 1),
        ("transaction.version", -1, SAFE, E::InvalidUpdateVersion, 1),
        ("transaction.version", 1, 9, E::InvalidRequest, 1),
        ("metadata.version", 29, SAFE, E::InvalidUpdateVersion, 30),
        ("metadata.version", 29, UNSAFE, E::InvalidUpdateVersion, 30),
        ("share.version", 1, UP, E::InvalidUpdateVersion, 0),
    ];
    for (feature, wanted, direction, expected, level) in table {
        let mut stage = Stage::of(2);
        assert_eq!(
            update(&mut stage, feature, wanted, direction),
            expected,
            "{feature} {wanted} {direction}"
        );
        assert_eq!(stage.image.feature(feature), level, "{feature} {wanted} {direction}");
    }
    let mut stage = Stage::of(1);
    assert_eq!(update(&mut stage, "transaction.version", 0, SAFE), E::None);
    assert_eq!(update(&mut stage, "transaction.version", 1, SAFE), E::InvalidUpdateVersion);
    assert_eq!(update(&mut stage, "transaction.version", 1, UP), E::None);
}

#[test]
fn a_controller_that_is_behind_holds_the_level_back() {
    let feature = |name: &str, min_supported_version, max_supported_version| Feature {
        name: name.into(),
        min_supported_version,
        max_supported_version,
    };
    let mut stage = Stage::of(1);
    assert_eq!(update(&mut stage, "transaction.version", 0, 2), ErrorCode::None);
    let request = |features| ControllerRegistrationRequest {
        controller_id: 7,
        incarnation_id: Uuid::from_random(7, 7),
        features,
        ..ControllerRegistrationRequest::default()
    };
    let too_old = request(vec![feature("metadata.version", 7, 29)]);
    let refused = controller().register_controller(&stage.image, &too_old);
    assert_eq!(refused.response.error_code, ErrorCode::UnsupportedVersion.code());
    let behind = request(vec![feature("metadata.version", 7, 30), feature(ELR_FEATURE, 0, 1)]);
    let decision = controller().register_controller(&stage.image, &behind);
    assert_eq!(decision.response.error_code, 0);
    stage.commit(decision.records);
    assert_eq!(stage.image.controllers().count(), 1);
    assert!(controller().register_controller(&stage.image, &behind).records.is_empty(), "known already");
    let why = |members: &[i32]| {
        let key = FeatureUpdateKey {
            feature: "transaction.version".into(),
            max_version_level: 1,
            upgrade_type: 1,
            ..FeatureUpdateKey::default()
        };
        let request =
            UpdateFeaturesRequest { feature_updates: vec![key], ..UpdateFeaturesRequest::default() };
        let members = members.iter().copied().map(NodeId).collect();
        let response = controller().update_features(&stage.image, &members, &request).response;
        response.error_message.map(|why| why.to_string()).unwrap_or_default()
    };
    assert_eq!(why(&[1]), "", "a controller that left the quorum counts no more");
    let lacking =
        "level 1 of transaction.version is not supported by controller 7 (none), controller 8 (none).";
    assert!(why(&[1, 7, 8]).ends_with(lacking), "{}; 8 has not registered", why(&[1, 7, 8]));
}

/// The way of a cluster of three to the next build: it runs at this build's level until the last node has followed.
#[test]
fn a_level_is_raised_once_the_last_node_supports_it_and_shuts_out_who_does_not() {
    let next = || SupportedFeatures::default().with("metadata.version", 7, 31);
    let upgraded = |broker: i32| {
        let mut request = registration(broker, 2);
        let version =
            request.features.iter_mut().find(|feature| &*feature.name == "metadata.version").unwrap();
        version.max_supported_version = 31;
        request
    };
    let key = FeatureUpdateKey {
        feature: "metadata.version".into(),
        max_version_level: 31,
        upgrade_type: 1,
        ..FeatureUpdateKey::default()
    };
    let request = UpdateFeaturesRequest { feature_updates: vec![key], ..UpdateFeaturesRequest::default() };
    let mut stage = Stage::of(3);
    let raise = |stage: &Stage| {
        let decision =
            controller().supporting(next()).update_features(&stage.image, &MEMBERS.into(), &request);
        let why = decision.response.error_message.map(|why| why.to_string()).unwrap_or_default();
        (decision.records, why)
    };
    for broker in 1..=3 {
        let (records, why) = raise(&stage);
        let behind: Vec<String> = (broker..=3).map(|id| format!("broker {id} (7 to 30)")).collect();
        assert!(records.is_empty() && why.contains(&behind.join(", ")), "{why}");
        stage.fence(&[broker]);
        stage.start(upgraded(broker));
    }
    let (records, why) = raise(&stage);
    assert_eq!(why, "");
    assert_eq!(
        controller().update_features(&stage.image, &MEMBERS.into(), &request).records,
        [],
        "an older one leads"
    );
    stage.commit(records);
    assert_eq!(stage.image.feature("metadata.version"), 31);

    stage.fence(&[2]);
    assert_eq!(stage.register(&registration(2, 3)), ErrorCode::UnsupportedVersion);
    assert_eq!(next().check(&stage.image), Ok(()));
    let error = SupportedFeatures::default().check(&stage.image).unwrap_err().to_string();
    assert!(
        error.starts_with("metadata.version is at level 31, and this node supports 7 to 30 only; "),
        "{error}"
    );
}

#[test]
fn eligible_replicas_go_with_their_feature() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2], &[2]]);
    stage.configure("min.insync.replicas", "2");
    stage.fence(&[2]);
    assert_eq!(stage.state(0), (1, 0, vec![1], vec![2]));
    assert_eq!(update(&mut stage, ELR_FEATURE, 0, 2), ErrorCode::InvalidUpdateVersion, "t-1 hangs on them");
    stage.beat(2, |_| {});
    assert_eq!(update(&mut stage, ELR_FEATURE, 0, 2), ErrorCode::None);
    assert_eq!(stage.state(0), (1, 0, vec![1], vec![]));
}
