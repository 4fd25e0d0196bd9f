//! (being built)
pub mod check;
pub mod diagnostic;
pub mod plan;
pub mod spec;
pub mod sql;
pub use check::{Platform, compile};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use plan::Plan;
