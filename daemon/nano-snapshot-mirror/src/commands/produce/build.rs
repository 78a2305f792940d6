//! Builds a complete snapshot in the store from a ledger or a downloaded archive.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use bittorrent_store::create::{Cut, Draft, Shape};
use bittorrent_store::{Condition, Inspection, StoreError};
use file_kit::recorded_time::unix_seconds;
use file_kit::space::occupied;
use ledger_archive::{ExtractError, ExtractOptions, LedgerFormat, PackError, PackOptions};
use nano_ledger::{LedgerPosition, LiveLedger};
use snapshot_store::{
    Counts, DataDir, LedgerRecord, SnapshotDir, SnapshotInfo, Stage, StreamName, space,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::copy;
use super::copying::{self, ClearAtEnd, Killed};
use super::counted::Counted;
use super::download::Downloaded;
use super::incoming::Build;
use super::making::Making;
use super::memory::{Memory, Origin, Recipe};
use super::pieces;
use crate::cli::{LayoutArg, ProduceArgs, Publish};
use crate::config::Config;
use crate::ledger::policy::{LedgerPolicy, Verdict, refuse_publication};
use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::Bytes;

/// The context of an error for a downloaded archive that mirrors would refuse to extract. The exit code depends on
/// it.
#[derive(Debug)]
pub(crate) struct Unpublishable(String);

impl fmt::Display for Unpublishable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing is published: cannot use {}", self.0)
    }
}

/// The content name of every plain snapshot, which is the file name of a node's ledger.
const PLAIN: &str = "data.ldb";

/// The content name of every packed snapshot: the ledger's name and the archive format.
const PACKED: &str = "data.ldb.tar.zst";

/// A complete snapshot in the store.
pub(super) struct Built {
    pub(super) id: InfoHashV2,
    /// The length of the content in bytes.
    pub(super) length: u64,
    pub(super) magnet: String,
}

impl Built {
    /// Returns the snapshot `id` if it is complete in the store.
    pub(super) fn held(data: &DataDir, id: InfoHashV2) -> Option<Self> {
        let dir = data.snapshot(id);
        let Inspection {
            metainfo,
            condition,
        } = dir.inspect().ok()?;
        (condition == Condition::Sealed).then(|| Self {
            id,
            length: metainfo.info().layout().content_length(),
            magnet: metainfo.magnet().to_string(),
        })
    }
}

/// The source of a snapshot.
pub(super) enum Source {
    /// A node's ledger.
    Ledger(PathBuf),
    /// A file from a web server.
    Downloaded(Downloaded),
}

/// Builds a snapshot of the current state of the source. Returns `None` when cancelled. Reuses the previous snapshot
/// if the source and the recipe are unchanged.
pub(super) fn snapshot(
    args: &ProduceArgs,
    config: &Config,
    source: Source,
    data: &DataDir,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Option<Built>> {
    let stream = StreamName::of_salt(args.salt().as_bytes());
    let memory = Memory::of(data, &stream);
    let recipe = Recipe::of(args);
    let published = published_last(data, &stream)?;
    let work = |output, size, build| Work {
        args,
        output,
        policy: LedgerPolicy::from(&config.verify),
        build,
        size,
        display,
        stop,
        memory: &memory,
        recipe: &recipe,
        published,
    };
    match source {
        Source::Ledger(path) => {
            let _at_end = ClearAtEnd(path.clone());
            let ledger = LiveLedger::open(&path)?;
            copying::clear(&ledger);
            Making::tidy(data, &stream);
            if let Some(built) = made_already(args, data, &memory, &recipe, &path)? {
                return Ok(Some(built));
            }
            let size = ledger.size_hint()?;
            let layout = args.layout.unwrap_or(LayoutArg::Plain);
            if layout == LayoutArg::Plain {
                // The size of an archive is only known after packing.
                pieces::refuse_too_short(args.piece_length, size)?;
            }
            let found = Making::find(data, &stream, &recipe, &path, &ledger)?;
            let there = found.as_ref().map_or(0, |found| occupied(&found.dir));
            // An unfinished snapshot that cannot be resumed uses space that the new one needs.
            data.clean_incoming()?;
            ensure_space(data, layout, size, there)?;
            let (build, making) = match found {
                Some(found) => {
                    let build = Build::resume(found.dir, found.lock);
                    (build, Some(found.making))
                }
                None => (Build::begin(data)?, None),
            };
            let work = work(Output::of(layout), size, build);
            work.of_ledger(&path, ledger, making, data, &stream)
        }
        Source::Downloaded(downloaded) => {
            let output = match (args.layout, downloaded.format) {
                (Some(layout), _) => Output::of(layout),
                (None, LedgerFormat::Plain) => Output::Plain,
                (None, LedgerFormat::TarZst | LedgerFormat::SevenZ) => Output::AsItIs,
            };
            let size = downloaded.resource.length;
            if downloaded.format == LedgerFormat::Plain && output == Output::Plain
                || output == Output::AsItIs
            {
                pieces::refuse_too_short(args.piece_length, size)?;
            }
            work(output, size, Build::begin(data)?).of_download(downloaded, data)
        }
    }
}

/// Returns the snapshot published last for this stream, and the position of its ledger.
fn published_last(
    data: &DataDir,
    stream: &StreamName,
) -> Result<Option<(InfoHashV2, LedgerPosition)>> {
    let Some(id) = data.current_of(stream)? else {
        return Ok(None);
    };
    Ok(LedgerRecord::position_of(&data.snapshot(id)).map(|position| (id, position)))
}

/// Returns a snapshot in the store that only has to be published.
fn made_already(
    args: &ProduceArgs,
    data: &DataDir,
    memory: &Memory,
    recipe: &Recipe,
    path: &Path,
) -> Result<Option<Built>> {
    let origin = Origin::of_ledger(path, path)?;
    if let Some(id) = memory.made_of(&origin, recipe)
        && let Some(built) = Built::held(data, id)
    {
        info!(
            snapshot = %id,
            "nothing was committed to the ledger since this snapshot was made"
        );
        return Ok(Some(built));
    }
    // A node commits all the time. A snapshot that an earlier run could not publish is published now instead of
    // building another one.
    if !args.offline
        && let Some(id) = memory.unpublished(&origin, recipe)
        && let Some(built) = Built::held(data, id)
    {
        info!(snapshot = %id, "publishing this snapshot of an earlier run before making another");
        return Ok(Some(built));
    }
    Ok(None)
}

/// Returns the space that building a snapshot takes on the file system of `incoming/`.
pub(super) fn space_needed(layout: LayoutArg, ledger: u64) -> u64 {
    match layout {
        LayoutArg::Plain => space::of_file(ledger),
        // The copy is deleted once it is packed. Archives have about three quarters of the ledger's size; a larger
        // margin would demand space that is not needed.
        LayoutArg::TarZst => ledger + space::of_file(ledger / 5 * 4),
    }
}

/// Fails if there is too little space. `there` bytes of what is needed are already allocated.
fn ensure_space(data: &DataDir, layout: LayoutArg, ledger: u64, there: u64) -> Result<()> {
    let purpose = match layout {
        LayoutArg::Plain => "the copy of the ledger",
        LayoutArg::TarZst => "the copy of the ledger and its archive",
    };
    let needed = space_needed(layout, ledger).saturating_sub(there);
    Ok(space::ensure(data, needed, purpose)?)
}

/// The form of the published content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Plain,
    TarZst,
    /// The downloaded archive, unchanged.
    AsItIs,
}

impl Output {
    fn of(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Plain => Self::Plain,
            LayoutArg::TarZst => Self::TarZst,
        }
    }
}

/// A snapshot that is being built.
struct Work<'a> {
    args: &'a ProduceArgs,
    output: Output,
    policy: LedgerPolicy,
    build: Build,
    /// The size of the source in bytes.
    size: u64,
    display: &'a ProgressDisplay,
    stop: &'a CancellationToken,
    memory: &'a Memory,
    recipe: &'a Recipe,
    /// The snapshot published last and the position of its ledger, where both are known.
    published: Option<(InfoHashV2, LedgerPosition)>,
}

/// The hashed content of a torrent and the ledger's record.
struct Content {
    info: SnapshotInfo,
    record: Option<LedgerRecord>,
}

impl Work<'_> {
    /// Copies a node's ledger and makes a snapshot of the copy, or resumes the snapshot in `making`.
    fn of_ledger(
        mut self,
        path: &Path,
        ledger: LiveLedger,
        making: Option<Making>,
        data: &DataDir,
        stream: &StreamName,
    ) -> Result<Option<Built>> {
        let name = match self.output {
            Output::TarZst => PACKED,
            Output::Plain | Output::AsItIs => PLAIN,
        };
        let mut draft = self.draft(name)?;
        let copied = self.place_of_copy(&draft);
        let begin = || Making::begin(data, stream, self.recipe, self.build.dir(), &copied);
        let is_begun = making.is_some();
        let mut making = making.unwrap_or_else(begin);
        let made = self.of_copy(path, ledger, &mut draft, &copied, &mut making, is_begun);
        // A retry after a refusal or a failure would end the same way. A cancelled or killed run is resumed.
        let content = match made {
            Ok(Some(content)) => content,
            Ok(None) => {
                self.build.keep(making.can_go_on());
                return Ok(None);
            }
            Err(error) if error.is::<Killed>() => {
                self.build.keep(making.can_go_on());
                return Err(error);
            }
            Err(error) => {
                making.forget();
                return Err(error);
            }
        };
        let origin = making
            .origin()
            .context("the source of the copy was not recorded")?
            .clone();
        let begun = making.begun();
        let built = self.finish(draft, &content, &origin, begun, data);
        making.forget();
        built.map(Some)
    }

    /// Prepares the copy of a ledger for publishing and hashes it. Returns `None` when cancelled.
    fn of_copy(
        &self,
        path: &Path,
        ledger: LiveLedger,
        draft: &mut Draft,
        copied: &Path,
        making: &mut Making,
        is_begun: bool,
    ) -> Result<Option<Content>> {
        let (size, display, stop) = (self.size, self.display, self.stop);
        // An exact plain copy is hashed while it is written.
        let in_one_pass =
            !is_begun && (self.output, self.args.publish) == (Output::Plain, Publish::Exact);
        if !is_begun || matches!(making.stage(), Stage::Copying { .. }) {
            let made = if in_one_pass {
                copy::into_draft(&ledger, size, draft, making, display, stop)?
            } else {
                copy::into_file(&ledger, size, copied, making, display, stop)?
            };
            // Only copying occupies a reader slot of the node, so it runs without hashing or packing at the same
            // time.
            drop(ledger);
            if made.is_none() {
                return Ok(None);
            }
            making.copied(copied, Origin::of_ledger(path, copied)?)?;
        }
        if self.args.publish == Publish::Scrubbed && *making.stage() != Stage::Changed {
            making.reach(Stage::Changing)?;
            self.scrub(copied)?;
            making.reach(Stage::Changed)?;
        }
        let original = path
            .file_name()
            .map_or(PLAIN.into(), |name| name.to_string_lossy());
        self.ledger_copy(copied, &original, draft, in_one_pass)
    }

    /// Makes a snapshot of the downloaded file and removes the file from `downloads/`.
    fn of_download(self, downloaded: Downloaded, data: &DataDir) -> Result<Option<Built>> {
        let now = unix_seconds(SystemTime::now());
        let origin = Origin::Url(downloaded.resource.clone());
        let original = downloaded.name.clone();
        let as_it_is = match downloaded.format {
            LedgerFormat::SevenZ => with_suffix(&original, ".7z"),
            _ => with_suffix(&original, ".zst"),
        };
        let name = match self.output {
            Output::Plain => PLAIN,
            Output::TarZst => PACKED,
            Output::AsItIs => &as_it_is,
        };
        let mut draft = self.draft(name)?;
        if downloaded.format != LedgerFormat::Plain {
            // Refuses an archive that fetchers would refuse to extract. The limit for its content is the size of the
            // disk.
            let options = ExtractOptions::new(space::of_disk(self.build.dir())?);
            if let Err(error) = ledger_archive::inspect(&downloaded.path, &options) {
                let refused = matches!(error, ExtractError::Refused { .. });
                if !refused {
                    return Err(error).with_context(|| format!("cannot inspect {original}"));
                }
                downloaded.forget();
                return Err(error).context(Unpublishable(original));
            }
        }
        if self.output == Output::AsItIs {
            let content = draft.content_path(&[]);
            let failed = || format!("cannot move {}", downloaded.path.display());
            // The file is where the next run looks for it, in case this run is interrupted.
            let stays = fs::hard_link(&downloaded.path, &content).is_ok();
            if !stays {
                fs::rename(&downloaded.path, &content).with_context(failed)?;
            }
            if !self.hash(&mut draft, &content)? {
                if !stays {
                    fs::rename(&content, &downloaded.path).with_context(failed)?;
                }
                return Ok(None);
            }
            info!("the archive is published as it is: its ledger was not verified");
            let content = Content {
                info: SnapshotInfo::of_archive(&original),
                record: None,
            };
            let built = self.finish(draft, &content, &origin, now, data)?;
            downloaded.forget();
            return Ok(Some(built));
        }
        let copied = self.place_of_copy(&draft);
        let there = match downloaded.format {
            LedgerFormat::Plain => fs::copy(&downloaded.path, &copied)
                .with_context(|| format!("cannot copy {}", downloaded.path.display()))
                .map(|_| true)?,
            LedgerFormat::TarZst | LedgerFormat::SevenZ => {
                copy::out_of_archive(&downloaded.path, &copied, self.display, self.stop)?
            }
        };
        if !there {
            return Ok(None);
        }
        if self.args.publish == Publish::Scrubbed {
            self.scrub(&copied)?;
        }
        let Some(content) = self.ledger_copy(&copied, &original, &mut draft, false)? else {
            return Ok(None);
        };
        let built = self.finish(draft, &content, &origin, now, data)?;
        downloaded.forget();
        Ok(Some(built))
    }

    fn draft(&self, name: &str) -> Result<Draft> {
        let cut = Cut {
            piece_length: self.args.piece_length,
            hybrid: true,
        };
        let shape = Shape::SingleFile;
        Ok(Draft::begin(
            self.build.dir(),
            name,
            shape,
            cut,
            SnapshotDir::io(),
        )?)
    }

    /// Returns the path of the copy of the ledger: the final content path, unless the copy is still to be packed.
    fn place_of_copy(&self, draft: &Draft) -> PathBuf {
        match self.output {
            Output::TarZst => self.build.dir().join(PLAIN),
            Output::Plain | Output::AsItIs => draft.content_path(&[]),
        }
    }

    /// Verifies the ledger, packs it, and hashes the content unless that was done during the copy. Returns `None`
    /// when cancelled.
    fn ledger_copy(
        &self,
        copied: &Path,
        original: &str,
        draft: &mut Draft,
        is_hashed: bool,
    ) -> Result<Option<Content>> {
        let policy = &self.policy;
        let Some(mut record) = policy.verify(copied, None, self.display, self.stop)? else {
            return Ok(None);
        };
        if let Verdict::Refused(reasons) = policy.judge_record(Some(&record)) {
            bail!("the copy is not published: {}", reasons.join("; "));
        }
        let summary = nano_ledger::summarize(copied)?;
        info!(
            blocks = summary.blocks, cemented = summary.cemented,
            accounts = summary.accounts, store_version = summary.store_version,
            network = %summary.network, "copied"
        );
        record.counts = Some(Counts::from(&summary));
        if let Some((last, before)) = &self.published {
            let after = LedgerPosition::from(&summary);
            refuse_publication(*last, before, &after, self.args.allow_older)?;
        }
        let content = draft.content_path(&[]);
        if self.output == Output::TarZst && !self.pack(copied, &content)? {
            return Ok(None);
        }
        if !is_hashed && !self.hash(draft, &content)? {
            return Ok(None);
        }
        Ok(Some(Content {
            info: SnapshotInfo::of(original, &summary),
            record: Some(record),
        }))
    }

    /// Moves the finished snapshot into the store. Saves its source and the time at which the build began.
    fn finish(
        self,
        draft: Draft,
        content: &Content,
        origin: &Origin,
        begun: u64,
        data: &DataDir,
    ) -> Result<Built> {
        let snapshot = content.info.to_json().context("cannot write JSON")?;
        let store = draft.finish(|torrent| torrent.snapshot(snapshot))?;
        if let Some(record) = &content.record {
            record.save(&SnapshotDir::at(self.build.dir()))?;
        }
        let metainfo = store.metainfo();
        drop(store);
        let id = metainfo.info().hashes().v2;
        let built = Built {
            id,
            length: metainfo.info().layout().content_length(),
            magnet: metainfo.magnet().to_string(),
        };
        self.memory.note(origin, self.recipe, id, begun)?;
        if self.output == Output::TarZst {
            // The copy is deleted last, because an interrupted run resumes from it.
            let copied = self.build.dir().join(PLAIN);
            fs::remove_file(&copied)
                .with_context(|| format!("cannot remove {}", copied.display()))?;
        }
        self.build.adopt(data, id)?;
        Ok(built)
    }

    /// Removes private data from the copy.
    fn scrub(&self, copied: &Path) -> Result<()> {
        let report = {
            let _meter = self.display.start(WorkKind::ScrubCopy, 0);
            nano_ledger::scrub_copy(copied)?
        };
        for (table, rows) in &report.cleared {
            info!(table, rows = *rows, "not published");
        }
        info!(
            pages = report.pages_in_use + report.pages_stale,
            trimmed = report.pages_trimmed,
            "overwrote the remains of these tables"
        );
        Ok(())
    }

    /// Packs the copy. Returns `false` when cancelled.
    fn pack(&self, copied: &Path, archive: &Path) -> Result<bool> {
        let packing = || format!("cannot pack {}", copied.display());
        let ledger = File::open(copied).with_context(packing)?;
        let size = ledger.metadata().with_context(packing)?.len();
        let meter = self.display.start(WorkKind::PackCopy, size);
        let counted = Counted::new(ledger, meter, self.stop);
        let out = File::create(archive)
            .with_context(|| format!("cannot create {}", archive.display()))?;
        let report = match ledger_archive::pack(counted, size, out, &PackOptions::default()) {
            Err(PackError::Read { .. }) if self.stop.is_cancelled() => return Ok(false),
            packed => packed?,
        };
        info!(
            frames = report.frames,
            padding_bytes = report.padding_bytes,
            "packed {} into {}",
            Bytes(report.ledger_bytes),
            Bytes(report.archive_bytes)
        );
        Ok(true)
    }

    /// Hashes the content at the draft's path. Returns `false` when cancelled.
    fn hash(&self, draft: &mut Draft, content: &Path) -> Result<bool> {
        let size = content.metadata().map_or(0, |metadata| metadata.len());
        pieces::refuse_too_short(self.args.piece_length, size)?;
        let mut meter = self.display.start(WorkKind::HashSnapshot, size);
        let added = draft.add_present(&[], &mut |done| {
            meter.set(done, None);
            !self.stop.is_cancelled()
        });
        match added {
            Err(StoreError::Cancelled) => Ok(false),
            added => Ok(added.map(|_| true)?),
        }
    }
}

/// Returns `name` with `suffix` appended unless it ends with it already.
fn with_suffix(name: &str, suffix: &str) -> String {
    if name.ends_with(suffix) {
        name.to_owned()
    } else {
        format!("{name}{suffix}")
    }
}
