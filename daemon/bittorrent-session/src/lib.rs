//! BitTorrent v2 peers over tokio: sockets, timers, disk threads; drives the engine.
