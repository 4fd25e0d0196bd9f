//! Three nodes on real sockets and disks: they form a cluster, lose one of them, are operated on, and lose nothing.

mod deletion;
mod disks;
mod doors;
mod groups;
mod growth;
mod identity;
mod lone;
mod lost;
mod members;
mod moves;
mod nodes;
mod racks;
mod roles;
mod snapshots;
#[path = "../../../client/tests/suite/mod.rs"]
mod suite;
mod transactions;
mod unclean;
mod unknown;
mod upgrade;
