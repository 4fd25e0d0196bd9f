//! # The simulator
//!
//! Whole nodes, clients and runtimes in one process, on one thread, from one seed. They are the production types: the
//! simulator is only another [`millstream_env::Runtime`], another disk and another network under them. Crashes, power
//! loss, pauses, disk faults and cut connections come from the seed as well, so a failure found once is a failure found
//! for good: `millstream-sim --seed N --trace` replays it.
//!
//! - [`executor`]: tasks, virtual time, blocking jobs, who dies with whom.
//! - [`network`]: byte streams with delays.
//! - [`disk`]: sectors and names that are durable only once synced.
//! - [`plan`]: what a seed decides beforehand: workloads and faults.
//! - [`machine`]: one node after another on one disk. [`workload`]: what clients do. [`world`]: all of it, to a verdict.
//! - [`cluster`]: worlds of three whole nodes. [`quorum`]: worlds of the metadata quorum alone.
//! - [`history`]: what clients saw, and the rules that it must obey; it knows nothing of the simulator.
//!
//! Invariants: the same seed gives the same trace hash; virtual time moves only when nothing is ready; a dead process
//! runs no more code.
//!
//! Deliberately absent: threads (interleavings inside one lock are for loom and shuttle), kernel behaviour beyond what
//! POSIX promises for files and TCP promises for streams, anything that production code could depend on.

pub mod cluster;
pub mod disk;
pub mod executor;
pub mod history;
pub mod machine;
pub mod network;
pub mod plan;
pub mod quorum;
pub mod random;
pub mod report;
pub mod trace;
pub mod workload;
pub mod world;
