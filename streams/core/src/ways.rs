//! Event time where rows come over several ways.
//!
//! The tasks that write a repartition topic run at their own pace, so in a partition of it rows of a fast one stand before older
//! rows of a slow one. In Kafka Streams the highest timestamp is the time of all of them, and rows in good order are late.
//! Here each task that writes is a way of its own, and time there is known twice:
//! - A row is late by the **stream time of its own way**: the highest timestamp so far of the partition that it was first read from.
//!   Where that is not the row's own timestamp it travels in a header. So what is late depends on the input alone, not on which
//!   task was faster.
//! - A window closes when **the least stream time of all ways** has passed it. Each task tells how far it is with every commit, by
//!   a record in each partition of the topic: a *mark*. A way whose task has closed, or has found nothing in its inputs for a
//!   while, is idle and holds nobody up (watermarks with idleness, as in Apache Flink).
//!
//! Where no ways meet, before a task or behind it, nothing of this is done or written, and a step's stream time is that of the rows
//! it took: exactly Kafka's. (Where they do, time is that of the partition as it was read: rows that a filter takes away move it,
//! or a partition of which little passes would hold windows up for ever.) What is known of the ways of an input is kept in the
//! metadata of its committed offset.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use millstream_record::{Header, Millis};

use crate::BEGINNING_OF_TIME;
use crate::topology::{InputRecord, OutputRecord, TopicName, Topology};

/// The header of a mark: the task's partition, its stream time, and whether it is idle.
const MARK_HEADER: &str = "millstream.mark";
/// The header of a row whose way is ahead of it: that way's stream time.
const TIME_HEADER: &str = "millstream.stream-time";
/// Brokers keep 4,096 bytes with an offset (`offset.metadata.max.bytes`); there may be two texts, and a word before them.
const MAX_TEXT: usize = 2_000;

/// The repartition topics in which several ways meet, each with the number of tasks that write it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways(BTreeMap<TopicName, usize>);

impl Ways {
    /// Finds them. `tasks` tells how many tasks a subtopology has.
    #[must_use]
    pub fn of(topology: &Topology, tasks: impl Fn(usize) -> usize) -> Self {
        let mut found = Self::default();
        loop {
            let before = found.0.len();
            for repartition in topology.repartitions() {
                let count = tasks(repartition.written_by);
                let inputs = &topology.subtopologies()[repartition.written_by].inputs;
                if count > 1 || inputs.iter().any(|topic| found.meet_in(topic)) {
                    found.0.insert(repartition.topic.clone(), count);
                }
            }
            if found.0.len() == before {
                return found;
            }
        }
    }

    /// Whether several ways meet in `topic`.
    #[must_use]
    pub fn meet_in(&self, topic: &TopicName) -> bool {
        self.0.contains_key(topic)
    }

    /// The number of tasks that write `topic`, if several ways meet there.
    pub(crate) fn writers(&self, topic: &TopicName) -> Option<usize> {
        self.0.get(topic).copied()
    }
}

/// How far event time has come on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The stream time.
    pub(crate) time: Millis,
    /// Nothing is to be expected there for now: nobody waits for it.
    pub(crate) idle: bool,
}

impl Progress {
    /// A way on which nothing has come yet.
    pub(crate) const NONE: Self = Self { time: BEGINNING_OF_TIME, idle: false };

    /// Of several ways together: the least that is not idle. Where all are idle the furthest, since nobody is behind it.
    pub(crate) fn of_all(ways: impl IntoIterator<Item = Self>) -> Self {
        let least = |all: Self, way: Self| match (all.idle, way.idle) {
            (false, false) => Self { time: all.time.min(way.time), idle: false },
            (true, true) => Self { time: all.time.max(way.time), idle: true },
            (true, false) => way,
            (false, true) => all,
        };
        ways.into_iter().fold(Self { idle: true, ..Self::NONE }, least)
    }
}

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Partition of the task that wrote it.
    pub(crate) writer: i32,
    /// How far that task is.
    pub(crate) progress: Progress,
}

impl Mark {
    /// The record, for each partition of the topic.
    pub(crate) fn record(self) -> OutputRecord {
        let mut value = Vec::with_capacity(13);
        value.extend_from_slice(&self.writer.to_be_bytes());
        value.extend_from_slice(&self.progress.time.0.to_be_bytes());
        value.push(u8::from(self.progress.idle));
        OutputRecord {
            key: None,
            partition_key: None,
            value: None,
            timestamp: Millis(self.progress.time.0.max(0)),
            headers: vec![Header::new(MARK_HEADER, value)],
        }
    }

    /// Reads a record, if it is a mark.
    pub(crate) fn read(record: &InputRecord) -> Option<Self> {
        let [header] = record.headers.as_slice() else { return None };
        if record.value.is_some() || &*header.key != MARK_HEADER {
            return None;
        }
        let value: [u8; 13] = header.value.as_deref()?.try_into().ok()?;
        let (writer, rest) = value.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let time = Millis(i64::from_be_bytes(*time));
        Some(Self { writer: i32::from_be_bytes(*writer), progress: Progress { time, idle: rest != [0] } })
    }
}

/// Whether a user's header would be taken for one of ours, unless ours stands behind it.
pub(crate) fn must_note(record: &OutputRecord) -> bool {
    record.headers.last().is_some_and(|header| &*header.key == TIME_HEADER)
}

/// Notes in a record how far its way was with it.
pub(crate) fn note_stream_time(record: &mut OutputRecord, time: Millis) {
    record.headers.push(Header::new(TIME_HEADER, time.0.to_be_bytes().to_vec()));
}

/// Takes what [`note_stream_time`] noted out of a record.
pub(crate) fn take_stream_time(record: &mut InputRecord) -> Option<Millis> {
    let last = record.headers.last().filter(|header| &*header.key == TIME_HEADER)?;
    let time = i64::from_be_bytes(last.value.as_deref()?.try_into().ok()?);
    record.headers.pop();
    Some(Millis(time))
}

/// Ways as text: differences to the first one that has a time, with `i` where idle and `-` where nothing has come. Where that is
/// too long, the least of those that are not idle, for all, and behind `*` in hexadecimal digits which are idle.
pub(crate) fn to_text(ways: &[Progress]) -> String {
    let base = ways.iter().map(|way| way.time).find(|time| *time != BEGINNING_OF_TIME).unwrap_or(Millis(0));
    let mut text = base.0.to_string();
    for way in ways {
        match way.time {
            BEGINNING_OF_TIME => text.push_str(",-"),
            time => write!(text, ",{}", time.0.wrapping_sub(base.0)).expect("a string takes any text"),
        }
        text.push_str(if way.idle { "i" } else { "" });
    }
    if text.len() > MAX_TEXT {
        let time = Progress::of_all(ways.iter().copied()).time;
        let digit = |four: &[Progress]| {
            let bits = four.iter().enumerate().map(|(at, way)| u32::from(way.idle) << at).sum();
            char::from_digit(bits, 16).expect("four bits are one digit")
        };
        let idle: String = ways.chunks(4).map(digit).collect();
        return format!("{}*{idle}", to_text(&[Progress { time, idle: false }]));
    }
    text
}

/// Reads what [`to_text`] wrote into `ways`; what is missing or no such text leaves them as they are.
pub(crate) fn read_text(text: &str, ways: &mut [Progress]) {
    let (text, idle) = text.split_once('*').map_or((text, None), |(text, idle)| (text, Some(idle)));
    let mut parts = text.split(',');
    let Some(base) = parts.next().and_then(|base| base.parse::<i64>().ok()) else { return };
    let parts: Vec<&str> = parts.collect();
    for (at, way) in ways.iter_mut().enumerate() {
        let Some(part) = parts.get(if idle.is_some() { 0 } else { at }) else { return };
        let (time, is_idle) = part.strip_suffix('i').map_or((*part, false), |time| (time, true));
        let time = match time {
            "-" => BEGINNING_OF_TIME,
            time => match time.parse::<i64>() {
                Ok(time) => Millis(base.wrapping_add(time)),
                Err(_) => continue,
            },
        };
        let bit = |idle: &str| Some(idle.chars().nth(at / 4)?.to_digit(16)? >> (at % 4) & 1 == 1);
        *way = Progress { time, idle: idle.map_or(is_idle, |idle| bit(idle).unwrap_or(false)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn progress() -> impl Strategy<Value = Progress> {
        let time = prop_oneof![Just(i64::MIN), any::<i64>(), 1_700_000_000_000i64..1_800_000_000_000];
        (time, any::<bool>()).prop_map(|(time, idle)| Progress { time: Millis(time), idle })
    }

    #[test]
    fn the_least_way_that_is_not_idle_counts() {
        let way = |time, idle| Progress { time: Millis(time), idle };
        for (ways, expected) in [
            (vec![way(5, false), way(3, false)], way(3, false)),
            (vec![way(5, false), way(3, true)], way(5, false)),
            (vec![way(3, true), way(5, false)], way(5, false)),
            (vec![way(5, true), way(3, true)], way(5, true)),
            (vec![way(5, false), Progress::NONE], Progress::NONE),
            (vec![], Progress { idle: true, ..Progress::NONE }),
        ] {
            assert_eq!(Progress::of_all(ways.clone()), expected, "{ways:?}");
        }
    }

    #[test]
    fn a_text_that_would_be_too_long_says_the_least() {
        let way = |n: i64| Progress { time: Millis(n * 1_000_000), idle: n % 7 == 0 };
        let ways: Vec<_> = (0..2_000).map(way).collect();
        let text = to_text(&ways);
        assert!(text.len() < MAX_TEXT, "{}", text.len());
        let mut read = vec![Progress::NONE; ways.len()];
        read_text(&text, &mut read);
        let least = |way: &Progress| Progress { time: Millis(1_000_000), ..*way };
        assert!(read == ways.iter().map(least).collect::<Vec<_>>(), "{text}");
    }

    #[test]
    fn what_is_no_such_text_changes_nothing() {
        for text in ["", "end", "1,x", "*", ",", "12"] {
            let mut ways = [Progress { time: Millis(3), idle: true }];
            read_text(text, &mut ways);
            assert_eq!(ways, [Progress { time: Millis(3), idle: true }], "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn ways_survive_as_text(ways in proptest::collection::vec(progress(), 0..20)) {
            let mut read = vec![Progress::NONE; ways.len()];
            read_text(&to_text(&ways), &mut read);
            prop_assert_eq!(read, ways);
        }

        #[test]
        fn marks_and_times_survive_as_records(writer in any::<i32>(), progress in progress(), time in any::<i64>()) {
            let read = |record: OutputRecord| InputRecord {
                offset: millstream_record::Offset(0),
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            };
            let mark = Mark { writer, progress };
            prop_assert_eq!(Mark::read(&read(mark.record())), Some(mark));
            let users = vec![Header::new("user", b"1".to_vec())];
            let mut row = OutputRecord { value: Some(Bytes::new()), headers: users.clone(), ..mark.record() };
            note_stream_time(&mut row, Millis(time));
            let mut row = read(row);
            prop_assert_eq!(Mark::read(&row), None);
            prop_assert_eq!(take_stream_time(&mut row), Some(Millis(time)));
            prop_assert_eq!(&row.headers, &users);
            prop_assert_eq!(take_stream_time(&mut row), None);
        }
    }
}
