//! Handshake slots shared by all listeners. The engine decides who gets one; this closes connections.

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
    /// Creates so many slots.
    pub(crate) fn new(most: usize) -> Self {
        Self(Mutex::new(State {
            handshakes: Handshakes::new(most),
            tasks: HashMap::new(),
        }))
    }

    /// Gives a slot to a peer that connected, and closes another connection where it is needed. Says
    /// whether it did.
    pub(super) fn begin(self: &Arc<Self>, ip: IpAddr) -> (Slot, bool) {
        let (key, closed) = {
            let mut state = self.lock();
            let (key, closed) = state.handshakes.begin(ip);
            (key, closed.and_then(|closed| state.tasks.remove(&closed)))
        };
        let displaced = closed.is_some();
        // Not under the lock: the task takes it when it is dropped.
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

    /// Remembers the task of a handshake, to be able to close its connection.
    pub(super) fn started(&self, key: HandshakeKey, task: AbortHandle) {
        {
            let mut state = self.lock();
            if state.handshakes.is_under_way(key) {
                state.tasks.insert(key, task);
                return;
            }
        }
        // It has ended, or another thread gave its slot to another one.
        task.abort();
    }

    /// No method panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that is taken; dropping it frees it.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    key: HandshakeKey,
}

impl Slot {
    pub(super) const fn key(&self) -> HandshakeKey {
        self.key
    }

    /// The peer named a torrent of ours.
    pub(super) fn named(&self) {
        self.slots.lock().handshakes.named(self.key);
    }

    /// Whether the host of the peer may begin one more encrypted handshake now.
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
