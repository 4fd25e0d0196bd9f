//! One file being written, in any of the formats.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_json::writer::{LineDelimited, WriterBuilder as JsonWriterBuilder};
use millstream_connect_api::{ConnectError, Result};
use millstream_record::{Millis, Offset};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::parts::{io_error, publish};
use super::settings::{Format, Settings};

/// Parquet rows are held in memory until a row group of about this many bytes is written.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// A file being written under its temporary name.
pub(super) struct PartWriter {
    tmp: PathBuf,
    format: FormatWriter,
    pub(super) first: Offset,
    pub(super) last: Offset,
    pub(super) opened_at: Millis,
}

enum FormatWriter {
    Json(arrow_json::Writer<Counted, LineDelimited>),
    Csv(Box<arrow_csv::Writer<Counted>>, Written),
    Parquet(Box<ArrowWriter<File>>),
}

impl PartWriter {
    pub(super) fn create(
        settings: &Settings,
        schema: &SchemaRef,
        tmp: PathBuf,
        first: Offset,
        now: Millis,
    ) -> Result<Self> {
        let file = File::create(&tmp).map_err(io_error("creating", &tmp))?;
        let format = FormatWriter::new(settings, schema, file, &tmp)?;
        Ok(Self { tmp, format, first, last: first, opened_at: now })
    }

    /// Adds rows, whose last one has offset `last`.
    pub(super) fn write(&mut self, rows: &RecordBatch, last: Offset) -> Result<()> {
        let context = || format!("writing {}", self.tmp.display());
        match &mut self.format {
            FormatWriter::Json(writer) => {
                writer.write(rows).map_err(|error| arrow_error(context(), error))?
            }
            FormatWriter::Csv(writer, _) => {
                writer.write(rows).map_err(|error| arrow_error(context(), error))?
            }
            FormatWriter::Parquet(writer) => {
                writer.write(rows).map_err(|error| parquet_error(context(), error))?;
                if writer.in_progress_size() >= ROW_GROUP_BYTES {
                    writer.flush().map_err(|error| parquet_error(context(), error))?;
                }
            }
        }
        self.last = last;
        Ok(())
    }

    /// Bytes so far, about.
    pub(super) fn size(&self) -> u64 {
        match &self.format {
            FormatWriter::Json(writer) => writer.get_ref().written.get(),
            FormatWriter::Csv(_, written) => written.get(),
            FormatWriter::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    /// Writes what is held back and gives the file its name.
    pub(super) fn finish(self, name: &Path) -> Result<()> {
        let Self { tmp, format, .. } = self;
        let context = || format!("writing {}", tmp.display());
        match format {
            FormatWriter::Json(mut writer) => {
                writer.finish().map_err(|error| arrow_error(context(), error))?;
                writer.into_inner().file.flush().map_err(io_error("writing", &tmp))?;
            }
            FormatWriter::Csv(writer, _) => {
                writer.into_inner().file.flush().map_err(io_error("writing", &tmp))?;
            }
            FormatWriter::Parquet(writer) => {
                writer.close().map_err(|error| parquet_error(context(), error))?;
            }
        }
        publish(&tmp, name)
    }
}

impl FormatWriter {
    fn new(settings: &Settings, schema: &SchemaRef, file: File, tmp: &Path) -> Result<Self> {
        let written = Written::default();
        let counted =
            |file| Counted { file: BufWriter::with_capacity(1 << 16, file), written: written.clone() };
        Ok(match settings.format {
            Format::Json => {
                Self::Json(JsonWriterBuilder::new().with_explicit_nulls(false).build(counted(file)))
            }
            Format::Csv => {
                let builder = arrow_csv::WriterBuilder::new().with_header(settings.csv_header);
                Self::Csv(Box::new(builder.build(counted(file))), written.clone())
            }
            Format::Parquet => {
                let compression =
                    if settings.snappy { Compression::SNAPPY } else { Compression::UNCOMPRESSED };
                let properties = WriterProperties::builder().set_compression(compression).build();
                let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
                    .map_err(|error| parquet_error(format!("writing {}", tmp.display()), error))?;
                Self::Parquet(Box::new(writer))
            }
        })
    }
}

/// Bytes that went by, seen from both sides of a writer.
#[derive(Clone, Default)]
struct Written(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Written {
    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

struct Counted {
    file: BufWriter<File>,
    written: Written,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written.0.fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// I/O may work later; rows that a format has no form for never will.
fn arrow_error(context: String, error: arrow::error::ArrowError) -> ConnectError {
    match error {
        arrow::error::ArrowError::IoError(..) => ConnectError::retriable(context, error),
        other => ConnectError::fatal(context, other),
    }
}

fn parquet_error(context: String, error: parquet::errors::ParquetError) -> ConnectError {
    match error {
        parquet::errors::ParquetError::External(_) => ConnectError::retriable(context, error),
        other => ConnectError::fatal(context, other),
    }
}
