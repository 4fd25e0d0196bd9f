//! # Plan: from a TOML file to a pipeline that can run
//!
//! A pipeline file names sources, steps in SQL and sinks. This crate turns its text into a [`Plan`], or into everything that is
//! wrong with it, and the plan into a topology for the streams runtime. Each stage is a type:
//!
//! | stage | from | to |
//! | --- | --- | --- |
//! | parse, resolve | text | [`spec::Spec`]: sections with spans; `{ env = .. }` and `{ secret = .. }` become values after parsing |
//! | check | `Spec`, the connectors' definitions | typed settings, schemas of sources |
//! | SQL | the text of a step, schemas | [`sql::Query`]: a scan and a chain of stages |
//! | plan | all of it | [`Plan`]: a graph whose every name and column exists |
//! | lower | `Plan` | [`Lowered`]: a topology with DataFusion's expressions and accumulators inside of streams/core's kernels |
//!
//! ## What a step may say
//! `SELECT` of expressions and scalar functions; `WHERE`; `JOIN` and `LEFT JOIN` of tables, `ON` the table's whole key;
//! `GROUP BY` with aggregates of bounded state, over `TUMBLE(relation, column, size)` or `HOP(relation, column, slide, size)`
//! with `window_start` and `window_end`, or without a window; `HAVING` on windows. Anything else is refused at its place in
//! the file, with what to write instead. Nothing is approximated.
//!
//! - Edges come from `FROM` and `JOIN`: a step reads the sources and steps that it names.
//! - A source is a table when its section says `table = { key = ["column"] }`: a row replaces the earlier one of its key. Tables are
//!   read to the end that they have at start before the first row of a stream.
//! - `time = { column, lateness }` on a source or on a step with windows says how far behind the newest row another one may
//!   come. A row in a window that has closed goes to the topic `<pipeline>.<step>.late`. A row whose time is null is in no window.
//! - A window's rows are final: each is given once, when it closes. Without a window a group's row replaces its earlier one, so
//!   it can go to sinks that replace, and no step reads it.
//! - Nulls, types and functions are DataFusion's. Functions that give another result at another time (`now`, `random`) are refused: a
//!   run that is repeated must give the same rows.
//!
//! ## Invariants
//! - A mistake never hides another one, except where it is its cause.
//! - A [`Plan`] lowers: what cannot run is refused while checking.
//! - What is kept (keys, rows of tables, states of aggregates) is kept in connect's frozen forms, never in Arrow's or DataFusion's own.
//! - Without a clock, a socket and randomness: connectors look at the outside world, through the context they are given.
//!
//! ## Deliberately absent
//! Session windows, joins of two streams, `DISTINCT` aggregates, queries in `FROM` (make them steps), steps over rows that
//! change, reload of a running file, `[[test]]` sections.

mod check;
mod diagnostic;
mod graph;
mod lower;
pub mod operator;
pub mod plan;
pub mod spec;
pub mod sql;

pub use check::{Platform, compile};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use graph::{GraphFormat, graph};
pub use lower::{Lowered, lower};
pub use plan::Plan;
