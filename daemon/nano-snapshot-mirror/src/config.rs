//! The configuration: all keys, and how defaults, a file, the environment and flags become one [`Config`].
//!
//! # Adding a key
//!
//! 1. Describe it in its section below, in one place: documentation, when a change takes effect,
//!    name, type and default. `max_connections` is the key `max-connections`. A key is `live` when
//!    code that uses it reads [`Live::config`] each time or waits for [`Live::subscribe`]; a
//!    `restart` key keeps its value there until the next start.
//! 2. Its type defines the accepted values ([`KeyType`](section::KeyType), in `values.rs`): use
//!    `Number<MIN, MAX>`, `Seconds<MIN, MAX>`, `Vec<_>`, `Option<_>` or write another.
//!    Checks that depend on two keys belong in [`contradictions`].
//! 3. A new section is a new `section! { … }` and a line `section name: Type;` in [`Config`].
//! 4. A flag for it, if one is useful: an optional field in `cli.rs` and a line in
//!    `Flags` there.
//! 5. `UPDATE=1 cargo test -p nano-snapshot-mirror configuration_page` writes
//!    `docs/configuration.md`.

mod check;
mod command;
mod live;
mod load;
mod page;
mod print;
mod schedule;
mod section;
mod sizes;
mod sources;
mod traffic;
mod values;
mod webhook;
pub(crate) mod written;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bittorrent_protocol::InfoHashV2;
use bittorrent_session::{EncryptionPolicy, TrackerUrl, WebSeedUrl};
use figment::value::{Dict, Value};
use nano_ledger::Level;
use snapshot_pointer::{Authority, InvalidPolicy, Salt, StreamPolicy};

use crate::kit::logging::{LogFormat, LogLevel};
pub(crate) use section::Key;
use section::{ANY_NAME, Part, Shown, Table, section};
use service_kit::http_server::HostName;

pub(crate) use check::unusable;
use command::HookCommand;
pub(crate) use live::{Live, Reloaded};
pub(crate) use load::{Loaded, Mistakes, Sources};
pub(crate) use page::keys;
pub(crate) use print::effective;
use schedule::Window;
pub(crate) use sizes::{Limit, OrOff, Size, Speed};
pub(crate) use sources::UnscopedValue;
use traffic::Rate;
pub(crate) use values::{Chosen, Number, Origin, Seconds};
pub(crate) use webhook::Webhook;
pub(crate) use written::{HostPort, SeedFor};

/// The public key of the default stream.
pub(crate) const DEFAULT_AUTHORITY: [u8; Authority::LEN] = [
    0xcd, 0xbc, 0x92, 0x84, 0x01, 0x5e, 0x84, 0xc2, 0x25, 0xf0, 0xe6, 0x7b, 0x89, 0x16, 0x06, 0x50,
    0x5a, 0x60, 0xcf, 0x12, 0x18, 0xb1, 0x27, 0xac, 0x1c, 0x1e, 0xdb, 0x64, 0x44, 0x56, 0x7e, 0x6b,
];

/// Name and salt of the default stream.
pub(crate) const DEFAULT_STREAM: &str = "daily";

section! {
    /// Keys at the top of the file, before all sections.
    Config {
        /// The data directory. By default `$STATE_DIRECTORY`, which systemd sets, or else
        /// `$XDG_DATA_HOME/nano-snapshot-mirror`, or else `~/.local/share/nano-snapshot-mirror`. In
        /// every path of the configuration `~/` at the beginning means `$HOME`.
        restart data_dir: Option<PathBuf>;
        /// Time between two look-ups of a pointer. DHT nodes ban clients that ask too often.
        live poll_interval: Seconds<1, 604_800> = const { Seconds::new(600) };
        /// Peers to connect to besides those of the DHT. Names are resolved again at every search.
        live seed_peers: Vec<HostPort>;
        section stream: Streams;
        section peer: Peer;
        section dht: Dht;
        section http: Http;
        section control: Control;
        section limits: Limits;
        section trackers: Trackers;
        section web_seeds: WebSeeds;
        section disk: Disk;
        section retention: Retention;
        section scrub: Scrub;
        section verify: Verify;
        section hooks: Hooks;
        section log: Log;
    }
}

section! {
    /// A stream of snapshots to follow. `NAME` is its name in `current/NAME` of the data directory:
    /// letters, digits, `-` and `_`. Without any such section the public stream is followed, as
    /// `daily`. `/latest.magnet` and the metrics of nano-snapshot-swarm are those of the first
    /// stream in the file.
    Stream {
        /// Ed25519 public keys whose owners sign snapshots, at most 16. By default the key of the
        /// public stream.
        live authorities: Vec<Authority> = default_authorities();
        /// How many of the authorities must name the same snapshot before it is followed.
        live threshold: Number<1, 16> = const { Number::new(1) };
        /// The name under which the authorities publish this stream (the salt of BEP 44).
        live salt: Salt = default_salt();
        /// The maximum age of a pointer. When it is exceeded, the log and the status report the
        /// stream as stale: its authorities may have stopped, or an attacker withholds newer
        /// pointers. The stored snapshot is still seeded.
        live max_age: Option<Seconds<1, 31_536_000>>;
        /// Files with pointers, read before each look-up, for a host that the DHT does not reach
        /// (the DHT uses IPv4 alone): copies of files of another mirror in `streams/` of its data
        /// directory. Signatures and sequence numbers are checked as for items of the DHT.
        live items: Vec<PathBuf>;
        /// The v2 info-hash of a snapshot to follow while no pointer was ever found.
        live pinned: Option<InfoHashV2>;
        /// How long to search for a pointer before the pinned snapshot is followed.
        live pinned_after: Seconds<0, 604_800> = const { Seconds::new(300) };
    }
}

section! {
    /// BitTorrent: addresses on which peers connect, and limits on connections.
    Peer {
        /// Addresses on which to accept peers (TCP). `[::]` includes IPv4. A command that runs
        /// once, such as `--once`, uses any free port instead when the mirror on this machine uses
        /// this one.
        restart listen: Chosen<Vec<SocketAddr>> = Chosen::by_default(vec![default_listen()]);
        /// The port to announce, if a router forwards a different external port.
        restart announce_port: Option<Number<1, 65_535>>;
        /// Whether to ask the router of this network to forward the announced port (PCP, NAT-PMP,
        /// UPnP). Not done if `listen` is on this machine only.
        restart port_mapping: bool = false;
        /// Maximum number of connections, over all snapshots.
        live max_connections: Number<1, 10_000> = const { Number::new(200) };
        /// Maximum number of connections of one snapshot.
        live max_connections_per_torrent: Number<1, 10_000> = const { Number::new(100) };
        /// Maximum number of connections of one snapshot with one host: an IPv4 address or an IPv6
        /// network of 64 bits. This machine is not limited.
        live max_connections_per_ip: Number<1, 10_000> = const { Number::new(4) };
        /// Message Stream Encryption. It hides the protocol from traffic inspection and does not
        /// authenticate peers. `prefer-plain` uses plain text and encrypts for peers that require
        /// it; `require` encrypts every connection; `off` refuses encrypted ones.
        restart encryption: EncryptionPolicy = EncryptionPolicy::PreferPlain;
        /// Whether to exchange addresses of peers with other peers (BEP 11).
        restart pex: bool = true;
        /// Whether to search for peers in the local network (BEP 14). Not done if `listen` is on
        /// this machine only.
        restart local_discovery: bool = true;
    }
}

section! {
    /// The node in the Mainline DHT, which finds pointers and peers.
    Dht {
        /// UDP port of the mirror's DHT node. Commands that run once use any free port unless
        /// `--dht-port` names one.
        restart port: Chosen<u16> = Chosen::by_default(6882);
        /// Nodes for joining the DHT, instead of the public ones.
        restart bootstrap: Vec<HostPort>;
    }
}

section! {
    /// The status page, metrics and health checks, over HTTP. It is read-only and has no password: to
    /// publish it, use a reverse proxy with authentication.
    Http {
        /// Address to serve. Requests must name the machine by an address, as `localhost`, by its
        /// host name (with or without a domain), or by one of `hosts`.
        restart listen: Chosen<OrOff<SocketAddr>> = Chosen::by_default(OrOff::Value(default_http()));
        /// Further host names that requests may have: the name of a service in a compose file or in
        /// Kubernetes, or the name that a reverse proxy passes on. Requests for any other name are
        /// answered with 421, so that a web page elsewhere cannot read the answers through a
        /// browser here (DNS rebinding).
        restart hosts: Vec<HostName>;
    }
}

section! {
    /// Limits on transfer rates, over all snapshots. All bytes on connections with peers and web seeds
    /// count, including protocol messages.
    Limits {
        /// Limit of the upload.
        live upload: Rate = Limit::word();
        /// Limit of the download.
        live download: Rate = Limit::word();
        /// Limit of the upload in a calendar month (UTC); only content counts. When it is reached,
        /// a mirror uploads nothing more until the next month; connections stay open, and downloads
        /// continue.
        live monthly_upload: Limit<Size> = Limit::word();
        /// Windows of time, in UTC, with other limits; the first open window counts. Without `days`
        /// it opens every day. If `to` is not after `from`, it closes on the next day. A limit of 0
        /// stops the transfer, and connections stay open.
        live schedule: Vec<Window>;
    }
}

section! {
    /// Commands for the running mirror, over a Unix socket; see `docs/openapi.json`.
    Control {
        /// Path of the socket. Users who may write to it may send commands. By default
        /// `control.sock` in `$RUNTIME_DIRECTORY`, which systemd sets, or else in the data
        /// directory.
        restart socket: Option<OrOff<PathBuf>>;
    }
}

section! {
    /// BitTorrent trackers, which return addresses of peers.
    Trackers {
        /// Trackers at which every stored or fetched snapshot is announced.
        restart urls: Vec<TrackerUrl>;
    }
}

section! {
    /// The file system of the data directory. See `docs/upkeep.md`.
    Disk {
        /// Space to keep free. No download begins that would use it, and a running download pauses
        /// before that. By default 1 GiB, or a twentieth of a smaller disk.
        restart reserve: Option<Size>;
    }
}

section! {
    /// File servers that have the snapshots (BEP 19), used while peers send little. Their data is
    /// verified like that of peers.
    WebSeeds {
        /// File servers. With a `/` at the end, the files of a snapshot are requested under its
        /// name below that URL. Without, the URL is that of the only file of every snapshot.
        restart urls: Vec<WebSeedUrl>;
    }
}

section! {
    /// Limits on superseded snapshots. Current, desired, used and pinned snapshots are always kept.
    Retention {
        /// Number of complete snapshots of a stream to keep, the current one included.
        live generations: Number<1, 10_000> = const { Number::new(2) };
        /// Maximum size of all snapshots on disk; the oldest are removed first.
        live size: Limit<Size> = Limit::word();
    }
}

section! {
    /// Scrubs: hashing seeded snapshots again in the background, to find bit rot.
    Scrub {
        /// Time between two scrubs of a snapshot.
        live interval: OrOff<Seconds<1, 315_360_000>> = OrOff::Value(const { Seconds::new(2_592_000) });
        /// Maximum read rate.
        restart rate: Speed = const { Speed::new(20 << 20) };
    }
}

section! {
    /// Verification of a ledger before it becomes current, is installed or is published.
    Verify {
        /// How thoroughly to verify it: its structure (`l0` milliseconds, `l1` seconds), balances
        /// and a sample of signatures (`l2`, minutes), everything (`l3`, hours). See
        /// `docs/verification.md`.
        restart level: Level = Level::L1;
        /// Accept only ledgers of these store versions. By default all that the program knows.
        restart store_versions: Option<RangeInclusive<u32>>;
    }
}

section! {
    /// Programs to notify when a snapshot is discovered, ready or refused, when a stream is stale,
    /// and when a problem begins or ends; see `docs/operating.md`.
    Hooks {
        /// A program and its arguments. It gets the facts in its environment and as JSON on stdin.
        live command: HookCommand;
        /// URL to which the facts are posted as JSON: plain HTTP, for a local service.
        live webhook: Option<Webhook>;
        /// Time limit of one attempt.
        live timeout: Seconds<1, 3_600> = const { Seconds::new(30) };
        /// How often to retry a failed attempt, after 1 s, 2 s, 4 s and so on.
        live retries: Number<0, 20> = const { Number::new(3) };
    }
}

section! {
    /// Log lines, on stderr.
    Log {
        /// How much to log.
        live level: LogLevel = LogLevel::Info;
        /// `text` for people, `json` for programs, or `journal` with its fields. `auto` means the
        /// journal if stderr is connected to it, as under systemd.
        restart format: LogFormat = LogFormat::Auto;
    }
}

fn default_authorities() -> Vec<Authority> {
    // The key is valid; a test checks it.
    Authority::from_bytes(&DEFAULT_AUTHORITY)
        .into_iter()
        .collect()
}

/// Returns the salt of the default stream.
pub(crate) fn default_salt() -> Salt {
    // The name is shorter than the limit of 64 bytes.
    DEFAULT_STREAM.parse().expect("a short salt")
}

/// The default TCP port for peers. The UDP port of the same number stays unused.
const DEFAULT_PEER_PORT: u16 = 6881;

fn default_listen() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PEER_PORT)
}

/// Returns the address that the metrics exporter of nano-snapshot-swarm uses.
fn default_http() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9109)
}

/// The streams with their names, in the order of the configuration. Names are unique, and there is at least one stream. Some functions, such as
/// `/latest.magnet`, use the first stream only.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Streams(Vec<(String, Stream)>);

impl Streams {
    /// Returns all streams in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Stream)> {
        self.0.iter().map(|(name, stream)| (name.as_str(), stream))
    }

    /// Sorts the streams in the order of `names`. Streams that `names` does not contain come last.
    fn arrange(&mut self, names: &[String]) {
        let place = |name: &String| names.iter().position(|one| one == name);
        self.0
            .sort_by_key(|(name, _)| place(name).unwrap_or(names.len()));
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self(vec![(DEFAULT_STREAM.to_owned(), Stream::default())])
    }
}

impl Part for Streams {
    fn describe(at: &str, table: &mut Table) {
        // The description belongs to the section of each stream.
        table.section(at, "");
        Stream::describe(&format!("{at}.{ANY_NAME}"), table);
    }

    fn read(said: &Dict) -> Self {
        let stream = |(name, said): (&String, &Value)| {
            let said = said.as_dict().filter(|_| is_stream_name(name))?;
            Some((name.clone(), Stream::read(said)))
        };
        let streams: Vec<_> = said.iter().filter_map(stream).collect();
        if streams.is_empty() {
            Self::default()
        } else {
            Self(streams)
        }
    }

    fn show(&self, at: &str, into: &mut Vec<Shown>) {
        for (name, stream) in &self.0 {
            stream.show(&format!("{at}.{name}"), into);
        }
    }

    /// Takes over all streams: a reload can add and remove them.
    fn adopt(&mut self, new: &Self) {
        self.0.clone_from(&new.0);
    }
}

/// Returns whether a stream may have this name, which becomes a file name.
fn is_stream_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=200).contains(&name.len()) && name.bytes().all(plain)
}

impl Config {
    /// Sets the origin of addresses that come from flags of this command.
    fn note_flags(&mut self, by_flag: impl Fn(&str) -> bool) {
        let origins = [
            ("peer.listen", &mut self.peer.listen.origin),
            ("dht.port", &mut self.dht.port.origin),
            ("http.listen", &mut self.http.listen.origin),
        ];
        for (path, origin) in origins {
            if by_flag(path) {
                *origin = Origin::Flag;
            }
        }
    }

    /// Returns the description of all keys.
    pub(crate) fn table() -> Table {
        let mut table = Table::default();
        Self::describe("", &mut table);
        table
    }
}

impl Control {
    /// Returns the path of the control socket: the configured one, or else `control.sock` in the first directory of `$RUNTIME_DIRECTORY`, or else in
    /// the data directory. `None` when it is off.
    pub(crate) fn path(&self, data_dir: &Path) -> Option<PathBuf> {
        if let Some(socket) = &self.socket {
            return socket.clone().value();
        }
        let runtime = std::env::var_os("RUNTIME_DIRECTORY");
        let first = runtime.and_then(|dirs| std::env::split_paths(&dirs).next());
        let dir = first.filter(|dir| dir.is_absolute());
        let dir = dir.unwrap_or_else(|| data_dir.to_owned());
        Some(dir.join("control.sock"))
    }
}

impl Stream {
    /// Returns the policy: which authorities are trusted, and how many of them must agree.
    pub(crate) fn policy(&self) -> Result<StreamPolicy, InvalidPolicy> {
        let threshold = self.threshold.get() as usize;
        let max_age = self.max_age.map(Seconds::get);
        StreamPolicy::new(
            self.authorities.clone(),
            threshold,
            self.salt.clone(),
            max_age,
        )
    }
}

/// Returns contradictions between keys that are valid by themselves: the path of a key, and a message.
fn contradictions(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, stream) in config.stream.iter() {
        if let Err(error) = stream.policy() {
            let key = match error {
                InvalidPolicy::Threshold { .. } => "threshold",
                _ => "authorities",
            };
            found.push((format!("stream.{name}.{key}"), error.to_string()));
        }
    }
    found.extend(check::equal_ports(config));
    found
}

impl From<&Retention> for snapshot_store::retention::Retention {
    fn from(keys: &Retention) -> Self {
        Self {
            generations: keys.generations.get(),
            size: keys.size.value().map(Size::get),
        }
    }
}
