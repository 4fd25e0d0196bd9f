//! One shape whatever the version: what a handler sees, and what goes over the wire.

use millstream_protocol::frames::{decode_request, decode_response, encode_request, encode_response};
use millstream_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, DeleteTopicsRequest, DescribeGroupsResponse,
    FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetFetchRequest, OffsetFetchResponse, ProduceRequest, ProduceResponse, TxnOffsetCommitRequest,
    add_partitions_to_txn as txn, delete_topics, describe_groups, fetch, find_coordinator, leave_group,
    list_offsets, metadata, offset_fetch, produce,
};
use millstream_protocol::versions::Audience;
use millstream_protocol::{ApiKey, CodecError, Request, Response, facts, versions};
use millstream_record::Uuid;

fn requests() -> Vec<Request> {
    let topic = txn::AddPartitionsToTxnTopic { name: "t".into(), partitions: vec![1, 2] };
    let transaction = txn::AddPartitionsToTxnTransaction {
        transactional_id: "x".into(),
        producer_id: 5,
        producer_epoch: 1,
        verify_only: false,
        topics: vec![topic],
    };
    let named =
        |name: &str| delete_topics::DeleteTopicState { name: Some(name.into()), ..Default::default() };
    let fetched = offset_fetch::OffsetFetchRequestTopics {
        name: "t".into(),
        partition_indexes: vec![3],
        ..Default::default()
    };
    let group = offset_fetch::OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: Some(vec![fetched]),
        ..Default::default()
    };
    let member = leave_group::MemberIdentity { member_id: "m".into(), ..Default::default() };
    vec![
        MetadataRequest { topics: None, ..Default::default() }.into(),
        FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() }.into(),
        OffsetFetchRequest { groups: vec![group], ..Default::default() }.into(),
        DeleteTopicsRequest { topics: vec![named("a"), named("b")], timeout_ms: 7, ..Default::default() }
            .into(),
        LeaveGroupRequest { group_id: "g".into(), members: vec![member], ..Default::default() }.into(),
        AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() }.into(),
        JoinGroupRequest { session_timeout_ms: 9, rebalance_timeout_ms: 9, ..Default::default() }.into(),
    ]
}

#[test]
fn a_request_has_one_shape_in_every_version_that_is_served() {
    for request in requests() {
        let (first, last) = versions::served(request.api()).unwrap();
        for version in first..=last {
            let mut request = request.clone();
            if let Request::OffsetFetch(fetch) = &mut request
                && version >= 10
            {
                fetch.groups[0].topics.as_mut().unwrap()[0].name = "".into();
                fetch.groups[0].topics.as_mut().unwrap()[0].topic_id = Uuid([7; 16]);
            }
            let frame = encode_request(1, Some(&"c".into()), request.clone(), version).unwrap().into_bytes();
            let read = decode_request(frame, Audience::Clients).unwrap();
            assert_eq!(read.request, request, "{} v{version}", request.api());
            assert_eq!(read.header.client_id, Some("c".into()));
            assert_eq!(read.facts, facts(request.api(), version));
        }
    }
}

fn responses() -> Vec<Response> {
    let coordinator = find_coordinator::Coordinator {
        node_id: 4,
        host: "h".into(),
        port: 9,
        error_code: 15,
        ..Default::default()
    };
    let partition = offset_fetch::OffsetFetchResponsePartitions {
        partition_index: 3,
        committed_offset: 11,
        metadata: Some("m".into()),
        ..Default::default()
    };
    let topic = offset_fetch::OffsetFetchResponseTopics {
        name: "t".into(),
        partitions: vec![partition],
        ..Default::default()
    };
    let group = offset_fetch::OffsetFetchResponseGroup { topics: vec![topic], ..Default::default() };
    let result = txn::AddPartitionsToTxnPartitionResult { partition_index: 1, partition_error_code: 48 };
    let result = txn::AddPartitionsToTxnTopicResult { name: "t".into(), results_by_partition: vec![result] };
    let result = txn::AddPartitionsToTxnResult { topic_results: vec![result], ..Default::default() };
    vec![
        FindCoordinatorResponse { coordinators: vec![coordinator], ..Default::default() }.into(),
        OffsetFetchResponse { groups: vec![group], ..Default::default() }.into(),
        AddPartitionsToTxnResponse { results_by_transaction: vec![result], ..Default::default() }.into(),
    ]
}

#[test]
fn a_response_has_one_shape_in_every_version_that_is_served() {
    for response in responses() {
        let api = response.api();
        let (first, last) = versions::served(api).unwrap();
        for version in first..=last {
            let mut expected = response.clone();
            if let Response::OffsetFetch(fetch) = &mut expected
                && version >= 10
            {
                fetch.groups[0].topics[0].name = "".into();
            }
            let frame = encode_response(1, expected.clone(), version).unwrap().into_bytes();
            assert_eq!(decode_response(frame, api, version).unwrap(), expected, "{api} v{version}");
        }
    }
}

#[test]
fn nulls_and_errors_take_the_form_of_old() {
    let through = |response: Response, version| {
        let api = response.api();
        let frame = encode_response(1, response, version).unwrap().into_bytes();
        decode_response(frame, api, version).unwrap()
    };
    let joined = through(JoinGroupResponse { protocol_name: None, ..Default::default() }.into(), 6);
    assert_eq!(joined, JoinGroupResponse { protocol_name: Some("".into()), ..Default::default() }.into());

    let topic = metadata::MetadataResponseTopic { name: None, ..Default::default() };
    let described = MetadataResponse { topics: vec![topic], ..Default::default() };
    let Response::Metadata(read) = through(described.into(), 11) else { panic!() };
    assert_eq!(read.topics[0].name, Some("".into()));

    let member = leave_group::MemberResponse { error_code: 25, ..Default::default() };
    let left = LeaveGroupResponse { members: vec![member], ..Default::default() };
    assert_eq!(through(left.into(), 2), LeaveGroupResponse { error_code: 25, ..Default::default() }.into());

    let partition = offset_fetch::OffsetFetchResponsePartitions::default();
    let topic = offset_fetch::OffsetFetchResponseTopics { partitions: vec![partition], ..Default::default() };
    let group =
        offset_fetch::OffsetFetchResponseGroup { topics: vec![topic], error_code: 16, ..Default::default() };
    let fetched = OffsetFetchResponse { groups: vec![group], ..Default::default() };
    let Response::OffsetFetch(read) = through(fetched.into(), 1) else { panic!() };
    assert_eq!(read.groups[0].topics[0].partitions[0].error_code, 16);
}

#[test]
fn advice_is_dropped_where_a_version_has_no_room_for_it() {
    let leader = produce::LeaderIdAndEpoch { leader_id: 1, leader_epoch: 2 };
    let partition = produce::PartitionProduceResponse { current_leader: leader, ..Default::default() };
    let topic = produce::TopicProduceResponse { partition_responses: vec![partition], ..Default::default() };
    let node = produce::NodeEndpoint { node_id: 1, host: "h".into(), ..Default::default() };
    let produced =
        ProduceResponse { responses: vec![topic], node_endpoints: vec![node], ..Default::default() };

    let leader = fetch::LeaderIdAndEpoch { leader_id: 1, leader_epoch: 2 };
    let diverging = fetch::EpochEndOffset { epoch: 1, end_offset: 5 };
    let partition =
        fetch::PartitionData { current_leader: leader, diverging_epoch: diverging, ..Default::default() };
    let topic = fetch::FetchableTopicResponse { partitions: vec![partition], ..Default::default() };
    let node = fetch::NodeEndpoint { node_id: 1, host: "h".into(), ..Default::default() };
    let fetched = FetchResponse { responses: vec![topic], node_endpoints: vec![node], ..Default::default() };

    let partition = list_offsets::ListOffsetsPartitionResponse { leader_epoch: 4, ..Default::default() };
    let topic = list_offsets::ListOffsetsTopicResponse { partitions: vec![partition], ..Default::default() };
    let listed = ListOffsetsResponse { topics: vec![topic], ..Default::default() };

    let group = describe_groups::DescribedGroup { error_message: Some("gone".into()), ..Default::default() };
    let described = DescribeGroupsResponse { groups: vec![group], ..Default::default() };

    for response in [Response::from(produced), fetched.into(), listed.into(), described.into()] {
        let api = response.api();
        let (first, last) = versions::served(api).unwrap();
        for version in first..=last {
            let frame = encode_response(1, response.clone(), version).unwrap().into_bytes();
            let read = decode_response(frame, api, version).unwrap();
            assert_eq!(
                read == response,
                version == last || version >= first_with_all(api),
                "{api} v{version}"
            );
        }
    }
}

/// The first version that carries all the advice above, and all else that those responses hold.
fn first_with_all(api: ApiKey) -> i16 {
    match api {
        ApiKey::Produce => 10,
        ApiKey::Fetch => 16,
        ApiKey::ListOffsets => 4,
        _ => 6,
    }
}

#[test]
fn what_a_version_cannot_say_is_refused() {
    let refused = |request: Request, version, expected_field| match encode_request(1, None, request, version)
    {
        Err(CodecError::Absent { field, version: told, .. }) => {
            assert_eq!((field, told), (expected_field, version))
        }
        other => panic!("{other:?}"),
    };
    let two = FindCoordinatorRequest { coordinator_keys: vec!["a".into(), "b".into()], ..Default::default() };
    refused(two.into(), 3, "CoordinatorKeys");
    let by_id = delete_topics::DeleteTopicState { topic_id: Uuid([1; 16]), ..Default::default() };
    refused(DeleteTopicsRequest { topics: vec![by_id], ..Default::default() }.into(), 5, "TopicId");
    refused(MetadataRequest { topics: Some(vec![]), ..Default::default() }.into(), 0, "Topics");
    let fixed = JoinGroupRequest { group_instance_id: Some("i".into()), ..Default::default() };
    refused(fixed.into(), 4, "GroupInstanceId");
}

#[test]
fn a_client_chooses_the_last_version_that_says_what_it_means() {
    let produce = |name: &str, id: u8, transactional: bool| -> Request {
        let topic =
            produce::TopicProduceData { name: name.into(), topic_id: Uuid([id; 16]), ..Default::default() };
        ProduceRequest {
            transactional_id: transactional.then(|| "x".into()),
            topic_data: vec![topic],
            ..Default::default()
        }
        .into()
    };
    let fetch = |name: &str, id: u8| -> Request {
        let topic = fetch::FetchTopic { topic: name.into(), topic_id: Uuid([id; 16]), ..Default::default() };
        millstream_protocol::messages::FetchRequest { topics: vec![topic], ..Default::default() }.into()
    };
    let all = offset_fetch::OffsetFetchRequestGroup { topics: None, ..Default::default() };
    let all_offsets = OffsetFetchRequest { groups: vec![all], ..Default::default() };
    let cases = [
        (produce("t", 0, false), (0, 13), Some(12)),
        (produce("t", 1, false), (0, 13), Some(13)),
        (produce("", 1, false), (0, 12), None),
        (produce("t", 1, true), (0, 13), Some(11)),
        (produce("", 1, true), (0, 13), None),
        (fetch("t", 1), (4, 18), Some(18)),
        (fetch("t", 0), (4, 18), Some(12)),
        (fetch("t", 0), (13, 18), None),
        (AddPartitionsToTxnRequest::default().into(), (0, 5), Some(3)),
        (TxnOffsetCommitRequest::default().into(), (0, 5), Some(4)),
        (MetadataRequest::default().into(), (0, 13), Some(13)),
        (all_offsets.into(), (1, 10), Some(9)),
    ];
    for (request, shared, expected) in cases {
        assert_eq!(versions::choose(&request, shared), expected, "{request:?}");
    }
}

#[test]
fn facts_begin_with_their_version() {
    let fetch = |version| facts(ApiKey::Fetch, version);
    assert!(!fetch(9).zstd_allowed && fetch(10).zstd_allowed);
    assert!(!fetch(10).reads_any_replica && fetch(11).reads_any_replica);
    assert!(!fetch(12).by_topic_id && fetch(13).by_topic_id);
    assert!(
        !facts(ApiKey::JoinGroup, 3).must_know_member_id && facts(ApiKey::JoinGroup, 4).must_know_member_id
    );
    assert!(!facts(ApiKey::Metadata, 4).must_know_member_id, "a fact belongs to its API");
    let least = |version| facts(ApiKey::ListOffsets, version).least_special_timestamp;
    assert_eq!([1, 6, 7, 8, 9, 10, 11].map(least), [-2, -2, -3, -4, -5, -5, -6]);
    assert!(!facts(ApiKey::Produce, 11).transactions_v2 && facts(ApiKey::Produce, 12).transactions_v2);
}
