//! Three nodes on real sockets and disks: they form a cluster, lose one of them, are operated on, and lose nothing.

mod members;
mod nodes;
mod transactions;
