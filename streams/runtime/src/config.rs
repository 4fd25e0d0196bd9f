//! Settings of an application.

use std::path::PathBuf;

use crate::error::{AppError, Result};

/// What a crash may do to results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessingGuarantee {
    /// Outputs, state and positions are committed together: no result is lost or seen twice.
    #[default]
    ExactlyOnce,
    /// Cheaper: no result is lost, but those since the last commit may be repeated.
    AtLeastOnce,
}

/// Settings of a [`crate::StreamsApp`], with the names of Kafka Streams where it has them.
#[derive(Clone, Debug)]
pub struct StreamsConfig {
    /// Name of the application: its consumer group, and the first part of the names of its topics and transactions.
    pub application_id: String,
    /// Workers in this process; more than there are tasks stay idle. After a crash the same number resumes at once; the tasks of a
    /// worker that does not come back move when its session ends.
    pub threads: usize,
    /// See [`ProcessingGuarantee`].
    pub processing_guarantee: ProcessingGuarantee,
    /// Time between commits. Kafka's default with exactly-once is the same; a result is visible after at most so long.
    pub commit_interval_ms: u64,
    /// Where state is kept; each process needs a directory of its own.
    pub state_dir: PathBuf,
    /// A worker commits early when the uncommitted state of one of its tasks takes more than this.
    pub max_uncommitted_bytes: usize,
    /// A worker stops fetching an input of a task while more rows than this wait there.
    pub max_buffered_rows: usize,
    /// Records that one poll returns at most.
    pub max_poll_records: usize,
    /// Replicas of the topics that the application creates; -1 leaves it to the broker.
    pub replication_factor: i16,
    /// Session timeout of a worker in the group: how long a lost process holds its tasks.
    pub session_timeout_ms: i32,
    /// The broker aborts transactions that are older: how long a lost process holds up readers of its outputs.
    pub transaction_timeout_ms: i32,
    /// Where rows of several partitions meet behind a repartition, windows close by the partition that is furthest behind. One in
    /// which nothing has come for so long is left out, unless it is of a finite input.
    pub idle_timeout_ms: u64,
    /// State of a task that has been away from this process for so long is removed; if it comes back, it is restored from the
    /// beginning of its changelog. Keep it well below `delete.retention.ms` of the changelogs (a day), or keys that were deleted
    /// meanwhile come back with it.
    pub state_cleanup_delay_ms: u64,
    /// Time between two deletions of what was read of repartition topics. One follows a commit.
    pub repartition_purge_interval_ms: u64,
    /// Topics that end: the app waits for [`crate::StreamsControl::end_input`] for each, and once all inputs of all tasks are
    /// consumed to their ends, [`crate::StreamsApp::run`] returns. Empty: the app runs until it is stopped. A bootstrap input is read
    /// first: a finite one up to its end, another up to where its topic ends when its task starts.
    pub finite_inputs: Vec<String>,
    /// Topics of the user, with their partitions, that the app creates at its start where they are missing.
    pub create_topics: Vec<(String, i32)>,
}

impl StreamsConfig {
    /// Defaults for `application_id`, with state in `state_dir`.
    pub fn new(application_id: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            application_id: application_id.into(),
            threads: 1,
            processing_guarantee: ProcessingGuarantee::ExactlyOnce,
            commit_interval_ms: 100,
            state_dir: state_dir.into(),
            max_uncommitted_bytes: 32 << 20,
            max_buffered_rows: 16_384,
            max_poll_records: 4_096,
            replication_factor: -1,
            session_timeout_ms: 45_000,
            transaction_timeout_ms: 10_000,
            idle_timeout_ms: 5_000,
            state_cleanup_delay_ms: 600_000,
            repartition_purge_interval_ms: 30_000,
            finite_inputs: Vec::new(),
            create_topics: Vec::new(),
        }
    }

    /// The same with a topic to be created where it is missing.
    #[must_use]
    pub fn create_topic(mut self, topic: impl Into<String>, partitions: i32) -> Self {
        self.create_topics.push((topic.into(), partitions));
        self
    }

    /// # Errors
    /// [`AppError::Config`] for the first setting that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |setting, reason: &str| Err(AppError::Config { setting, reason: reason.to_owned() });
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.application_id.is_empty() || !self.application_id.chars().all(fits) {
            return refuse("application_id", "it begins topic names: use letters, digits, '.', '_' and '-'");
        }
        if self.threads == 0 {
            return refuse("threads", "at least one is needed");
        }
        if self.commit_interval_ms == 0 {
            return refuse("commit_interval_ms", "give at least 1 ms");
        }
        let lasts = u64::try_from(self.transaction_timeout_ms).unwrap_or(0);
        if self.processing_guarantee == ProcessingGuarantee::ExactlyOnce && self.commit_interval_ms >= lasts {
            return refuse(
                "commit_interval_ms",
                "a transaction is open so long: keep it below transaction_timeout_ms",
            );
        }
        if self.max_uncommitted_bytes == 0 || self.max_buffered_rows == 0 || self.max_poll_records == 0 {
            return refuse(
                "max_uncommitted_bytes, max_buffered_rows, max_poll_records",
                "each must be above zero",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let base = || StreamsConfig::new("app", "state");
        let check = |config: StreamsConfig, refused: Option<&str>| {
            let outcome = config.check().err().map(|error| error.to_string());
            assert_eq!(outcome.is_some(), refused.is_some(), "{outcome:?}");
            assert!(outcome.unwrap_or_default().starts_with(refused.unwrap_or_default()));
        };
        let at_least_once = ProcessingGuarantee::AtLeastOnce;
        check(base(), None);
        check(StreamsConfig::new("an app", "state"), Some("application_id"));
        check(StreamsConfig { threads: 0, ..base() }, Some("threads"));
        check(StreamsConfig { commit_interval_ms: 0, ..base() }, Some("commit_interval_ms"));
        check(StreamsConfig { commit_interval_ms: 10_000, ..base() }, Some("commit_interval_ms"));
        check(
            StreamsConfig { commit_interval_ms: 10_000, processing_guarantee: at_least_once, ..base() },
            None,
        );
        check(StreamsConfig { max_poll_records: 0, ..base() }, Some("max_uncommitted_bytes"));
    }
}
