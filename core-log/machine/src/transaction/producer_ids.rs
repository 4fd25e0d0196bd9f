//! Producer ids that this broker may give away.

use std::collections::VecDeque;

use millstream_record::ProducerId;

/// How many ids the controller grants at once, as in Kafka.
pub const PRODUCER_ID_BLOCK: i32 = 1_000;

/// When fewer ids than this are left, the next block is asked for, so that nobody waits for it.
const LOW_WATER: i64 = PRODUCER_ID_BLOCK as i64 / 10;

/// Blocks of producer ids from the controller, given away one by one. An id is never given twice; ids of a block that is
/// not used up when the broker stops are lost, which 63 bits can bear.
#[derive(Debug, Default)]
pub struct ProducerIds {
    blocks: VecDeque<(i64, i64)>,
    asked: bool,
}

impl ProducerIds {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next id, or `None` until the controller has granted a block.
    pub fn take(&mut self) -> Option<ProducerId> {
        let (next, end) = self.blocks.front_mut()?;
        let id = ProducerId(*next);
        *next += 1;
        if next == end {
            self.blocks.pop_front();
        }
        Some(id)
    }

    /// Whether a block should be asked for now. Says so once for each block.
    pub fn should_ask(&mut self) -> bool {
        let left: i64 = self.blocks.iter().map(|(next, end)| end - next).sum();
        let ask = !self.asked && left < LOW_WATER;
        self.asked |= ask;
        ask
    }

    /// A block was granted: `count` ids from `first` on.
    pub fn granted(&mut self, first: i64, count: i32) {
        self.asked = false;
        if count > 0 {
            self.blocks.push_back((first, first + i64::from(count)));
        }
    }

    /// No block could be had; it may be asked for again.
    pub fn refused(&mut self) {
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_once_and_asked_for_in_time() {
        let mut ids = ProducerIds::new();
        assert_eq!(ids.take(), None);
        assert!(ids.should_ask());
        assert!(!ids.should_ask(), "one question at a time");
        ids.refused();
        assert!(ids.should_ask());
        ids.granted(5_000, PRODUCER_ID_BLOCK);
        let taken: Vec<i64> = (0..901).filter_map(|_| ids.take()).map(|id| id.0).collect();
        assert_eq!(taken, (5_000..5_901).collect::<Vec<_>>());
        assert!(ids.should_ask(), "99 are left");
        ids.granted(9_000, 2);
        let rest: Vec<i64> = std::iter::from_fn(|| ids.take()).map(|id| id.0).collect();
        assert_eq!(rest, (5_901..6_000).chain(9_000..9_002).collect::<Vec<_>>());
    }
}
