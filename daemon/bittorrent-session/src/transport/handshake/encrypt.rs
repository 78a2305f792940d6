//! Message Stream Encryption: the encrypted handshake before the protocol's own, and the stream
//! during both.

use std::io;

use bittorrent_protocol::SwarmHash;
use bittorrent_protocol::mse::{
    Ciphers, ENTROPY_LEN, Established as MseEstablished, HiddenSwarm, Initiator, Methods, MseError,
    Responder, Step,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{HandshakeError, SwarmDirectory};
use crate::transport::stream::PeerStream;

/// Bytes of a handshake that are read at once.
const READ_AT_ONCE: usize = 1_024;

/// Whether connections use Message Stream Encryption. It hides the protocol from traffic
/// inspection; it does not authenticate peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncryptionPolicy {
    /// Never. Peers that begin with an encrypted handshake are disconnected, and usually dial again
    /// in plain text.
    Off,
    /// Plain text first. Connections that are closed early are tried again encrypted, and peers may
    /// encrypt. The stream stays plain if the peer leaves us the choice.
    #[default]
    PreferPlain,
    /// Always, to the end of the connection.
    Require,
}

impl EncryptionPolicy {
    /// Returns whether to encrypt, for each attempt.
    pub(super) const fn ways(self) -> &'static [bool] {
        match self {
            Self::Off => &[false],
            Self::PreferPlain => &[false, true],
            Self::Require => &[true],
        }
    }

    const fn methods(self) -> Methods {
        Methods {
            plain: !matches!(self, Self::Require),
            rc4: true,
        }
    }
}

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// The handshake only.
    Handshake,
    /// All of it, by RC4.
    Rc4,
}

/// A stream during the handshakes.
pub(super) struct Wire {
    stream: TcpStream,
    ciphers: Option<Box<Ciphers>>,
    /// Bytes that were read ahead, decrypted.
    early: Vec<u8>,
    encryption: Encryption,
}

impl Wire {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ciphers: None,
            early: Vec::new(),
            encryption: Encryption::None,
        }
    }

    pub(super) const fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// Returns the stream, and the bytes that were read ahead.
    pub(super) fn into_parts(self) -> (PeerStream, Vec<u8>) {
        (PeerStream::new(self.stream, self.ciphers), self.early)
    }

    /// Reads some bytes; none at the end of the stream.
    pub(super) async fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            let read = self.stream.read(room).await?;
            if let Some(ciphers) = &mut self.ciphers {
                ciphers.incoming.apply(room.split_at_mut(read).0);
            }
            return Ok(read);
        }
        let read = room.len().min(self.early.len());
        for (room, byte) in room.iter_mut().zip(self.early.drain(..read)) {
            *room = byte;
        }
        Ok(read)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let sent = match &mut self.ciphers {
            None => self.stream.write_all(bytes).await,
            Some(ciphers) => {
                let mut bytes = bytes.to_vec();
                ciphers.outgoing.apply(&mut bytes);
                self.stream.write_all(&bytes).await
            }
        };
        sent.map_err(HandshakeError::Socket)
    }

    /// Performs an encrypted handshake with a peer of a swarm; `initial` is sent with it.
    pub(super) async fn initiate(
        &mut self,
        swarm: SwarmHash,
        policy: EncryptionPolicy,
        initial: &[u8],
    ) -> Result<(), HandshakeError> {
        let initial = initial.to_vec();
        self.negotiate(Initiator::new(
            swarm,
            policy.methods(),
            initial,
            &entropy()?,
        ))
        .await
    }

    /// Answers an encrypted handshake of which `first` was read.
    pub(super) async fn respond(
        &mut self,
        first: &[u8],
        policy: EncryptionPolicy,
        directory: &impl SwarmDirectory,
    ) -> Result<(), HandshakeError> {
        let mut handshake = Responder::new(policy.methods(), &entropy()?);
        handshake.receive(first);
        self.negotiate(Answer {
            handshake,
            directory,
        })
        .await
    }

    /// Exchanges the messages of either side.
    async fn negotiate(&mut self, mut side: impl Side) -> Result<(), HandshakeError> {
        loop {
            match side.step().map_err(HandshakeError::Encryption)? {
                Step::Send(bytes) => self.send(&bytes).await?,
                Step::Done(established) => {
                    self.establish(*established);
                    return Ok(());
                }
                Step::Find(name) => side.find(name).await?,
                Step::Receive => {
                    let mut bytes = [0; READ_AT_ONCE];
                    side.receive(self.read_some(&mut bytes).await?);
                }
            }
        }
    }

    async fn read_some<'a>(
        &mut self,
        bytes: &'a mut [u8; READ_AT_ONCE],
    ) -> Result<&'a [u8], HandshakeError> {
        match self.read(bytes).await.map_err(HandshakeError::Socket)? {
            0 => Err(HandshakeError::Closed),
            read => Ok(bytes.split_at(read).0),
        }
    }

    fn establish(&mut self, established: MseEstablished) {
        self.encryption = match established.ciphers {
            None => Encryption::Handshake,
            Some(_) => Encryption::Rc4,
        };
        self.ciphers = established.ciphers;
        self.early = established.early;
    }
}

/// A side of an encrypted handshake.
trait Side {
    fn step(&mut self) -> Result<Step, MseError>;

    fn receive(&mut self, bytes: &[u8]);

    /// Looks up the swarm that the peer named.
    async fn find(&mut self, name: HiddenSwarm) -> Result<(), HandshakeError>;
}

impl Side for Initiator {
    fn step(&mut self) -> Result<Step, MseError> {
        Self::step(self)
    }

    fn receive(&mut self, bytes: &[u8]) {
        Self::receive(self, bytes);
    }

    /// Never called: only responders look up swarms.
    async fn find(&mut self, _: HiddenSwarm) -> Result<(), HandshakeError> {
        Err(HandshakeError::HiddenSwarm)
    }
}

/// The side that answers, with the swarms that it may answer for.
struct Answer<'a, D> {
    handshake: Responder,
    directory: &'a D,
}

impl<D: SwarmDirectory> Side for Answer<'_, D> {
    fn step(&mut self) -> Result<Step, MseError> {
        self.handshake.step()
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.handshake.receive(bytes);
    }

    async fn find(&mut self, name: HiddenSwarm) -> Result<(), HandshakeError> {
        let swarm = self.directory.find(name).await;
        self.handshake
            .accept(swarm.ok_or(HandshakeError::HiddenSwarm)?);
        Ok(())
    }
}

fn entropy() -> Result<[u8; ENTROPY_LEN], HandshakeError> {
    let mut entropy = [0; ENTROPY_LEN];
    getrandom::fill(&mut entropy).map_err(HandshakeError::Random)?;
    Ok(entropy)
}
