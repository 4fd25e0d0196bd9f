//! Frames off a stream: four bytes of length, then that many bytes.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::NetError;
use crate::progress::Progress;

const PREFIX: usize = 4;
/// What a read may take before the length is known: most requests and answers fit.
const READ_AHEAD: usize = 16 * 1024;
/// Room for the rest of a frame is made in steps of at least this...
const LEAST_STEP: usize = 64 * 1024;
/// ... and of at most this many times what has arrived: few enough steps that moving a long frame costs little.
const GROWTH: usize = 4;
/// Frames up to this length need no leave; the number of connections bounds them.
const FREE_BYTES: usize = 128 * 1024;
/// Long frames are counted in units of this many bytes.
const UNIT_BYTES: usize = 1024;

/// Bytes that long frames may hold, over many connections.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS))))
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        // The semaphore is never closed; without leave the frame would only go uncounted.
        Arc::clone(&self.0).acquire_many_owned(units).await.ok()
    }
}

/// A frame, and the leave for its memory.
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) leave: Option<OwnedSemaphorePermit>,
}

/// Reads frames. Memory grows with what has arrived, never with what is announced.
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    max: usize,
    budget: Option<Budget>,
    progress: Option<Arc<Progress>>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `max` bytes.
    pub(crate) fn new(stream: R, max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), max, budget: None, progress: None }
    }

    /// Counts long frames in `budget` and tells `progress` how they come along.
    pub(crate) fn guarded(mut self, budget: Budget, progress: Arc<Progress>) -> Self {
        self.budget = Some(budget);
        self.progress = Some(progress);
        self
    }

    /// The next frame; `None` when the peer has closed between two frames. Not cancel safe in that the leave would be lost.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, NetError> {
        if self.buffer.is_empty() {
            self.buffer.reserve(READ_AHEAD);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
        let began = self.progress.as_ref().map_or(0, |progress| progress.frame_began());
        while self.buffer.len() < PREFIX {
            self.read_more(READ_AHEAD, began).await?;
        }
        let size = self.buffer.get_i32();
        let length = usize::try_from(size).ok().filter(|length| *length <= self.max);
        let length = length.ok_or(NetError::FrameSize { size, max: self.max })?;
        let mut leave = None;
        while self.buffer.len() < length {
            let step = (length - self.buffer.len()).min((GROWTH * self.buffer.len()).max(LEAST_STEP));
            self.allow(&mut leave, self.buffer.len() + step).await;
            self.read_more(step, began).await?;
        }
        let bytes = self.buffer.split_to(length).freeze();
        if let Some(progress) = &self.progress {
            progress.frame_ended();
        }
        Ok(Some(Frame { bytes, leave }))
    }

    /// Waits for the leave to hold `bytes` of the frame.
    async fn allow(&mut self, leave: &mut Option<OwnedSemaphorePermit>, bytes: usize) {
        let Some(budget) = &self.budget else { return };
        let held = leave.as_ref().map_or(FREE_BYTES, |leave| FREE_BYTES + leave.num_permits() * UNIT_BYTES);
        if bytes <= held {
            return;
        }
        match (budget.take(bytes - held).await, leave) {
            (Some(more), Some(leave)) => leave.merge(more),
            (more, leave) => *leave = more,
        }
    }

    /// Reads at least a byte, into room for `step`.
    async fn read_more(&mut self, step: usize, began: u64) -> Result<(), NetError> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(step);
        }
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(NetError::CutOff { arrived: self.buffer.len() });
        }
        if let Some(progress) = &self.progress {
            progress.frame_moved(began, self.buffer.len());
        }
        Ok(())
    }
}
