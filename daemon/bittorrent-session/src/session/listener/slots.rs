//! Slots for incoming handshakes, shared by all listeners. The engine decides which handshake has a
//! slot; this module closes connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bittorrent_engine::{HandshakeKey, Handshakes};
use tokio::task::AbortHandle;

/// The slots of one session.
#[derive(Debug)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    handshakes: Handshakes,
    tasks: HashMap<HandshakeKey, AbortHandle>,
}

impl Slots {
    /// Creates `most` slots.
    pub(crate) fn new(most: usize) -> Self {
        Self(Mutex::new(State {
            handshakes: Handshakes::new(most),
            tasks: HashMap::new(),
        }))
    }

    /// Gives a slot to a new connection. If none is free, closes the handshake that the engine
    /// chooses. Returns the slot, and whether a connection was closed.
    pub(super) fn begin(self: &Arc<Self>, ip: IpAddr) -> (Slot, bool) {
        let (key, closed) = {
            let mut state = self.lock();
            let (key, closed) = state.handshakes.begin(ip);
            (key, closed.and_then(|closed| state.tasks.remove(&closed)))
        };
        let displaced = closed.is_some();
        // Not under the lock: the task takes the lock when it is dropped.
        if let Some(task) = closed {
            tracing::trace!("closing the oldest handshake for a new connection");
            task.abort();
        }
        (
            Slot {
                slots: self.clone(),
                key,
            },
            displaced,
        )
    }

    /// Registers the task of a handshake, so that its connection can be closed.
    pub(super) fn started(&self, key: HandshakeKey, task: AbortHandle) {
        {
            let mut state = self.lock();
            if state.handshakes.is_under_way(key) {
                state.tasks.insert(key, task);
                return;
            }
        }
        // The handshake has ended, or another thread has given its slot away.
        task.abort();
    }

    /// No method panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in use; dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    key: HandshakeKey,
}

impl Slot {
    pub(super) const fn key(&self) -> HandshakeKey {
        self.key
    }

    /// Records that the peer named a torrent of the session.
    pub(super) fn named(&self) {
        self.slots.lock().handshakes.named(self.key);
    }

    /// Returns whether the peer's host may begin another encrypted handshake now.
    pub(super) fn may_encrypt(&self, ip: IpAddr) -> bool {
        let now = Instant::now();
        self.slots.lock().handshakes.may_encrypt(ip, now)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.handshakes.end(self.key);
        state.tasks.remove(&self.key);
    }
}
