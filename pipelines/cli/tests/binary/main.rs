//! The binary as a user runs it, in a folder of its own, against a log of its own or `millstream broker`.

mod broker;
mod connect;
mod follow;
mod log_commands;
mod sinks;
mod states;
mod support;
mod times;
