//! What of many has changed: so that whoever looks after 10,000 partitions looks only at those that have something new.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Which places of somebody's list have changed since they were last looked at, each named once, the longest known first.
#[derive(Default)]
pub(crate) struct Changed {
    marks: Mutex<Marks>,
    notify: Notify,
}

#[derive(Default)]
struct Marks {
    queue: VecDeque<u32>,
    is_queued: Vec<bool>,
}

impl Changed {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Has `place` looked at with the next look.
    pub(crate) fn mark(&self, place: u32) {
        self.marks.lock().push(place);
    }

    /// Whoever waits looks now.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Until somebody calls [`Changed::wake`], or has since the last wait.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }

    /// All that has changed, into `places`, which are to be looked at now: what changes meanwhile is marked again.
    pub(crate) fn take(&self, places: &mut Vec<u32>) {
        let mut marks = self.marks.lock();
        let Marks { queue, is_queued } = &mut *marks;
        for place in queue.drain(..) {
            is_queued[place as usize] = false;
            places.push(place);
        }
    }
}

impl Marks {
    fn push(&mut self, place: u32) {
        let at = place as usize;
        if self.is_queued.len() <= at {
            self.is_queued.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.is_queued[at], true) {
            self.queue.push_back(place);
        }
    }
}

/// Whom a change of one place concerns.
#[derive(Clone)]
pub(crate) struct Watcher {
    changed: Arc<Changed>,
    place: u32,
}

impl Watcher {
    pub(crate) fn new(changed: &Arc<Changed>, place: u32) -> Self {
        Self { changed: Arc::clone(changed), place }
    }

    /// Its place is looked at with the next look, whenever that is.
    pub(crate) fn mark(&self) {
        self.changed.mark(self.place);
    }

    /// Marks, and gives whom to wake once no lock is held.
    pub(crate) fn marked(self) -> Arc<Changed> {
        self.mark();
        self.changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once_and_the_longest_known_first() {
        let changed = Changed::new();
        let mut places = Vec::new();
        for place in [3, 1, 3, 7, 1] {
            Watcher::new(&changed, place).mark();
        }
        changed.take(&mut places);
        assert_eq!(places, [3, 1, 7]);
        places.clear();
        changed.take(&mut places);
        assert!(places.is_empty());
        changed.mark(1);
        changed.take(&mut places);
        assert_eq!(places, [1], "what changes after a look is looked at again");
    }
}
