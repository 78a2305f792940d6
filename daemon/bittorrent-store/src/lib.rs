//! Torrent content on disk: verified blocks, leaf hashes, durable progress.
