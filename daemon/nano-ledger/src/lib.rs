//! The Nano node's LMDB ledger: consistent live copies, bounds-checked reading, verification.
