//! Reading in groups.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::assignor::{CooperativeStickyAssignor, RangeAssignor};
use millstream_client::{
    Consumer, ConsumerConfig, ConsumerHandle, OffsetAndMetadata, Offsets, ProducerRecord, RebalanceListener,
};
use millstream_env::testing::until;
use millstream_record::{Offset, TopicPartition};
use parking_lot::Mutex;

use super::{Door, PATIENCE, bytes, producer_config, values};

async fn write(door: &Door, topic: &Arc<str>, partitions: i32, values: std::ops::Range<i32>) {
    let producer = door.client.producer(producer_config()).unwrap();
    for n in values {
        let record = ProducerRecord::new(Arc::clone(topic), bytes(n)).with_partition(n % partitions);
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
}

fn member(group: &ByteString, cooperative: bool) -> ConsumerConfig {
    ConsumerConfig {
        assignors: match cooperative {
            true => vec![Arc::new(CooperativeStickyAssignor)],
            false => vec![Arc::new(RangeAssignor)],
        },
        session_timeout_ms: 6_000,
        heartbeat_interval_ms: 200,
        ..ConsumerConfig::group(group.clone())
    }
}

/// A member that leaves is followed by one that goes on where it committed.
pub(crate) async fn commits_are_resumed(door: &Door) {
    let topic = door.topic("resume", 1).await;
    let group = ByteString::from(&*door.name("group"));
    let partition = TopicPartition::new(Arc::clone(&topic), 0);
    write(door, &topic, 1, 0..10).await;
    let mut first = door.reader(member(&group, false));
    first.subscribe([Arc::clone(&topic)], None).unwrap();
    let found = door.read(&mut first, 10).await;
    assert_eq!(values(&found[&partition])[9], "9");
    let commit = OffsetAndMetadata { metadata: "note".into(), ..OffsetAndMetadata::new(Offset(4)) };
    first.commit(&Offsets::from([(partition.clone(), commit.clone())])).await.unwrap();
    assert_eq!(first.committed(std::slice::from_ref(&partition)).await.unwrap()[&partition], commit);
    let admin = door.client.admin();
    let described = admin.describe_groups(&[&group]).await.unwrap().remove(0);
    assert_eq!((&*described.state, &*described.protocol), ("Stable", "range"));
    assert_eq!(described.members[0].assignment, std::slice::from_ref(&partition));
    assert!(admin.list_groups().await.unwrap().iter().any(|listed| listed.group_id == group));
    first.close().await.unwrap();

    assert_eq!(admin.group_offsets(group.clone()).await.unwrap()[&partition].offset, Offset(4));
    let mut second = door.reader(member(&group, false));
    second.subscribe([Arc::clone(&topic)], None).unwrap();
    let found = door.read(&mut second, 6).await;
    assert_eq!(values(&found[&partition]), ["4", "5", "6", "7", "8", "9"]);
    second.close().await.unwrap();
    let moved = Offsets::from([(partition.clone(), OffsetAndMetadata::new(Offset(1)))]);
    admin.alter_group_offsets(group.clone(), &moved).await.unwrap();
    assert_eq!(admin.group_offsets(group.clone()).await.unwrap()[&partition].offset, Offset(1));
    admin.delete_group(&group).await.unwrap();
    assert!(admin.group_offsets(group).await.unwrap().is_empty());
}

/// So soon a commit says that a topic is gone; to wait for it would take a minute.
const SOON: Duration = Duration::from_secs(20);

/// A topic that was deleted under a consumer keeps no position in another one from being committed.
pub(crate) async fn a_deleted_topic_stops_no_commit(door: &Door) {
    let [kept, gone] = [door.topic("kept", 1).await, door.topic("gone", 1).await];
    let admin = door.client.admin();
    let [at_kept, at_gone] = [&kept, &gone].map(|topic| TopicPartition::new(Arc::clone(topic), 0));
    write(door, &kept, 1, 0..4).await;
    write(door, &gone, 1, 0..4).await;
    // One group commits by hand, the other as it polls.
    let [by_hand, polling] = [(); 2].map(|()| ByteString::from(&*door.name("group")));
    let mut consumers = Vec::new();
    for (group, automatic) in [(&by_hand, false), (&polling, true)] {
        let config = ConsumerConfig {
            enable_auto_commit: automatic,
            auto_commit_interval_ms: 100,
            ..member(group, false)
        };
        // A client of its own: it knows these topics, and hears of the end from nobody else.
        let mut consumer = door.apart().reader(config);
        consumer.assign([at_kept.clone(), at_gone.clone()]).unwrap();
        door.read(&mut consumer, 8).await;
        consumers.push(consumer);
    }
    admin.delete_topics(&[&gone]).await.unwrap().remove(&gone).unwrap().unwrap();
    until(&door.env, "the topic to go", async || {
        admin.describe_topics(&[&gone]).await.unwrap().remove(&gone).is_none_or(|topic| topic.is_err())
    })
    .await;
    let begun = door.env.elapsed();
    let consumer = &consumers[0];
    for offset in [2, 3] {
        let at = OffsetAndMetadata::new(Offset(offset));
        let offsets = Offsets::from([&at_kept, &at_gone].map(|partition| (partition.clone(), at.clone())));
        let told = consumer.commit(&offsets).await.unwrap_err();
        assert!(told.to_string().contains(&*gone), "{told}");
        let committed = admin.group_offsets(by_hand.clone()).await.unwrap();
        assert_eq!(committed[&at_kept].offset, Offset(offset));
        let took = door.env.elapsed().saturating_sub(begun);
        assert!(took < SOON, "it took {took:?}");
    }
    write(door, &kept, 1, 4..7).await;
    let consumer = &mut consumers[1];
    loop {
        let took = door.env.elapsed().saturating_sub(begun);
        assert!(took < SOON, "nothing is committed after {took:?}");
        consumer.poll(Duration::from_millis(50)).await.unwrap();
        let committed = admin.group_offsets(polling.clone()).await.unwrap();
        if committed.get(&at_kept).is_some_and(|at| at.offset == Offset(7)) {
            return;
        }
    }
}

/// What a listener heard, in order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, what: &str, partitions: &[TopicPartition]) -> BoxFuture<'static, ()> {
        let mut numbers: Vec<_> = partitions.iter().map(|partition| partition.partition).collect();
        numbers.sort_unstable();
        self.0.lock().push(format!("{what} {numbers:?}"));
        async {}.boxed()
    }
}

impl RebalanceListener for Heard {
    fn revoked<'a>(
        &'a mut self,
        _: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        self.note("revoked", partitions)
    }

    fn assigned<'a>(
        &'a mut self,
        _: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        self.note("assigned", partitions)
    }

    fn lost<'a>(&'a mut self, _: &'a ConsumerHandle, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        self.note("lost", partitions)
    }
}

/// Polls both until each has `each` partitions.
async fn settle(door: &Door, members: &mut [&mut Consumer], each: usize) {
    let until = door.env.elapsed() + PATIENCE;
    while !members.iter().all(|member| member.assignment().len() == each) {
        assert!(door.env.elapsed() < until, "the group does not settle");
        let polls = members.iter_mut().map(|member| member.poll(Duration::from_millis(100)));
        for polled in futures::future::join_all(polls).await {
            polled.unwrap();
        }
    }
}

/// A second member takes half of the partitions, and its leaving gives them back; nobody shares one.
pub(crate) async fn partitions_are_shared(door: &Door, cooperative: bool) {
    let topic = door.topic("shared", 4).await;
    let group = ByteString::from(&*door.name("group"));
    let heard = Heard::default();
    let mut a = door.reader(member(&group, cooperative));
    a.subscribe([Arc::clone(&topic)], Some(Box::new(heard.clone()))).unwrap();
    settle(door, &mut [&mut a], 4).await;
    let mut b = door.reader(member(&group, cooperative));
    b.subscribe([Arc::clone(&topic)], None).unwrap();
    settle(door, &mut [&mut a, &mut b], 2).await;
    let shared: BTreeSet<_> = a.assignment().union(&b.assignment()).cloned().collect();
    assert_eq!(shared.len(), 4, "{:?} and {:?}", a.assignment(), b.assignment());
    write(door, &topic, 4, 0..40).await;
    let (of_a, of_b) = futures::future::join(door.read(&mut a, 20), door.read(&mut b, 20)).await;
    assert!(of_a.keys().all(|partition| a.assignment().contains(partition)));
    assert!(of_b.keys().all(|partition| b.assignment().contains(partition)));
    a.commit_positions().await.unwrap();
    b.commit_positions().await.unwrap();
    b.close().await.unwrap();
    settle(door, &mut [&mut a], 4).await;
    write(door, &topic, 4, 40..44).await;
    door.read(&mut a, 4).await;
    let heard = heard.0.lock().clone();
    let kept: BTreeSet<_> = of_a.keys().map(|partition| partition.partition).collect();
    match cooperative {
        false => {
            assert_eq!(heard.first().unwrap(), "assigned [0, 1, 2, 3]");
            assert_eq!(heard.last().unwrap(), "assigned [0, 1, 2, 3]");
            assert!(heard.contains(&"revoked [0, 1, 2, 3]".to_owned()), "{heard:?}");
        }
        true => {
            let moved: Vec<_> = (0..4).filter(|p| !kept.contains(p)).collect();
            let told: Vec<_> = heard.iter().filter(|told| *told != "assigned []").cloned().collect();
            let expected = [
                "assigned [0, 1, 2, 3]".to_owned(),
                format!("revoked {moved:?}"),
                format!("assigned {moved:?}"),
            ];
            assert_eq!(told, expected);
        }
    }
    a.close().await.unwrap();
}
