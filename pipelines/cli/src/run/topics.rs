//! The topics of a plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use millstream_connect_runtime::{Ends, Kept, Log, TopicSpec};
use millstream_plan::Plan;
use millstream_plan::plan::{BadInput, SinkKind, SourceKind};
use millstream_plan::sql::Stage;

/// Topics that exist, and how many partitions they have.
pub(super) struct Topics {
    partitions: BTreeMap<String, i32>,
    ends: BTreeMap<String, Ends>,
}

impl Topics {
    /// Makes the topics that `plan` writes and finds those that it reads.
    pub(super) async fn ensure(plan: &Plan, log: &dyn Log) -> Result<Self> {
        let mut topics = Self { partitions: BTreeMap::new(), ends: BTreeMap::new() };
        for source in &plan.sources {
            match source.kind {
                SourceKind::Connector { .. } => {
                    topics.make(log, &source.topic, Some(source.partitions), Kept::All).await?
                }
                SourceKind::Topic { .. } => topics.find(log, &source.topic).await?,
            }
            let partitions = topics.partitions(&source.topic).unwrap_or_default();
            if source.is_table && matches!(source.kind, SourceKind::Topic { .. }) && partitions != 1 {
                bail!(
                    "'{}' is a table from topic {} of {partitions} partitions, and nobody knows by what rule its rows were placed there; \
                     copy them to a topic of one partition (millstream topics create NAME --partitions 1) and read that",
                    source.table.name,
                    source.topic,
                );
            }
            topics.bad(log, &source.on_error).await?;
        }
        for step in &plan.steps {
            // Rows come out where they went in; what a sink reads needs no more partitions than its source has.
            let width = plan.sources.iter().map(|source| source.partitions).max();
            if let Some(topic) = &step.topic {
                topics.make(log, topic, width, Kept::All).await?;
            }
            let windowed =
                |stage: &Stage| matches!(stage, Stage::Aggregate(aggregate) if aggregate.windows.is_some());
            if step.query.stages.iter().any(windowed) {
                topics.make(log, &plan.late_topic(&step.name), Some(1), Kept::All).await?;
            }
        }
        for sink in &plan.sinks {
            if let SinkKind::Topic { topic, .. } = &sink.kind {
                topics.make(log, topic, None, Kept::Default).await?;
            }
            topics.bad(log, &sink.on_error).await?;
        }
        Ok(topics)
    }

    /// How many partitions a topic has.
    pub(super) fn partitions(&self, topic: &str) -> Option<i32> {
        self.partitions.get(topic).copied()
    }

    /// Where a topic that others write ended when the run began.
    pub(super) fn ends_at_start(&self, topic: &str) -> Ends {
        self.ends.get(topic).cloned().unwrap_or_default()
    }

    async fn make(&mut self, log: &dyn Log, topic: &str, partitions: Option<i32>, kept: Kept) -> Result<()> {
        let spec = TopicSpec { name: topic.to_owned(), partitions, kept };
        let facts = log.ensure_topic(spec).await.with_context(|| format!("making topic {topic}"))?;
        self.partitions.insert(topic.to_owned(), facts.partitions);
        Ok(())
    }

    async fn find(&mut self, log: &dyn Log, topic: &str) -> Result<()> {
        let facts = log.topic(topic.to_owned()).await.with_context(|| format!("finding topic {topic}"))?;
        let Some(facts) = facts else {
            bail!("there is no topic {topic}; make it with: millstream topics create {topic}")
        };
        self.partitions.insert(topic.to_owned(), facts.partitions);
        let ends = log.ends(topic.to_owned()).await.with_context(|| format!("reading topic {topic}"))?;
        self.ends.insert(topic.to_owned(), ends);
        Ok(())
    }

    async fn bad(&mut self, log: &dyn Log, on_error: &BadInput) -> Result<()> {
        match on_error {
            BadInput::Topic(topic) => self.make(log, topic, Some(1), Kept::Default).await,
            BadInput::Fail | BadInput::Skip => Ok(()),
        }
    }
}
