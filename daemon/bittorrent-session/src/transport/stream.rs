//! The byte stream of one connection. Plain bytes go directly between the socket and their buffers.
//! Encrypted bytes are decrypted in place; outgoing ones pass through a short buffer, because bytes
//! that were encrypted must be sent unchanged.

use std::io::{self, IoSlice};

use bittorrent_protocol::mse::{Ciphers, Rc4};
use bytes::{Buf as _, BufMut as _, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Most bytes that are encrypted ahead of the socket.
const SEALED_AHEAD: usize = 64 << 10;

/// A connected socket after the handshakes.
#[derive(Debug)]
pub(crate) struct PeerStream {
    socket: TcpStream,
    cipher: Option<Box<Cipher>>,
}

#[derive(Debug)]
struct Cipher {
    incoming: Rc4,
    outgoing: Rc4,
    /// Encrypted bytes that the socket has not taken yet.
    sealed: BytesMut,
}

impl PeerStream {
    pub(crate) fn new(socket: TcpStream, ciphers: Option<Box<Ciphers>>) -> Self {
        let cipher = ciphers.map(|ciphers| {
            Box::new(Cipher {
                incoming: ciphers.incoming,
                outgoing: ciphers.outgoing,
                sealed: BytesMut::new(),
            })
        });
        Self { socket, cipher }
    }

    /// Waits until the socket may be ready.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<tokio::io::Ready> {
        self.socket.ready(interest).await
    }

    /// Returns whether encrypted bytes wait for the socket. While there are any, no others are
    /// taken.
    pub(crate) fn has_unsent(&self) -> bool {
        let cipher = self.cipher.as_ref();
        cipher.is_some_and(|cipher| !cipher.sealed.is_empty())
    }

    /// Appends at most `most` bytes to a buffer with spare capacity. Returns 0 at the end of the
    /// stream.
    pub(crate) fn try_read(&mut self, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
        let before = buffer.len();
        let read = self.socket.try_read_buf(&mut buffer.limit(most))?;
        if let Some(cipher) = &mut self.cipher
            && let Some(bytes) = buffer.get_mut(before..)
        {
            cipher.incoming.apply(bytes);
        }
        Ok(read)
    }

    /// Sends some of these bytes. Returns how many.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.cipher {
            None => send(&self.socket, bytes),
            Some(cipher) => cipher.send(&self.socket, &[IoSlice::new(bytes)]),
        }
    }

    /// Sends some of these bytes, in order. Returns how many.
    pub(crate) fn try_send_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.cipher {
            None => self.socket.try_io(Interest::WRITABLE, || {
                let mut nothing = SendAncillaryBuffer::default();
                let flags = SendFlags::NOSIGNAL;
                Ok(rustix::net::sendmsg(
                    &self.socket,
                    slices,
                    &mut nothing,
                    flags,
                )?)
            }),
            Some(cipher) => cipher.send(&self.socket, slices),
        }
    }

    /// Sends encrypted bytes that wait. Returns [`io::ErrorKind::WouldBlock`] if some remain.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.cipher {
            None => Ok(()),
            Some(cipher) => cipher.flush(&self.socket),
        }
    }
}

impl Cipher {
    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.sealed.is_empty() {
            let sent = send(socket, &self.sealed)?;
            self.sealed.advance(sent);
        }
        Ok(())
    }

    fn send(&mut self, socket: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(socket)?;
        for slice in slices {
            let room = SEALED_AHEAD - self.sealed.len();
            self.sealed.put_slice(slice.get(..room).unwrap_or(slice));
        }
        self.outgoing.apply(&mut self.sealed);
        let taken = self.sealed.len();
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }
}

fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    socket.try_io(Interest::WRITABLE, || {
        Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bittorrent_protocol::SwarmHash;
    use bittorrent_protocol::mse::{ENTROPY_LEN, Initiator, Methods, Responder, Step};
    use tokio::net::TcpListener;

    /// Keys of both ends of a connection.
    fn ciphers() -> (Box<Ciphers>, Box<Ciphers>) {
        let rc4 = Methods {
            plain: false,
            rc4: true,
        };
        let swarm = SwarmHash::from_bytes([1; 20]);
        let mut a = Initiator::new(swarm, rc4, Vec::new(), &[7; ENTROPY_LEN]);
        let mut b = Responder::new(rc4, &[8; ENTROPY_LEN]);
        let (mut a_keys, mut b_keys) = (None, None);
        while a_keys.is_none() || b_keys.is_none() {
            match a.step().unwrap() {
                Step::Send(bytes) => b.receive(&bytes),
                Step::Done(done) => a_keys = done.ciphers,
                Step::Receive | Step::Find(_) => {}
            }
            match b.step().unwrap() {
                Step::Send(bytes) => a.receive(&bytes),
                Step::Find(_) => b.accept(swarm),
                Step::Done(done) => b_keys = done.ciphers,
                Step::Receive => {}
            }
        }
        (a_keys.unwrap(), b_keys.unwrap())
    }

    async fn pair(encrypted: bool) -> (PeerStream, PeerStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (ours, (theirs, _)) = (ours.unwrap(), theirs.unwrap());
        let (a, b) = if encrypted {
            let (a, b) = ciphers();
            (Some(a), Some(b))
        } else {
            (None, None)
        };
        (PeerStream::new(ours, a), PeerStream::new(theirs, b))
    }

    /// Sends more than a socket takes at once, in pieces of all sizes and by both calls.
    async fn transfer(encrypted: bool) {
        let (mut ours, mut theirs) = pair(encrypted).await;
        let data: Vec<u8> = (0..9_000_000_u32).map(|n| (n * 7 / 5) as u8).collect();
        let mut sent = 0;
        let mut received = BytesMut::new();
        let mut blocked = 0;
        while received.len() < data.len() {
            let size = 1 + sent * 31 % 700_000;
            let rest = &data[sent..data.len().min(sent + size)];
            let (first, second) = rest.split_at(rest.len() / 3);
            let result = match (rest.len(), sent % 2) {
                (0, _) => ours.flush().map(|()| 0),
                (_, 0) => ours.try_send(rest),
                _ => ours.try_send_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
            };
            match result {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked += 1;
                    theirs.ready(Interest::READABLE).await.unwrap();
                    received.reserve(200_000);
                    match theirs.try_read(&mut received, 150_000) {
                        Ok(read) => assert!((1..=150_000).contains(&read)),
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                    // Lets the driver of sockets see what has become ready.
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
            if sent == data.len() && !ours.has_unsent() {
                theirs.ready(Interest::READABLE).await.unwrap();
                received.reserve(200_000);
                let _ = theirs.try_read(&mut received, usize::MAX);
            }
        }
        assert!(blocked > 0, "the socket took everything at once");
        assert!(received == data);
    }

    #[tokio::test]
    async fn plain_bytes_arrive_as_they_were_sent() {
        transfer(false).await;
    }

    #[tokio::test]
    async fn encrypted_bytes_arrive_as_they_were_sent() {
        transfer(true).await;
    }

    #[tokio::test]
    async fn little_is_encrypted_ahead_of_a_full_socket() {
        let (mut ours, _theirs) = pair(true).await;
        let chunk = vec![0; 1 << 20];
        let error = loop {
            match ours.try_send(&chunk) {
                Ok(sent) => assert_eq!(sent, SEALED_AHEAD),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(ours.has_unsent());
        assert!(ours.cipher.unwrap().sealed.len() <= SEALED_AHEAD);
    }
}
