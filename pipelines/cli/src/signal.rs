//! Ctrl-C and the terminate signal.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a command that was interrupted: 128 and the number of the signal, as shells have it.
const INTERRUPTED: i32 = 130;

/// Waits for the requests to stop that come from outside.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on; the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
        let terminate = signal(SignalKind::terminate()).context("listening for the terminate signal")?;
        Ok(Self { interrupt, terminate })
    }

    /// Completes at the next request to stop.
    pub(crate) async fn wait(&mut self) {
        let (interrupt, terminate) = (Box::pin(self.interrupt.recv()), Box::pin(self.terminate.recv()));
        futures::future::select(interrupt, terminate).await;
    }
}

/// Ends the process at once: the second Ctrl-C.
pub(crate) fn give_up() -> ! {
    std::process::exit(INTERRUPTED)
}

/// Whether `code` is success, as an exit code.
pub(crate) fn code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
