//! The command line.

mod install;
mod produce;
mod values;
mod verify;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use snapshot_pointer::{Authority, Salt};

pub(crate) use install::InstallArgs;
pub(crate) use produce::{LayoutArg, ProduceArgs, Publish};
pub(crate) use values::{HostPort, SeedFor};
pub(crate) use verify::{LedgerPolicyArgs, VerifyArgs};

/// The key of the stream that is followed unless another is named.
const DEFAULT_AUTHORITY: &str = "cdbc9284015e84c225f0e67b891606505a60cf1218b127ac1c1edb6444567e6b";

/// TCP port of peers; UDP of the same number is kept free beside it.
const DEFAULT_PEER_PORT: u16 = 6881;

/// UDP port of the DHT node.
const DEFAULT_DHT_PORT: u16 = 6882;

/// Mirrors Nano ledger snapshots: finds the newest through a signed pointer in the Mainline DHT,
/// fetches it over BitTorrent v2, verifies it and seeds it for ever.
///
/// Without a sub-command it mirrors until it is stopped. With --once it fetches the newest
/// snapshot and exits.
#[derive(Debug, Parser)]
#[command(
    name = "nano-snapshot-mirror",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// What to do instead of mirroring.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) once: OnceArgs,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What to do instead of mirroring.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a snapshot of a node's ledger, running or not, and publish it
    Produce(ProduceArgs),
    /// Make the key that signs the pointer to snapshots
    Keygen(KeygenArgs),
    /// Show what a data directory holds
    Status(StatusArgs),
    /// Read held snapshots again, compare every byte with its hash, and look into the ledgers
    Verify(VerifyArgs),
    /// Put a verified ledger into the data directory of a node that does not run
    Install(InstallArgs),
    /// Show what a .torrent file or a magnet link says
    Inspect(InspectArgs),
    /// Show the whole way on this machine alone: produce, mirror, fetch, update
    Demo(DemoArgs),
}

/// Logging, the same for every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// How much to log to stderr
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Info)]
    pub(crate) log_level: LogLevel,
}

/// How much to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum LogLevel {
    /// Only what ends the work.
    Error,
    /// And what is wrong but survived.
    Warn,
    /// And what happens.
    Info,
    /// And why.
    Debug,
    /// And everything else.
    Trace,
}

/// `--once` and what it needs.
#[derive(Debug, Clone, Args)]
pub(crate) struct OnceArgs {
    /// Fetch the newest snapshot and exit: 0 when it is here whole and verified
    #[arg(long)]
    pub(crate) once: bool,
    /// Put the ledger at data.ldb in the data directory, ready for a node
    #[arg(long, requires = "once")]
    pub(crate) extract: bool,
    /// Give the archive back to the disk while it is extracted, if it is one, and remove the
    /// snapshot: it is not seeded any longer, and the disk need not hold archive and ledger
    #[arg(long, requires = "extract")]
    pub(crate) discard_archive: bool,
    /// Seed after the fetch: a duration (30m, 2h) or an upload ratio without a unit (1.5)
    #[arg(long, requires = "once", value_name = "DURATION|RATIO")]
    pub(crate) seed_for: Option<SeedFor>,
}

/// What mirroring and fetching share.
#[derive(Debug, Clone, Args)]
pub(crate) struct MirrorArgs {
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Time between two look-ups of the pointer
    #[arg(long, value_name = "DURATION", default_value = "600s", value_parser = values::poll_interval)]
    pub(crate) poll_interval: Duration,
    /// A peer to ask besides those the DHT names; resolved again at every search (repeatable)
    #[arg(long = "seed-peer", value_name = "HOST:PORT")]
    pub(crate) seed_peers: Vec<HostPort>,
    /// Where to accept peers (TCP); port 0 takes any free one [default: all addresses, port 6881]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) ledger: LedgerPolicyArgs,
}

/// Whose snapshots to follow.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamArgs {
    /// An Ed25519 public key whose holder vouches for snapshots (repeatable)
    #[arg(
        long = "authority",
        alias = "producer-signing-pubkey",
        value_name = "HEX",
        default_value = DEFAULT_AUTHORITY
    )]
    pub(crate) authorities: Vec<Authority>,
    /// How many of the authorities must name the same snapshot
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub(crate) threshold: usize,
    #[command(flatten)]
    pub(crate) salt: SaltArgs,
}

/// The salt of the pointer.
#[derive(Debug, Clone, Args)]
pub(crate) struct SaltArgs {
    /// The name under which an authority publishes this stream (BEP 44 salt, at most 64 bytes)
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "daily",
        allow_hyphen_values = true
    )]
    pub(crate) salt: Salt,
}

/// Where the data are.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// The data directory [default: $STATE_DIRECTORY, or else
    /// ~/.local/share/nano-snapshot-mirror]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The DHT node.
#[derive(Debug, Clone, Args)]
pub(crate) struct DhtArgs {
    /// A DHT node to start from, instead of the public ones (repeatable)
    #[arg(long = "dht-bootstrap", value_name = "HOST:PORT")]
    pub(crate) bootstrap: Vec<HostPort>,
    /// UDP port of the DHT node; 0 takes any free one [default: 6882]
    #[arg(long = "dht-port", value_name = "PORT")]
    pub(crate) port: Option<u16>,
}

impl DhtArgs {
    /// The port to use, and whether the user chose it.
    pub(crate) fn port(&self) -> Chosen<u16> {
        Chosen::or_default(self.port, DEFAULT_DHT_PORT)
    }
}

impl Cli {
    /// How much to log, for whichever command.
    pub(crate) fn log_level(&self) -> LogLevel {
        let log = match &self.command {
            None => &self.log,
            Some(Command::Produce(args)) => &args.log,
            Some(Command::Keygen(args)) => &args.log,
            Some(Command::Status(args)) => &args.log,
            Some(Command::Verify(args)) => &args.log,
            Some(Command::Install(args)) => &args.log,
            Some(Command::Inspect(args)) => &args.log,
            Some(Command::Demo(args)) => &args.log,
        };
        log.log_level
    }
}

impl MirrorArgs {
    /// Where to listen, and whether the user chose it.
    pub(crate) fn listen(&self) -> Chosen<SocketAddr> {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PEER_PORT);
        Chosen::or_default(self.listen, any)
    }
}

/// A value that the user gave or that is our default. A command that runs once gives way when
/// somebody else, such as the mirror on the same machine, has the default port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    /// The value.
    pub(crate) value: T,
    /// Whether the user gave it.
    pub(crate) by_user: bool,
}

impl<T> Chosen<T> {
    fn or_default(given: Option<T>, default: T) -> Self {
        let by_user = given.is_some();
        Self {
            value: given.unwrap_or(default),
            by_user,
        }
    }
}

/// `keygen`.
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Where to write the key; an existing file is never overwritten
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A .torrent file or a magnet link
    #[arg(value_name = "FILE|MAGNET")]
    pub(crate) what: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// About how large the invented ledger is
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub(crate) size: u64,
    /// Work in this directory, which must be empty or missing, and leave everything there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_arguments_it_mirrors_the_default_stream() {
        let cli = Cli::try_parse_from(["nano-snapshot-mirror"]).unwrap();
        assert!(cli.command.is_none() && !cli.once.once);
        assert_eq!(cli.mirror.stream.authorities.len(), 1);
        assert_eq!(
            cli.mirror.stream.authorities[0].to_string(),
            DEFAULT_AUTHORITY
        );
        assert_eq!(cli.mirror.poll_interval, Duration::from_secs(600));
        assert_eq!(cli.mirror.listen().value.to_string(), "[::]:6881");
        assert_eq!(
            cli.mirror.dht.port(),
            Chosen {
                value: 6882,
                by_user: false
            }
        );
    }

    #[test]
    fn an_authority_replaces_the_default_and_repeats_under_both_names() {
        let other = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
        let args = [
            "nano-snapshot-mirror",
            "--authority",
            other,
            "--producer-signing-pubkey",
            DEFAULT_AUTHORITY,
            "--threshold",
            "2",
        ];
        let stream = Cli::try_parse_from(args).unwrap().mirror.stream;
        let keys: Vec<String> = stream
            .authorities
            .iter()
            .map(Authority::to_string)
            .collect();
        assert_eq!(keys, [other, DEFAULT_AUTHORITY]);
        assert_eq!(stream.threshold, 2);
    }

    #[test]
    fn a_mistake_is_named_with_its_flag() {
        let cases: [(&[&str], &str); 8] = [
            (&["--authority", "abc"], "--authority <HEX>"),
            (&["--poll-interval", "0"], "--poll-interval <DURATION>"),
            (&["--seed-peer", "host"], "--seed-peer <HOST:PORT>"),
            (&["--listen", "6881"], "--listen <ADDR:PORT>"),
            (
                &["--dht-bootstrap", "::1:6882"],
                "--dht-bootstrap <HOST:PORT>",
            ),
            (&["--extract"], "--once"),
            (
                &["--once", "--seed-for", "x"],
                "--seed-for <DURATION|RATIO>",
            ),
            (
                &[
                    "produce",
                    "--ledger",
                    "l",
                    "--key",
                    "k",
                    "--piece-length",
                    "3M",
                ],
                "--piece-length <SIZE>",
            ),
        ];
        for (args, names) in cases {
            let all = ["nano-snapshot-mirror"].iter().chain(args);
            let error = Cli::try_parse_from(all).unwrap_err().to_string();
            assert!(error.contains(names), "{args:?}: {error}");
        }
    }
}
