//! A message budget for everything that no other limit covers. The announced queue bounds requests;
//! our own requests bound answers and rejects. When the budget is used up we stop reading from the
//! socket, and TCP flow control does the rest.

use bittorrent_protocol::wire::Message;

/// Largest budget, in messages.
const MAX_BUDGET: u32 = 10_000;

/// Messages that are added each second.
const PER_SECOND: u32 = 1_000;

/// The budget of one peer.
#[derive(Debug)]
pub(super) struct MessageBudget {
    left: u32,
    /// `have` messages so far; one for each piece is free.
    haves: u32,
    /// Requests we sent that were not rejected.
    requests: u64,
    /// Hash requests we sent that were not rejected.
    hash_requests: u64,
}

impl MessageBudget {
    pub(super) const fn new() -> Self {
        Self {
            left: MAX_BUDGET,
            haves: 0,
            requests: 0,
            hash_requests: 0,
        }
    }

    /// Returns whether the budget is used up.
    pub(super) const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Charges for a message. `pieces` is the number of pieces of the torrent, as far as known.
    pub(super) fn charge(&mut self, message: &Message<'_>, pieces: u32) {
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

    /// Allows one free reject for each of `count` requests that are sent.
    pub(super) fn requested(&mut self, count: usize) {
        self.requests += count as u64;
    }

    /// Allows one free reject for a hash request that is sent.
    pub(super) fn requested_hashes(&mut self) {
        self.hash_requests += 1;
    }

    /// Refunds a cancel that matched a request.
    pub(super) fn cancelled(&mut self) {
        self.left = MAX_BUDGET.min(self.left + 1);
    }

    /// Adds the messages of a second.
    pub(super) fn tick(&mut self) {
        self.left = MAX_BUDGET.min(self.left + PER_SECOND);
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
        (1..=4 * MAX_BUDGET).find(|_| {
            budget.charge(message, pieces);
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
            assert_eq!(
                spent_by(&message, 1_000_000),
                Some(MAX_BUDGET),
                "{message:?}"
            );
        }
    }

    #[test]
    fn each_piece_may_be_told_of_once() {
        assert_eq!(spent_by(&Message::Have(7), 0), Some(MAX_BUDGET));
        assert_eq!(
            spent_by(&Message::Have(7), 12_345),
            Some(MAX_BUDGET + 12_345)
        );
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
                budget.charge(&message, 0);
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
        for _ in 0..3 * MAX_BUDGET {
            budget.charge(&cancel, 0);
            budget.cancelled();
        }
        assert_eq!(budget.left, MAX_BUDGET);
        assert_eq!(spent_by(&cancel, 0), Some(MAX_BUDGET));
    }

    #[test]
    fn it_comes_back_with_time_and_does_not_pile_up() {
        let mut budget = MessageBudget::new();
        budget.tick();
        assert_eq!(budget.left, MAX_BUDGET);
        for _ in 0..MAX_BUDGET {
            budget.charge(&Message::Interested, 0);
        }
        assert!(budget.is_spent());
        budget.tick();
        assert_eq!(budget.left, PER_SECOND);
        (0..100).for_each(|_| budget.tick());
        assert_eq!(budget.left, MAX_BUDGET);
    }
}
