//! Which operator's entries a store holds.
//!
//! Bytes of keys and states say nothing of what they mean: `max` of yesterday reads as `min` of today. A front end whose operators
//! can be changed between two runs without a compiler to object tells how it lays its entries out, and that is kept with them.

use crate::error::{Result, StreamsError};
use crate::store::Store;

/// The store key under which it is kept. Keys of windows are longer, and SQL's keys begin with other bytes.
const LAYOUT_KEY: &[u8] = &[0xff, b'l'];

/// The layout of one operator's store.
#[derive(Default)]
pub(super) struct Layout {
    text: Option<String>,
    noted: bool,
}

impl Layout {
    /// What the front end says of its entries; with nothing, nothing is kept or compared.
    pub(super) fn new(text: Option<String>) -> Self {
        Self { noted: text.is_none(), text }
    }

    /// Compares it with what the store says. A store that says nothing is empty, or older than this rule.
    ///
    /// # Errors
    /// [`StreamsError::Layout`]: the entries are another operator's.
    pub(super) fn compare(&mut self, store: &dyn Store) -> Result<()> {
        let Some(now) = &self.text else { return Ok(()) };
        let Some(stored) = store.get(LAYOUT_KEY)? else { return Ok(()) };
        if *stored != *now.as_bytes() {
            return Err(StreamsError::Layout {
                was: String::from_utf8_lossy(&stored).into_owned(),
                now: now.clone(),
            });
        }
        self.noted = true;
        Ok(())
    }

    /// Keeps it in the store, once.
    pub(super) fn note(&mut self, store: &mut dyn Store) -> Result<()> {
        if let (false, Some(text)) = (self.noted, &self.text) {
            store.put(LAYOUT_KEY, text.as_bytes())?;
            self.noted = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn layout(text: &str) -> Layout {
        Layout::new(Some(text.to_owned()))
    }

    #[test]
    fn entries_of_another_operator_are_refused() {
        let mut store = MemoryStore::default();
        let mut first = layout("max(v)");
        first.compare(&store).unwrap(); // it is empty, or older than layouts
        first.note(&mut store).unwrap();
        layout("max(v)").compare(&store).unwrap();
        let error = layout("min(v)").compare(&store).unwrap_err().to_string();
        assert!(error.starts_with("its state is of max(v), and it is min(v) now; "), "{error}");
    }

    #[test]
    fn without_a_layout_nothing_is_kept() {
        let mut store = MemoryStore::default();
        layout("max(v)").note(&mut store).unwrap();
        let before = store.len();
        let mut none = Layout::new(None);
        none.compare(&store).unwrap();
        none.note(&mut store).unwrap();
        assert_eq!(store.len(), before);
    }
}
