//! Magnet links: the info-hashes of a torrent, with sources of peers (BEP 9, BEP 52).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use data_encoding::BASE32;

use crate::hash::{InfoHashV1, InfoHashV2, InfoHashes, InvalidHex};

/// The longest link in bytes.
pub const MAX_MAGNET_LEN: usize = 64 * 1024;

/// The most values of one kind that are taken from a link.
const MAX_VALUES: usize = 256;

/// The multihash prefix of SHA-256, the one hash that `urn:btmh` links use.
const SHA2_256: &str = "1220";

/// Why a text is not a magnet link to a torrent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// Longer than [`MAX_MAGNET_LEN`].
    #[error("a magnet link of {len} bytes is longer than {MAX_MAGNET_LEN}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Another kind of link.
    #[error("the link does not start with \"magnet:?\"")]
    NotAMagnet,
    /// A percent sign without two hexadecimal digits, or text that is not UTF-8 when decoded.
    #[error("the parameter {key:?} of the link is badly encoded")]
    Encoding {
        /// The parameter's name.
        key: String,
    },
    /// A v1 info-hash that is not 40 hexadecimal or 32 base-32 digits.
    #[error("the urn:btih of the link is not 40 hexadecimal or 32 base-32 digits")]
    V1Hash(#[source] InvalidHex),
    /// A v2 info-hash that is not `1220` and 64 hexadecimal digits.
    #[error("the urn:btmh of the link is not a SHA-256 multihash")]
    V2Hash(#[source] Option<InvalidHex>),
    /// Two different hashes of the same kind.
    #[error("the link names two torrents")]
    TwoTorrents,
    /// No hash of a torrent.
    #[error("the link has no info-hash of a torrent")]
    NoHash,
}

/// A peer named in a link (`x.pe`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddr {
    /// A host name or IP address, an IPv6 address without brackets.
    pub host: String,
    /// The TCP port, not 0.
    pub port: u16,
}

/// The content of a magnet link. A parsed one has at least one info-hash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Magnet {
    /// `xt=urn:btih:…`. Some programs put the truncated v2 hash here.
    pub v1: Option<InfoHashV1>,
    /// `xt=urn:btmh:1220…`
    pub v2: Option<InfoHashV2>,
    /// `dn`, to show until the torrent's own name is known.
    pub name: Option<String>,
    /// `tr`, trackers.
    pub trackers: Vec<String>,
    /// `ws`, web seeds.
    pub web_seeds: Vec<String>,
    /// `x.pe`, peers.
    pub peers: Vec<PeerAddr>,
}

impl Magnet {
    /// The hashes of a v2 or hybrid torrent; `None` when the link has a v1 hash only.
    pub fn hashes(&self) -> Option<InfoHashes> {
        self.v2.map(|v2| InfoHashes { v2, v1: self.v1 })
    }
}

impl FromStr for Magnet {
    type Err = MagnetError;

    /// Unknown parameters, and invalid trackers, web seeds and peers, are ignored.
    fn from_str(text: &str) -> Result<Self, MagnetError> {
        if text.len() > MAX_MAGNET_LEN {
            return Err(MagnetError::TooLong { len: text.len() });
        }
        let query = text
            .trim_ascii()
            .split_at_checked("magnet:?".len())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("magnet:?"))
            .map(|(_, query)| query)
            .ok_or(MagnetError::NotAMagnet)?;
        let mut magnet = Self::default();
        for parameter in query.split('&') {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            // Parameters of one kind may be numbered: `xt.1`, `xt.2`.
            let kind = match key.rsplit_once('.') {
                Some((kind, number)) if number.bytes().all(|b| b.is_ascii_digit()) => kind,
                _ => key,
            };
            if !matches!(kind, "xt" | "dn" | "tr" | "ws" | "x.pe") {
                continue;
            }
            let value =
                percent_decode(value, kind == "dn").ok_or_else(|| MagnetError::Encoding {
                    key: kind.to_owned(),
                })?;
            match kind {
                "xt" => magnet.add_topic(&value)?,
                "dn" if !value.is_empty() => magnet.name = Some(value),
                "tr" => add(&mut magnet.trackers, value),
                "ws" => add(&mut magnet.web_seeds, value),
                "x.pe" => magnet.peers.extend(
                    value
                        .parse()
                        .ok()
                        .filter(|_| magnet.peers.len() < MAX_VALUES),
                ),
                _ => {}
            }
        }
        if magnet.v1.is_none() && magnet.v2.is_none() {
            return Err(MagnetError::NoHash);
        }
        Ok(magnet)
    }
}

fn add(list: &mut Vec<String>, value: String) {
    if !value.is_empty() && list.len() < MAX_VALUES && !list.contains(&value) {
        list.push(value);
    }
}

impl Magnet {
    fn add_topic(&mut self, topic: &str) -> Result<(), MagnetError> {
        if let Some(digits) = strip_prefix_ignoring_case(topic, "urn:btih:") {
            let base32 = || {
                let bytes = BASE32.decode(digits.to_ascii_uppercase().as_bytes()).ok()?;
                InfoHashV1::from_slice(&bytes)
            };
            let hash = match base32() {
                Some(hash) => hash,
                None => digits.parse().map_err(MagnetError::V1Hash)?,
            };
            set_once(&mut self.v1, hash)
        } else if let Some(multihash) = strip_prefix_ignoring_case(topic, "urn:btmh:") {
            let digits = multihash
                .strip_prefix(SHA2_256)
                .ok_or(MagnetError::V2Hash(None))?;
            let hash = digits
                .parse()
                .map_err(|wrong| MagnetError::V2Hash(Some(wrong)))?;
            set_once(&mut self.v2, hash)
        } else {
            // A topic of another network.
            Ok(())
        }
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.split_at_checked(prefix.len())
        .filter(|(start, _)| start.eq_ignore_ascii_case(prefix))
        .map(|(_, rest)| rest)
}

fn set_once<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), MagnetError> {
    match slot {
        Some(other) if *other != value => Err(MagnetError::TwoTorrents),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "magnet:?";
        let mut parameter = |f: &mut fmt::Formatter<'_>, key: &str, value: &dyn fmt::Display| {
            write!(f, "{separator}{key}={value}")?;
            separator = "&";
            Ok(())
        };
        if let Some(v1) = self.v1 {
            parameter(f, "xt", &format_args!("urn:btih:{v1}"))?;
        }
        if let Some(v2) = self.v2 {
            parameter(f, "xt", &format_args!("urn:btmh:{SHA2_256}{v2}"))?;
        }
        if let Some(name) = &self.name {
            parameter(f, "dn", &Encoded(name))?;
        }
        for tracker in &self.trackers {
            parameter(f, "tr", &Encoded(tracker))?;
        }
        for web_seed in &self.web_seeds {
            parameter(f, "ws", &Encoded(web_seed))?;
        }
        for peer in &self.peers {
            parameter(f, "x.pe", &peer)?;
        }
        Ok(())
    }
}

/// A text is not a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name or address, a colon and a port")]
pub struct InvalidPeerAddr;

impl FromStr for PeerAddr {
    type Err = InvalidPeerAddr;

    fn from_str(text: &str) -> Result<Self, InvalidPeerAddr> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidPeerAddr)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) if host.parse::<Ipv6Addr>().is_ok() => host,
            None if is_host_name(host) => host,
            _ => return Err(InvalidPeerAddr),
        };
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or(InvalidPeerAddr)?,
        })
    }
}

/// Returns whether a text can be a host name or IPv4 address.
fn is_host_name(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A text whose reserved characters are percent-encoded when it is written (RFC 3986, section 2).
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// Decodes percent-encoding and, if `plus` is set, also `+` for a space, as in forms.
fn percent_decode(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
                // Two digits: below 256.
                bytes.push((digit(0)? * 16 + digit(1)?) as u8);
                rest = after;
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "cc3f9d90b572172053626f9980ce261a850d050b";
    const V2: &str = "95e04d0c4bad94ab206efa884666fd89777dbe4f7bd9945af1829037a85c6192";

    fn hybrid() -> Magnet {
        Magnet {
            v1: Some(V1.parse().unwrap()),
            v2: Some(V2.parse().unwrap()),
            name: Some("a ledger & more+".to_owned()),
            trackers: vec![
                "udp://tracker.example:1337/announce".to_owned(),
                "https://é/?x=1&y=2".to_owned(),
            ],
            web_seeds: vec!["http://example.com/files/".to_owned()],
            peers: vec![
                PeerAddr {
                    host: "192.0.2.1".to_owned(),
                    port: 6881,
                },
                PeerAddr {
                    host: "2001:db8::1".to_owned(),
                    port: 1,
                },
                PeerAddr {
                    host: "mirror.example".to_owned(),
                    port: 65535,
                },
            ],
        }
    }

    #[test]
    fn links_round_trip() {
        let text = hybrid().to_string();
        assert_eq!(
            text,
            format!(
                "magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}&dn=a%20ledger%20%26%20more%2B\
                 &tr=udp%3A%2F%2Ftracker.example%3A1337%2Fannounce\
                 &tr=https%3A%2F%2F%C3%A9%2F%3Fx%3D1%26y%3D2\
                 &ws=http%3A%2F%2Fexample.com%2Ffiles%2F\
                 &x.pe=192.0.2.1:6881&x.pe=[2001:db8::1]:1&x.pe=mirror.example:65535"
            )
        );
        assert_eq!(text.parse::<Magnet>().unwrap(), hybrid());
    }

    #[test]
    fn hashes_in_every_form() {
        let base32 = BASE32.encode(V1.parse::<InfoHashV1>().unwrap().as_bytes());
        for text in [
            format!("magnet:?xt=urn:btih:{V1}"),
            format!("MAGNET:?xt=URN:BTIH:{}", V1.to_uppercase()),
            format!("magnet:?xt=urn:btih:{base32}"),
            format!("magnet:?xt=urn:btih:{}", base32.to_lowercase()),
            format!("magnet:?xt.1=urn:btih:{V1}&xt.2=urn:sha1:x&xt=urn%3Abtih%3A{V1}"),
            format!(" magnet:?foo&x.pe=nonsense&x.pe=h:0&x.pe=[a]:1&&=&xt=urn:btih:{V1}\n"),
        ] {
            let magnet: Magnet = text.parse().unwrap();
            assert_eq!(magnet.v1, Some(V1.parse().unwrap()), "{text}");
            assert_eq!(magnet.hashes(), None);
            assert_eq!(magnet.peers, []);
        }
        let v2: Magnet = format!("magnet:?xt=urn:btmh:1220{V2}&dn=a+b")
            .parse()
            .unwrap();
        assert_eq!(v2.hashes().unwrap().v2, V2.parse().unwrap());
        assert_eq!(v2.name.as_deref(), Some("a b"));
    }

    #[test]
    fn wrong_links_are_told_apart() {
        use MagnetError as E;
        let parse = |text: &str| text.parse::<Magnet>().unwrap_err();
        assert_eq!(parse("http://example.com"), E::NotAMagnet);
        assert_eq!(parse("magnet:"), E::NotAMagnet);
        assert_eq!(parse("magnet:?dn=x"), E::NoHash);
        assert_eq!(parse("magnet:?xt=urn:ed2k:354B"), E::NoHash);
        assert!(matches!(parse("magnet:?xt=urn:btih:abc"), E::V1Hash(_)));
        assert!(matches!(
            parse(&format!("magnet:?xt=urn:btih:{V2}")),
            E::V1Hash(_)
        ));
        assert!(matches!(
            parse(&format!("magnet:?xt=urn:btmh:{V2}")),
            E::V2Hash(None)
        ));
        assert!(matches!(
            parse(&format!("magnet:?xt=urn:btmh:1220{V1}")),
            E::V2Hash(Some(_))
        ));
        let other = V1.replace('c', "d");
        assert_eq!(
            parse(&format!("magnet:?xt=urn:btih:{V1}&xt=urn:btih:{other}")),
            E::TwoTorrents
        );
        for broken in ["%", "%2", "%zz", "%ff", "%+1"] {
            let text = format!("magnet:?xt=urn:btih:{V1}&dn={broken}");
            assert!(matches!(parse(&text), E::Encoding { .. }), "{text}");
        }
        let long = "magnet:?dn=".to_owned() + &"x".repeat(MAX_MAGNET_LEN);
        assert!(matches!(parse(&long), E::TooLong { .. }));
    }
}
