//! File descriptors: how many connections may use.

use rustix::process::{Resource, getrlimit};

/// Descriptors that are kept for files, the DHT, HTTP and the rest of the process: a quarter of the limit,
/// within these bounds.
const MIN_RESERVE: usize = 10;
const MAX_RESERVE: usize = 256;

/// Sockets that peers may take, connections and handshakes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketBudget {
    pub(crate) connections: usize,
    pub(crate) handshakes: usize,
}

impl SocketBudget {
    /// Divides what `RLIMIT_NOFILE` leaves now.
    pub(crate) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        // Without /proc, standard input, output and error, and what a runtime needs.
        let open = std::fs::read_dir("/proc/self/fd").map_or(8, Iterator::count);
        Self::new(limit, open)
    }

    fn new(limit: usize, open: usize) -> Self {
        let reserve = (limit / 4).clamp(MIN_RESERVE, MAX_RESERVE);
        let free = limit.saturating_sub(open).saturating_sub(reserve);
        let handshakes = (free / 4).max(1);
        Self {
            connections: (free - handshakes.min(free)).max(1),
            handshakes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_limit_leaves_descriptors_for_files() {
        for (limit, open, connections, handshakes) in [
            (0, 8, 1, 1),
            (20, 9, 1, 1),
            (32, 10, 9, 3),
            (1_024, 20, 561, 187),
            (524_288, 20, 393_009, 131_003),
        ] {
            let budget = SocketBudget::new(limit, open);
            let expected = SocketBudget {
                connections,
                handshakes,
            };
            assert_eq!(budget, expected, "{limit} {open}");
        }
    }
}
