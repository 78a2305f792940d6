//! Trackers over UDP (BEP 15). The client first requests a connection id, which proves its address,
//! and uses it for an announce.

use std::time::Duration;

use super::{Announce, AnnounceEvent, Announced, MAX_PEERS, printable};
use crate::compact;

/// What every connect request begins with.
const MAGIC: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;

/// Bytes of a connect request.
pub const CONNECT_REQUEST_LEN: usize = 16;

/// Bytes of an answer that are worth receiving: the most IPv6 addresses a datagram carries.
pub const MAX_REPLY_LEN: usize = 20 + 18 * MAX_PEERS;

/// The longest reason; a longer one is cut.
const MAX_REASON: usize = 200;

/// Matches an answer with its request. Random, so that only a host that saw the request can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionId(pub u32);

/// The connection id of the tracker, valid for a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(u64);

/// A datagram that does not answer the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// It is too short for its action.
    #[error("an answer of {0} bytes is too short")]
    Short(usize),
    /// It answers another request.
    #[error("an answer to another question")]
    OtherTransaction,
    /// Its action is unknown.
    #[error("an answer of unknown kind {0}")]
    Unknown(u32),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a connect request.
    Connected(ConnectionId),
    /// To an announce.
    Announced(Announced),
    /// The tracker refused, with this reason.
    Refused(String),
}

/// Asks for a connection id.
pub fn encode_connect(transaction: TransactionId) -> [u8; CONNECT_REQUEST_LEN] {
    let mut request = [0; CONNECT_REQUEST_LEN];
    let fields = [
        &MAGIC.to_be_bytes()[..],
        &CONNECT.to_be_bytes(),
        &transaction.0.to_be_bytes(),
    ];
    request.copy_from_slice(&fields.concat());
    request
}

/// Announces.
pub fn encode_announce(
    connection: ConnectionId,
    transaction: TransactionId,
    announce: &Announce,
) -> Vec<u8> {
    let event: u32 = match announce.event {
        AnnounceEvent::Regular => 0,
        AnnounceEvent::Completed => 1,
        AnnounceEvent::Started => 2,
        AnnounceEvent::Stopped => 3,
    };
    // The tracker takes our address from the datagram.
    let no_address = 0_u32;
    [
        &connection.0.to_be_bytes()[..],
        &ANNOUNCE.to_be_bytes(),
        &transaction.0.to_be_bytes(),
        announce.swarm.as_bytes(),
        announce.peer_id.as_bytes(),
        &announce.downloaded.to_be_bytes(),
        &announce.left.to_be_bytes(),
        &announce.uploaded.to_be_bytes(),
        &event.to_be_bytes(),
        &no_address.to_be_bytes(),
        &announce.key.to_be_bytes(),
        &u32::from(announce.want).to_be_bytes(),
        &announce.port.to_be_bytes(),
    ]
    .concat()
}

impl Reply {
    /// Parses the answer to the request with this id. `ipv6` tells whether the request was sent
    /// over IPv6; the addresses in the answer have the same family.
    pub fn decode(
        datagram: &[u8],
        transaction: TransactionId,
        ipv6: bool,
    ) -> Result<Self, ReplyError> {
        let short = ReplyError::Short(datagram.len());
        let (kind, rest) = datagram.split_first_chunk().ok_or(short.clone())?;
        let (answers, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        if u32::from_be_bytes(*answers) != transaction.0 {
            return Err(ReplyError::OtherTransaction);
        }
        match u32::from_be_bytes(*kind) {
            CONNECT => {
                let id = rest.first_chunk().ok_or(short)?;
                Ok(Self::Connected(ConnectionId(u64::from_be_bytes(*id))))
            }
            ANNOUNCE => {
                let (interval, rest) = rest.split_first_chunk().ok_or(short.clone())?;
                // Leechers and seeders come in between.
                let (_, list) = rest.split_first_chunk::<8>().ok_or(short)?;
                let peers = if ipv6 {
                    compact::v6(list).take(MAX_PEERS).collect()
                } else {
                    compact::v4(list).take(MAX_PEERS).collect()
                };
                Ok(Self::Announced(Announced {
                    interval: Duration::from_secs(u32::from_be_bytes(*interval).into()),
                    peers,
                }))
            }
            ERROR => {
                let reason = rest.get(..MAX_REASON).unwrap_or(rest);
                Ok(Self::Refused(printable(reason)))
            }
            kind => Err(ReplyError::Unknown(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{PeerId, SwarmHash};

    const ID: TransactionId = TransactionId(0x0102_0304);

    #[test]
    fn requests_lie_as_the_specification_has_them() {
        assert_eq!(
            encode_connect(ID),
            *b"\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00\x01\x02\x03\x04"
        );
        let announce = Announce {
            swarm: SwarmHash::from_bytes([0xaa; 20]),
            peer_id: PeerId::from_bytes([0xbb; 20]),
            port: 0x1ae1,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: AnnounceEvent::Started,
            key: 4,
            want: 5,
            crypto: crate::tracker::Crypto::Required,
        };
        let wire = encode_announce(ConnectionId(0x1122_3344_5566_7788), ID, &announce);
        let expected = [
            &b"\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\x01\x01\x02\x03\x04"[..],
            &[0xaa; 20],
            &[0xbb; 20],
            b"\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01",
            b"\0\0\0\x02\0\0\0\0\0\0\0\x04\0\0\0\x05\x1a\xe1",
        ];
        assert_eq!(wire, expected.concat());
        assert_eq!(wire.len(), 98);
    }

    #[test]
    fn answers_are_read_and_those_to_others_are_not() {
        let decode = |bytes: &[u8], ipv6| Reply::decode(bytes, ID, ipv6);
        let connected = b"\0\0\0\0\x01\x02\x03\x04\0\0\0\0\0\0\0\x09";
        assert_eq!(
            decode(connected, false),
            Ok(Reply::Connected(ConnectionId(9)))
        );
        let announced =
            b"\0\0\0\x01\x01\x02\x03\x04\0\0\x07\x08\0\0\0\x01\0\0\0\x02\xc0\0\x02\x01\x1a\xe1";
        let interval = Duration::from_secs(1_800);
        assert_eq!(
            decode(announced, false),
            Ok(Reply::Announced(Announced {
                interval,
                peers: vec!["192.0.2.1:6881".parse().unwrap()],
            }))
        );
        assert_eq!(
            decode(announced, true),
            Ok(Reply::Announced(Announced {
                interval,
                peers: Vec::new(),
            }))
        );
        assert_eq!(
            decode(b"\0\0\0\x03\x01\x02\x03\x04no", false),
            Ok(Reply::Refused("no".to_owned()))
        );
        for (bytes, error) in [
            (&b""[..], ReplyError::Short(0)),
            (b"\0\0\0\0\x01\x02\x03", ReplyError::Short(7)),
            (&connected[..15], ReplyError::Short(15)),
            (&announced[..19], ReplyError::Short(19)),
            (b"\0\0\0\0\x01\x02\x03\x05", ReplyError::OtherTransaction),
            (b"\0\0\0\x02\x01\x02\x03\x04", ReplyError::Unknown(2)),
        ] {
            assert_eq!(decode(bytes, false), Err(error));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), ipv6: bool) {
            let _ = Reply::decode(&bytes, ID, ipv6);
        }
    }
}
