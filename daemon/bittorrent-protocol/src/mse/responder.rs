//! The side that is connected to.

use super::exchange::{Exchange, KEY_LEN, Shared};
use super::input::Input;
use super::{
    Ciphers, ENTROPY_LEN, Established, HiddenSwarm, MAX_PADDING, Methods, MseError, Step,
    VERIFICATION,
};
use crate::hash::SwarmHash;

/// The side that is connected to.
#[derive(Debug)]
pub struct Responder {
    take: Methods,
    exchange: Exchange,
    input: Input,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The peer's key is to come.
    Key,
    /// Its padding is to end.
    Padding(Shared),
    /// Its swarm's name is to come.
    Swarm(Shared),
    /// The swarm of this name is looked for.
    Search(Shared, HiddenSwarm),
    /// It is to offer methods.
    Offer(Box<Ciphers>),
    /// Its second padding, of this length, is to come; this method is going to be used.
    LastPadding(Box<Ciphers>, usize, u32),
    /// This many bytes of its initial payload are still missing; they are encrypted with any
    /// method.
    Initial(Box<Ciphers>, usize, u32),
    /// The handshake is over once our last part is sent.
    Choice(Box<Established>),
    Over,
}

impl Responder {
    /// Answers a peer with one of these methods.
    pub fn new(take: Methods, entropy: &[u8; ENTROPY_LEN]) -> Self {
        Self {
            take,
            exchange: Exchange::new(entropy),
            input: Input::default(),
            state: State::Key,
        }
    }

    /// Takes what the peer sent, in portions of any size.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.receive(bytes);
    }

    /// Sets the swarm with the requested name. If there is none, the connection is
    /// to be closed instead.
    pub fn accept(&mut self, swarm: SwarmHash) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Search(shared, name) if name == HiddenSwarm::of(swarm) => {
                State::Offer(Box::new(Ciphers {
                    incoming: shared.cipher_of_initiator(swarm),
                    outgoing: shared.cipher_of_responder(swarm),
                }))
            }
            state => state,
        };
    }

    /// What is to be done next.
    pub fn step(&mut self) -> Result<Step, MseError> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Key => {
                    let Some(theirs) = self.input.take::<KEY_LEN>() else {
                        return Ok(self.wait(State::Key));
                    };
                    self.state = State::Padding(self.exchange.agree(&theirs)?);
                    return Ok(Step::Send(self.exchange.opening()));
                }
                State::Padding(shared) => {
                    if !self.input.skip_to(&shared.mark())? {
                        return Ok(self.wait(State::Padding(shared)));
                    }
                    self.state = State::Swarm(shared);
                }
                State::Swarm(shared) => {
                    let Some(masked) = self.input.take() else {
                        return Ok(self.wait(State::Swarm(shared)));
                    };
                    let name = HiddenSwarm(shared.mask(masked));
                    self.state = State::Search(shared, name);
                }
                State::Search(shared, name) => {
                    self.state = State::Search(shared, name);
                    return Ok(Step::Find(name));
                }
                State::Offer(mut ciphers) => {
                    let Some(bytes) = self.input.open::<14>(&mut ciphers.incoming) else {
                        return Ok(self.wait(State::Offer(ciphers)));
                    };
                    let [verification @ .., a, b, c, d, high, low] = bytes;
                    if verification != VERIFICATION {
                        return Err(MseError::Verification);
                    }
                    let offered = u32::from_be_bytes([a, b, c, d]);
                    let method = self.take.choose(offered);
                    let method = method.ok_or(MseError::NoMethod(offered))?;
                    let len = u16::from_be_bytes([high, low]);
                    if usize::from(len) > MAX_PADDING {
                        return Err(MseError::Padding(len));
                    }
                    self.state = State::LastPadding(ciphers, len.into(), method);
                }
                State::LastPadding(mut ciphers, len, method) => {
                    // With the length of what follows it.
                    if !self.input.has(len + 2) {
                        return Ok(self.wait(State::LastPadding(ciphers, len, method)));
                    }
                    self.input.skip(len, &mut ciphers.incoming);
                    let len = self.input.open(&mut ciphers.incoming).unwrap_or_default();
                    self.state = State::Initial(ciphers, u16::from_be_bytes(len).into(), method);
                }
                State::Initial(mut ciphers, len, method) => {
                    if !self.input.open_in_place(len, &mut ciphers.incoming) {
                        return Ok(self.wait(State::Initial(ciphers, len, method)));
                    }
                    let mut choice = VERIFICATION.to_vec();
                    choice.extend_from_slice(&method.to_be_bytes());
                    // No padding.
                    choice.extend_from_slice(&[0, 0]);
                    ciphers.outgoing.apply(&mut choice);
                    let early = std::mem::take(&mut self.input).into_rest();
                    let established = Established::new(method, ciphers, early, len);
                    self.state = State::Choice(Box::new(established));
                    return Ok(Step::Send(choice));
                }
                State::Choice(established) => return Ok(Step::Done(established)),
                State::Over => return Ok(Step::Receive),
            }
        }
    }

    fn wait(&mut self, state: State) -> Step {
        self.state = state;
        Step::Receive
    }
}
