//! Message Stream Encryption: a handshake before the peer protocol's own whose bytes look random
//! (Vuze wiki, "Message Stream Encryption"). It hides the protocol from traffic inspection; it does
//! not authenticate peers.
//!
//! ```text
//! A -> B: A's public key, up to 512 bytes of padding
//! B -> A: B's public key, up to 512 bytes of padding
//! A -> B: the swarm; encrypted: methods A offers, padding, the initial payload of A
//! B -> A: encrypted: the method B takes, padding
//! ```
//!
//! The swarm's hash is the key that both must know, and is itself only sent as a hash. From there on
//! the stream is plain, or encrypted with RC4, as B chose.
//!
//! [`Initiator`] and [`Responder`] are the two sides, without sockets, clocks or randomness: what
//! was read is handed in with `receive`, then `step` is called until it needs more. Each keeps no
//! more than the longest part of the handshake and what was last handed in.

mod exchange;
mod initiator;
mod input;
mod rc4;
mod responder;

pub use initiator::Initiator;
pub use rc4::Rc4;
pub use responder::Responder;

use crate::hash::SwarmHash;
use exchange::{KEY_LEN, SECRET_LEN, sha1};

/// The most bytes of one padding.
pub const MAX_PADDING: usize = 512;

/// Random bytes that one handshake takes: a secret, and padding of random length.
pub const ENTROPY_LEN: usize = SECRET_LEN + 2 + MAX_PADDING;

/// Bytes after which a peer that began in some other way must have shown what it means: its key.
pub const MIN_OPENING_LEN: usize = KEY_LEN;

/// What both encrypt to show that they have the same keys.
const VERIFICATION: [u8; 8] = [0; 8];

/// The peer breaks the handshake, or cannot be agreed with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MseError {
    /// Its public key would make the shared secret predictable, or is out of range.
    #[error("the public key of the peer is none that an honest peer has")]
    Key,
    /// What must follow its padding does not.
    #[error("the peer's padding of at most {MAX_PADDING} bytes does not end in what must follow")]
    Lost,
    /// It has other keys: it means another swarm, or does not encrypt as we do.
    #[error("the peer's verification constant is wrong")]
    Verification,
    /// Its padding is longer than it may be.
    #[error("padding of {0} bytes; at most {MAX_PADDING} are allowed")]
    Padding(u16),
    /// It offers no method that we take; the bits it offers.
    #[error("the peer offers methods {0:#x}, of which none is taken here")]
    NoMethod(u32),
    /// It chose what it was not offered; the bits it chose.
    #[error("the peer chose method {0:#x}, which it was not offered")]
    NotOffered(u32),
}

/// What becomes of a stream after the handshake. Both false: nothing can be agreed upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// The stream continues in plain text: bit 0x01.
    pub plain: bool,
    /// It is encrypted to its end: bit 0x02.
    pub rc4: bool,
}

impl Methods {
    const PLAIN: u32 = 0x01;
    const RC4: u32 = 0x02;

    const fn bits(self) -> u32 {
        (if self.plain { Self::PLAIN } else { 0 }) | (if self.rc4 { Self::RC4 } else { 0 })
    }

    /// The bit of the method to use with who offers these bits: plain text rather than RC4, which
    /// costs time and protects no secret.
    const fn choose(self, offered: u32) -> Option<u32> {
        let common = self.bits() & offered;
        if common & Self::PLAIN != 0 {
            Some(Self::PLAIN)
        } else if common & Self::RC4 != 0 {
            Some(Self::RC4)
        } else {
            None
        }
    }
}

/// A swarm's name in a handshake: a hash of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HiddenSwarm([u8; 20]);

impl HiddenSwarm {
    /// The name of a swarm. To be computed once for each, so that an attempt to connect costs one
    /// look-up however many swarms there are.
    pub fn of(swarm: SwarmHash) -> Self {
        Self(sha1(&[b"req2", swarm.as_bytes()]))
    }
}

/// The keys of an encrypted stream, each at its position after the handshake.
#[derive(Debug)]
pub struct Ciphers {
    /// For what the peer sends.
    pub incoming: Rc4,
    /// For what we send.
    pub outgoing: Rc4,
}

/// The handshake is over.
#[derive(Debug)]
pub struct Established {
    /// `None`: the stream continues in plain text.
    pub ciphers: Option<Box<Ciphers>>,
    /// What the peer sent already of what follows, in plain text.
    pub early: Vec<u8>,
}

impl Established {
    /// `early` was decrypted up to `decrypted`; the rest is as it came.
    fn new(method: u32, mut ciphers: Box<Ciphers>, mut early: Vec<u8>, decrypted: usize) -> Self {
        let ciphers = (method == Methods::RC4).then(|| {
            if let Some(rest) = early.get_mut(decrypted..) {
                ciphers.incoming.apply(rest);
            }
            ciphers
        });
        Self { ciphers, early }
    }
}

/// What a handshake wants next.
#[derive(Debug)]
pub enum Step {
    /// The peer's next bytes.
    Receive,
    /// These bytes sent.
    Send(Vec<u8>),
    /// To know which swarm has this name; see [`Responder::accept`]. Comes up for responders only.
    Find(HiddenSwarm),
    /// Nothing: it is over. `step` is not to be called again.
    Done(Box<Established>),
}

#[cfg(test)]
mod tests;
