//! `--extract` of a snapshot that is an archive: a `tar.zst` while it is downloaded or when it is complete, a `7z`
//! only when it is complete. The extracted ledger is verified before it gets its final name.

use std::fs::{File, Permissions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::Info;
use bittorrent_store::TorrentStore;
use ledger_archive::{
    ArchiveId, ArchiveSource, ExtractError, ExtractOptions, ExtractReport, ExtractStep, Extracted,
    Extractor, FileSource, LedgerFormat, Refusal,
};
use service_kit::sync::lock;
use snapshot_store::{ARCHIVE_FAULT, DataDir, LedgerRecord, SnapshotDir, SnapshotInfo, space};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ledger::policy::{LedgerPolicy, Verdict};
use crate::ledger::published::{Compared, Hashes, Published};
use crate::progress::{Meter, ProgressDisplay, WorkKind};
use crate::text::Bytes;
use crate::text::Causes;

/// How often an extraction that has used all downloaded data polls for more.
const POLL: Duration = Duration::from_millis(250);

/// The extraction of one snapshot's archive.
#[derive(Debug, Clone)]
pub(crate) struct Unpack {
    pub(crate) id: InfoHashV2,
    /// The directory of the snapshot.
    pub(crate) dir: SnapshotDir,
    /// The path of the extracted ledger.
    pub(crate) target: PathBuf,
    pub(crate) policy: LedgerPolicy,
    pub(crate) display: ProgressDisplay,
    pub(crate) stop: CancellationToken,
}

/// The result of an extraction.
pub(crate) enum Unpacked {
    /// The ledger is verified and has a temporary name.
    Ready(Box<Extracted>),
    /// The archive has to be complete before it can be extracted.
    NeedsWhole,
    /// The extraction was cancelled.
    Stopped,
}

/// Returns whether to download the content of this snapshot sequentially. A plain ledger or a 7z archive is of no use before
/// it is complete.
pub(crate) fn may_stream(info: &Info) -> bool {
    info.is_single_file() && !info.name().ends_with(".ldb") && !info.name().ends_with(".7z")
}

impl Unpack {
    /// Extracts a snapshot of `data` to its `data.ldb`.
    pub(crate) fn new(
        data: &DataDir,
        id: InfoHashV2,
        policy: &LedgerPolicy,
        display: &ProgressDisplay,
        stop: CancellationToken,
    ) -> Self {
        Self {
            id,
            dir: data.snapshot(id),
            target: data.ledger(),
            policy: policy.clone(),
            display: display.clone(),
            stop,
        }
    }

    /// Extracts a `tar.zst` while `store` is being downloaded. Blocks until the archive is complete or the extraction
    /// is cancelled.
    pub(crate) fn follow(&self, store: Arc<TorrentStore>) -> Result<Unpacked> {
        let info = store.info();
        let source = Arriving::of(store.clone())?;
        let len = source.len;
        let path = source.path.clone();
        let source = Compared::new(source, path, Hashes::Arriving(store));
        let first = len.min(LedgerFormat::HEADER_LEN as u64);
        while source.available() < first {
            if self.stop.is_cancelled() {
                return Ok(Unpacked::Stopped);
            }
            thread::sleep(POLL);
        }
        let mut start = [0; LedgerFormat::HEADER_LEN];
        let start = start.get_mut(..first as usize).unwrap_or_default();
        source
            .read_exact_at(start, 0)
            .with_context(|| format!("cannot read snapshot {}", self.id))?;
        if LedgerFormat::from_header(start) != Some(LedgerFormat::TarZst) {
            return Ok(Unpacked::NeedsWhole);
        }
        info!(snapshot = %self.id, "extracting the tar.zst archive while it is downloaded");
        self.tar_zst(&source, len, &info, false)
    }

    /// Extracts the archive of a complete snapshot. With `discard` the archive's disk space is freed during the
    /// extraction, where its format allows. The caller has made sure that no other process reads it.
    pub(crate) fn whole(&self, info: &Info, discard: bool) -> Result<Unpacked> {
        let (format, path) = self
            .dir
            .content(info)
            .or_else(|| {
                // An interrupted run has already freed the start of the archive. Only a tar.zst is discarded in this
                // way.
                let path = self.dir.ledger_path(info)?;
                discard.then_some((LedgerFormat::TarZst, path))
            })
            .ok_or_else(|| not_extractable(self.id, info))?;
        let discard = discard && format == LedgerFormat::TarZst;
        let opening = || format!("cannot open {}", path.display());
        let file = if discard {
            // Sealed content is read-only.
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).with_context(opening)?;
            File::options().read(true).write(true).open(&path)
        } else {
            File::open(&path)
        };
        let source = FileSource::whole(file.with_context(opening)?).with_context(opening)?;
        let len = source.available();
        let hashes = Hashes::Published(Published::read(&self.dir, self.id)?);
        let source = Compared::new(source, path, hashes);
        match format {
            LedgerFormat::Plain => Err(not_extractable(self.id, info)),
            LedgerFormat::TarZst => self.tar_zst(&source, len, info, discard),
            LedgerFormat::SevenZ => self.seven_z(&source, len, info),
        }
    }

    fn tar_zst(
        &self,
        source: &impl ArchiveSource,
        len: u64,
        info: &Info,
        discard: bool,
    ) -> Result<Unpacked> {
        let mut options = ExtractOptions::new(self.largest()?);
        if discard {
            options = options.discarding_archive();
        }
        let id = ArchiveId::from_bytes(*self.id.as_bytes());
        let mut watch = Watch::new(self, LedgerFormat::TarZst, discard);
        let mut extractor = Extractor::open(&self.target, id, len, options)?;
        loop {
            watch.see(extractor.progress(), source)?;
            if self.stop.is_cancelled() {
                return Ok(Unpacked::Stopped);
            }
            let step = extractor.advance(source);
            extractor = match step.map_err(|error| self.failed(error))? {
                ExtractStep::More(extractor) => extractor,
                ExtractStep::NeedsMore(extractor) => {
                    thread::sleep(POLL);
                    extractor
                }
                ExtractStep::Whole(extracted) => {
                    drop(watch);
                    return self.look_into(extracted, info);
                }
            };
        }
    }

    fn seven_z(&self, source: &impl ArchiveSource, len: u64, info: &Info) -> Result<Unpacked> {
        info!(
            snapshot = %self.id,
            "extracting a 7z archive: an interrupted extraction starts over"
        );
        let mut watch = Watch::new(self, LedgerFormat::SevenZ, false);
        let id = ArchiveId::from_bytes(*self.id.as_bytes());
        let options = ExtractOptions::new(self.largest()?);
        let mut short = None;
        let extracted = ledger_archive::extract(source, id, &self.target, options, |progress| {
            if let Err(error) = watch.see(progress, source) {
                short = Some(error);
            }
            if short.is_some() || self.stop.is_cancelled() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        drop(watch);
        match (extracted, short) {
            (_, Some(error)) => Err(error),
            (Err(ExtractError::Stopped), None) => Ok(Unpacked::Stopped),
            (Err(error), None) => Err(self.failed(error)),
            (Ok(extracted), None) => {
                debug_assert_eq!(extracted.report().archive_bytes, len);
                self.look_into(extracted, info)
            }
        }
    }

    /// The maximum size of a ledger: the whole file system, whatever may be removed from it.
    fn largest(&self) -> Result<u64> {
        let dir = self.target.parent().unwrap_or(Path::new("/"));
        Ok(space::of_disk(dir)?)
    }

    /// Verifies the ledger before it gets its final name, and saves the result in the snapshot's directory.
    fn look_into(&self, extracted: Extracted, info: &Info) -> Result<Unpacked> {
        let claimed = info.snapshot().and_then(SnapshotInfo::parse);
        let found = self.policy.verify(
            &extracted.path(),
            claimed.as_ref(),
            &self.display,
            &self.stop,
        )?;
        let Some(record) = found else {
            return Ok(Unpacked::Stopped);
        };
        self.keep(&record);
        if let Verdict::Refused(reasons) = self.policy.judge_record(Some(&record)) {
            extracted.remove()?;
            bail!(
                "the ledger in snapshot {} is refused: {}",
                self.id,
                reasons.join("; ")
            );
        }
        Ok(Unpacked::Ready(Box::new(extracted)))
    }

    /// Adds context to the error. If the archive itself is at fault, saves that in the snapshot's directory, so that
    /// the snapshot is neither fetched nor extracted again.
    fn failed(&self, error: ExtractError) -> anyhow::Error {
        // A larger disk or more memory would help, so the archive is not at fault.
        let here_only = matches!(
            &error,
            ExtractError::Refused {
                refusal: Refusal::TooLarge { .. }
                    | Refusal::SevenZDictionary { .. }
                    | Refusal::SevenZDiscard
            }
        );
        let refused = matches!(&error, ExtractError::Refused { .. });
        let error = anyhow::Error::from(error);
        if refused && !here_only {
            self.keep(&LedgerRecord::refusal(format!("{ARCHIVE_FAULT}{error:#}")));
        }
        error.context(format!("snapshot {} cannot be extracted", self.id))
    }

    fn keep(&self, record: &LedgerRecord) {
        if let Err(error) = record.save(&self.dir) {
            warn!(snapshot = %self.id, "cannot save what verification found: {}", Causes(&error));
        }
    }
}

/// Logs the size of the ledger and the disk space that the extraction used.
pub(crate) fn tell(id: InfoHashV2, report: &ExtractReport) {
    let resumed = if report.resumed_bytes > 0 {
        format!(", {} of it in an earlier run", Bytes(report.resumed_bytes))
    } else {
        String::new()
    };
    info!(
        snapshot = %id, peak_disk_bytes = report.peak_disk_bytes,
        "extracted a ledger of {} from an archive of {}{resumed}; together they took {} of disk at most",
        Bytes(report.ledger_bytes), Bytes(report.archive_bytes), Bytes(report.peak_disk_bytes),
    );
}

fn not_extractable(id: InfoHashV2, info: &Info) -> anyhow::Error {
    anyhow!(
        "snapshot {id} is {}, which is neither a ledger nor a tar.zst nor a 7z archive: \
         --extract cannot extract it",
        info.name(),
    )
}

/// Reports progress, and stops the extraction if the disk is too small.
struct Watch<'a> {
    unpack: &'a Unpack,
    format: LedgerFormat,
    discard: bool,
    meter: Option<Meter>,
}

impl<'a> Watch<'a> {
    fn new(unpack: &'a Unpack, format: LedgerFormat, discard: bool) -> Self {
        Self {
            unpack,
            format,
            discard,
            meter: None,
        }
    }

    fn see(
        &mut self,
        progress: ledger_archive::ExtractProgress,
        source: &impl ArchiveSource,
    ) -> Result<()> {
        let Some(len) = progress.ledger_len else {
            return Ok(());
        };
        if self.meter.is_none() {
            self.ensure_space(progress, len, source)?;
            self.meter = Some(self.unpack.display.start(WorkKind::ExtractLedger, len));
        }
        if let Some(meter) = &mut self.meter {
            meter.set(progress.ledger_bytes, None);
        }
        Ok(())
    }

    /// Called once, when the archive's header has given the size of the ledger.
    fn ensure_space(
        &self,
        progress: ledger_archive::ExtractProgress,
        len: u64,
        source: &impl ArchiveSource,
    ) -> Result<()> {
        let at_most =
            ledger_archive::disk_needed(self.format, progress.archive_len, len, self.discard);
        info!(
            ledger_bytes = len,
            archive_bytes = progress.archive_len,
            "extracting takes {} of disk at most, archive and ledger together",
            Bytes(at_most)
        );
        let there = source
            .allocated()
            .context("cannot read the size on disk of the archive")?
            .min(progress.archive_len);
        let left = at_most.saturating_sub(there + progress.ledger_bytes);
        let dir = self.unpack.target.parent().unwrap_or(Path::new("/"));
        space::ensure(dir, left, "the rest of the archive and its ledger")?;
        Ok(())
    }
}

/// The content of a snapshot that is being downloaded. The verified bytes at its start can be read.
struct Arriving {
    store: Arc<TorrentStore>,
    file: File,
    path: PathBuf,
    len: u64,
    /// The first block that is not yet known to be verified, and the number of bytes before it.
    place: Mutex<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    piece: u32,
    in_piece: u32,
    bytes: u64,
}

impl Arriving {
    fn of(store: Arc<TorrentStore>) -> Result<Self> {
        let layout = store.layout();
        let index = layout
            .file_index(0)
            .context("a snapshot without a file cannot be extracted")?;
        let len = layout.file(index).length();
        let path = store.file_path(index);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            store,
            file,
            path,
            len,
            place: Mutex::new(Place {
                piece: 0,
                in_piece: 0,
                bytes: 0,
            }),
        })
    }
}

impl ArchiveSource for Arriving {
    fn available(&self) -> u64 {
        let layout = self.store.layout();
        let mut place = lock(&self.place);
        while let Some(piece) = layout.piece(place.piece) {
            match layout.block(piece, place.in_piece) {
                Some(block) if self.store.is_block_verified(block) => {
                    place.in_piece += 1;
                    place.bytes += u64::from(layout.block_size(block));
                }
                Some(_) => break,
                None => {
                    place.piece += 1;
                    place.in_piece = 0;
                }
            }
        }
        place.bytes.min(self.len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn discard_before(&self, _: u64) -> io::Result<()> {
        // Other peers download this content, so none of it is discarded.
        Err(io::ErrorKind::Unsupported.into())
    }
}
