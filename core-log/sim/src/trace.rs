//! What happened, as a hash and, when asked for, as lines.

use std::io::Write;

/// Running FNV-1a hash over every event of a run. Two runs of one seed must agree on it.
pub struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` also writes each event to standard error.
    pub fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    /// Takes in one event.
    pub fn note(&mut self, now_ns: u64, what: &str, value: u64) {
        self.mix(&now_ns.to_le_bytes());
        self.mix(what.as_bytes());
        self.mix(&value.to_le_bytes());
        if self.print {
            let (s, us) = (now_ns / 1_000_000_000, now_ns / 1_000 % 1_000_000);
            let _ = writeln!(std::io::stderr().lock(), "{s:>5}.{us:06}  {what} {value}");
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
