//! The dead letters of a sink, each once. They are durable before the sink moves on, so what is read again after a failure in between
//! may have been buried already: marks, written in the letters' own transactions, say what was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_connect_api::BadRecord;
use millstream_record::{Millis, Offset, TopicId, TopicPartition};
use serde_json::json;

use crate::log::{Log, LogWriter, NewRecord};
use crate::offsets::{self, OFFSETS_TOPIC};
use crate::{Result, RuntimeError, dead_letters};

/// What keeps keys of marks apart from those of positions.
const KIND: &str = "letters";

/// Whose letters they are.
pub(crate) struct Own {
    pub(crate) namespace: String,
    pub(crate) sink: String,
    /// The topics' ids: a topic made anew has other records at the same offsets.
    pub(crate) ids: BTreeMap<TopicPartition, TopicId>,
}

/// Writes the dead letters of a sink.
pub(crate) struct SinkLetters {
    topic: String,
    writer: Box<dyn LogWriter>,
    own: Own,
    /// Records behind the sink's progress whose letters are written, by key of the mark that says so.
    buried: BTreeMap<Bytes, Mark>,
    /// Keys of marks that say nothing any more.
    stale: Vec<Bytes>,
}

/// Records of a partition whose letters were written together.
struct Mark {
    partition: TopicPartition,
    offsets: BTreeSet<i64>,
}

impl SinkLetters {
    /// Opens the writer and reads which records behind `from` were buried before.
    pub(crate) async fn open(
        log: &dyn Log,
        writer: String,
        topic: &str,
        own: Own,
        from: &BTreeMap<TopicPartition, Option<Offset>>,
    ) -> Result<Self> {
        log.ensure_topic(offsets::topic_spec()).await?;
        // Fence first, read after: what an earlier process left is decided before marks are looked at.
        let writer = log.writer(writer).await?;
        let head = [own.namespace.clone(), own.sink.clone(), KIND.to_owned()];
        let is_own = move |key: &[u8]| {
            serde_json::from_slice::<Vec<String>>(key).is_ok_and(|key| key.len() == 5 && key[..3] == head)
        };
        let table = log.table(OFFSETS_TOPIC.into(), Box::new(is_own.clone())).await?;
        let mut letters =
            Self { topic: topic.to_owned(), writer, own, buried: BTreeMap::new(), stale: vec![] };
        for (key, value) in table.into_iter().filter(|(key, _)| is_own(key)) {
            let behind = |mark: &Mark| {
                let from = from.get(&mark.partition).copied().flatten();
                !is_passed(mark, from.unwrap_or(Offset(0)))
            };
            match letters.read(&value).filter(behind) {
                Some(mark) => drop(letters.buried.insert(key, mark)),
                None => letters.stale.push(key),
            }
        }
        Ok(letters)
    }

    /// The mark in a value, if it is of the topics and of the letters' topic that there are now.
    fn read(&self, value: &[u8]) -> Option<Mark> {
        let value: serde_json::Value = serde_json::from_slice(value).ok()?;
        let found = self.own.ids.iter().find(|(partition, _)| value["from"] == partition.to_string())?;
        if value["topic_id"] != found.1.to_string() || value["to"] != self.topic {
            return None;
        }
        let offsets = value["offsets"].as_array()?.iter().filter_map(serde_json::Value::as_i64).collect();
        Some(Mark { partition: found.0.clone(), offsets })
    }

    /// Writes the letters of these records of a partition, but for those that have theirs.
    pub(crate) async fn bury(
        &mut self,
        from: &TopicPartition,
        mut bad: Vec<BadRecord>,
        now: Millis,
    ) -> Result<()> {
        let offset = |bad: &BadRecord| bad.line.and_then(|offset| i64::try_from(offset).ok());
        let marks: Vec<_> = self.buried.values().filter(|mark| mark.partition == *from).collect();
        bad.retain(|bad| {
            offset(bad).is_none_or(|offset| !marks.iter().any(|mark| mark.offsets.contains(&offset)))
        });
        if bad.is_empty() {
            return Ok(());
        }
        let offsets: BTreeSet<i64> = bad.iter().filter_map(offset).collect();
        let mut records = dead_letters::records(&self.topic, &self.own.sink, &bad, now)
            .map_err(RuntimeError::connector(&self.own.sink))?;
        let mark = Mark { partition: from.clone(), offsets };
        let (key, value) = self.written(&mark);
        self.stale.retain(|stale| *stale != key);
        records.push(offsets::bytes_record(key.clone(), Some(value)));
        records.extend(self.removals());
        self.writer.append(records).await?;
        self.writer.commit().await?;
        self.stale.clear();
        self.buried.insert(key, mark);
        Ok(())
    }

    fn written(&self, mark: &Mark) -> (Bytes, Bytes) {
        let (from, first) = (mark.partition.to_string(), mark.offsets.first().copied().unwrap_or(-1));
        let key = json!([self.own.namespace, self.own.sink, KIND, from, first.to_string()]);
        let id = self.own.ids.get(&mark.partition).copied().unwrap_or_default();
        let value =
            json!({ "from": from, "topic_id": id.to_string(), "to": self.topic, "offsets": mark.offsets });
        (Bytes::from(key.to_string()), Bytes::from(value.to_string()))
    }

    fn removals(&self) -> Vec<NewRecord> {
        self.stale.iter().map(|key| offsets::bytes_record(key.clone(), None)).collect()
    }

    /// The sink holds all below `safe`, or has passed it: nothing of that is read again.
    pub(crate) async fn forget(&mut self, safe: &BTreeMap<TopicPartition, Offset>) -> Result<()> {
        let passed = self
            .buried
            .extract_if(.., |_, mark| safe.get(&mark.partition).is_some_and(|safe| is_passed(mark, *safe)));
        self.stale.extend(passed.map(|(key, _)| key).collect::<Vec<_>>());
        if self.stale.is_empty() {
            return Ok(());
        }
        self.writer.append(self.removals()).await?;
        self.writer.commit().await?;
        self.stale.clear();
        Ok(())
    }
}

fn is_passed(mark: &Mark, next: Offset) -> bool {
    mark.offsets.last().is_none_or(|last| *last < next.0)
}
