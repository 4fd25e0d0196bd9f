//! The table of versions against what Apache Kafka 4.3.1's broker answers to ApiVersions (asked on 2026-11-21 in version 2).

use millstream_protocol::versions::Audience;
use millstream_protocol::{ApiKey, versions};

/// (API key, first version, last version), as the peer told them.
const PEER: &[(i16, i16, i16)] = &[
    (0, 0, 13),
    (1, 4, 18),
    (2, 1, 11),
    (3, 0, 13),
    (8, 2, 10),
    (9, 1, 10),
    (10, 0, 6),
    (11, 0, 9),
    (12, 0, 4),
    (13, 0, 5),
    (14, 0, 5),
    (15, 0, 6),
    (16, 0, 5),
    (17, 0, 1),
    (18, 0, 4),
    (19, 2, 7),
    (20, 1, 6),
    (21, 0, 2),
    (22, 0, 5),
    (23, 2, 4),
    (24, 0, 5),
    (25, 0, 4),
    (26, 0, 5),
    (27, 1, 2),
    (28, 0, 5),
    (29, 1, 3),
    (30, 1, 3),
    (31, 1, 3),
    (32, 1, 4),
    (33, 0, 2),
    (34, 1, 2),
    (35, 1, 5),
    (36, 0, 2),
    (37, 0, 3),
    (38, 1, 3),
    (39, 1, 2),
    (40, 1, 2),
    (41, 1, 3),
    (42, 0, 2),
    (43, 0, 2),
    (44, 0, 1),
    (45, 0, 1),
    (46, 0, 0),
    (47, 0, 0),
    (48, 0, 1),
    (49, 0, 1),
    (50, 0, 0),
    (51, 0, 0),
    (55, 0, 2),
    (57, 0, 2),
    (60, 0, 2),
    (61, 0, 0),
    (64, 0, 0),
    (65, 0, 0),
    (66, 0, 2),
    (68, 0, 1),
    (69, 0, 1),
    (74, 0, 1),
    (75, 0, 0),
    (76, 1, 1),
    (77, 1, 1),
    (78, 1, 2),
    (79, 1, 2),
    (80, 0, 1),
    (81, 0, 0),
    (83, 0, 0),
    (84, 0, 0),
    (85, 0, 1),
    (86, 0, 0),
    (87, 0, 1),
    (88, 0, 0),
    (89, 0, 0),
    (90, 0, 1),
    (91, 0, 0),
    (92, 0, 0),
];

#[test]
fn what_we_tell_is_what_kafka_tells() {
    let told = Audience::Clients.told();
    for api in &told {
        let row = (api.api_key, api.min_version, api.max_version);
        assert!(PEER.contains(&row), "{row:?} is not the peer's");
    }
    assert_eq!(told.len(), versions::SERVED.len());
    let mut keys: Vec<i16> = told.iter().map(|api| api.api_key).collect();
    keys.dedup();
    assert_eq!(keys.len(), told.len(), "one row for each API");
}

#[test]
fn every_version_of_the_peer_is_defined_and_a_link_to_it_speaks_them_all() {
    for &(key, first, last) in PEER {
        let api = ApiKey::from_code(key).unwrap();
        let shared = versions::shared(api, (first, last)).unwrap();
        assert_eq!(shared, (first.max(api.defined().0), last), "{api}");
    }
}

#[test]
fn produce_is_told_from_zero_and_served_from_three() {
    assert_eq!(versions::served(ApiKey::Produce), Some((3, 13)));
    assert_eq!(Audience::Clients.told()[0].min_version, 0);
    assert_eq!(versions::served(ApiKey::ShareFetch), None);
    assert_eq!(versions::shared(ApiKey::Fetch, (0, 3)), None);
}
