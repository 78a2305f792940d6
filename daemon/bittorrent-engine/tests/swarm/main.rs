//! Whole swarms of engines in memory: a virtual clock, seeded delays, real hashes, no socket.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::needless_pass_by_value, reason = "a node owns its habits")]

mod connections;
mod crowds;
mod direct;
mod download;
mod exchange;
mod hedges;
mod hostile;
mod magnet;
mod node;
mod operations;
mod random;
mod reuse;
mod world;
