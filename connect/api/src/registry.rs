//! The connectors that a program knows: a value, filled by whoever composes the program.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::suggest;
use crate::{SinkConnector, SourceConnector};

/// Connectors by type name (`type = "file"`).
#[derive(Clone, Default)]
pub struct Registry {
    sources: BTreeMap<&'static str, Arc<dyn SourceConnector>>,
    sinks: BTreeMap<&'static str, Arc<dyn SinkConnector>>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source; one of the same name is replaced.
    #[must_use]
    pub fn with_source(mut self, connector: impl SourceConnector + 'static) -> Self {
        self.sources.insert(connector.name(), Arc::new(connector));
        self
    }

    /// Adds a sink; one of the same name is replaced.
    #[must_use]
    pub fn with_sink(mut self, connector: impl SinkConnector + 'static) -> Self {
        self.sinks.insert(connector.name(), Arc::new(connector));
        self
    }

    /// The source of type `name`.
    pub fn source(&self, name: &str) -> Option<&Arc<dyn SourceConnector>> {
        self.sources.get(name)
    }

    /// The sink of type `name`.
    pub fn sink(&self, name: &str) -> Option<&Arc<dyn SinkConnector>> {
        self.sinks.get(name)
    }

    /// Names of all sources, sorted.
    pub fn source_names(&self) -> impl Iterator<Item = &'static str> {
        self.sources.keys().copied()
    }

    /// Names of all sinks, sorted.
    pub fn sink_names(&self) -> impl Iterator<Item = &'static str> {
        self.sinks.keys().copied()
    }

    /// The source type that somebody who wrote `name` may have meant.
    pub fn similar_source(&self, name: &str) -> Option<&'static str> {
        suggest(name, self.source_names())
    }

    /// The sink type that somebody who wrote `name` may have meant.
    pub fn similar_sink(&self, name: &str) -> Option<&'static str> {
        suggest(name, self.sink_names())
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("sources", &self.sources.keys())
            .field("sinks", &self.sinks.keys())
            .finish()
    }
}
