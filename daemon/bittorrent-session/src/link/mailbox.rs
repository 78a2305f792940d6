//! Mailboxes for instructions from the driver to connections. The driver never waits for a slow
//! connection, so a mailbox takes any number of instructions up to a bound and hands them over all
//! at once. When one overflows, the driver closes its connection.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Most instructions in a mailbox. A connection empties it whenever it runs, so a healthy one never
/// has as many: a full request queue, its cancels, and a `have` for many seconds of the fastest
/// download.
const MAX_WAITING: usize = 100_000;

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<Vec<T>>,
    changed: Notify,
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The connection's end.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// The receiver has not emptied its mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MailboxFull;

pub(crate) fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        waiting: Mutex::new(Vec::new()),
        changed: Notify::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Shared<T> {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        // No code panics while it has the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    /// Moves all `items` into the mailbox, in order.
    pub(crate) fn send_all(&self, items: &mut Vec<T>) -> Result<(), MailboxFull> {
        let mut waiting = self.0.waiting();
        if waiting.len() + items.len() > MAX_WAITING {
            return Err(MailboxFull);
        }
        if waiting.is_empty() {
            std::mem::swap(&mut *waiting, items);
        } else {
            waiting.append(items);
        }
        drop(waiting);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits until there may be instructions.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes all instructions in exchange for `into`, which must be empty.
    pub(crate) fn take_all(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.0.waiting(), into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_between_two_looks() {
        let (sender, receiver) = mailbox();
        sender.send_all(&mut vec![1, 2]).unwrap();
        sender.send_all(&mut vec![3]).unwrap();
        receiver.changed().await;
        let mut all = Vec::new();
        receiver.take_all(&mut all);
        assert_eq!(all, [1, 2, 3]);
        all.clear();
        sender.send_all(&mut vec![4]).unwrap();
        receiver.changed().await;
        receiver.take_all(&mut all);
        assert_eq!(all, [4]);
    }

    #[test]
    fn a_full_mailbox_says_so() {
        let (sender, receiver) = mailbox();
        sender.send_all(&mut vec![(); MAX_WAITING]).unwrap();
        assert_eq!(sender.send_all(&mut vec![()]), Err(MailboxFull));
        receiver.take_all(&mut Vec::new());
        assert_eq!(sender.send_all(&mut vec![()]), Ok(()));
    }
}
