//! One file being written, in any of the formats.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::{ConnectError, Result};
use millstream_record::{Millis, Offset};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::csv::CsvWriter;
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
    Json(Counted),
    Csv(CsvWriter<Counted>),
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
            FormatWriter::Json(out) => {
                for line in JsonConverter.encode(rows)? {
                    let written = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
                    written.map_err(io_error("writing", &self.tmp))?;
                }
            }
            FormatWriter::Csv(writer) => {
                writer.write(rows).map_err(|error| arrow_error(context(), error))?;
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
    pub(super) fn size(&mut self) -> u64 {
        match &mut self.format {
            FormatWriter::Json(out) => out.written,
            FormatWriter::Csv(writer) => writer.out().written,
            FormatWriter::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    /// Writes what is held back and gives the file its name; false when another writer's file has it.
    pub(super) fn finish(self, name: &Path) -> Result<bool> {
        let Self { tmp, format, .. } = self;
        let context = || format!("writing {}", tmp.display());
        match format {
            FormatWriter::Json(mut out) => out.flush().map_err(io_error("writing", &tmp))?,
            FormatWriter::Csv(mut writer) => writer.out().flush().map_err(io_error("writing", &tmp))?,
            FormatWriter::Parquet(writer) => {
                writer.close().map_err(|error| parquet_error(context(), error))?;
            }
        }
        publish(&tmp, name)
    }
}

impl FormatWriter {
    fn new(settings: &Settings, schema: &SchemaRef, file: File, tmp: &Path) -> Result<Self> {
        let counted = |file| Counted { file: BufWriter::with_capacity(1 << 16, file), written: 0 };
        Ok(match settings.format {
            Format::Json => Self::Json(counted(file)),
            Format::Csv => Self::Csv(CsvWriter::new(counted(file), settings.csv_header)),
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

/// A file that knows how many bytes went into it.
struct Counted {
    file: BufWriter<File>,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
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
