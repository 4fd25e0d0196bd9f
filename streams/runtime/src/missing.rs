//! Inputs that are deleted while the application runs.

use std::time::Duration;

use millstream_protocol::ErrorCode;

use crate::error::{AppError, Result};
use crate::worker::Shared;

/// Time between two looks while all inputs are there.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Time between two looks while one is missing.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// An input that is missing for so long was deleted. For less, it may be being made anew, or a broker was asked that is behind.
const GRACE: Duration = Duration::from_secs(3);
/// What an answer may take; an application whose cluster is out of reach has other worries.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Looks whether the inputs are there. Nobody may create them by asking, so a deleted one stays away.
#[derive(Default)]
pub(crate) struct InputWatch {
    looked_at: Duration,
    missing_since: Option<Duration>,
}

impl InputWatch {
    /// Whether an input is missing, as seen `at_once` or a while ago.
    ///
    /// # Errors
    /// [`AppError::Topic`] when it has been missing for long.
    pub(crate) async fn is_one_missing(&mut self, shared: &Shared, at_once: bool) -> Result<bool> {
        let now = shared.env.elapsed();
        let pause = match self.missing_since {
            Some(_) => LOOK_AGAIN,
            None if at_once => Duration::ZERO,
            None => LOOK_EVERY,
        };
        if now.saturating_sub(self.looked_at) < pause {
            return Ok(self.missing_since.is_some());
        }
        self.looked_at = now;
        let Some(missing) = look(shared).await else { return Ok(self.missing_since.is_some()) };
        let Some(topic) = missing else {
            self.missing_since = None;
            return Ok(false);
        };
        let since = *self.missing_since.get_or_insert(now);
        if now.saturating_sub(since) < GRACE {
            return Ok(true);
        }
        Err(AppError::Topic {
            topic,
            reason:
                "the topology reads it and it was deleted; create it again, then start the application again"
                    .to_owned(),
        })
    }
}

/// The first input that does not exist, if there is one; nothing where nobody could say.
async fn look(shared: &Shared) -> Option<Option<String>> {
    let names: Vec<&str> = shared.layout.input_topics().map(|topic| &**topic).collect();
    let admin = shared.client.admin();
    let described = match shared.env.timeout(ANSWER_WITHIN, Box::pin(admin.describe_topics(&names))).await {
        Ok(Ok(described)) => described,
        Ok(Err(error)) => {
            tracing::debug!(%error, "could not look for the inputs");
            return None;
        }
        Err(_) => return None,
    };
    let is_missing = |name: &&&str| match described.get(**name) {
        Some(Err(error)) => error.code() == Some(ErrorCode::UnknownTopicOrPartition),
        Some(Ok(_)) => false,
        None => true,
    };
    Some(names.iter().find(is_missing).map(|name| (*name).to_owned()))
}
