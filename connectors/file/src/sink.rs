//! The file sink.

use millstream_connect_api::{Config, ConfigDef, Problem, Result, SinkConnector, SinkInput, SinkTask};

/// Writes files: `type = "file"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSink;
