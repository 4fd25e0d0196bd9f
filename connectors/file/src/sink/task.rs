//! The running sink: which file a row goes into, and when a file is finished.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_connect_api::{
    ConnectError, Result, SinkBatch, SinkInput, SinkOpen, SinkPartition, SinkTask, TaskContext,
};
use millstream_record::{Millis, Offset, TopicPartition};

use super::note;
use super::parts::{create_folder, finished, folder, io_error, overlap};
use super::settings::Settings;
use super::template::Range;
use super::writer::PartWriter;

/// A running file sink.
pub(super) struct FileSinkTask {
    name: String,
    context: Option<TaskContext>,
    /// Away while a blocking job has them; gone for good when a job was lost.
    files: Option<Files>,
}

/// Everything that blocks.
struct Files {
    settings: Settings,
    schema: SchemaRef,
    name: String,
    open: BTreeMap<TopicPartition, PartWriter>,
    /// For notes.
    state_dir: PathBuf,
    /// The first offset of each partition that no finished file holds.
    held: BTreeMap<TopicPartition, Offset>,
}

impl FileSinkTask {
    pub(super) fn new(settings: Settings, input: &SinkInput) -> Self {
        let files = Files {
            settings,
            schema: input.schema.clone(),
            name: input.name.clone(),
            open: BTreeMap::new(),
            state_dir: PathBuf::new(),
            held: BTreeMap::new(),
        };
        Self { name: input.name.clone(), context: None, files: Some(files) }
    }

    async fn blocking<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Files, Millis) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let closed = || ConnectError::fatal(format!("file sink {}", self.name), "it is not open");
        let context = self.context.as_ref().ok_or_else(closed)?;
        let mut files = self.files.take().ok_or_else(closed)?;
        let now = context.now();
        let (files, result) = context
            .blocking(move || {
                let result = job(&mut files, now);
                (files, result)
            })
            .await?;
        self.files = Some(files);
        result
    }
}

impl SinkTask for FileSinkTask {
    fn open(&mut self, open: SinkOpen) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        self.context = Some(open.context);
        let (partitions, state_dir) = (open.partitions, open.state_dir);
        self.blocking(move |files, _| {
            files.state_dir = state_dir;
            files.start(&partitions)
        })
        .boxed()
    }

    fn put(&mut self, batch: SinkBatch) -> BoxFuture<'_, Result<()>> {
        self.blocking(move |files, now| files.put(&batch, now)).boxed()
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        let due = |files: &mut Files, now: Millis| {
            let age_ms = i64::try_from(files.settings.roll_age.as_millis()).unwrap_or(i64::MAX);
            files.finish_where(|part| now.since_ms(part.opened_at) >= age_ms)
        };
        self.blocking(due).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        self.blocking(|files, _| files.finish_where(|_| true)).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async {
            if let Some(files) = &mut self.files {
                files.open.clear();
            }
            self.context = None;
        }
        .boxed()
    }
}

impl Files {
    /// Looks at what finished files hold, removes leftovers, and says where each partition begins.
    fn start(&mut self, partitions: &[SinkPartition]) -> Result<BTreeMap<TopicPartition, Offset>> {
        let mut topics: Vec<&str> = partitions.iter().map(|at| &*at.partition.topic).collect();
        topics.dedup();
        if topics.len() > 1 && !self.settings.template.has_topic() {
            let reason =
                format!("it reads {}, so path must hold {{topic}} to tell them apart", topics.join(", "));
            return Err(ConnectError::fatal(format!("file sink {}", self.name), reason));
        }
        create_folder(folder(&self.settings.base_dir))?;
        note::check_taken(&self.state_dir)?;
        let ranges = finished(&self.settings, &topics)?;
        note::reconcile(&self.settings, &self.state_dir, partitions, &ranges)?;
        if let Some((a, b)) = overlap(&ranges) {
            let names = [a, b].map(|range| self.settings.template.name(range));
            let reason = format!(
                "{} and {} hold the same offsets, so another sink writes to the same path; give each sink a path of its own, and move the \
                 other's files away",
                names[0], names[1]
            );
            let place = folder(&self.settings.base_dir).display();
            return Err(ConnectError::fatal(format!("folder {place}"), reason));
        }
        for at in partitions {
            let tmp = self.tmp(&at.partition);
            match fs::remove_file(&tmp) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io_error("removing", &tmp)(error));
                }
                _ => {}
            }
            // Files may have been taken away by whoever reads them; then the committed offset is ahead of the names.
            let behind_files = ranges.iter().filter(|range| range.partition == at.partition);
            let named = behind_files.map(|range| range.last.plus(1)).max();
            if let Some(start) = named.max(at.committed) {
                self.held.insert(at.partition.clone(), start);
            }
        }
        Ok(self.held.clone())
    }

    fn put(&mut self, batch: &SinkBatch, now: Millis) -> Result<()> {
        let Some(last) = batch.offsets.last().copied() else { return Ok(()) };
        let held = self.held.get(&batch.partition).copied().unwrap_or(Offset(0));
        let skip = batch.offsets.partition_point(|offset| *offset < held);
        let Some(first) = batch.offsets.get(skip).copied() else { return Ok(()) };
        let rows = batch.rows.slice(skip, batch.rows.num_rows() - skip);
        if !self.open.contains_key(&batch.partition) {
            let tmp = self.tmp(&batch.partition);
            let part = PartWriter::create(&self.settings, &self.schema, tmp, first, now)?;
            self.open.insert(batch.partition.clone(), part);
        }
        let part = self.open.get_mut(&batch.partition).expect("inserted above if it was not there");
        part.write(&rows, last)?;
        if part.size() >= self.settings.roll_size {
            self.finish_one(&batch.partition)?;
        }
        Ok(())
    }

    /// Finishes the files that `due` picks, and says where each partition's durable rows end.
    fn finish_where(
        &mut self,
        due: impl Fn(&PartWriter) -> bool,
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        let due: Vec<_> = self.open.iter().filter(|(_, part)| due(part)).map(|(at, _)| at.clone()).collect();
        for partition in due {
            self.finish_one(&partition)?;
        }
        Ok(self.held.clone())
    }

    fn finish_one(&mut self, partition: &TopicPartition) -> Result<()> {
        let Some(part) = self.open.remove(partition) else { return Ok(()) };
        let range = Range { partition: partition.clone(), first: part.first, last: part.last };
        let name = self.settings.base_dir.join(self.settings.template.name(&range));
        if !part.finish(&name)? {
            note::remember_taken(&self.state_dir, &name)?;
            return Err(note::taken(&name));
        }
        self.held.insert(range.partition, range.last.plus(1));
        Ok(())
    }

    /// The temporary name of a partition's file: always the same one, so that a leftover is found again.
    fn tmp(&self, partition: &TopicPartition) -> PathBuf {
        self.settings.base_dir.join(format!(".{}.{partition}.tmp", self.name))
    }
}

#[cfg(test)]
mod tests;
