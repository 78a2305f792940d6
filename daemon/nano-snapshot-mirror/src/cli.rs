//! The command line.

mod authority;
mod defaults;
mod install;
mod produce;
mod verify;

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use figment::value::Value;
use snapshot_pointer::Salt;

use crate::config::{SeedFor, Sources, UnscopedValue, written};
pub(crate) use authority::{AttestArgs, RotateArgs};
pub(crate) use install::InstallArgs;
pub(crate) use produce::{ClearReadersArgs, CopyLedgerArgs, LayoutArg, ProduceArgs, Publish};
pub(crate) use verify::{LedgerPolicyArgs, VerifyArgs};

/// Mirrors Nano ledger snapshots: finds the newest through a signed pointer in the Mainline DHT,
/// fetches it over BitTorrent v2, verifies it and seeds it for ever.
///
/// Without a sub-command it mirrors until it is stopped. `fetch`, or --once, fetches the newest
/// snapshot and exits.
#[derive(Debug, Parser)]
#[command(
    name = "nano-snapshot-mirror",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    // `fetch` has the same options without --once.
    mut_arg("extract", |arg| arg.requires("once")),
    mut_arg("stream", |arg| arg.requires("once")),
    mut_arg("seed_for", |arg| arg.requires("once"))
)]
pub(crate) struct Cli {
    /// The command to run instead of mirroring.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) once: OnceArgs,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch the newest snapshot and exit, the same as --once; the exit code is 0 if it is complete and verified
    Fetch(FetchArgs),
    /// Make a snapshot of a node's ledger and publish it; the node may run
    Produce(ProduceArgs),
    /// Attest a stored and verified snapshot with a key of your own
    Attest(AttestArgs),
    /// Replace a key by another one; both keys sign
    Rotate(RotateArgs),
    /// Generate the key that signs the pointers to snapshots
    Keygen(KeygenArgs),
    /// Show the contents of a data directory and the state of the mirror that uses it
    Status(StatusArgs),
    /// Re-read stored snapshots, compare every byte with its hash, and verify the ledgers
    Verify(VerifyArgs),
    /// Install a verified ledger in the data directory of a stopped node
    Install(InstallArgs),
    /// Protect a stored snapshot from retention until it is unpinned
    Pin(PinArgs),
    /// Let retention remove a pinned snapshot again
    Unpin(PinArgs),
    /// Clear readers of dead processes from the lock file of a node's ledger; they make the ledger grow
    ClearReaders(ClearReadersArgs),
    /// Copy a ledger to stdout; `produce` starts itself with this command for that
    #[command(hide = true)]
    CopyLedger(CopyLedgerArgs),
    /// Show the contents of a .torrent file or a magnet link
    Inspect(InspectArgs),
    /// Show the effective configuration and the source of each value
    Config(ConfigArgs),
    /// Check the configuration and exit
    CheckConfig(CheckConfigArgs),
    /// Run a demonstration on this machine alone: produce, mirror, fetch, update
    Demo(DemoArgs),
}

/// The logging flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// The log level on stderr: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// The log format: auto, text, json or journal
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

/// The configuration file.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileArgs {
    /// The configuration file (TOML) [default: /etc/nano-snapshot-mirror/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `--once`, which does what `fetch` does.
#[derive(Debug, Clone, Args)]
pub(crate) struct OnceArgs {
    /// Fetch the newest snapshot and exit; the exit code is 0 if it is complete and verified
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) options: FetchOptions,
}

/// `fetch`.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    pub(crate) options: FetchOptions,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The options of a fetch.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct FetchOptions {
    /// Extract the ledger to data.ldb in the data directory, ready for a node
    #[arg(long)]
    pub(crate) extract: bool,
    /// Delete an archive piece by piece while it is extracted, so that archive and ledger never need space at once;
    /// the snapshot is removed and no longer seeded
    #[arg(long, requires = "extract")]
    pub(crate) discard_archive: bool,
    /// Extract even if the ledger at data.ldb is newer, with more cemented blocks, or as many and more blocks
    #[arg(long, requires = "extract")]
    pub(crate) allow_older: bool,
    /// The stream to fetch, if the configuration has several
    #[arg(long, value_name = "NAME")]
    pub(crate) stream: Option<String>,
    /// Seed after the fetch, for a duration (30m, 2h) or up to an upload ratio without a unit (1.5)
    #[arg(long, value_name = "DURATION|RATIO")]
    pub(crate) seed_for: Option<SeedFor>,
}

/// The flags that mirroring and fetching share. Values of configuration keys stay text here. They are parsed together
/// with the other sources, so that all errors are reported at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct MirrorArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Time between two look-ups of the pointer
    #[arg(long, value_name = "DURATION")]
    pub(crate) poll_interval: Option<String>,
    /// A peer to connect to in addition to those found in the DHT; resolved again at every search (repeatable)
    #[arg(long = "seed-peer", value_name = "HOST:PORT")]
    pub(crate) seed_peers: Vec<String>,
    /// Address to accept peers on (TCP); port 0 picks a free one (repeatable)
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<String>,
    /// The Unix socket on which the mirror answers `status` and accepts commands, or `off`
    #[arg(long, value_name = "PATH|off")]
    pub(crate) control: Option<String>,
    /// Address of the status page and metrics (HTTP, read-only), or `off`
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub(crate) http: Option<String>,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) ledger: LedgerPolicyArgs,
}

/// The authorities and the stream to follow.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamArgs {
    /// The Ed25519 public key of an authority that publishes or attests snapshots (repeatable)
    #[arg(
        long = "authority",
        alias = "producer-signing-pubkey",
        value_name = "HEX"
    )]
    pub(crate) authorities: Vec<String>,
    /// How many of the authorities must name the same snapshot
    #[arg(long, value_name = "K")]
    pub(crate) threshold: Option<String>,
    /// The name under which an authority publishes this stream (BEP 44 salt, at most 64 bytes)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) salt: Option<String>,
}

/// The flag of the data directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The flags of every command with a data directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The DHT node.
#[derive(Debug, Clone, Args)]
pub(crate) struct DhtArgs {
    /// A DHT bootstrap node, used instead of the public ones (repeatable)
    #[arg(long = "dht-bootstrap", value_name = "HOST:PORT")]
    pub(crate) bootstrap: Vec<String>,
    /// UDP port of the DHT node; 0 picks a free one
    #[arg(long = "dht-port", value_name = "PORT")]
    pub(crate) port: Option<String>,
}

/// Flags that set configuration keys.
#[derive(Default)]
struct Flags(Vec<UnscopedValue>);

impl Flags {
    fn one(&mut self, path: &'static str, flag: &str, value: Option<&str>) {
        let value = value.map(Value::from);
        self.0.extend(value.map(|value| UnscopedValue {
            path,
            value,
            place: format!("flag {flag}"),
        }));
    }

    fn many(&mut self, path: &'static str, flag: &str, values: &[String]) {
        if !values.is_empty() {
            self.0.push(UnscopedValue {
                path,
                value: Value::from(values),
                place: format!("flag {flag}"),
            });
        }
    }

    fn log(&mut self, args: &LogArgs) {
        self.one("log.level", "--log-level", args.log_level.as_deref());
        self.one("log.format", "--log-format", args.log_format.as_deref());
    }

    fn data(&mut self, args: &DataArgs) {
        let dir = args.data_dir.as_ref().map(|dir| dir.to_string_lossy());
        self.one("data-dir", "--data-dir", dir.as_deref());
    }

    fn common<'a>(&mut self, args: &'a CommonArgs) -> &'a FileArgs {
        self.data(&args.data);
        self.log(&args.log);
        &args.file
    }

    fn dht(&mut self, args: &DhtArgs) {
        self.many("dht.bootstrap", "--dht-bootstrap", &args.bootstrap);
        self.one("dht.port", "--dht-port", args.port.as_deref());
    }

    fn mirror(&mut self, args: &MirrorArgs) {
        let stream = &args.stream;
        self.many(
            "stream.NAME.authorities",
            "--authority",
            &stream.authorities,
        );
        self.one(
            "stream.NAME.threshold",
            "--threshold",
            stream.threshold.as_deref(),
        );
        self.one("stream.NAME.salt", "--salt", stream.salt.as_deref());
        self.data(&args.data);
        self.one(
            "poll-interval",
            "--poll-interval",
            args.poll_interval.as_deref(),
        );
        self.many("seed-peers", "--seed-peer", &args.seed_peers);
        self.many("peer.listen", "--listen", &args.listen);
        self.one("control.socket", "--control", args.control.as_deref());
        self.one("http.listen", "--http", args.http.as_deref());
        self.dht(&args.dht);
        self.ledger(&args.ledger);
    }

    fn ledger(&mut self, args: &LedgerPolicyArgs) {
        self.one("verify.level", "--verify-level", args.level.as_deref());
        self.one(
            "verify.store-versions",
            "--store-version",
            args.store_versions.as_deref(),
        );
    }
}

impl Cli {
    /// Parses the command line of this process.
    pub(crate) fn of_process() -> Result<Self, clap::Error> {
        let mut command = defaults::described(Self::command());
        let matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// Returns where to read the configuration for this command. Commands without data or networks only use their own
    /// flags.
    pub(crate) fn sources(&self) -> Sources {
        let mut flags = Flags::default();
        let file = match &self.command {
            None => {
                flags.mirror(&self.mirror);
                flags.log(&self.log);
                &self.mirror.file
            }
            Some(
                Command::Fetch(FetchArgs { mirror, log, .. })
                | Command::Config(ConfigArgs { mirror, log, .. })
                | Command::CheckConfig(CheckConfigArgs { mirror, log, .. }),
            ) => {
                flags.mirror(mirror);
                flags.log(log);
                &mirror.file
            }
            Some(Command::Produce(args)) => {
                flags.dht(&args.dht);
                flags.ledger(&args.policy);
                flags.common(&args.common)
            }
            Some(
                Command::Attest(AttestArgs { dht, common, .. })
                | Command::Rotate(RotateArgs { dht, common, .. }),
            ) => {
                flags.dht(dht);
                flags.common(common)
            }
            Some(Command::Status(args)) => {
                flags.one("control.socket", "--control", args.control.as_deref());
                flags.common(&args.common)
            }
            Some(Command::Verify(args)) => flags.common(&args.common),
            Some(Command::Pin(args) | Command::Unpin(args)) => flags.common(&args.common),
            Some(Command::Install(args)) => {
                flags.ledger(&args.policy);
                flags.common(&args.common)
            }
            Some(Command::Keygen(KeygenArgs { log, .. }))
            | Some(Command::ClearReaders(ClearReadersArgs { log, .. }))
            | Some(Command::CopyLedger(CopyLedgerArgs { log, .. }))
            | Some(Command::Inspect(InspectArgs { log, .. }))
            | Some(Command::Demo(DemoArgs { log, .. })) => {
                flags.log(log);
                return Sources::only(flags.0);
            }
        };
        Sources::of_process(file.config.clone(), flags.0)
    }
}

/// The salt of the pointer.
#[derive(Debug, Clone, Args)]
pub(crate) struct SaltArgs {
    /// The name under which this stream is published (BEP 44 salt, at most 64 bytes)
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "daily",
        allow_hyphen_values = true
    )]
    pub(crate) salt: Salt,
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
    /// Repeat the output every second
    #[arg(long, conflicts_with = "json")]
    pub(crate) watch: bool,
    /// Exit with 0 whenever the mirror answers, ready or not: for health checks that restart a mirror that does not
    #[arg(long, conflicts_with = "watch")]
    pub(crate) alive: bool,
    /// The control socket of the mirror
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// `pin` and `unpin`.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// The snapshot's v2 info-hash, or a unique prefix of it
    #[arg(value_name = "ID")]
    pub(crate) snapshot: String,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
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

/// `config`, with the flags of the mirror, which are part of its configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Describe all keys in Markdown instead
    #[arg(long)]
    pub(crate) keys: bool,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `check-config`, with the flags of the mirror, which are part of its configuration.
#[derive(Debug, Args)]
pub(crate) struct CheckConfigArgs {
    /// Do not check directories of this machine: the configuration is for another machine or user
    #[arg(long)]
    pub(crate) elsewhere: bool,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Approximate size of the generated ledger
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = written::size)]
    pub(crate) size: u64,
    /// Work in this directory, which must be empty or missing, and leave everything there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_authority_repeats_under_both_names() {
        let args = [
            "nano-snapshot-mirror",
            "--authority",
            "a",
            "--producer-signing-pubkey",
            "b",
        ];
        let stream = Cli::try_parse_from(args).unwrap().mirror.stream;
        assert_eq!(stream.authorities, ["a", "b"]);
    }

    #[test]
    fn every_flag_for_a_key_is_taken_and_named() {
        let args = [
            "--authority=x",
            "--threshold=x",
            "--salt=x",
            "--data-dir=x",
            "--poll-interval=x",
            "--seed-peer=x",
            "--listen=x",
            "--control=x",
            "--http=x",
            "--dht-bootstrap=x",
            "--dht-port=x",
            "--verify-level=x",
            "--store-version=x",
            "--log-level=x",
            "--log-format=x",
        ];
        let all = ["nano-snapshot-mirror"].iter().chain(&args);
        let flags = Cli::try_parse_from(all).unwrap().sources().flags;
        let table = crate::config::Config::table();
        for arg in args {
            let place = format!("flag {}", arg.trim_end_matches("=x"));
            let found: Vec<_> = flags.iter().filter(|flag| flag.place == place).collect();
            let [flag] = found[..] else {
                panic!("{place}: {}", found.len())
            };
            assert!(table.find(flag.path).is_some(), "{}", flag.path);
        }
        assert_eq!(flags.len(), args.len());
    }

    #[test]
    fn fetch_is_what_once_is() {
        let options = [
            "--extract",
            "--discard-archive",
            "--allow-older",
            "--stream=a",
            "--seed-for=2h",
            "--data-dir=d",
            "--authority=x",
            "--log-level=debug",
        ];
        let parse = |first| {
            let all = ["nano-snapshot-mirror", first].into_iter().chain(options);
            Cli::try_parse_from(all).unwrap()
        };
        let (once, fetch) = (parse("--once"), parse("fetch"));
        let flags = |cli: &Cli| format!("{:?}", cli.sources().flags);
        assert_eq!(flags(&once), flags(&fetch));
        let Some(Command::Fetch(args)) = fetch.command else {
            panic!("{:?}", fetch.command)
        };
        assert!(once.once.once);
        assert_eq!(args.options, once.once.options);
    }

    #[test]
    fn a_mistake_is_named_with_its_flag() {
        let cases: [(&[&str], &str); 3] = [
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
