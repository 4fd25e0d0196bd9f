//! Stateless steps as operators.

use std::sync::Arc;

use super::Handle;
use crate::chunk::{Chunk, Data};
use crate::error::Result;
use crate::operator::{Operator, OperatorContext};
use crate::topology::{OperatorSpec, Port};

/// A step that makes one chunk from one chunk.
struct Map<F> {
    apply: Arc<F>,
}

impl<F: Fn(Chunk) -> Result<Chunk> + Send + Sync> Operator for Map<F> {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, chunk: Chunk) -> Result<()> {
        let made = (self.apply)(chunk)?;
        ctx.forward(made);
        Ok(())
    }
}

/// A step that sends parts of a chunk to several ports.
struct Route<F> {
    apply: Arc<F>,
}

impl<F: Fn(&mut OperatorContext<'_>, Chunk) -> Result<()> + Send + Sync> Operator for Route<F> {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, chunk: Chunk) -> Result<()> {
        (self.apply)(ctx, chunk)
    }
}

impl<K: Data, V: Data> Handle<K, V> {
    /// Adds a step that makes one chunk from one chunk.
    pub(super) fn map_chunks<K2: Data, V2: Data>(
        &self,
        kind: &str,
        apply: impl Fn(Chunk) -> Result<Chunk> + Send + Sync + 'static,
    ) -> Handle<K2, V2> {
        let apply = Arc::new(apply);
        let port = self.operator(kind, move || Map { apply: apply.clone() });
        Handle::new(self.graph.clone(), port)
    }

    /// Adds a step that sends to ports as it likes.
    pub(super) fn route(
        &self,
        kind: &str,
        apply: impl Fn(&mut OperatorContext<'_>, Chunk) -> Result<()> + Send + Sync + 'static,
    ) -> Port {
        let apply = Arc::new(apply);
        self.operator(kind, move || Route { apply: apply.clone() })
    }

    fn operator<O: Operator + 'static>(
        &self,
        kind: &str,
        factory: impl Fn() -> O + Send + Sync + 'static,
    ) -> Port {
        let mut graph = self.graph.borrow_mut();
        let name = graph.free_name(kind);
        graph.operator(name, OperatorSpec::new(kind, factory), &[self.port])
    }
}
