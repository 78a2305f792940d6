//! How much a peer may say that nothing else bounds. Requests are bounded by the queue we announce,
//! answers and rejects by what we asked for; for the rest there is a number of messages to spend, which
//! comes back with time. Who has spent all is not read any further, and TCP holds the rest back.

use bittorrent_protocol::wire::Message;

/// Messages at once.
const MOST: u32 = 10_000;

/// Messages each second from then on.
const STEADY: u32 = 1_000;

/// What one peer may still say.
#[derive(Debug)]
pub(super) struct MessageBudget {
    left: u32,
    /// `have` messages so far: a peer has something to tell of each piece once.
    haves: u32,
    /// Requests we sent that were not rejected.
    requests: u64,
    /// The same for hash requests.
    hash_requests: u64,
}

impl MessageBudget {
    pub(super) const fn new() -> Self {
        Self {
            left: MOST,
            haves: 0,
            requests: 0,
            hash_requests: 0,
        }
    }

    /// Whether it is to be heard no further for now.
    pub(super) const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Counts a message of a peer of a torrent with so many pieces, as far as is known.
    pub(super) fn hear(&mut self, message: &Message<'_>, pieces: u32) {
        match message {
            Message::KeepAlive
            | Message::Piece { .. }
            | Message::Request(_)
            | Message::HashRequest(_)
            | Message::Hashes(..) => {}
            Message::Reject(_) if self.requests > 0 => self.requests -= 1,
            Message::HashReject(_) if self.hash_requests > 0 => self.hash_requests -= 1,
            Message::Have(_) if self.haves < pieces => self.haves += 1,
            _ => self.spend(),
        }
    }

    fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// So many requests are sent; each may be rejected once.
    pub(super) fn requested(&mut self, count: usize) {
        self.requests += count as u64;
    }

    /// A hash request is sent; it may be rejected once.
    pub(super) fn requested_hashes(&mut self) {
        self.hash_requests += 1;
    }

    /// A cancel that met its request took back what was allowed for.
    pub(super) fn cancelled(&mut self) {
        self.left = MOST.min(self.left + 1);
    }

    /// A second is over.
    pub(super) fn tick(&mut self) {
        self.left = MOST.min(self.left + STEADY);
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::MerkleHash;
    use bittorrent_protocol::merkle::HashRequest;
    use bittorrent_protocol::wire::Request;

    use super::*;

    const REQUEST: Request = Request {
        index: 0,
        begin: 0,
        length: 16_384,
    };

    const HASH_REQUEST: HashRequest = HashRequest {
        root: MerkleHash::from_bytes([0; 32]),
        base: 0,
        index: 0,
        count: 2,
        proof_layers: 0,
    };

    fn spent_by(message: &Message<'_>, pieces: u32) -> Option<u32> {
        let mut budget = MessageBudget::new();
        (1..=4 * MOST).find(|_| {
            budget.hear(message, pieces);
            budget.is_spent()
        })
    }

    #[test]
    fn what_nothing_bounds_is_heard_up_to_a_number() {
        for message in [
            Message::Interested,
            Message::Choke,
            Message::Unknown {
                id: 99,
                payload: &[],
            },
            Message::Extended {
                id: 1,
                payload: &[],
            },
            Message::Suggest(1),
            Message::Reject(REQUEST),
            Message::HashReject(HASH_REQUEST),
        ] {
            assert_eq!(spent_by(&message, 1_000_000), Some(MOST), "{message:?}");
        }
    }

    #[test]
    fn each_piece_may_be_told_of_once() {
        assert_eq!(spent_by(&Message::Have(7), 0), Some(MOST));
        assert_eq!(spent_by(&Message::Have(7), 12_345), Some(MOST + 12_345));
        assert_eq!(spent_by(&Message::Have(7), u32::MAX), None);
    }

    #[test]
    fn requests_and_answers_are_bounded_elsewhere() {
        for message in [
            Message::KeepAlive,
            Message::Request(REQUEST),
            Message::HashRequest(HASH_REQUEST),
        ] {
            assert_eq!(spent_by(&message, 0), None, "{message:?}");
        }
    }

    #[test]
    fn what_we_ask_for_may_be_rejected_once() {
        let mut budget = MessageBudget::new();
        budget.requested(3);
        budget.requested_hashes();
        for (message, free) in [
            (Message::Reject(REQUEST), 3),
            (Message::HashReject(HASH_REQUEST), 1),
        ] {
            for n in 1..=5 {
                let before = budget.left;
                budget.hear(&message, 0);
                assert_eq!(before - budget.left, u32::from(n > free), "{message:?} {n}");
            }
        }
    }

    #[test]
    fn a_cancel_that_meets_its_request_is_free() {
        let mut budget = MessageBudget::new();
        let cancel = Message::Cancel(Request {
            index: 0,
            begin: 0,
            length: 16_384,
        });
        for _ in 0..3 * MOST {
            budget.hear(&cancel, 0);
            budget.cancelled();
        }
        assert_eq!(budget.left, MOST);
        assert_eq!(spent_by(&cancel, 0), Some(MOST));
    }

    #[test]
    fn it_comes_back_with_time_and_does_not_pile_up() {
        let mut budget = MessageBudget::new();
        budget.tick();
        assert_eq!(budget.left, MOST);
        for _ in 0..MOST {
            budget.hear(&Message::Interested, 0);
        }
        assert!(budget.is_spent());
        budget.tick();
        assert_eq!(budget.left, STEADY);
        (0..100).for_each(|_| budget.tick());
        assert_eq!(budget.left, MOST);
    }
}
