//! The bodies of the fuzz targets. Each takes any bytes, feeds them to one decoder or state
//! machine, and panics when something that must always hold does not. The programs in
//! `fuzz_targets/` run them under libFuzzer; `tests/bounded.rs` runs them on the stable toolchain.

mod archive;
mod bencode;
mod engine;
mod input;
mod ledger;
mod merkle;
mod metainfo;
mod mse;
mod pointer;
mod segments;
mod wire;

pub use archive::{archive, archive_tar};
pub use bencode::bencode;
pub use engine::engine;
pub use ledger::ledger;
pub use merkle::hash_reply;
pub use metainfo::{info, magnet, metainfo};
pub use mse::mse;
pub use pointer::{pointer_item, pointer_record, pointer_standing};
pub use segments::{segment_body, segment_manifest, segment_proofs};
pub use wire::{extended_handshake, metadata_message, wire};

/// What a fuzz target does with one input.
pub type Body = fn(&[u8]);

/// Every target by name.
pub const TARGETS: &[(&str, Body)] = &[
    ("archive", archive),
    ("archive_tar", archive_tar),
    ("bencode", bencode),
    ("engine", engine),
    ("extended_handshake", extended_handshake),
    ("hash_reply", hash_reply),
    ("info", info),
    ("ledger", ledger),
    ("magnet", magnet),
    ("metadata_message", metadata_message),
    ("metainfo", metainfo),
    ("mse", mse),
    ("pointer_item", pointer_item),
    ("pointer_record", pointer_record),
    ("pointer_standing", pointer_standing),
    ("segment_body", segment_body),
    ("segment_manifest", segment_manifest),
    ("segment_proofs", segment_proofs),
    ("wire", wire),
];
