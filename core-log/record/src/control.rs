//! Control records: what brokers write between the records of applications.

use bytes::{Buf, BufMut};

/// What a control record says, read from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    /// The producer's transaction ended without effect.
    Abort,
    /// The producer's transaction took effect.
    Commit,
    /// A kind that only brokers act on (leader change, snapshot header and footer, voters), by its number.
    Other(i16),
}

impl ControlKind {
    /// Reads a control record's key: a version and the kind. `None` when the key is too short.
    #[must_use]
    pub fn from_key(mut key: &[u8]) -> Option<Self> {
        if key.len() < 4 {
            return None;
        }
        let _version = key.get_i16(); // newer versions only append fields
        Some(match key.get_i16() {
            0 => Self::Abort,
            1 => Self::Commit,
            other => Self::Other(other),
        })
    }

    /// The number in the key.
    #[must_use]
    pub fn id(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
            Self::Other(id) => id,
        }
    }

    pub(crate) fn key(self) -> [u8; 4] {
        let mut key = [0; 4];
        (&mut key[2..]).put_i16(self.id());
        key
    }
}

/// The marker that ends a transaction in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// Whether the transaction took effect.
    pub committed: bool,
    /// Epoch of the transaction coordinator that decided it; an older one is refused.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// Reads a marker from a control record; `None` when it is another kind of control record, or too short.
    #[must_use]
    pub fn read(key: &[u8], mut value: &[u8]) -> Option<Self> {
        let committed = match ControlKind::from_key(key)? {
            ControlKind::Commit => true,
            ControlKind::Abort => false,
            ControlKind::Other(_) => return None,
        };
        if value.len() < 6 {
            return None;
        }
        let _version = value.get_i16(); // newer versions only append fields
        Some(Self { committed, coordinator_epoch: value.get_i32() })
    }

    pub(crate) fn kind(self) -> ControlKind {
        if self.committed { ControlKind::Commit } else { ControlKind::Abort }
    }

    pub(crate) fn value(self) -> [u8; 6] {
        let mut value = [0; 6];
        (&mut value[2..]).put_i32(self.coordinator_epoch);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_round_trip_and_short_ones_are_refused() {
        for committed in [false, true] {
            let marker = EndTxnMarker { committed, coordinator_epoch: 77 };
            let (key, value) = (marker.kind().key(), marker.value());
            assert_eq!(EndTxnMarker::read(&key, &value), Some(marker));
            assert_eq!(EndTxnMarker::read(&key[..3], &value), None);
            assert_eq!(EndTxnMarker::read(&key, &value[..5]), None);
        }
        assert_eq!(ControlKind::from_key(&ControlKind::Other(2).key()), Some(ControlKind::Other(2)));
        assert_eq!(EndTxnMarker::read(&ControlKind::Other(2).key(), &[0; 6]), None);
    }
}
