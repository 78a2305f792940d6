//! `install`: a verified ledger into the data directory of a node that does not run.
//!
//! At every moment, and after a power cut, `data.ldb` there is either the old ledger or the new one,
//! whole:
//!
//! 1. The lock of LMDB is taken, so that no node runs, and none can start before the end.
//! 2. The new ledger grows as `data.ldb.new`, is looked into, and synced.
//! 3. The old one gets `data.ldb.backup` as its second name, in place of an older backup.
//! 4. `data.ldb.new` is renamed to `data.ldb`.
//!
//! Rolling back exchanges `data.ldb` and `data.ldb.backup` by the same means, so doing it twice changes
//! nothing.

pub(crate) mod node_lock;

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nano_ledger::archive::{self, Layout};
use tracing::info;

use crate::catalogue;
use crate::cli::InstallArgs;
use crate::config::Config;
use crate::data_dir::{DataDir, DirLock, StreamName, sync_dir};
use crate::extract::{self, Method};
use crate::fetch::Ended;
use crate::ledger_policy::{LedgerPolicy, Verdict};
use crate::output::outln;
use crate::progress::Display;
use crate::signals::Signals;
use crate::snapshot_info::SnapshotInfo;
use crate::space;
use crate::unpack::{self, Unpack, Unpacked};
use node_lock::{NodeLock, who_has_open};

/// Installs or rolls back.
pub(crate) fn run(
    args: &InstallArgs,
    config: &Config,
    display: &Display,
    signals: &Signals,
) -> Result<Ended> {
    let node = Node::open(&args.to)?;
    if args.rollback {
        node.roll_back(config)?;
        return Ok(Ended::Done);
    }
    let origin = Origin::find(args, config)?;
    let installation = Installation {
        node,
        policy: LedgerPolicy::from(&config.verify),
        display,
        signals,
    };
    installation.run(&origin)
}

/// Where the new ledger comes from.
struct Origin {
    path: PathBuf,
    /// The archive of this snapshot, or its plain ledger.
    snapshot: Option<Snapshot>,
}

struct Snapshot {
    id: bittorrent_protocol::InfoHashV2,
    dir: PathBuf,
    info: bittorrent_protocol::metainfo::Info,
    layout: Layout,
    /// Keeps it from being removed.
    _in_use: DirLock,
}

impl Origin {
    fn find(args: &InstallArgs, config: &Config) -> Result<Self> {
        if let Some(path) = &args.ledger {
            return Ok(Self {
                path: path.clone(),
                snapshot: None,
            });
        }
        let data = DataDir::existing(config.data_dir.as_deref())?;
        let stream = StreamName::of_salt(&args.salt.salt);
        if let Some(id) = data.current_of(&stream)? {
            let in_use = data
                .share_snapshot(id)?
                .with_context(|| format!("another process is writing snapshot {id}"))?;
            let dir = data.snapshot(id);
            let info = catalogue::read_info(&dir)?;
            if !catalogue::is_sealed(&dir, &info) {
                bail!("snapshot {id} is not whole: fetch it with --once first");
            }
            let Some((layout, path)) = catalogue::content(&dir, &info) else {
                bail!("snapshot {id} is {}, which is no ledger", info.name());
            };
            return Ok(Self {
                path,
                snapshot: Some(Snapshot {
                    id,
                    dir,
                    info,
                    layout,
                    _in_use: in_use,
                }),
            });
        }
        let extracted = data.root().join(LEDGER);
        if extracted.is_file() {
            return Ok(Self {
                path: extracted,
                snapshot: None,
            });
        }
        bail!(
            "{} holds neither a current snapshot of {} nor a {LEDGER}: fetch one with --once, or \
             name a ledger",
            data.root().display(),
            stream.as_str()
        )
    }
}

/// What a node calls its ledger.
const LEDGER: &str = "data.ldb";

/// The data directory of a node that does not run, and will not before this is dropped.
struct Node {
    /// The ledger: in the directory itself, or where a link in it leads.
    ledger: PathBuf,
    dir: Metadata,
    _lock: NodeLock,
}

impl Node {
    fn open(to: &Path) -> Result<Self> {
        let dir = to
            .metadata()
            .with_context(|| format!("cannot look at the node's directory {}", to.display()))?;
        if !dir.is_dir() {
            bail!(
                "{} is no directory: name the one that holds the node's {LEDGER}",
                to.display()
            );
        }
        // The node finds its lock by the name it opens, wherever a link there leads.
        let name = to.join(LEDGER);
        let ledger = match name.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => fs::canonicalize(&name)
                .with_context(|| format!("the link {} leads nowhere", name.display()))?,
            Ok(metadata) if !metadata.is_file() => bail!("{} is no file", name.display()),
            _ => name.clone(),
        };
        let user = rustix::process::geteuid();
        if !user.is_root() && user.as_raw() != dir.uid() {
            bail!(
                "{} belongs to user {}, and this is user {}: run install as that user or as root, \
                 or the node could not open its ledger",
                to.display(),
                dir.uid(),
                user.as_raw()
            );
        }
        let lock = NodeLock::take(&name, &dir)?;
        Ok(Self {
            ledger,
            dir,
            _lock: lock,
        })
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.ledger.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    fn new_ledger(&self) -> PathBuf {
        self.beside(".new")
    }

    fn backup(&self) -> PathBuf {
        self.beside(".backup")
    }

    fn parent(&self) -> &Path {
        self.ledger.parent().unwrap_or(Path::new("/"))
    }

    /// Gives the file at `new` the owner and mode of the ledger it replaces, or those a node would
    /// have given it, and makes it durable.
    fn hand_over(&self, new: &Path) -> Result<()> {
        let failed = || format!("cannot hand {} over to the node", new.display());
        let file = open_alone(new).with_context(failed)?;
        let old = self.ledger.metadata();
        let mode = old
            .as_ref()
            .map_or(0o600, |old| old.permissions().mode() & 0o777);
        let owner = match &old {
            Ok(old) if !self.is_left_by_root(old) => old,
            _ => &self.dir,
        };
        let own = file.metadata().with_context(failed)?;
        if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
            fchown(&file, Some(owner.uid()), Some(owner.gid())).with_context(failed)?;
        }
        file.set_permissions(Permissions::from_mode(mode))
            .with_context(failed)?;
        file.sync_all().with_context(failed)
    }

    /// Whether root left a file in the directory of somebody else: a mistake not to be repeated.
    fn is_left_by_root(&self, file: &Metadata) -> bool {
        file.uid() == 0 && self.dir.uid() != 0
    }

    /// Puts the ledger at `new` in place of the node's, which becomes the backup.
    fn replace(&self, new: &Path) -> Result<()> {
        let backup = self.backup();
        if self.ledger.exists() {
            let second = self.beside(".old");
            remove_if_there(&second)?;
            fs::hard_link(&self.ledger, &second)
                .with_context(|| format!("cannot give {} a second name", self.ledger.display()))?;
            rename(&second, &backup)?;
        }
        rename(new, &self.ledger)?;
        sync_dir(self.parent())
    }

    fn roll_back(&self, config: &Config) -> Result<()> {
        let backup = self.backup();
        if !backup.exists() {
            bail!(
                "there is no backup at {}: install makes one when it replaces a ledger",
                backup.display()
            );
        }
        // Milliseconds: that it is a ledger at all. It was in use before.
        let policy = LedgerPolicy {
            level: nano_ledger::Level::L0,
            store_versions: config.verify.store_versions.clone(),
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let record = policy.verify(&backup, None, &Display::new(), &stop)?;
        if let Verdict::Refused(reasons) = policy.judge_record(record.as_ref()) {
            bail!("the backup is no sound ledger: {}", reasons.join("; "));
        }
        let failed = || format!("cannot hand {} over to the node", backup.display());
        let file = open_alone(&backup).with_context(failed)?;
        if self.is_left_by_root(&file.metadata().with_context(failed)?) {
            fchown(&file, Some(self.dir.uid()), Some(self.dir.gid())).with_context(failed)?;
        }
        drop(file);
        let new = self.new_ledger();
        remove_if_there(&new)?;
        fs::hard_link(&backup, &new)
            .with_context(|| format!("cannot give {} a second name", backup.display()))?;
        self.replace(&new)?;
        outln!("{}", self.ledger.display());
        info!(
            "rolled back: {} is the backup now; the same again undoes this",
            backup.display()
        );
        Ok(())
    }
}

struct Installation<'a> {
    node: Node,
    policy: LedgerPolicy,
    display: &'a Display,
    signals: &'a Signals,
}

impl Installation<'_> {
    fn run(&self, origin: &Origin) -> Result<Ended> {
        let new = self.node.new_ledger();
        let archive = origin
            .snapshot
            .as_ref()
            .filter(|snapshot| snapshot.layout != Layout::Plain);
        let ready = match archive {
            Some(snapshot) => self.unpack(snapshot, &new)?,
            None => self.copy(origin, &new)?,
        };
        if !ready {
            return Ok(Ended::Interrupted);
        }
        self.node.hand_over(&new)?;
        self.node.replace(&new)?;
        outln!("{}", self.node.ledger.display());
        let backup = self.node.backup();
        if backup.exists() {
            info!(
                "installed; the old ledger is {}: remove it when the node is well, or go back with \
                 --rollback",
                backup.display()
            );
        } else {
            info!("installed; there was no ledger before");
        }
        Ok(Ended::Done)
    }

    /// Makes `new` from a plain ledger and looks into it. `false` when interrupted.
    fn copy(&self, origin: &Origin, new: &Path) -> Result<bool> {
        let path = &origin.path;
        let size = path
            .metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?
            .len();
        let same = |one: &Path, other: &Path| match (one.metadata(), other.metadata()) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            _ => false,
        };
        if same(path, &self.node.ledger) {
            bail!("{} is the node's ledger already", path.display());
        }
        if let Some(writer) = who_has_open(path) {
            bail!(
                "{writer} has {} open and may write to it while it is copied: stop it first",
                path.display()
            );
        }
        // Copying first would cost hours and the room for nothing.
        match archive::detect(path) {
            Ok(Layout::Plain) => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{} is not installed, the node's ledger is as it was",
                        path.display()
                    )
                });
            }
            Ok(Layout::SevenZ | Layout::TarZst) => bail!(
                "{} is not installed, the node's ledger is as it was: it is an archive, and install takes an archive only as a snapshot: extract it first, \
                 and name the data.ldb in it",
                path.display()
            ),
        }
        // What an interrupted run left cannot be gone on with.
        remove_if_there(new)?;
        let method = if extract::by_reflink(path, new)? {
            Method::Reflink
        } else {
            space::ensure(self.node.parent(), size, "the node's new ledger")?;
            let mut meter = self.display.phase("Copying the ledger", size);
            let whole = extract::by_copy(path, new, &mut |done| {
                meter.set(done, None);
                !self.signals.stop.is_cancelled()
            })?;
            if !whole {
                return Ok(false);
            }
            Method::Copy
        };
        info!(
            size_bytes = size,
            ?method,
            "the ledger is beside the node's"
        );
        let claimed = origin
            .snapshot
            .as_ref()
            .and_then(|snapshot| SnapshotInfo::parse(snapshot.info.snapshot()?));
        // The copy, not the original: what the node will open.
        let found = self
            .policy
            .verify(new, claimed.as_ref(), self.display, &self.signals.stop);
        let refused = match found {
            Ok(Some(record)) => match self.policy.judge_record(Some(&record)) {
                Verdict::Refused(reasons) => anyhow::anyhow!(
                    "{} is not installed, the node's ledger is as it was: {}",
                    path.display(),
                    reasons.join("; ")
                ),
                _ => return Ok(true),
            },
            Ok(None) => {
                remove_if_there(new)?;
                return Ok(false);
            }
            Err(error) => error,
        };
        remove_if_there(new)?;
        Err(refused)
    }

    /// Extracts the archive of a snapshot to `new` and looks into what came out. `false` when
    /// interrupted.
    fn unpack(&self, snapshot: &Snapshot, new: &Path) -> Result<bool> {
        let unpack = Unpack {
            id: snapshot.id,
            dir: snapshot.dir.clone(),
            target: new.to_owned(),
            policy: self.policy.clone(),
            display: self.display.clone(),
            stop: self.signals.stop.clone(),
        };
        match unpack.whole(&snapshot.info, false)? {
            Unpacked::Ready(archived) => {
                unpack::tell(snapshot.id, &archived.install()?);
                Ok(true)
            }
            Unpacked::Stopped | Unpacked::NeedsWhole => Ok(false),
        }
    }
}

/// Opens a file that is to be given to the node. Root shall not give away what the directory's owner has
/// put in its place: nothing that leads elsewhere, or has another name.
fn open_alone(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.nlink() > 1 {
        return Err(io::Error::other("it has another name"));
    }
    Ok(file)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
