//! What Postgres says, and what the worker does about it.

use millstream_connect_api::ConnectError;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

/// Classes of SQLSTATE that may go away by themselves: connection, transaction rollback, resources, operator intervention.
const RETRIABLE_CLASSES: &[&str] = &["08", "40", "53", "57"];
/// Classes that are about the values of a row: cardinality violation, data exception, integrity constraint violation.
const ROW_CLASSES: &[&str] = &["21", "22", "23"];
/// How the client names errors that it finds in the configuration, or in what the server asks of it; it has no kinds to match on.
const MISCONFIGURED: &[&str] = &["invalid configuration", "authentication error"];

/// The error of a call, with what was being done.
pub(crate) fn classify(context: &str, error: &Error) -> ConnectError {
    let Some(db) = error.as_db_error() else {
        // No answer: the connection is gone, or was never there.
        let reason = std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        if MISCONFIGURED.iter().any(|kind| reason.starts_with(kind)) {
            let mend = "mend the key `url`: postgres://user:password@host:port/database";
            return ConnectError::fatal(context, format!("{reason}; {mend}"));
        }
        return ConnectError::retriable(context, reason);
    };
    let class = db.code().code().get(..2).unwrap_or_default();
    let retriable = RETRIABLE_CLASSES.contains(&class) || *db.code() == SqlState::LOCK_NOT_AVAILABLE;
    let mut reason = describe(db);
    if *db.code() == SqlState::LOCK_NOT_AVAILABLE {
        reason.push_str("; another session holds a lock: SELECT * FROM pg_stat_activity says which");
    }
    if retriable { ConnectError::retriable(context, reason) } else { ConnectError::fatal(context, reason) }
}

/// Whether the values of some row are at fault.
pub(crate) fn is_about_a_row(error: &Error) -> bool {
    let Some(code) = error.code() else { return false };
    // A trigger's RAISE EXCEPTION is how a database states a rule about rows that no constraint can state.
    *code == SqlState::RAISE_EXCEPTION
        || code.code().get(..2).is_some_and(|class| ROW_CLASSES.contains(&class))
}

/// Message, place and hint of an error.
pub(crate) fn describe(db: &DbError) -> String {
    let mut text = db.message().to_owned();
    let places = [
        ("table", db.table()),
        ("column", db.column()),
        ("constraint", db.constraint()),
        ("type", db.datatype()),
    ];
    for (what, place) in places {
        if let Some(place) = place.filter(|place| !text.contains(&format!("\"{place}\""))) {
            text.push_str(&format!("; {what} \"{place}\""));
        }
    }
    for more in [db.detail(), db.hint(), db.where_()].into_iter().flatten() {
        text.push_str(&format!("; {more}"));
    }
    text.push_str(&format!(" (SQLSTATE {})", db.code().code()));
    text
}
