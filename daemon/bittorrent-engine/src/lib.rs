//! BitTorrent v2 decisions without I/O: peers, picker, choker, hash exchange, blame.
