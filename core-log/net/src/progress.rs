//! Whether a connection moves: told by its reader and its writer, checked by its watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use millstream_env::Env;

use crate::{NetConfig, NetError};

/// Bytes that a frame, and a response, must gain in every second beyond the stall timeout: else a drip-fed frame of the largest
/// size could hold its memory for days.
const LEAST_BYTES_PER_SECOND: u64 = 16 * 1024;
/// How often the watchdog looks, as a part of the stall timeout.
const CHECKS_PER_STALL: u32 = 4;
const NEVER: u64 = u64::MAX;

/// Deadlines of one connection, in milliseconds of monotonic time. Setting one costs a clock read and a store, not a timer.
pub(crate) struct Progress {
    env: Env,
    stall_ms: u64,
    idle_ms: u64,
    read_due_ms: AtomicU64,
    write_due_ms: AtomicU64,
    active_ms: AtomicU64,
    in_flight: AtomicUsize,
    left: AtomicBool,
}

impl Progress {
    pub(crate) fn new(env: Env, config: &NetConfig) -> Arc<Self> {
        let now = millis(env.elapsed());
        Arc::new(Self {
            env,
            stall_ms: millis(config.stall_timeout),
            idle_ms: millis(config.idle_timeout),
            read_due_ms: AtomicU64::new(NEVER),
            write_due_ms: AtomicU64::new(NEVER),
            active_ms: AtomicU64::new(now),
            in_flight: AtomicUsize::new(0),
            left: AtomicBool::new(false),
        })
    }

    fn now_ms(&self) -> u64 {
        millis(self.env.elapsed())
    }

    /// When a frame or a response that began at `began_ms`, and has moved `bytes` so far, must move again: by its rate on the
    /// whole, and within the stall timeout in any case.
    fn due(&self, began_ms: u64, bytes: usize) -> u64 {
        let earned_ms = (bytes as u64).saturating_mul(1000) / LEAST_BYTES_PER_SECOND;
        self.now_ms().min(began_ms.saturating_add(earned_ms)).saturating_add(self.stall_ms)
    }

    /// A frame has begun; the result goes to [`Progress::frame_moved`].
    pub(crate) fn frame_began(&self) -> u64 {
        let now = self.now_ms();
        self.read_due_ms.store(self.due(now, 0), Ordering::Relaxed);
        now
    }

    /// `arrived` bytes of the frame are here.
    pub(crate) fn frame_moved(&self, began_ms: u64, arrived: usize) {
        self.read_due_ms.store(self.due(began_ms, arrived), Ordering::Relaxed);
    }

    /// The frame is complete.
    pub(crate) fn frame_ended(&self) {
        self.read_due_ms.store(NEVER, Ordering::Relaxed);
        self.active_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The peer sends nothing more. Its answers may still leave, but a peer that is gone must not hold its place until the last of
    /// them comes.
    pub(crate) fn peer_left(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.read_due_ms.store(self.now_ms().saturating_add(self.stall_ms), Ordering::Relaxed);
    }

    /// A request went to the service and will be answered.
    pub(crate) fn called(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// `count` answers have left.
    pub(crate) fn answered(&self, count: usize) {
        self.in_flight.fetch_sub(count, Ordering::Relaxed);
        self.write_due_ms.store(NEVER, Ordering::Relaxed);
        self.active_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Writing begins; the result goes to [`Progress::write_moved`].
    pub(crate) fn write_began(&self) -> u64 {
        let now = self.now_ms();
        self.write_due_ms.store(self.due(now, 0), Ordering::Relaxed);
        now
    }

    /// `written` bytes have left.
    pub(crate) fn write_moved(&self, began_ms: u64, written: usize) {
        self.write_due_ms.store(self.due(began_ms, written), Ordering::Relaxed);
    }

    /// What is wrong by now, if anything.
    pub(crate) fn check(&self) -> Result<(), NetError> {
        let now = self.now_ms();
        if now > self.read_due_ms.load(Ordering::Relaxed) {
            let left = self.left.load(Ordering::Relaxed);
            return Err(if left { NetError::Left } else { NetError::FrameStalled });
        }
        if now > self.write_due_ms.load(Ordering::Relaxed) {
            return Err(NetError::WriteStalled);
        }
        let quiet_ms = now.saturating_sub(self.active_ms.load(Ordering::Relaxed));
        if quiet_ms > self.idle_ms && self.in_flight.load(Ordering::Relaxed) == 0 {
            return Err(NetError::Idle);
        }
        Ok(())
    }

    /// Runs until something is wrong.
    pub(crate) async fn watch(&self) -> NetError {
        let every = Duration::from_millis(self.stall_ms.min(self.idle_ms).max(4)) / CHECKS_PER_STALL;
        loop {
            self.env.sleep(every).await;
            if let Err(error) = self.check() {
                return error;
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NEVER)
}
