//! Both ends over the real loopback.

mod common;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use common::{SOON, World, name_of, world};
use futures::future::join_all;
use millstream_net::{DialConfig, NetConfig, TcpDial};
use millstream_protocol::frames::{correlation_id, decode_response, encode_request};
use millstream_protocol::messages::{
    ApiVersionsRequest, FetchRequest, MetadataRequest, ProduceRequest, fetch, metadata, produce,
};
use millstream_protocol::versions::Audience;
use millstream_protocol::{
    ApiKey, CallError, Ctx, Dial, DialError, Endpoint, Link, Receipt, Request, Response,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn ask(link: &dyn Link, name: &str) -> Receipt {
    link.call(Ctx::local("test".into()), metadata(name))
}

fn metadata(name: &str) -> Request {
    let topic = metadata::MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), ..Default::default() }.into()
}

fn frame(correlation: i32, request: Request, version: i16) -> Bytes {
    let frame = encode_request(correlation, Some(&ByteString::from_static("raw")), request, version).unwrap();
    let mut out = BytesMut::new();
    out.put_u32(frame.len() as u32);
    out.extend_from_slice(&frame.into_bytes());
    out.freeze()
}

async fn read_frame(world: &World, stream: &mut Box<dyn millstream_env::Stream>) -> Bytes {
    let read = async {
        let length = stream.read_u32().await.unwrap();
        let mut frame = vec![0; length as usize];
        stream.read_exact(&mut frame).await.unwrap();
        Bytes::from(frame)
    };
    world.env.timeout(SOON, read).await.expect("a frame comes")
}

#[test]
fn answers_leave_in_the_order_of_the_requests() {
    world(NetConfig::default(), async |world| {
        let link = world.dial().await;
        let names: Vec<String> =
            (0..40).map(|at| if at % 3 == 0 { format!("wait{at}") } else { format!("now{at}") }).collect();
        let receipts: Vec<Receipt> = names.iter().map(|name| ask(&*link, name)).collect();
        let waiting = names.iter().filter(|name| name.starts_with("wait")).count();
        world.wait_until("all are called", || world.service.waiting.lock().len() == waiting).await;
        world.service.release();
        let answers = world.env.timeout(SOON, join_all(receipts)).await.unwrap();
        assert_eq!(answers.into_iter().map(name_of).collect::<Vec<_>>(), names);
        let called = world.service.calls.lock().iter().filter(|(_, r)| r.api() == ApiKey::Metadata).count();
        assert_eq!(called, names.len());
    });
}

#[test]
fn the_service_learns_who_asks_and_what_the_version_means() {
    world(NetConfig { listener: "INTERNAL".into(), ..Default::default() }, async |world| {
        let mut stream = world.connect().await;
        stream.write_all(&frame(5, FetchRequest::default().into(), 5)).await.unwrap();
        read_frame(&world, &mut stream).await;
        let (ctx, request) = world.service.calls.lock().pop().unwrap();
        assert_eq!((ctx.listener, ctx.principal), ("INTERNAL".into(), "User:ANONYMOUS".into()));
        assert_eq!(ctx.client_id, Some("raw".into()));
        assert!(ctx.peer.starts_with("127.0.0.1:"), "{}", ctx.peer);
        assert!(!ctx.facts.zstd_allowed && !ctx.facts.by_topic_id && !ctx.facts.storage_error_known);
        assert_eq!(request.api(), ApiKey::Fetch);
    });
}

#[test]
fn a_produce_without_acks_has_no_answer_and_the_next_one_has() {
    world(NetConfig::default(), async |world| {
        let link = world.dial().await;
        let topic = produce::TopicProduceData { name: "t".into(), ..Default::default() };
        let silent = ProduceRequest { acks: 0, topic_data: vec![topic], ..Default::default() };
        let written = link.call(Ctx::local("test".into()), silent.clone().into());
        assert_eq!(world.env.timeout(SOON, written).await.unwrap().unwrap_err(), CallError::NoAnswer);
        assert_eq!(name_of(ask(&*link, "after").await), "after");
        let produced = || {
            let calls = world.service.calls.lock();
            calls.iter().filter(|(_, request)| request.api() == ApiKey::Produce).count()
        };
        assert_eq!(produced(), 1);
        // Once that is told, the link may go: the request has left.
        let written = link.call(Ctx::local("test".into()), silent.into());
        assert_eq!(world.env.timeout(SOON, written).await.unwrap().unwrap_err(), CallError::NoAnswer);
        drop(link);
        world.wait_until("it arrives", || produced() == 2).await;
    });
}

#[test]
fn answers_before_one_that_cannot_be_given_still_leave() {
    world(NetConfig::default(), async |world| {
        let mut stream = world.connect().await;
        let produce = ProduceRequest { acks: -1, ..Default::default() };
        let requests = [metadata("wait"), produce.into(), metadata("fail"), metadata("behind")];
        let frames: Vec<u8> =
            requests.into_iter().zip(1..).flat_map(|(request, id)| frame(id, request, 9)).collect();
        stream.write_all(&frames).await.unwrap();
        // All four are called before the first is answered, so that they leave together.
        world.wait_until("all are called", || world.service.calls.lock().len() == 4).await;
        world.service.release();
        for id in [1, 2] {
            assert_eq!(correlation_id(&read_frame(&world, &mut stream).await), Ok(id));
        }
        assert_eq!(world.until_closed(&mut stream).await, []);
    });
}

#[test]
fn large_records_cross_unchanged() {
    world(NetConfig::default(), async |world| {
        let records = Bytes::from((0..20_000_000u32).map(|at| (at % 251) as u8).collect::<Vec<_>>());
        *world.service.records.lock() = records.clone();
        let link = world.dial().await;
        for _ in 0..2 {
            match link.call(Ctx::local("test".into()), FetchRequest::default().into()).await.unwrap() {
                Response::Fetch(response) => {
                    assert!(response.responses[0].partitions[0].records.as_ref() == Some(&records));
                }
                other => panic!("{other:?}"),
            }
        }
        let data = produce::PartitionProduceData { index: 0, records: Some(records.clone()) };
        let topic =
            produce::TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest { acks: -1, topic_data: vec![topic], ..Default::default() };
        link.call(Ctx::local("test".into()), request.into()).await.unwrap();
        let (_, request) = world.service.calls.lock().pop().unwrap();
        let Request::Produce(produce) = request else { panic!("{request:?}") };
        assert!(produce.topic_data[0].partition_data[0].records.as_ref() == Some(&records));
    });
}

#[test]
fn api_versions_that_are_too_new_learn_what_there_is() {
    world(NetConfig::default(), async |world| {
        let mut stream = world.connect().await;
        let request = [0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 1, 2, 3];
        stream.write_u32(request.len() as u32).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let answer = read_frame(&world, &mut stream).await;
        assert_eq!(correlation_id(&answer), Ok(7));
        let Response::ApiVersions(told) = decode_response(answer, ApiKey::ApiVersions, 0).unwrap() else {
            panic!()
        };
        assert_eq!((told.error_code, told.api_keys), (35, Audience::Clients.told()));
        // The connection goes on in a version that both know.
        stream.write_all(&frame(8, ApiVersionsRequest::default().into(), 2)).await.unwrap();
        assert_eq!(correlation_id(&read_frame(&world, &mut stream).await), Ok(8));
    });
}

/// Frames that end their connection, and what they are.
fn hostile_frames() -> Vec<(&'static str, Vec<u8>)> {
    let whole = |body: &[u8]| {
        let mut out = (body.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(body);
        out
    };
    vec![
        ("a negative length", vec![0xff; 4]),
        ("a length beyond the bound", vec![0x7f, 0xff, 0xff, 0xff]),
        ("an empty frame", whole(&[])),
        ("an unknown API", whole(&[0x7f, 0x7f, 0, 0, 0, 0, 0, 1, 0xff, 0xff])),
        ("an API that is not served", whole(&[0, 78, 0, 1, 0, 0, 0, 1, 0xff, 0xff])),
        ("an unknown version", whole(&[0, 1, 0, 99, 0, 0, 0, 1, 0xff, 0xff])),
        ("a version that only looks served", whole(&[0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff])),
        ("a body cut off", whole(&[0, 1, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff])),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        (
            "a list of two thousand million",
            whole(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]),
        ),
        ("an answer that never comes", frame(1, metadata("fail"), 5).to_vec()),
    ]
}

#[test]
fn hostile_frames_close_their_own_connection_and_no_other() {
    world(NetConfig::default(), async |world| {
        let link = world.dial().await;
        for (what, bytes) in hostile_frames() {
            let mut stream = world.connect().await;
            stream.write_all(&bytes).await.unwrap();
            let sent = world.until_closed(&mut stream).await;
            assert!(sent.is_empty(), "{what}: {sent:?}");
            let answer = world.env.timeout(Duration::from_secs(1), ask(&*link, what)).await;
            assert_eq!(name_of(answer.expect("others are answered within a second")), what);
        }
    });
}

#[test]
fn half_open_and_slow_connections_are_closed_while_others_are_answered() {
    let config = NetConfig {
        stall_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(300),
        ..Default::default()
    };
    world(config, async |world| {
        let mut half = Vec::new();
        for cut in [1, 3, 4, 5, 20] {
            let mut stream = world.connect().await;
            stream.write_all(&frame(1, metadata("half of it"), 5)[..cut]).await.unwrap();
            half.push(stream);
        }
        // One that sends nothing, and one that announces the most and drips.
        half.push(world.connect().await);
        let mut drip = world.connect().await;
        drip.write_all(&(100u32 << 20).to_be_bytes()).await.unwrap();
        let dripping = async {
            while drip.write_all(&[0]).await.is_ok() {
                world.env.sleep(Duration::from_millis(10)).await;
            }
        };
        let answering = async {
            for at in 0..20 {
                let mut fresh = world.connect().await;
                fresh.write_all(&frame(at, metadata("others"), 5)).await.unwrap();
                let answer = world.env.timeout(Duration::from_secs(1), read_frame(&world, &mut fresh)).await;
                assert_eq!(correlation_id(&answer.expect("within a second")), Ok(at));
            }
        };
        world
            .env
            .timeout(SOON, futures::future::join(dripping, answering))
            .await
            .expect("the drip is closed");
        for stream in &mut half {
            assert!(world.until_closed(stream).await.is_empty());
        }
    });
}

#[test]
fn a_long_wait_is_not_idleness_and_a_peer_that_does_not_read_is_closed() {
    let config = NetConfig {
        stall_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    world(config, async |world| {
        let link = world.dial().await;
        let waits = ask(&*link, "wait");
        // This one asks for a lot and takes nothing, until the server gives up on it.
        *world.service.records.lock() = Bytes::from(vec![7; 50 << 20]);
        let mut deaf = world.connect().await;
        for at in 0..10 {
            deaf.write_all(&frame(at, FetchRequest::default().into(), 12)).await.unwrap();
        }
        let knocking = async {
            while deaf.write_all(&frame(99, metadata("deaf"), 5)).await.is_ok() {
                world.env.sleep(Duration::from_millis(10)).await;
            }
        };
        world.env.timeout(SOON, knocking).await.expect("the server closes it");
        let fetches = world.service.calls.lock().iter().filter(|(_, r)| r.api() == ApiKey::Fetch).count();
        assert_eq!(fetches, 1, "fetches do not pile up behind one that is not read");
        let mut taken = Vec::new();
        let _reset = world.env.timeout(SOON, deaf.read_to_end(&mut taken)).await.expect("it is closed");
        assert!(taken.len() < 50 << 20, "{} bytes came after all", taken.len());
        world.service.release();
        assert_eq!(name_of(waits.await), "wait");
    });
}

#[test]
fn requests_in_flight_are_bounded_by_number_and_by_bytes() {
    let by_number = NetConfig { max_in_flight: 4, ..Default::default() };
    let by_bytes = NetConfig { max_in_flight_bytes: 80 * 1024, ..Default::default() };
    // Those in the queue, the one that the writer waits for, and the one that waits for a place.
    for (config, padding, bound) in [(by_number, 0, 4 + 2), (by_bytes, 20 * 1024, 4)] {
        world(config, async |world| {
            let link = world.dial().await;
            let names: Vec<_> = (0..30).map(|at| format!("wait{at}{}", "x".repeat(padding))).collect();
            let receipts: Vec<_> = names.iter().map(|name| ask(&*link, name)).collect();
            let answers = async {
                let all = join_all(receipts);
                futures::pin_mut!(all);
                loop {
                    let called = world.service.waiting.lock().len();
                    assert!(called <= bound, "{called} requests were called at once");
                    world.service.release();
                    if let Ok(answers) = world.env.timeout(Duration::from_millis(5), &mut all).await {
                        return answers;
                    }
                }
            };
            let answers = world.env.timeout(SOON, answers).await.unwrap();
            assert_eq!(answers.into_iter().map(name_of).collect::<Vec<_>>(), names);
        });
    }
}

#[test]
fn a_peer_that_leaves_does_not_hold_its_place_until_its_answers_come() {
    let config =
        NetConfig { max_connections: 1, stall_timeout: Duration::from_millis(100), ..Default::default() };
    world(config, async |world| {
        let mut stream = world.connect().await;
        stream.write_all(&frame(1, metadata("wait"), 5)).await.unwrap();
        world.wait_until("it is called", || !world.service.waiting.lock().is_empty()).await;
        drop(stream);
        let place = async {
            loop {
                let mut stream = world.connect().await;
                let _ = stream.write_all(&frame(1, metadata("next"), 5)).await;
                if stream.read_u32().await.is_ok() {
                    return;
                }
                world.env.sleep(Duration::from_millis(5)).await;
            }
        };
        world.env.timeout(SOON, place).await.expect("the place is free though the answer never came");
        assert_eq!(world.service.waiting.lock().len(), 1);
    });
}

#[test]
fn connections_beyond_the_bound_are_refused_until_one_leaves() {
    let config = NetConfig { max_connections: 2, ..Default::default() };
    world(config, async |world| {
        let (first, _second) = (world.dial().await, world.dial().await);
        let mut third = world.connect().await;
        assert!(world.until_closed(&mut third).await.is_empty());
        assert_eq!(name_of(ask(&*first, "still").await), "still");
        drop(first);
        let began = world.env.elapsed();
        loop {
            let mut stream = world.connect().await;
            let _ = stream.write_all(&frame(1, metadata("again"), 5)).await;
            if stream.read_u32().await.is_ok() {
                break;
            }
            assert!(world.env.elapsed() - began < SOON, "the place of the first is free again");
            world.env.sleep(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn a_client_learns_of_a_disconnect_in_every_call() {
    world(NetConfig::default(), async |world| {
        let link = world.dial().await;
        let waits = [ask(&*link, "wait1"), ask(&*link, "wait2")];
        world.wait_until("both are called", || world.service.waiting.lock().len() == 2).await;
        let World { env, stop, .. } = world;
        stop.send(()).unwrap();
        for answer in env.timeout(SOON, join_all(waits)).await.unwrap() {
            assert!(matches!(answer, Err(CallError::Disconnected { .. })), "{answer:?}");
        }
        assert!(link.is_closed());
        assert!(matches!(ask(&*link, "later").await, Err(CallError::Disconnected { .. })));
    });
}

#[test]
fn a_deadline_ends_the_wait_and_a_silent_broker_ends_the_link() {
    world(NetConfig::default(), async |world| {
        let config = DialConfig { request_timeout: Duration::from_millis(400), ..Default::default() };
        let endpoint = Endpoint::parse(&world.address).unwrap();
        let link = TcpDial::with(world.env.clone(), config).dial(endpoint).await.unwrap();
        let deadline = world.env.elapsed() + Duration::from_millis(20);
        let late = link.call(Ctx::local("test".into()).with_deadline(deadline), metadata("wait1"));
        assert!(matches!(world.env.timeout(SOON, late).await.unwrap(), Err(CallError::TimedOut)));
        assert!(!link.is_closed(), "one answer that is late does not end the link");
        world.service.release();
        assert_eq!(name_of(ask(&*link, "next").await), "next", "the late answer is not taken for this one's");
        let silent = ask(&*link, "wait2");
        let answer = world.env.timeout(SOON, silent).await.unwrap();
        assert!(matches!(answer, Err(CallError::TimedOut | CallError::Disconnected { .. })), "{answer:?}");
        world.wait_until("the link closes", || link.is_closed()).await;
    });
}

#[test]
fn a_deadline_of_the_caller_is_kept_also_when_it_is_later_than_the_links() {
    world(NetConfig::default(), async |world| {
        let timeout = Duration::from_millis(100);
        let config = DialConfig { request_timeout: timeout, ..Default::default() };
        let endpoint = Endpoint::parse(&world.address).unwrap();
        let link = TcpDial::with(world.env.clone(), config).dial(endpoint).await.unwrap();
        let deadline = world.env.elapsed() + SOON;
        let long = link.call(Ctx::local("test".into()).with_deadline(deadline), metadata("wait1"));
        // The second one is asked when the link has been silent for as long as it may be, and waits as long again.
        for _ in 0..2 {
            let behind = ask(&*link, "behind");
            let answer = world.env.timeout(SOON, behind).await.unwrap();
            assert!(matches!(answer, Err(CallError::TimedOut)), "{answer:?}");
        }
        assert!(!link.is_closed(), "who waits behind a long call says nothing about the broker");
        world.service.release();
        assert_eq!(name_of(long.await), "wait1");
        assert_eq!(name_of(ask(&*link, "next").await), "next");
        let silent = ask(&*link, "wait2");
        let answer = world.env.timeout(SOON, silent).await.unwrap();
        assert!(matches!(answer, Err(CallError::TimedOut | CallError::Disconnected { .. })), "{answer:?}");
        world.wait_until("the link closes", || link.is_closed()).await;
    });
}

#[test]
fn a_link_speaks_the_best_version_that_says_what_the_request_says() {
    world(NetConfig::default(), async |world| {
        let link = world.dial().await;
        assert_eq!(link.supports(ApiKey::Fetch), Some((4, 18)));
        assert_eq!(link.supports(ApiKey::ShareFetch), None);
        let by_name = fetch::FetchTopic { topic: "t".into(), ..Default::default() };
        let request = FetchRequest { topics: vec![by_name.clone()], ..Default::default() };
        link.call(Ctx::local("test".into()), request.into()).await.unwrap();
        let (ctx, request) = world.service.calls.lock().pop().unwrap();
        let Request::Fetch(request) = request else { panic!("{request:?}") };
        assert_eq!(request.topics, vec![by_name], "the name crossed");
        assert!(!ctx.facts.by_topic_id);
    });
}

#[test]
fn what_is_no_broker_cannot_be_dialled() {
    world(NetConfig::default(), async |world| {
        let config = DialConfig { connect_timeout: Duration::from_millis(300), ..Default::default() };
        let dial = TcpDial::with(world.env.clone(), config);
        let mut listener = world.env.listen("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_addr()).unwrap();
        let silent = dial.dial(endpoint.clone()).await.map(|_| ());
        assert!(matches!(silent, Err(DialError::TimedOut { .. })), "{silent:?}");
        listener.accept().await.unwrap();
        let talk = async {
            let mut stream = listener.accept().await.unwrap().stream;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = futures::future::join(dial.dial(endpoint.clone()), talk).await;
        assert!(matches!(answer.map(|_| ()), Err(DialError::Handshake { .. })));
        drop(listener);
        let gone = dial.dial(endpoint).await.map(|_| ());
        assert!(matches!(gone, Err(DialError::Unreachable { .. })), "{gone:?}");
    });
}
