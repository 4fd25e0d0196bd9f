//! The running source: which file is read next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::{BoxFuture, select};
use millstream_connect_api::{
    ConnectError, Polled, Positions, Result, SourceBatch, SourceTask, SystemColumns, TableSchema, TaskContext,
};

use super::glob;
use super::identity::{FileId, FilePosition};
use super::reader::{OpenFile, Piece, find_moved, no_rows};
use super::settings::Settings;
use super::watch::Watch;

/// Most files that are followed at once; each holds one open file.
const MAX_FILES: usize = 10_000;

/// A running file source.
pub(super) struct FileTask {
    shared: Arc<Shared>,
    context: Option<TaskContext>,
    known: Positions,
    /// Files in the order in which they are read next.
    queue: VecDeque<OpenFile>,
    /// `read = "once"`: files that have not been opened.
    unopened: VecDeque<PathBuf>,
    /// `read = "once"`: why the first file that cannot be read at all cannot.
    unusable: Option<ConnectError>,
    watch: Option<Watch>,
    /// `read = "follow"`: files that could not be opened when they were looked at last.
    unreadable: BTreeSet<PathBuf>,
    /// The worker has been told that there is nothing for now, and has committed; the next poll waits.
    told_idle: bool,
}

struct Shared {
    settings: Settings,
    schema: SchemaRef,
    table: Arc<str>,
}

/// What one look at a file gave.
struct Look {
    file: OpenFile,
    piece: Result<Option<Piece>>,
}

impl FileTask {
    pub(super) fn new(settings: Settings, table: &TableSchema) -> Self {
        Self {
            shared: Arc::new(Shared { settings, schema: table.schema.clone(), table: table.name.clone() }),
            context: None,
            known: Positions::new(),
            queue: VecDeque::new(),
            unopened: VecDeque::new(),
            unusable: None,
            watch: None,
            unreadable: BTreeSet::new(),
            told_idle: false,
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T> {
        let context =
            self.context.as_ref().ok_or_else(|| ConnectError::fatal("file source", "it is not open"))?;
        let shared = Arc::clone(&self.shared);
        context.blocking(move || job(&shared)).await
    }

    /// Reads on in the first file of the queue. `last`: a last line without a terminator is a line.
    async fn look(&mut self, last: bool) -> Result<Option<(OpenFile, Option<Piece>)>> {
        let Some(mut file) = self.queue.pop_front() else { return Ok(None) };
        let look = self
            .blocking(move |shared| {
                let piece = file.read(&shared.settings, &shared.schema, last);
                Look { file, piece }
            })
            .await?;
        Ok(Some((look.file, look.piece?)))
    }

    fn batch(&self, file: &OpenFile, piece: Piece) -> Result<Polled> {
        let position = serde_json::to_value(&file.position)
            .map_err(|error| ConnectError::fatal("storing a position", error))?;
        Ok(Polled::Batch(SourceBatch {
            table: Arc::clone(&self.shared.table),
            rows: piece.rows.unwrap_or_else(|| no_rows(&self.shared.schema)),
            system: SystemColumns::default(),
            partition: file.id.key().into(),
            position,
            bad: piece.bad,
            bytes: piece.bytes,
        }))
    }

    /// One file after the other, each to its end.
    async fn poll_once(&mut self) -> Result<Polled> {
        loop {
            if self.queue.is_empty() {
                let Some(path) = self.unopened.pop_front() else {
                    return self.unusable.take().map_or(Ok(Polled::End), Err);
                };
                let known = self.known.clone();
                let open =
                    move |shared: &Shared| OpenFile::open(&path, &known, &shared.settings, &shared.schema);
                match self.blocking(open).await? {
                    Ok(file) => self.queue.push_back(file),
                    // It will not get better, and is no reason to leave out the others: it is told behind them.
                    Err(error) if !error.is_retriable() => drop(self.unusable.get_or_insert(error)),
                    Err(error) => return Err(error),
                }
            }
            match self.look(true).await? {
                Some((file, Some(piece))) => {
                    let batch = self.batch(&file, piece)?;
                    self.queue.push_front(file);
                    return Ok(batch);
                }
                Some((file, None)) => drop(file), // read to its end
                None => {}
            }
        }
    }

    /// All files in turn; when none has anything new, whatever comes first: a notice or the interval.
    async fn poll_follow(&mut self) -> Result<Polled> {
        loop {
            for _ in 0..self.queue.len() {
                let last = self.queue.front().is_some_and(|file| file.gone);
                match self.look(last).await? {
                    Some((file, Some(piece))) => {
                        self.told_idle = false;
                        let batch = self.batch(&file, piece)?;
                        self.queue.push_back(file);
                        return Ok(batch);
                    }
                    // Its name leads elsewhere and it has been read to its end: nothing will come any more.
                    Some((file, None)) if file.gone => {
                        if let Some(batch) = self.forget(&file) {
                            return Ok(batch);
                        }
                    }
                    Some((file, None)) => self.queue.push_back(file),
                    None => {}
                }
            }
            if !self.told_idle {
                self.told_idle = true;
                return Ok(Polled::Idle(Duration::ZERO));
            }
            self.wait().await;
            self.scan().await?;
            self.told_idle = false;
        }
    }

    /// The batch that removes the stored position of a file that is gone for good; one that was only renamed keeps its own, lest it
    /// be read again under its new name.
    fn forget(&mut self, file: &OpenFile) -> Option<Polled> {
        self.known.remove(&file.id.key());
        if !file.is_deleted() {
            self.known.insert(file.id.key(), serde_json::to_value(&file.position).ok()?);
            return None;
        }
        Some(Polled::Batch(SourceBatch {
            table: Arc::clone(&self.shared.table),
            rows: no_rows(&self.shared.schema),
            system: SystemColumns::default(),
            partition: file.id.key().into(),
            position: serde_json::Value::Null,
            bad: Vec::new(),
            bytes: 0,
        }))
    }

    async fn wait(&mut self) {
        let (Some(context), Some(watch)) = (&self.context, &mut self.watch) else { return };
        let interval = context.sleep(self.shared.settings.poll_interval);
        select(std::pin::pin!(watch.changed()), interval).await;
    }

    /// Finds new files, and files whose name leads elsewhere by now.
    async fn scan(&mut self) -> Result<()> {
        let open: BTreeSet<FileId> = self.queue.iter().map(|file| file.id.clone()).collect();
        let known = self.known.clone();
        let found = self.blocking(move |shared| scan(shared, &known, &open)).await??;
        for file in &mut self.queue {
            match found.present.get(&file.id) {
                Some(path) => {
                    file.gone = false;
                    file.path.clone_from(path);
                    file.position.path = path.to_string_lossy().into_owned();
                }
                None => file.gone = true,
            }
        }
        for (path, error) in &found.unreadable {
            if !self.unreadable.contains(path) {
                tracing::warn!(%error, "the file is left out until it can be opened; others are read");
            }
        }
        self.unreadable = found.unreadable.into_keys().collect();
        self.queue.extend(found.new);
        if self.queue.len() > MAX_FILES {
            let reason = format!("more than {MAX_FILES} files match; make include narrower");
            return Err(ConnectError::fatal("file source", reason));
        }
        if let Some(watch) = &mut self.watch {
            watch.set(found.folders);
        }
        Ok(())
    }

    /// Takes up files that were rotated away while nobody looked: what is unread of them still counts.
    async fn find_rotated(&mut self) -> Result<()> {
        let open: BTreeSet<String> = self.queue.iter().map(|file| file.id.key()).collect();
        let known = self.known.clone();
        let found = self.blocking(move |shared| {
            let mut found = Vec::new();
            for (key, value) in known.iter().filter(|(key, _)| !open.contains(*key)) {
                let Ok(position) = serde_json::from_value::<FilePosition>(value.clone()) else { continue };
                let Some(path) = find_moved(key, std::path::Path::new(&position.path)) else { continue };
                let mut file = OpenFile::open(&path, &known, &shared.settings, &shared.schema)?;
                file.gone = true;
                if file.unread().is_ok_and(|unread| unread > 0) {
                    found.push(file);
                }
            }
            Ok::<_, ConnectError>(found)
        });
        // First what is older, then what replaced it.
        for file in found.await?? {
            self.queue.push_front(file);
        }
        Ok(())
    }
}

/// What a scan found.
struct Found {
    present: BTreeMap<FileId, PathBuf>,
    new: Vec<OpenFile>,
    /// Files that cannot be opened now, and why.
    unreadable: BTreeMap<PathBuf, ConnectError>,
    folders: BTreeSet<PathBuf>,
}

fn scan(shared: &Shared, known: &Positions, open: &BTreeSet<FileId>) -> Result<Found> {
    let settings = &shared.settings;
    let files = glob::expand(&settings.include, &settings.exclude)
        .map_err(|error| ConnectError::retriable("listing files", error))?;
    let mut found = Found {
        present: BTreeMap::new(),
        new: Vec::new(),
        unreadable: BTreeMap::new(),
        folders: glob::folders(&settings.include, &files),
    };
    for path in files {
        let Ok(metadata) = std::fs::metadata(&path) else { continue }; // removed since it was listed
        let id = FileId::of(&metadata);
        if !open.contains(&id) && !found.present.contains_key(&id) {
            match OpenFile::open(&path, known, settings, &shared.schema) {
                Ok(file) => found.new.push(file),
                Err(error) if error.is_retriable() && !path.exists() => continue,
                Err(error) if error.is_retriable() => {
                    found.unreadable.insert(path, error);
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        found.present.insert(id, path);
    }
    Ok(found)
}

impl SourceTask for FileTask {
    fn open(&mut self, positions: Positions, context: TaskContext) -> BoxFuture<'_, Result<()>> {
        async move {
            self.context = Some(context);
            self.known = positions;
            if self.shared.settings.follow {
                self.watch = Some(Watch::new());
                self.scan().await?;
                return self.find_rotated().await;
            }
            let files = self
                .blocking(|shared| glob::expand(&shared.settings.include, &shared.settings.exclude))
                .await?;
            self.unopened =
                files.map_err(|error| ConnectError::retriable("listing files", error))?.into_iter().collect();
            if self.unopened.is_empty() && self.known.is_empty() {
                let include = self.shared.settings.include.join(", ");
                return Err(ConnectError::fatal("file source", format!("no file matches {include}")));
            }
            Ok(())
        }
        .boxed()
    }

    fn poll(&mut self) -> BoxFuture<'_, Result<Polled>> {
        if self.shared.settings.follow { self.poll_follow().boxed() } else { self.poll_once().boxed() }
    }

    fn committed(&mut self, positions: &Positions) -> BoxFuture<'_, Result<()>> {
        for (partition, position) in positions {
            if position.is_null() {
                self.known.remove(partition);
            } else {
                self.known.insert(partition.clone(), position.clone());
            }
        }
        async { Ok(()) }.boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.queue.clear();
        self.watch = None;
        async {}.boxed()
    }
}

#[cfg(test)]
mod tests;
