//! Fetch sessions (KIP-227): what a client is told that names only what has changed.

use std::collections::{BTreeMap, BTreeSet};

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, ForgottenTopic};
use millstream_protocol::messages::{DeleteTopicsRequest, FetchRequest, FetchResponse};
use proptest::prelude::*;

use crate::harness::{Harness, values_of};

/// A request in session `id`: partitions of topic "t" by index, each with the offset wanted.
fn request(id: i32, epoch: i32, wanted: &[(i32, i64)]) -> FetchRequest {
    let partition = |&(partition, fetch_offset): &(i32, i64)| FetchPartition {
        partition,
        fetch_offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic = FetchTopic {
        topic: "t".into(),
        partitions: wanted.iter().map(partition).collect(),
        ..FetchTopic::default()
    };
    FetchRequest {
        session_id: id,
        session_epoch: epoch,
        min_bytes: 1,
        topics: if wanted.is_empty() { Vec::new() } else { vec![topic] },
        ..FetchRequest::default()
    }
}

fn forgetting(request: FetchRequest, partitions: &[i32]) -> FetchRequest {
    let topic =
        ForgottenTopic { topic: "t".into(), partitions: partitions.to_vec(), ..ForgottenTopic::default() };
    FetchRequest { forgotten_topics_data: vec![topic], ..request }
}

/// What an answer says: partition, error, high watermark and values.
fn told(response: &FetchResponse) -> Vec<(i32, ErrorCode, i64, Vec<String>)> {
    assert_eq!(ErrorCode::from_code(response.error_code), ErrorCode::None);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let said = partitions.map(|data| {
        let values = values_of(data.records.as_ref().unwrap());
        (data.partition_index, ErrorCode::from_code(data.error_code), data.high_watermark, values)
    });
    said.collect()
}

fn values(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

#[test]
fn a_session_tells_what_is_new_until_the_client_has_taken_it() {
    let node = Harness::start();
    node.create("t", 3, &[]);
    node.put("t", 0, &["a"]);
    let ok = ErrorCode::None;
    let first = node.call(request(0, 0, &[(0, 0), (1, 0), (2, 0)]));
    let all = [(0, ok, 1, values(&["a"])), (1, ok, 0, values(&[])), (2, ok, 0, values(&[]))];
    assert_eq!(told(&first), all);
    let id = first.session_id;
    assert!(id > 0);
    let again = node.call(request(id, 1, &[]));
    assert_eq!(told(&again), all[..1], "the client still asks from the same offset");
    assert_eq!(again.session_id, id);
    assert_eq!(told(&node.call(request(id, 2, &[(0, 1)]))), []);
    node.put("t", 2, &["b", "c"]);
    assert_eq!(told(&node.call(request(id, 3, &[]))), [(2, ok, 2, values(&["b", "c"]))]);
    assert_eq!(told(&node.call(request(id, 4, &[(2, 2)]))), []);
    assert_eq!(told(&node.call(forgetting(request(id, 5, &[]), &[2]))), []);
    node.put("t", 2, &["d"]);
    node.put("t", 1, &["e"]);
    assert_eq!(told(&node.call(request(id, 6, &[]))), [(1, ok, 1, values(&["e"]))]);
    let anew = node.call(request(id, 7, &[(1, 1), (2, 2)]));
    assert_eq!(told(&anew), [(2, ok, 3, values(&["d"]))], "a partition that is named again is told in full");
}

#[test]
fn a_fetch_in_a_session_waits_and_is_woken_by_any_of_its_partitions() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    let id = node.call(request(0, 0, &[(0, 0), (1, 0)])).session_id;
    for (epoch, value) in [(1, "a"), (2, "b")] {
        let waiting =
            FetchRequest { max_wait_ms: 60_000, ..request(id, epoch, &[(1, i64::from(epoch - 1))]) };
        let receipt = node.send(waiting);
        node.put("t", 1, &[value]);
        let answer = node.wait::<FetchRequest>(receipt).unwrap();
        assert_eq!(told(&answer), [(1, ErrorCode::None, i64::from(epoch), values(&[value]))]);
    }
}

#[test]
fn who_waits_for_more_in_a_session_is_given_all_that_there_is() {
    let node = Harness::start();
    node.create("t", 3, &[]);
    let [long, short] = ["x".repeat(400), "s".to_owned()];
    node.put("t", 0, &[&long]);
    let id = node.call(request(0, 0, &[(0, 0), (1, 0), (2, 0)])).session_id;
    let wait = |epoch| {
        let receipt =
            node.send(FetchRequest { min_bytes: 1_200, max_wait_ms: 600_000, ..request(id, epoch, &[]) });
        for (partition, value) in [(2, &short), (0, &short), (2, &long), (1, &long)] {
            node.put("t", partition, &[value]);
        }
        node.wait::<FetchRequest>(receipt).unwrap()
    };
    let mut answer = told(&wait(1));
    answer.sort();
    let of = |partition, values: &[&str]| {
        (partition, ErrorCode::None, values.len() as i64, values.iter().map(ToString::to_string).collect())
    };
    assert_eq!(answer, [of(0, &[&long, &short]), of(1, &[&long]), of(2, &[&short, &long])]);
    let taken = [(0, 2), (1, 1), (2, 2)];
    assert_eq!(told(&node.call(request(id, 2, &taken))), []);
}

#[test]
fn a_session_goes_on_when_nobody_waits_for_its_fetch_any_more() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a"]);
    let id = node.call(request(0, 0, &[(0, 0)])).session_id;
    drop(node.send(FetchRequest { min_bytes: 1_000, max_wait_ms: 600_000, ..request(id, 1, &[]) }));
    for _ in 0..10_000 {
        let answer = node.call(request(id, 2, &[]));
        if answer.error_code == 0 {
            let all = [(0, ErrorCode::None, 1, values(&["a"]))];
            return assert_eq!(told(&answer), all, "the client was not told of it");
        }
        assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::InvalidFetchSessionEpoch);
        node.pause();
    }
    panic!("it waits on");
}

#[test]
fn a_request_that_the_session_does_not_expect_is_refused() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let id = node.call(request(0, 0, &[(0, 0)])).session_id;
    let code = |request: FetchRequest| ErrorCode::from_code(node.call(request).error_code);
    assert_eq!(code(request(id, 2, &[])), ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(code(request(id, 1, &[])), ErrorCode::None);
    assert_eq!(code(request(id, 1, &[])), ErrorCode::InvalidFetchSessionEpoch);
    let mut by_id = request(id, 2, &[(0, 0)]);
    by_id.topics[0].topic_id = millstream_record::Uuid([7; 16]);
    assert_eq!(code(by_id), ErrorCode::FetchSessionTopicIdError);
    assert_eq!(code(request(id, 2, &[])), ErrorCode::FetchSessionIdNotFound, "it ended with that");
    let ended = node.call(request(0, 0, &[(0, 0)])).session_id;
    assert_eq!(node.call(request(ended, -1, &[])).session_id, 0);
    assert_eq!(code(request(ended, 1, &[])), ErrorCode::FetchSessionIdNotFound);
    let replaced = node.call(request(0, 0, &[(0, 0)])).session_id;
    let id = node.call(request(replaced, 0, &[(0, 0)])).session_id;
    assert_eq!(code(request(replaced, 1, &[])), ErrorCode::FetchSessionIdNotFound);
    assert_eq!(node.call(forgetting(request(id, 1, &[]), &[0])).session_id, 0, "nothing is left in it");
    assert_eq!(code(request(id, 2, &[])), ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn when_all_slots_are_taken_clients_fetch_without_a_session() {
    let node = Harness::with(&[("max.incremental.fetch.session.cache.slots", "2")]);
    node.create("t", 2, &[]);
    let open = |wanted: &[(i32, i64)]| node.call(request(0, 0, wanted)).session_id;
    assert!(open(&[(0, 0)]) > 0 && open(&[(1, 0)]) > 0);
    assert_eq!(open(&[(0, 0), (1, 0)]), 0, "those that are there are too new to go");
    let follower = FetchRequest { replica_id: 9, ..request(0, 0, &[(0, 0)]) };
    assert!(node.call(follower).session_id > 0, "a follower's pushes out a consumer's");
    assert_eq!(told(&node.call(request(0, 0, &[(0, 0)]))).len(), 1);
    let none = Harness::with(&[("max.incremental.fetch.session.cache.slots", "0")]);
    none.create("t", 1, &[]);
    assert_eq!(none.call(request(0, 0, &[(0, 0)])).session_id, 0);
}

#[test]
fn who_waits_in_a_session_learns_that_the_topic_is_gone() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let id = node.call(request(0, 0, &[(0, 0)])).session_id;
    node.call(request(id, 1, &[]));
    let receipt = node.send(FetchRequest { max_wait_ms: 60_000, ..request(id, 2, &[]) });
    node.call(DeleteTopicsRequest { topic_names: vec!["t".into()], ..DeleteTopicsRequest::default() });
    let answer = node.wait::<FetchRequest>(receipt).unwrap();
    assert_eq!(told(&answer), [(0, ErrorCode::UnknownTopicOrPartition, -1, values(&[]))]);
    node.create("t", 1, &[]);
    node.put("t", 0, &["new"]);
    let after = told(&node.call(request(id, 3, &[])));
    assert_eq!(after, [(0, ErrorCode::None, 1, values(&["new"]))]);
}

/// What a client and the world do.
#[derive(Clone, Debug)]
enum Act {
    Put(i32),
    /// The client asks for so many bytes at most, and takes what it is given unless it is full.
    Fetch {
        max_bytes: i32,
        takes: bool,
    },
    /// The client wants this partition, or no more.
    Toggle(i32),
    /// The client's session is gone.
    Lose,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..5).prop_map(Act::Put),
        6 => (1..400, prop::bool::weighted(0.8)).prop_map(|(max_bytes, takes)| Act::Fetch { max_bytes, takes }),
        2 => (0..5).prop_map(Act::Toggle),
        1 => Just(Act::Lose),
    ]
}

/// A client that keeps a session as KIP-227 has it.
#[derive(Default)]
struct Client {
    id: i32,
    epoch: i32,
    /// The offset it wants next, of each partition.
    offsets: BTreeMap<i32, i64>,
    wanted: BTreeSet<i32>,
    /// What the session has, as the client knows it.
    sent: BTreeMap<i32, i64>,
    marks: BTreeMap<i32, i64>,
    values: BTreeMap<i32, Vec<String>>,
}

impl Client {
    fn fetch(&mut self, node: &Harness, max_bytes: i32, takes: bool) -> usize {
        let offset = |partition: &i32| (*partition, self.offsets.get(partition).copied().unwrap_or(0));
        let wants: BTreeMap<i32, i64> = self.wanted.iter().map(offset).collect();
        let is_news = |it: &(i32, i64)| self.epoch == 0 || self.sent.get(&it.0) != Some(&it.1);
        let all = wants.iter().map(|(partition, offset)| (*partition, *offset));
        let news: Vec<(i32, i64)> = all.filter(is_news).collect();
        let gone: Vec<i32> = self.sent.keys().filter(|it| !self.wanted.contains(it)).copied().collect();
        let mut request = FetchRequest { max_bytes, ..request(self.id, self.epoch, &news) };
        if self.epoch > 0 && !gone.is_empty() {
            request = forgetting(request, &gone);
        }
        let answer = node.call(request);
        self.sent = wants;
        self.id = answer.session_id;
        self.epoch = if self.id == 0 { 0 } else { self.epoch + 1 };
        let mut count = 0;
        for (partition, code, mark, values) in told(&answer) {
            assert_eq!(code, ErrorCode::None);
            assert!(self.wanted.contains(&partition), "the client does not ask for {partition}");
            self.marks.insert(partition, mark);
            count += values.len();
            if takes {
                *self.offsets.entry(partition).or_default() += i64::try_from(values.len()).unwrap();
                self.values.entry(partition).or_default().extend(values);
            }
        }
        count
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a client takes, leaves, adds and forgets: in the end it has read all, in order, and knows every mark.
    #[test]
    fn a_client_that_names_only_what_changes_misses_nothing(acts in prop::collection::vec(act(), 1..60)) {
        let node = Harness::start();
        node.create("t", 5, &[]);
        let mut client = Client { wanted: (0..5).collect(), ..Client::default() };
        let mut produced: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Put(partition) => {
                    let there = produced.entry(partition).or_default();
                    there.push(format!("{partition}/{}", there.len()));
                    node.put("t", partition, &[there.last().unwrap()]);
                }
                Act::Fetch { max_bytes, takes } => {
                    client.fetch(&node, max_bytes, takes);
                }
                Act::Toggle(partition) => {
                    if !client.wanted.remove(&partition) {
                        client.wanted.insert(partition);
                    }
                }
                Act::Lose => (client.id, client.epoch) = (0, 0),
            }
        }
        client.wanted = (0..5).collect();
        while client.fetch(&node, 1_000_000, true) > 0 {}
        client.values.retain(|_, values| !values.is_empty());
        prop_assert_eq!(&client.values, &produced);
        for (partition, values) in &produced {
            prop_assert_eq!(client.marks[partition], i64::try_from(values.len()).unwrap());
        }
    }
}
