//! The side that connects.

use super::exchange::{Exchange, KEY_LEN, Shared};
use super::input::Input;
use super::{
    Ciphers, ENTROPY_LEN, Established, HiddenSwarm, MAX_PADDING, Methods, MseError, Step,
    VERIFICATION,
};
use crate::hash::SwarmHash;

/// The side that connects.
#[derive(Debug)]
pub struct Initiator {
    swarm: SwarmHash,
    offer: Methods,
    initial: Vec<u8>,
    exchange: Exchange,
    input: Input,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was sent yet.
    Opening,
    /// The peer's key is to come.
    Key,
    /// Its padding is to end.
    Padding(Box<Ciphers>),
    /// It is to choose a method.
    Choice(Box<Ciphers>),
    /// Its second padding, of this length, is still missing; then the stream continues with this
    /// method.
    LastPadding(Box<Ciphers>, usize, u32),
    Over,
}

impl Initiator {
    /// Connects to a peer of a swarm and offers these methods. `initial` is sent as soon as the
    /// peer may understand it, and takes no further round trip: at most 65,535 bytes, which is
    /// much more than the protocol's own handshake.
    pub fn new(
        swarm: SwarmHash,
        offer: Methods,
        initial: Vec<u8>,
        entropy: &[u8; ENTROPY_LEN],
    ) -> Self {
        Self {
            swarm,
            offer,
            initial,
            exchange: Exchange::new(entropy),
            input: Input::default(),
            state: State::Opening,
        }
    }

    /// Takes what the peer sent, in portions of any size.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.receive(bytes);
    }

    /// What is to be done next.
    pub fn step(&mut self) -> Result<Step, MseError> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Opening => {
                    self.state = State::Key;
                    return Ok(Step::Send(self.exchange.opening()));
                }
                State::Key => {
                    let Some(theirs) = self.input.take::<KEY_LEN>() else {
                        return Ok(self.wait(State::Key));
                    };
                    let shared = self.exchange.agree(&theirs)?;
                    let mut ciphers = Box::new(Ciphers {
                        incoming: shared.cipher_of_responder(self.swarm),
                        outgoing: shared.cipher_of_initiator(self.swarm),
                    });
                    let request = self.request(&shared, &mut ciphers);
                    self.state = State::Padding(ciphers);
                    return Ok(Step::Send(request));
                }
                State::Padding(mut ciphers) => {
                    let mut mark = VERIFICATION;
                    ciphers.incoming.clone().apply(&mut mark);
                    if !self.input.skip_to(&mark)? {
                        return Ok(self.wait(State::Padding(ciphers)));
                    }
                    ciphers.incoming.apply(&mut [0; VERIFICATION.len()]);
                    self.state = State::Choice(ciphers);
                }
                State::Choice(mut ciphers) => {
                    let Some([a, b, c, d, high, low]) = self.input.open(&mut ciphers.incoming)
                    else {
                        return Ok(self.wait(State::Choice(ciphers)));
                    };
                    let chosen = u32::from_be_bytes([a, b, c, d]);
                    if self.offer.choose(chosen) != Some(chosen) {
                        return Err(MseError::NotOffered(chosen));
                    }
                    let len = u16::from_be_bytes([high, low]);
                    if usize::from(len) > MAX_PADDING {
                        return Err(MseError::Padding(len));
                    }
                    self.state = State::LastPadding(ciphers, len.into(), chosen);
                }
                State::LastPadding(mut ciphers, len, method) => {
                    if !self.input.skip(len, &mut ciphers.incoming) {
                        return Ok(self.wait(State::LastPadding(ciphers, len, method)));
                    }
                    let early = std::mem::take(&mut self.input).into_rest();
                    let established = Established::new(method, ciphers, early, 0);
                    return Ok(Step::Done(Box::new(established)));
                }
                State::Over => return Ok(Step::Receive),
            }
        }
    }

    fn wait(&mut self, state: State) -> Step {
        self.state = state;
        Step::Receive
    }

    /// Makes the message with the swarm, the offered methods and the initial payload.
    fn request(&mut self, shared: &Shared, ciphers: &mut Ciphers) -> Vec<u8> {
        let mut request = shared.mark().to_vec();
        request.extend_from_slice(&shared.mask(HiddenSwarm::of(self.swarm).0));
        let open = request.len();
        request.extend_from_slice(&VERIFICATION);
        request.extend_from_slice(&self.offer.bits().to_be_bytes());
        // No padding.
        request.extend_from_slice(&[0, 0]);
        self.initial.truncate(u16::MAX.into());
        let initial = std::mem::take(&mut self.initial);
        // Just cut to the length that fits.
        let len = u16::try_from(initial.len()).unwrap_or(u16::MAX);
        request.extend_from_slice(&len.to_be_bytes());
        request.extend_from_slice(&initial);
        let (_, hidden) = request.split_at_mut(open);
        ciphers.outgoing.apply(hidden);
        request
    }
}
