//! Mirrors Nano ledger snapshots over BitTorrent v2.

fn main() {}
