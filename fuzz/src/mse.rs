//! Message Stream Encryption.

use bittorrent_protocol::SwarmHash;
use bittorrent_protocol::mse::{
    ENTROPY_LEN, Established, HiddenSwarm, Initiator, MAX_PADDING, Methods, MseError, Responder,
    Step,
};

use crate::input::Input;

const SWARM: SwarmHash = SwarmHash::from_bytes([0x5a; 20]);

/// Both sides of a handshake.
enum End {
    Initiator(Initiator),
    Responder(Responder),
}

/// What one side sent, how it ended (whether it encrypts), and what came early.
type Outcome = (Vec<u8>, Result<Option<bool>, MseError>, Vec<u8>);

impl End {
    fn initiator(offer: Methods, initial: Vec<u8>, entropy: &[u8; ENTROPY_LEN]) -> Self {
        Self::Initiator(Initiator::new(SWARM, offer, initial, entropy))
    }

    fn receive(&mut self, bytes: &[u8]) {
        match self {
            Self::Initiator(end) => end.receive(bytes),
            Self::Responder(end) => end.receive(bytes),
        }
    }

    /// Goes on as far as it can; `sent` gets what it sends.
    fn go(&mut self, sent: &mut Vec<u8>) -> Result<Option<Established>, MseError> {
        // Every state is left once, and none without a step.
        for _ in 0..16 {
            let step = match self {
                Self::Initiator(end) => end.step()?,
                Self::Responder(end) => end.step()?,
            };
            match (step, &mut *self) {
                (Step::Receive, _) => return Ok(None),
                (Step::Send(bytes), _) => sent.extend(bytes),
                (Step::Find(name), Self::Responder(end)) => {
                    if name != HiddenSwarm::of(SWARM) {
                        // No swarm of ours: the connection would be closed.
                        return Ok(None);
                    }
                    end.accept(SWARM);
                }
                (Step::Find(_), Self::Initiator(_)) => panic!("an initiator knows the swarm"),
                (Step::Done(established), _) => return Ok(Some(*established)),
            }
        }
        panic!("a handshake that goes round in circles");
    }
}

fn methods(bits: u8) -> Methods {
    Methods {
        plain: bits & 1 != 0,
        rc4: bits & 2 != 0,
    }
}

fn entropy(input: &mut Input<'_>) -> [u8; ENTROPY_LEN] {
    let (first, second) = (input.u32().to_be_bytes(), input.u16().to_be_bytes());
    let mut entropy = [0x33; ENTROPY_LEN];
    entropy[..4].copy_from_slice(&first);
    entropy[20..22].copy_from_slice(&second);
    entropy
}

/// A handshake of two honest ends, then one end alone with whatever the rest of the input says.
pub fn mse(data: &[u8]) {
    let mut input = Input(data);
    let (offer, take) = (methods(input.u8()), methods(input.u8()));
    let portion = 1 + input.below(700);
    let (ours, theirs) = (entropy(&mut input), entropy(&mut input));
    honest(offer, take, portion, &ours, &theirs);
    let rest = input.0;
    for initiator in [true, false] {
        let start = || {
            if initiator {
                End::initiator(offer, Vec::new(), &ours)
            } else {
                End::Responder(Responder::new(take, &ours))
            }
        };
        let (sent, end, early) = alone(start(), rest, rest.len().max(1));
        let cut = alone(start(), rest, portion);
        assert_eq!((&sent, &end), (&cut.0, &cut.1), "in portions of {portion}");
        // What is still to come then goes to the stream.
        assert!(early.starts_with(&cut.2));
        assert!(
            sent.len() <= 96 + MAX_PADDING + 64,
            "{} bytes sent",
            sent.len()
        );
    }
    assert_ne!(
        HiddenSwarm::of(SWARM),
        HiddenSwarm::of(SwarmHash::from_bytes([0; 20]))
    );
}

/// Both must come to the same end, and read what the other says.
fn honest(
    offer: Methods,
    take: Methods,
    portion: usize,
    ours: &[u8; ENTROPY_LEN],
    theirs: &[u8; ENTROPY_LEN],
) {
    let mut a = End::initiator(offer, b"initial".to_vec(), ours);
    let mut b = End::Responder(Responder::new(take, theirs));
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    let (mut a_done, mut b_done) = (None, None);
    for _ in 0..8_000 {
        if a_done.is_none() {
            a_done = a.go(&mut to_b).expect("an honest answer");
        }
        if b_done.is_none() {
            match b.go(&mut to_a) {
                Ok(done) => b_done = done,
                Err(error) => {
                    let common = offer.plain && take.plain || offer.rc4 && take.rc4;
                    assert!(matches!(error, MseError::NoMethod(_)) && !common, "{error}");
                    return;
                }
            }
        }
        if let (Some(a), Some(b)) = (&mut a_done, &mut b_done) {
            assert_eq!(b.early, b"initial");
            assert_eq!(a.ciphers.is_some(), b.ciphers.is_some());
            if let (Some(a), Some(b)) = (&mut a.ciphers, &mut b.ciphers) {
                let mut bytes = *b"and so on";
                b.outgoing.apply(&mut bytes);
                a.incoming.apply(&mut bytes);
                assert_eq!(&bytes, b"and so on");
            }
            return;
        }
        for (wire, end) in [(&mut to_a, &mut a), (&mut to_b, &mut b)] {
            let bytes: Vec<u8> = wire.drain(..portion.min(wire.len())).collect();
            end.receive(&bytes);
        }
    }
    panic!("two honest ends do not come to an end");
}

fn alone(mut end: End, bytes: &[u8], portion: usize) -> Outcome {
    let mut sent = Vec::new();
    let mut portions = bytes.chunks(portion);
    loop {
        match end.go(&mut sent) {
            Err(error) => return (sent, Err(error), Vec::new()),
            Ok(Some(Established { ciphers, early })) => {
                return (sent, Ok(Some(ciphers.is_some())), early);
            }
            Ok(None) => match portions.next() {
                Some(portion) => end.receive(portion),
                None => return (sent, Ok(None), Vec::new()),
            },
        }
    }
}
