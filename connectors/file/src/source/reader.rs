//! One open file: reads it piece by piece and knows which file it is. All of this blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_connect_api::convert::{Converter, JsonConverter, StringConverter};
use millstream_connect_api::{BadRecord, ConnectError, Positions, Result};

use super::csv::{self, Layout};
use super::identity::{FileId, FilePosition, Prefix};
use super::lines::{Chunk, find_line_end};
use super::settings::{Format, Settings};

/// Bytes of a bad line that are kept.
const RAW_BYTES: usize = 64 << 10;

/// A file being read.
pub(super) struct OpenFile {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) position: FilePosition,
    /// Its name leads elsewhere by now, so it will not grow for long.
    pub(super) gone: bool,
    file: File,
    /// CSV: where the columns are, once the header is there.
    layout: Option<Layout>,
}

/// What a read found.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) rows: Option<RecordBatch>,
    pub(super) bad: Vec<BadRecord>,
    pub(super) bytes: u64,
}

impl OpenFile {
    /// Opens the file at `path` and finds where it was read up to, in `known`.
    pub(super) fn open(
        path: &Path,
        known: &Positions,
        settings: &Settings,
        schema: &SchemaRef,
    ) -> Result<Self> {
        let failed = |error: io::Error| open_error(path, &error, settings.follow);
        let file = File::open(path).map_err(failed)?;
        refuse_compressed(&file)
            .map_err(|reason| ConnectError::fatal(format!("reading {}", path.display()), reason))?;
        let metadata = file.metadata().map_err(failed)?;
        let id = FileId::of(&metadata);
        let position = find_position(&id, path, &file, metadata.len(), known, settings).map_err(failed)?;
        let mut open = Self { path: path.to_path_buf(), id, position, gone: false, file, layout: None };
        open.position.path = path.to_string_lossy().into_owned();
        if settings.format == Format::Csv && !settings.header {
            let fields = (0..schema.fields().len()).collect();
            open.layout = Some(Layout { width: schema.fields().len(), fields });
        }
        Ok(open)
    }

    /// Whether nobody can open this file by any name any more.
    pub(super) fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Bytes that have not been read.
    pub(super) fn unread(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(self.position.offset))
    }

    /// The next piece, or `None` when there is nothing (whole) to read now. `last` says that the file will not grow any more, so that
    /// a last line without a terminator is a line.
    pub(super) fn read(
        &mut self,
        settings: &Settings,
        schema: &SchemaRef,
        last: bool,
    ) -> Result<Option<Piece>> {
        self.read_piece(settings, schema, last).map_err(|error| match error {
            ReadError::Io(error) => {
                ConnectError::retriable(format!("reading {}", self.path.display()), error)
            }
            ReadError::Connect(error) => error,
        })
    }

    fn read_piece(
        &mut self,
        settings: &Settings,
        schema: &SchemaRef,
        last: bool,
    ) -> Result<Option<Piece>, ReadError> {
        self.notice_truncation()?;
        if settings.format == Format::Csv
            && self.layout.is_none()
            && !self.read_header(settings, schema, last)?
        {
            return Ok(None);
        }
        if self.position.in_long_line {
            return self.pass_long_line(settings, 0, Vec::new());
        }
        // One byte more than the longest line, so that a line of exactly that length shows its end.
        let bytes = settings.batch_bytes.max(settings.max_line + 2);
        let chunk = Chunk::read(&self.file, self.position.offset, bytes, last)?;
        if chunk.lines.is_empty() {
            if chunk.rest > settings.max_line {
                let raw = chunk.bytes.get(..chunk.rest.min(RAW_BYTES)).unwrap_or_default().to_vec();
                return self.pass_long_line(settings, chunk.rest as u64, raw);
            }
            return Ok(None);
        }
        let complete = chunk.at_end && last;
        let (rows, bad, consumed) = self.parse(&chunk, settings, schema, complete)?;
        if consumed == 0 {
            return Ok(None);
        }
        let bytes = chunk.ends.get(consumed - 1).copied().unwrap_or_default() as u64;
        let bad = bad.into_iter().map(|(line, reason)| self.bad_line(&chunk, line, reason)).collect();
        self.advance(bytes, consumed as u64)?;
        Ok(Some(Piece { rows: Some(rows), bad, bytes }))
    }

    fn parse(&self, chunk: &Chunk, settings: &Settings, schema: &SchemaRef, complete: bool) -> Result<Lines> {
        let too_long =
            |line: usize| chunk.lines.get(line).is_some_and(|range| range.len() > settings.max_line);
        let reason = || format!("the line is longer than max_line ({})", settings.max_line);
        if let (Format::Csv, Some(layout)) = (settings.format, &self.layout) {
            let parsed = csv::parse(chunk, complete, schema, layout, &settings.dialect)?;
            return Ok((parsed.rows, parsed.bad, parsed.consumed));
        }
        let mut numbers: Vec<usize> = (0..chunk.lines.len()).collect();
        let mut values = chunk.shared();
        let mut bad = Vec::new();
        if settings.format == Format::Json {
            let blank = |line: usize| chunk.line(line).trim_ascii().is_empty();
            numbers.retain(|line| !blank(*line));
        }
        if numbers.iter().any(|line| too_long(*line)) {
            bad.extend(numbers.iter().filter(|line| too_long(**line)).map(|line| (*line, reason())));
            numbers.retain(|line| !too_long(*line));
        }
        if numbers.len() < values.len() {
            values = numbers.iter().filter_map(|line| values.get(*line).cloned()).collect();
        }
        if self.position.offset == 0
            && let (Some(0), Some(first)) = (numbers.first(), values.first_mut())
            && first.starts_with(b"\xef\xbb\xbf")
        {
            *first = first.slice(3..);
        }
        let decoded = match settings.format {
            Format::Json => JsonConverter.decode(schema, &values)?,
            _ => StringConverter.decode(schema, &values)?,
        };
        let line_of = |(value, reason): (usize, String)| numbers.get(value).map(|line| (*line, reason));
        bad.extend(decoded.bad.into_iter().filter_map(line_of));
        bad.sort_by_key(|(line, _)| *line);
        Ok((decoded.rows, bad, chunk.lines.len()))
    }

    fn bad_line(&self, chunk: &Chunk, line: usize, reason: String) -> BadRecord {
        let raw = chunk.line(line);
        BadRecord {
            origin: self.position.path.clone(),
            line: Some(self.position.lines + line as u64 + 1),
            reason,
            raw: raw.get(..raw.len().min(RAW_BYTES)).unwrap_or_default().to_vec(),
        }
    }

    /// Passes over a line that is over the bound, as far as the file goes, and reports it when it is first met.
    fn pass_long_line(
        &mut self,
        settings: &Settings,
        seen: u64,
        raw: Vec<u8>,
    ) -> Result<Option<Piece>, ReadError> {
        let from = self.position.offset + seen;
        let (more, ended) = find_line_end(&self.file, from, settings.batch_bytes.max(4096))?;
        if seen + more == 0 {
            return Ok(None);
        }
        let bad = (!self.position.in_long_line).then(|| BadRecord {
            origin: self.position.path.clone(),
            line: Some(self.position.lines + 1),
            reason: format!("the line is longer than max_line ({})", settings.max_line),
            raw,
        });
        self.position.in_long_line = !ended;
        self.advance(seen + more, u64::from(ended))?;
        Ok(Some(Piece { rows: None, bad: bad.into_iter().collect(), bytes: seen + more }))
    }

    fn advance(&mut self, bytes: u64, lines: u64) -> io::Result<()> {
        self.position.offset += bytes;
        self.position.lines += lines;
        if self.position.prefix.may_grow() {
            self.position.prefix = Prefix::read(&self.file, self.position.offset)?;
        }
        Ok(())
    }

    /// A file that is shorter than what was read of it, or begins otherwise, was emptied and is written anew.
    fn notice_truncation(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length >= self.position.offset && self.position.prefix.matches(&self.file)? {
            return Ok(());
        }
        tracing::warn!(path = %self.position.path, read = self.position.offset, length, "the file was truncated, reading it from the beginning");
        self.position =
            FilePosition { path: std::mem::take(&mut self.position.path), ..FilePosition::default() };
        self.layout = self.layout.take().filter(|_| false);
        Ok(())
    }

    /// Reads the header from the beginning of the file; false when it is not there yet.
    fn read_header(
        &mut self,
        settings: &Settings,
        schema: &SchemaRef,
        last: bool,
    ) -> Result<bool, ReadError> {
        let chunk = Chunk::read(&self.file, 0, settings.max_line + 2, last)?;
        let Some(end) = chunk.ends.first().copied() else { return Ok(false) };
        let names = csv::header(chunk.line(0), &settings.dialect);
        let layout = names.and_then(|names| Ok((Layout::of(&names, schema)?, names)));
        let (layout, names) = layout
            .map_err(|reason| ConnectError::fatal(format!("reading {}", self.path.display()), reason))?;
        self.layout = Some(layout);
        if self.position.offset == 0 {
            let others = csv::not_read(&names, schema);
            // Who declares columns has chosen among them.
            if settings.columns.is_none() && !others.is_empty() {
                tracing::warn!(path = %self.path.display(), columns = others.join(", "),
                    "these columns of the file are not read: which there are was fixed at the first start, from the first file; to have \
                     them, read the files under another name, or begin anew");
            }
            self.advance(end as u64, 1)?;
        }
        Ok(true)
    }
}

/// Whoever reads to the end and stops should hear at once of a file that may not be read; one who follows may be given it later.
pub(super) fn open_error(path: &Path, error: &io::Error, follow: bool) -> ConnectError {
    let context = format!("opening {}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied if !follow => {
            ConnectError::fatal(context, format!("{error}; make it readable, or exclude it"))
        }
        _ => ConnectError::retriable(context, error),
    }
}

/// Rows, bad lines by index, lines dealt with.
type Lines = (RecordBatch, Vec<(usize, String)>, usize);

enum ReadError {
    Io(io::Error),
    Connect(ConnectError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ConnectError> for ReadError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

/// Where a file was read up to: under its identity, if it still begins as it did. A file that is read once is also known by its
/// path, so that a fresh copy of the same data is not read again.
fn find_position(
    id: &FileId,
    path: &Path,
    file: &File,
    length: u64,
    known: &Positions,
    settings: &Settings,
) -> io::Result<FilePosition> {
    let read = |value: &serde_json::Value| serde_json::from_value::<FilePosition>(value.clone()).ok();
    let before = known.get(&id.key()).and_then(read);
    if let Some(position) = &before
        && position.prefix.matches(file)?
    {
        return Ok(position.clone());
    }
    if !settings.follow {
        for position in known.values().filter_map(read) {
            if Path::new(&position.path) == path
                && position.offset <= length
                && position.prefix.matches(file)?
            {
                return Ok(position);
            }
        }
    }
    let known_path = |position: &FilePosition| Path::new(&position.path) == path && position.offset > 0;
    if before.is_some_and(|before| before.offset > 0)
        || (!settings.follow && known.values().filter_map(read).any(|position| known_path(&position)))
    {
        tracing::warn!(path = %path.display(), length,
            "the file was read before and has other contents now, so it is read from its beginning");
    }
    Ok(FilePosition::default())
}

/// Compressed bytes are not lines.
///
/// # Errors
/// What the file is and what to do.
pub(super) fn refuse_compressed(file: &File) -> Result<(), String> {
    let mut magic = [0; 4];
    let count = file.read_at(&mut magic, 0).unwrap_or(0);
    let kind = match magic.get(..count).unwrap_or_default() {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [0x42, 0x5a, 0x68, ..] => "bzip2",
        [0xfd, 0x37, 0x7a, 0x58] => "xz",
        _ => return Ok(()),
    };
    Err(format!("it is compressed with {kind}, which cannot be read yet; decompress it first, or exclude it"))
}

/// The file with this identity in the folder of `path`: where rotation has moved it while nobody looked.
pub(super) fn find_moved(key: &str, path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    let same = |entry: &std::fs::DirEntry| {
        entry.metadata().is_ok_and(|metadata| metadata.is_file() && FileId::of(&metadata).key() == key)
    };
    entries.find(same).map(|entry| entry.path())
}

/// A batch without rows, for a piece that has only bad lines.
pub(super) fn no_rows(schema: &SchemaRef) -> RecordBatch {
    RecordBatch::new_empty(Arc::clone(schema))
}
