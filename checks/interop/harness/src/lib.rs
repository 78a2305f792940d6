//! Foreign BitTorrent peers for tests.
//!
//! [`LibtorrentPeer`] is a real libtorrent session in a Python process, controlled over
//! standard input. The Python is that of a virtual environment, made on first use under
//! `target/interop/` with PyPI's wheel of exactly the wanted version. On a machine without PyPI
//! set `INTEROP_PYTHON_LIBTORRENT_2_0_11` and `INTEROP_PYTHON_LIBTORRENT_2_0_15` to interpreters
//! that already have it.
//!
//! For tests only: a step that fails panics with what was tried and how to mend it.

mod environment;
mod peer;

pub use environment::Libtorrent;
pub use peer::{Crashed, LibtorrentPeer, TorrentKind};
