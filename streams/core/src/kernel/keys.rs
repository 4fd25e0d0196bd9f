//! The keys of a chunk.

/// One key for each row, as bytes in one buffer; a row may have none.
#[derive(Clone, Debug, Default)]
pub struct KeyColumn {
    bytes: Vec<u8>,
    /// End of each key in `bytes`, and whether there is a key.
    ends: Vec<(usize, bool)>,
}

impl KeyColumn {
    /// No rows; keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds the key of the next row.
    pub fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push((self.bytes.len(), true));
    }

    /// Adds the key of the next row: what `write` appends to the buffer. It must append only. False: the row has no key.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.bytes.len();
        let present = write(&mut self.bytes);
        if !present {
            self.bytes.truncate(start);
        }
        self.ends.push((self.bytes.len(), present));
    }

    /// The next row has no key, or must be left out: it is counted as dropped (a left join lets it pass).
    pub fn push_null(&mut self) {
        self.ends.push((self.bytes.len(), false));
    }

    /// The key of `row`.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        let (end, present) = *self.ends.get(row)?;
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before].0);
        present.then(|| &self.bytes[start..end])
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
