//! Which topics there are, how many partitions each has, and so which tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_client::{Admin, ClientError, NewTopic, TopicDescription};
use millstream_protocol::ErrorCode;
use millstream_record::{TopicId, TopicPartition};
use millstream_streams_core::ways::Ways;
use millstream_streams_core::{TaskId, TopicName, Topology};

use crate::config::StreamsConfig;
use crate::error::{AppError, Result};

/// Segments of repartition and changelog topics, so that what is no longer needed can go soon.
const SEGMENT_BYTES: &str = "52428800";

/// A topology with its topics found or made.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) topology: Arc<Topology>,
    pub(crate) application_id: Arc<str>,
    /// Number of partitions of every input.
    partitions: BTreeMap<TopicName, i32>,
    /// Ids of the changelog topics, by store.
    changelogs: BTreeMap<Arc<str>, TopicId>,
    /// Inputs by full name.
    inputs: BTreeMap<Arc<str>, (TopicName, usize)>,
}

impl Layout {
    /// Finds the topics that the topology reads and creates those that are its own.
    pub(crate) async fn make(topology: Arc<Topology>, config: &StreamsConfig, admin: &Admin) -> Result<Self> {
        let application_id: Arc<str> = config.application_id.as_str().into();
        for (topic, count) in &config.create_topics {
            admin.ensure_topic(NewTopic::new(topic.as_str(), *count)).await?;
        }
        let mut partitions = user_inputs(&topology, admin).await?;
        count_repartitions(&topology, &mut partitions)?;
        check_copartitioned(&topology, &partitions)?;
        for repartition in topology.repartitions() {
            let name = repartition.topic.resolve(&application_id);
            let count = partitions.get(&repartition.topic).copied().unwrap_or(1);
            let topic = internal(name, count, config)
                .with_config("cleanup.policy", "delete")
                .with_config("retention.ms", "-1");
            ensure(admin, topic).await?;
        }
        let inputs = topology.subtopologies().iter().enumerate().flat_map(|(number, part)| {
            let resolve = |topic: &TopicName| (topic.resolve(&application_id), (topic.clone(), number));
            part.inputs.iter().map(resolve).collect::<Vec<_>>()
        });
        let inputs = inputs.collect();
        let mut layout = Self { topology, application_id, partitions, changelogs: BTreeMap::new(), inputs };
        layout.make_changelogs(config, admin).await?;
        Ok(layout)
    }

    async fn make_changelogs(&mut self, config: &StreamsConfig, admin: &Admin) -> Result<()> {
        for (number, part) in Arc::clone(&self.topology).subtopologies().iter().enumerate() {
            for store in &part.stores {
                if !self.topology.store(store).is_some_and(|spec| spec.changelog) {
                    continue;
                }
                let topic = internal(self.changelog_name(store), self.task_count(number), config)
                    .with_config("cleanup.policy", "compact");
                let made = ensure(admin, topic).await?;
                self.changelogs.insert(Arc::clone(store), made.id);
            }
        }
        Ok(())
    }

    /// The full name of a store's changelog.
    pub(crate) fn changelog_name(&self, store: &str) -> Arc<str> {
        format!("{}-{store}-changelog", self.application_id).into()
    }

    /// The changelog of a store, if it has one.
    pub(crate) fn changelog(&self, store: &str) -> Option<TopicId> {
        self.changelogs.get(store).copied()
    }

    fn task_count(&self, subtopology: usize) -> i32 {
        let inputs = self.topology.subtopologies()[subtopology].inputs.iter();
        inputs.filter_map(|topic| self.partitions.get(topic)).copied().max().unwrap_or(0)
    }

    /// The repartition topics that several tasks write.
    pub(crate) fn ways(&self) -> Ways {
        Ways::of(&self.topology, |part| usize::try_from(self.task_count(part)).unwrap_or(0))
    }

    /// The subtopologies that feed one another in a circle with the one that reads a repartition topic, if its writer is one of
    /// them; none where it is not. A store that two steps share makes such circles: it puts what is before a repartition and what is
    /// behind it into one task.
    pub(crate) fn circle_of(&self, topic: &TopicName) -> BTreeSet<usize> {
        let made = self.topology.repartitions();
        let Some(repartition) = made.iter().find(|made| made.topic == *topic) else { return BTreeSet::new() };
        let reached = |from: usize| {
            let (mut reached, mut open) = (BTreeSet::from([from]), vec![from]);
            while let Some(part) = open.pop() {
                let next = made.iter().filter(|made| made.written_by == part).map(|made| made.read_by);
                open.extend(next.filter(|part| reached.insert(*part)));
            }
            reached
        };
        let behind = reached(repartition.read_by);
        if !behind.contains(&repartition.written_by) {
            return BTreeSet::new();
        }
        behind.into_iter().filter(|part| reached(*part).contains(&repartition.read_by)).collect()
    }

    /// Whether an input ends: the user has said so, or all that comes there is of inputs that end.
    pub(crate) fn is_finite(&self, topic: &TopicName, config: &StreamsConfig) -> bool {
        let (mut seen, mut open) = (BTreeSet::new(), vec![topic]);
        while let Some(topic) = open.pop() {
            match topic {
                TopicName::User(name) => {
                    if !config.finite_inputs.iter().any(|finite| **finite == **name) {
                        return false;
                    }
                }
                TopicName::Internal(_) if seen.insert(topic) => {
                    let made = self.topology.repartitions().iter().filter(|made| made.topic == *topic);
                    open.extend(made.flat_map(|made| &self.topology.subtopologies()[made.written_by].inputs));
                }
                TopicName::Internal(_) => {}
            }
        }
        true
    }

    /// Every task.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        (0..self.topology.subtopologies().len()).flat_map(|subtopology| {
            (0..self.task_count(subtopology)).map(move |partition| TaskId { subtopology, partition })
        })
    }

    /// The inputs of a task: those of its subtopology's topics that have its partition.
    pub(crate) fn inputs_of(&self, task: TaskId) -> impl Iterator<Item = (&TopicName, TopicPartition)> {
        let topics = self.topology.subtopologies()[task.subtopology].inputs.iter();
        let has = move |topic: &&TopicName| {
            self.partitions.get(*topic).is_some_and(|count| task.partition < *count)
        };
        topics.filter(has).map(move |topic| {
            (topic, TopicPartition::new(topic.resolve(&self.application_id), task.partition))
        })
    }

    /// Every topic that is read, by full name.
    pub(crate) fn input_topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.inputs.keys()
    }

    /// The task that reads a partition, and the topic's name in the topology.
    pub(crate) fn reader_of(&self, partition: &TopicPartition) -> Option<(TaskId, &TopicName)> {
        let (topic, subtopology) = self.inputs.get(&partition.topic)?;
        Some((TaskId { subtopology: *subtopology, partition: partition.partition }, topic))
    }
}

/// The partitions of the user's topics; each must exist.
async fn user_inputs(topology: &Topology, admin: &Admin) -> Result<BTreeMap<TopicName, i32>> {
    let topics = topology.subtopologies().iter().flat_map(|part| &part.inputs);
    let users: BTreeSet<&TopicName> = topics.filter(|topic| matches!(topic, TopicName::User(_))).collect();
    let names: Vec<_> = users.iter().map(|topic| topic.as_str()).collect();
    let mut described = admin.describe_topics(&names).await?;
    let mut partitions = BTreeMap::new();
    for topic in users {
        let missing = || AppError::Topic {
            topic: topic.as_str().to_owned(),
            reason: "the topology reads it and it does not exist; create it first".to_owned(),
        };
        let found = match described.remove(topic.as_str()) {
            Some(Ok(found)) => found,
            Some(Err(error)) if error.code() != Some(ErrorCode::UnknownTopicOrPartition) => {
                return Err(error.into());
            }
            _ => return Err(missing()),
        };
        partitions.insert(topic.clone(), count_of(&found));
    }
    Ok(partitions)
}

fn count_of(topic: &TopicDescription) -> i32 {
    i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)
}

/// A repartition topic has as many partitions as asked for. One that says nothing has as many as the topics that it is joined with,
/// since a join needs that: as the user's ones, else as those that were asked for, else, where all are left to us, as the widest
/// topic upstream of any. Repartitions may feed each other.
fn count_repartitions(topology: &Topology, partitions: &mut BTreeMap<TopicName, i32>) -> Result<()> {
    let repartitions = topology.repartitions();
    for repartition in repartitions {
        partitions.extend(repartition.partitions.map(|count| (repartition.topic.clone(), count)));
    }
    let mut open: Vec<_> = meetings(topology);
    while !open.is_empty() {
        let before = open.len();
        open.retain(|meeting| {
            let known = |internal: bool| {
                let known =
                    meeting.iter().filter(|topic| matches!(topic, TopicName::Internal(_)) == internal);
                known.filter_map(|topic| partitions.get(*topic)).copied().next()
            };
            let widest = || {
                let feeds = repartitions.iter().filter(|made| meeting.contains(&made.topic));
                let upstream = feeds.flat_map(|made| &topology.subtopologies()[made.written_by].inputs);
                let counts: Option<Vec<i32>> = upstream.map(|topic| partitions.get(topic).copied()).collect();
                counts.and_then(|counts| counts.into_iter().max())
            };
            let Some(count) = known(false).or_else(|| known(true)).or_else(widest) else { return true };
            for topic in meeting {
                partitions.entry((*topic).clone()).or_insert(count);
            }
            false
        });
        if open.len() == before {
            let topic = open[0].iter().find(|topic| !partitions.contains_key(**topic));
            return Err(AppError::Topic {
                topic: topic.map_or_else(String::new, |topic| topic.as_str().to_owned()),
                reason: "it feeds itself, so its number of partitions cannot be derived; give one".to_owned(),
            });
        }
    }
    Ok(())
}

/// The topics that meet in joins, directly or by way of others; a repartition that meets none stands alone.
fn meetings(topology: &Topology) -> Vec<BTreeSet<&TopicName>> {
    let alone = topology.repartitions().iter().map(|made| BTreeSet::from([&made.topic]));
    let joined = topology.subtopologies().iter().flat_map(|part| &part.copartitioned);
    let mut meetings: Vec<BTreeSet<&TopicName>> = Vec::new();
    for mut meeting in alone.chain(joined.map(|topics| topics.iter().collect())) {
        meetings.retain(|other| {
            let apart = meeting.is_disjoint(other);
            if !apart {
                meeting.extend(other);
            }
            apart
        });
        meetings.push(meeting);
    }
    meetings
}

/// Rows of equal keys meet only if their topics are cut in the same way.
fn check_copartitioned(topology: &Topology, partitions: &BTreeMap<TopicName, i32>) -> Result<()> {
    for group in topology.subtopologies().iter().flat_map(|part| &part.copartitioned) {
        let counts: Vec<_> = group.iter().filter_map(|topic| Some((topic, partitions.get(topic)?))).collect();
        let Some((first, count)) = counts.first() else { continue };
        if let Some((other, differs)) = counts.iter().find(|(_, other)| other != count) {
            return Err(AppError::Topic {
                topic: other.as_str().to_owned(),
                reason: format!(
                    "it has {differs} partitions and is joined with {:?}, which has {count}; repartition one of the two",
                    first.as_str()
                ),
            });
        }
    }
    Ok(())
}

fn internal(name: Arc<str>, partitions: i32, config: &StreamsConfig) -> NewTopic {
    let mut topic = NewTopic::new(name, partitions)
        .with_config("segment.bytes", SEGMENT_BYTES)
        .with_config("message.timestamp.type", "CreateTime")
        .with_any_time();
    topic.replication_factor = (config.replication_factor > 0).then_some(config.replication_factor);
    topic
}

/// Creates a topic of the application unless it is there; one of another width means that an input was widened.
async fn ensure(admin: &Admin, topic: NewTopic) -> Result<TopicDescription, AppError> {
    let (name, wanted) = (topic.name.to_string(), topic.partitions);
    let found = admin.ensure_topic(topic).await.map_err(|error: ClientError| AppError::from(error))?;
    if wanted.is_some_and(|wanted| wanted != count_of(&found)) {
        return Err(AppError::Topic {
            topic: name,
            reason: format!(
                "it has {} partitions and the topology needs {}; state cannot be split: reset the application",
                count_of(&found),
                wanted.unwrap_or_default()
            ),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use millstream_streams_core::dsl::{Stream, StreamBuilder, store};

    use super::*;

    /// Counts of the repartition topics, where the user's have `given`; or what is wrong.
    fn check(
        given: &[(&str, i32)],
        build: impl FnOnce(&StreamBuilder),
        expected: Result<&[(&str, i32)], &str>,
    ) {
        let builder = StreamBuilder::new();
        build(&builder);
        let topology = builder.build().unwrap();
        let given = given.iter().map(|(topic, count)| (TopicName::User((*topic).into()), *count));
        let mut partitions: BTreeMap<_, _> = given.collect();
        let done = count_repartitions(&topology, &mut partitions);
        let done = done.and_then(|()| check_copartitioned(&topology, &partitions));
        let made = partitions.iter().filter(|(topic, _)| matches!(topic, TopicName::Internal(_)));
        let made: Vec<_> = made.map(|(topic, count)| (topic.as_str(), *count)).collect();
        match (done, expected) {
            (Ok(()), Ok(expected)) => assert_eq!(made, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (done, expected) => panic!("{done:?} and {made:?} instead of {expected:?}"),
        }
    }

    fn by_value(stream: &Stream<String, String>) -> Stream<String, String> {
        stream.select_key(|_, value| value.clone())
    }

    fn joined(stream: &Stream<String, String>, t: &StreamBuilder, table: &str) -> Stream<String, String> {
        let table = t.table::<String, String>(table, store(table));
        stream.join_table(&table, |_, value, _: String| value)
    }

    #[test]
    fn a_repartition_is_as_wide_as_what_feeds_it() {
        let chain = |t: &StreamBuilder| {
            by_value(&by_value(&t.stream("in").merge(&t.stream("more"))).repartition("a"))
                .repartition("b")
                .to("out");
        };
        check(&[("in", 2), ("more", 4)], chain, Ok(&[("a-repartition", 4), ("b-repartition", 4)]));
        let asked = |t: &StreamBuilder| {
            by_value(&by_value(&t.stream("in")).repartition_to("a", Some(3))).repartition("b").to("out");
        };
        check(&[("in", 2)], asked, Ok(&[("a-repartition", 3), ("b-repartition", 3)]));
    }

    #[test]
    fn a_repartition_is_as_wide_as_the_table_that_it_is_joined_with() {
        let join =
            |t: &StreamBuilder| joined(&by_value(&t.stream("in")).repartition("x"), t, "table").to("out");
        check(&[("in", 4), ("table", 2)], join, Ok(&[("x-repartition", 2)]));
        check(&[("in", 2), ("table", 4)], join, Ok(&[("x-repartition", 4)]));
        let behind = |t: &StreamBuilder| {
            let found = joined(&by_value(&t.stream("in")).repartition("x"), t, "table");
            by_value(&found).repartition("y").to("out");
        };
        let both = [("x-repartition", 2), ("y-repartition", 2)];
        check(&[("in", 4), ("table", 2)], behind, Ok(&both));
    }

    #[test]
    fn what_was_asked_for_is_not_changed_for_a_join() {
        let asked = |t: &StreamBuilder| {
            joined(&by_value(&t.stream("in")).repartition_to("x", Some(3)), t, "table").to("out");
        };
        check(&[("in", 4), ("table", 2)], asked, Err("repartition one of the two"));
        check(&[("in", 4), ("table", 3)], asked, Ok(&[("x-repartition", 3)]));
        let tables = |t: &StreamBuilder| {
            joined(&joined(&by_value(&t.stream("in")).repartition("x"), t, "a"), t, "b").to("out");
        };
        check(&[("in", 4), ("a", 2), ("b", 3)], tables, Err("repartition one of the two"));
        check(&[("in", 4), ("a", 2), ("b", 2)], tables, Ok(&[("x-repartition", 2)]));
    }

    /// A stream behind the repartition `x` and a count behind `counts`, joined.
    fn with_count(t: &StreamBuilder, x: Option<i32>, counts: Option<i32>) {
        let counts =
            by_value(&t.stream("other")).repartition_to("counts", counts).group_by_key().count(store("n"));
        by_value(&t.stream("in")).repartition_to("x", x).join_table(&counts, |_, _, n| n).to("out");
    }

    #[test]
    fn repartitions_that_are_joined_with_each_other_are_equally_wide() {
        let given = [("in", 2), ("other", 5)];
        let both = |count| [("counts-repartition", count), ("x-repartition", count)];
        check(&given, |t| with_count(t, None, None), Ok(&both(5)));
        check(&given, |t| with_count(t, Some(3), None), Ok(&both(3)));
        check(&given, |t| with_count(t, None, Some(1)), Ok(&both(1)));
        check(&given, |t| with_count(t, Some(3), Some(1)), Err("repartition one of the two"));
    }
}
