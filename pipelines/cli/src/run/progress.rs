//! One line that tells how far a run is, on a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use millstream_connect_runtime::Status;
use millstream_env::{Env, Task};
use millstream_streams::StreamsControl;
use parking_lot::Mutex;

/// How often the line is drawn.
const TICK: Duration = Duration::from_millis(100);

type Watched = (Vec<(String, Status)>, Option<StreamsControl>);

/// Draws until it is finished; nothing where nobody looks.
pub(crate) struct Progress {
    bar: ProgressBar,
    watched: Arc<Mutex<Watched>>,
    task: Option<Task>,
}

impl Progress {
    /// Starts to draw, if standard error is a terminal.
    pub(crate) fn start(env: &Env) -> Self {
        let watched: Arc<Mutex<Watched>> = Arc::default();
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), watched, task: None };
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(style);
        let (line, seen, clock) = (bar.clone(), Arc::clone(&watched), env.clone());
        let task = env.spawn("progress", async move {
            loop {
                let text = describe(&seen.lock());
                line.set_message(text);
                line.tick();
                clock.sleep(TICK).await;
            }
        });
        Self { bar, watched, task: Some(task) }
    }

    /// Shows these counters from now on.
    pub(crate) fn watch<'a>(
        &self,
        statuses: impl IntoIterator<Item = (&'a str, &'a Status)>,
        control: Option<StreamsControl>,
    ) {
        let statuses = statuses.into_iter().map(|(name, status)| (name.to_owned(), status.clone()));
        *self.watched.lock() = (statuses.collect(), control);
    }

    /// Takes the line away.
    pub(crate) fn finish(self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.bar.finish_and_clear();
    }
}

fn describe((statuses, control): &Watched) -> String {
    let mut parts: Vec<String> = statuses
        .iter()
        .map(|(name, status)| {
            let counts = status.counts();
            match counts.last_error {
                Some(error) => format!("{name}: trying again ({error})"),
                None => format!("{name} {}", counts.rows),
            }
        })
        .collect();
    if let Some(control) = control {
        let late: u64 = control.counters().values().map(|counters| counters.late).sum();
        if late > 0 {
            parts.push(format!("late {late}"));
        }
    }
    parts.join("  ")
}
