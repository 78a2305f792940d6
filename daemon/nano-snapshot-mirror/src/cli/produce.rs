//! `produce`.

use std::ffi::OsStr;
use std::path::PathBuf;

use bittorrent_protocol::PieceLength;
use bittorrent_session::HttpUrl;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, Command, ValueEnum};
use snapshot_pointer::Salt;

use super::{CommonArgs, DhtArgs, LedgerPolicyArgs, LogArgs};
use crate::config::{default_salt, written};

/// `produce`.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// The node's ledger, usually data.ldb; the node may run
    #[arg(long, value_name = "PATH", required_unless_present = "from_url")]
    pub(crate) ledger: Option<PathBuf>,
    /// A ledger or an archive of one (tar.zst, 7z) on a web server, instead of a node's ledger
    #[arg(long, value_name = "URL", conflicts_with_all = ["ledger", "dry_run"], value_parser = Discreet)]
    pub(crate) from_url: Option<HttpUrl>,
    /// The key file that keygen made; only its owner may have access
    #[arg(long, value_name = "FILE", required_unless_present_any = ["offline", "dry_run"])]
    pub(crate) key: Option<PathBuf>,
    /// What to publish
    #[arg(long, value_enum, default_value_t = Publish::Scrubbed)]
    pub(crate) publish: Publish,
    /// The form to publish it in [default: plain; with --from-url the form of the file there]
    #[arg(long, value_enum)]
    pub(crate) layout: Option<LayoutArg>,
    /// Piece length of the torrent, a power of two from 16KiB to 256MiB
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = piece_length)]
    pub(crate) piece_length: PieceLength,
    /// Only show what would be done, and the space it needs
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Make the snapshot without publishing it, exit code 3: the next run without this flag signs and publishes it
    #[arg(long)]
    pub(crate) offline: bool,
    /// Publish even if no pointer of this key is found on the network or on disk
    #[arg(long)]
    pub(crate) first: bool,
    /// Publish even if the ledger is older than that of the last snapshot, with fewer cemented blocks, or as many and
    /// fewer blocks
    #[arg(long)]
    pub(crate) allow_older: bool,
    /// Validate the setup: publish under the salt `validation` unless --salt names another, and never under one that
    /// mirrors follow
    #[arg(long)]
    pub(crate) validation: bool,
    /// The name under which this stream is published (BEP 44 salt, at most 64 bytes) [default: daily]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) salt: Option<Salt>,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) policy: LedgerPolicyArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// `clear-readers`.
#[derive(Debug, Args)]
pub(crate) struct ClearReadersArgs {
    /// The node's ledger, usually data.ldb; the node may run
    #[arg(long, value_name = "PATH")]
    pub(crate) ledger: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `copy-ledger`, the child process that copies the ledger for `produce`.
#[derive(Debug, Args)]
pub(crate) struct CopyLedgerArgs {
    /// The node's ledger
    #[arg(long, value_name = "PATH")]
    pub(crate) ledger: PathBuf,
    /// The state of the ledger when the interrupted copy began
    #[arg(long, value_name = "TEXT", requires = "from")]
    pub(crate) state: Option<String>,
    /// The offset at which to resume the copy, in bytes
    #[arg(long, value_name = "BYTES", requires = "state")]
    pub(crate) from: Option<u64>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The salt of validation runs.
const VALIDATION: &str = "validation";

impl ProduceArgs {
    /// Returns the salt of the pointer.
    pub(crate) fn salt(&self) -> Salt {
        let usual = || match self.validation {
            // Shorter than the maximum of 64 bytes.
            true => VALIDATION.parse().expect("a short salt"),
            false => default_salt(),
        };
        self.salt.clone().unwrap_or_else(usual)
    }
}

/// What `produce` publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Publish {
    /// The uncompacted copy of data.ldb with peers, online weight and votes removed and overwritten. A node opens it,
    /// and little changes between days.
    Scrubbed,
    /// The uncompacted copy of data.ldb, byte for byte, including the addresses of the node's peers and its votes.
    Exact,
}

/// The form of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutArg {
    /// The ledger itself: a node opens it as it is seeded, and an update downloads only what changed.
    Plain,
    /// A tar file in zstd frames of 128 KiB of ledger: about three quarters of the size, and `zstd -d | tar x`
    /// unpacks it. An update downloads about four times as much as in the plain form.
    #[value(name = "tar.zst")]
    TarZst,
}

/// Parses a URL. An error does not quote the value, as clap would: it may contain a password.
#[derive(Debug, Clone)]
struct Discreet;

impl TypedValueParser for Discreet {
    type Value = HttpUrl;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<HttpUrl, clap::Error> {
        let text = value.to_str().unwrap_or_default();
        text.parse().map_err(|error| {
            let flag = arg.map(ToString::to_string).unwrap_or_default();
            let text = format!("invalid value for '{flag}': {error}\n");
            clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}

fn piece_length(text: &str) -> Result<PieceLength, String> {
    PieceLength::new(written::size(text)?).map_err(|error| error.to_string())
}
