//! From the SQL of a step to a [`Query`]: a short list of stages that an operator can run.
//!
//! Text is parsed and refused outside of the accepted set ([`accept`]), names are resolved against the relations it
//! reads, all unknown ones at once (`names`), DataFusion plans and coerces types, and the logical plan becomes
//! stages (`query`).
//!
//! What is accepted means what it means in PostgreSQL; where DataFusion has it otherwise, spellings (`dialect`), types (`coerce` and
//! what it calls) and evaluation (`checked`) are made to agree, or it is refused. What is left:
//! - a float that is too small for its type is zero, and a sum or an average of floats that is too large is `Infinity`: no errors;
//! - integers are computed with in eight bytes, so those of four do not overflow;
//! - `extract(second ...)` and its likes are whole numbers, without the fraction, and `extract` and `sum` of bigint are integers in
//!   a column of the result, though a quotient of them is not;
//! - a quotient has up to sixteen digits behind the point, an average of decimals four more than they have, and decimals end at 38 digits;
//! - `upper` and `initcap` know more letters, `to_char` has the formats of strftime, `regexp_replace` has `$1` for a group, and
//!   intervals as text are the library's.

mod accept;
mod checked;
mod coerce;
mod decimal;
mod dialect;
mod division;
mod finite;
mod functions;
mod kinds;
mod lengths;
mod names;
mod planner;
mod query;
mod text;
mod texts;
mod udf;
mod window;

use arrow::datatypes::SchemaRef;
use datafusion_expr::TableSource;
use datafusion_sql::sqlparser::ast::{Ident, ObjectName};

pub(crate) use checked::as_written;
pub(crate) use names::unwritable;

pub use accept::{Accepted, Relation, accept};
pub use planner::plan;
pub use query::{Aggregate, GroupColumn, Join, Query, Scan, ScanColumn, Select, Stage};
pub use text::SqlText;
pub use window::Window;

/// The first instant of a row's window.
pub const WINDOW_START: &str = "window_start";
/// The first instant after a row's window.
pub const WINDOW_END: &str = "window_end";

/// A relation that a step may read.
#[derive(Clone, Debug)]
pub struct Readable {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its key, when it is a table: one row for each key, the newest. None for a stream.
    pub table_key: Option<Vec<String>>,
    /// Whether its rows replace earlier ones by key without being a table that can be joined.
    pub updates: bool,
}

/// What the planner sees of a relation.
#[derive(Debug)]
pub(crate) struct RelationSource {
    pub(crate) relation: String,
    pub(crate) schema: SchemaRef,
    pub(crate) window: Option<Window>,
}

impl TableSource for RelationSource {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}

/// A name as SQL means it: lower case unless quoted.
pub(crate) fn name_of(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

/// A dotted name as SQL means it.
pub(crate) fn dotted(name: &ObjectName) -> String {
    name.0.iter().filter_map(|part| part.as_ident()).map(name_of).collect::<Vec<_>>().join(".")
}
