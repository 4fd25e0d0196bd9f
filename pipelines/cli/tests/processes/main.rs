//! Real processes: a broker and pipelines that are killed as `kill -9` does, started again, and run on a cluster. Afterwards
//! everything must be there, once, and in order.
//!
//! The moments come from a seed, which is printed; `MILLSTREAM_KILL_SEED` repeats it. The choices repeat then; what the processes
//! have reached at that moment is up to the machine.

mod bootstrap;
#[path = "../example/mod.rs"]
mod example;
mod kill_broker;
mod kill_pipeline;
mod process;

/// Kills in each test.
const KILLS: u32 = 20;
