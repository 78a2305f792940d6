//! Extracting a `tar.zst` as it arrives, so that a crash costs one checkpoint.

use std::path::{Path, PathBuf};

use crate::error::{ExtractError, Refusal};
use crate::frames::FrameReader;
use crate::journal::{Checkpoint, Journal, JournalHeader};
use crate::source::ArchiveSource;
use crate::tar_reader::{TarPart, TarReader};
use crate::target::Target;
use crate::{ArchiveId, LedgerFormat};

/// Bytes of ledger between two checkpoints. A crash costs at most as much, and a discarded archive keeps as much
/// behind the extraction.
pub(crate) const CHECKPOINT: u64 = 64 << 20;
/// Bytes of archive or ledger after which [`Extractor::advance`] returns.
const BATCH: u64 = 64 << 20;
/// Bytes read at a time.
const READ: u64 = 256 << 10;
/// Default limit of the dictionary of a 7z archive. 7-Zip's own levels need at most 64 MiB.
const MAX_DICTIONARY: u64 = 1 << 30;

/// Options for extracting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractOptions {
    pub(crate) max_ledger_bytes: u64,
    pub(crate) max_dictionary_bytes: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) discard: bool,
}

impl ExtractOptions {
    /// Refuses archives whose ledger has more than `max_ledger_bytes`, such as the free space or a size from a trusted
    /// source.
    #[must_use]
    pub fn new(max_ledger_bytes: u64) -> Self {
        Self {
            max_ledger_bytes,
            max_dictionary_bytes: MAX_DICTIONARY,
            checkpoint_bytes: CHECKPOINT,
            discard: false,
        }
    }

    /// Deletes the archive piece by piece while it is extracted. The archive is lost, whether the extraction succeeds or
    /// not. Only for `tar.zst`: a 7z archive is refused then.
    #[must_use]
    pub fn discarding_archive(mut self) -> Self {
        self.discard = true;
        self
    }

    /// Refuses 7z archives that need a dictionary of more bytes of memory; 1 GiB unless changed.
    #[must_use]
    pub fn with_max_dictionary_bytes(mut self, bytes: u64) -> Self {
        self.max_dictionary_bytes = bytes;
        self
    }

    /// Makes the extraction durable whenever `bytes` of ledger were written since the last time and a
    /// frame ends; 64 MiB unless changed.
    #[must_use]
    pub fn with_checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }
}

/// The progress of an extraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractProgress {
    /// Bytes of the archive that were processed.
    pub archive_bytes: u64,
    /// Bytes of the archive.
    pub archive_len: u64,
    /// Bytes of the ledger that are written.
    pub ledger_bytes: u64,
    /// Length of the ledger in bytes, once its header was read.
    pub ledger_len: Option<u64>,
}

/// The result of an extraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractReport {
    /// The format of the archive.
    pub format: LedgerFormat,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of the ledger.
    pub ledger_bytes: u64,
    /// Bytes of the ledger that an interrupted extraction had left.
    pub resumed_bytes: u64,
    /// Most bytes on disk of archive and ledger together, as the file system counts them, at any
    /// checkpoint and at the end.
    pub peak_disk_bytes: u64,
}

/// A running extraction of a `tar.zst`.
///
/// The caller calls [`Extractor::advance`] whenever more of the archive can be read. The extractor writes to
/// `<target>.partial` and keeps `<target>.journal`. Both files stay when it is dropped or the process ends, and
/// [`Extractor::open`] with the same archive resumes at the last checkpoint. Checkpoints lie at frame ends. Archives
/// made by [`pack`] have a frame end every 128 KiB by default; an archive with a single frame, as `zstd` makes them,
/// starts from zero.
///
/// [`pack`]: crate::pack
pub struct Extractor {
    target: Target,
    archive: ArchiveId,
    archive_len: u64,
    options: ExtractOptions,
    frames: FrameReader,
    tar: TarReader,
    journal: Option<Journal>,
    /// Bytes of the archive read ahead, from `input_at` on.
    input: Vec<u8>,
    input_at: usize,
    ledger_len: Option<u64>,
    written: u64,
    claimed: Checkpoint,
    resumed: u64,
    peak: u64,
    state: ExtractState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtractState {
    Extracting,
    /// The whole ledger is on disk, by the journal.
    Whole,
    /// The whole ledger is on disk and has the target's name.
    Installed,
}

/// The result of [`Extractor::advance`].
pub enum ExtractStep {
    /// More of the archive is available: call [`Extractor::advance`] again.
    More(Extractor),
    /// The extraction waits until more of the archive is available.
    NeedsMore(Extractor),
    /// The whole archive is extracted.
    Whole(Extracted),
}

impl Extractor {
    /// Starts extracting an archive of `archive_len` bytes to `target`, or resumes an earlier extraction of the same
    /// archive to the same target. The files of another archive's extraction are overwritten.
    ///
    /// # Errors
    ///
    /// [`ExtractError`] when the files beside the target cannot be used.
    pub fn open(
        target: &Path,
        archive: ArchiveId,
        archive_len: u64,
        options: ExtractOptions,
    ) -> Result<Self, ExtractError> {
        let target = Target::open(target)?;
        let mut extractor = Self {
            frames: FrameReader::new(0)?,
            tar: TarReader::new(options.max_ledger_bytes),
            target,
            archive,
            archive_len,
            options,
            journal: None,
            input: Vec::new(),
            input_at: 0,
            ledger_len: None,
            written: 0,
            claimed: Checkpoint::default(),
            resumed: 0,
            peak: 0,
            state: ExtractState::Extracting,
        };
        if !extractor.resume()? {
            extractor.target.start_over()?;
        }
        Ok(extractor)
    }

    /// Resumes at the last record of a journal, if there is one of this archive.
    fn resume(&mut self) -> Result<bool, ExtractError> {
        let Some(file) = self.target.journal()? else {
            return Ok(false);
        };
        let Some((journal, subject, claim)) =
            Journal::resume(file).map_err(|source| self.target.failed_journal(source))?
        else {
            return Ok(false);
        };
        if subject.archive != self.archive
            || subject.archive_len != self.archive_len
            || subject.ledger_len > self.options.max_ledger_bytes
        {
            return Ok(false);
        }
        let whole = claim.ledger == subject.ledger_len && claim.archive == subject.archive_len;
        let (partial_len, _) = self.target.partial_size()?;
        self.state = if subject.inode == self.target.inode() && partial_len >= claim.ledger {
            self.target.truncate(claim.ledger)?;
            if whole {
                ExtractState::Whole
            } else {
                ExtractState::Extracting
            }
        } else if whole && self.target.installed() == Some((subject.inode, subject.ledger_len)) {
            ExtractState::Installed
        } else {
            return Ok(false);
        };
        self.frames = FrameReader::new(claim.archive)?;
        self.tar = TarReader::within_ledger(
            subject.names,
            subject.ledger_len,
            claim.ledger,
            self.options.max_ledger_bytes,
        );
        self.journal = Some(journal);
        self.ledger_len = Some(subject.ledger_len);
        self.written = claim.ledger;
        self.claimed = claim;
        self.resumed = claim.ledger;
        Ok(true)
    }

    /// Returns the progress.
    #[must_use]
    pub fn progress(&self) -> ExtractProgress {
        ExtractProgress {
            archive_bytes: self.frames.at(),
            archive_len: self.archive_len,
            ledger_bytes: self.written,
            ledger_len: self.ledger_len,
        }
    }

    /// Extracts the available bytes of `source`, at most some 64 MiB. Blocks while it reads, writes and syncs: call it on
    /// a thread for disk work.
    ///
    /// # Errors
    ///
    /// [`ExtractError`]. After [`ExtractError::Refused`] the partial file is removed; after all others it stays, and
    /// [`Extractor::open`] resumes.
    pub fn advance(mut self, source: &impl ArchiveSource) -> Result<ExtractStep, ExtractError> {
        match self.run(source) {
            Ok(StopReason::More) => Ok(ExtractStep::More(self)),
            Ok(StopReason::Available) => Ok(ExtractStep::NeedsMore(self)),
            Ok(StopReason::End) => Ok(ExtractStep::Whole(self.extracted(source)?)),
            Err(error) => {
                if let ExtractError::Refused { .. } = error {
                    // The refusal matters more. What cannot be removed is overwritten next time.
                    let _ = self.target.abandon();
                }
                Err(error)
            }
        }
    }

    fn run(&mut self, source: &impl ArchiveSource) -> Result<StopReason, ExtractError> {
        if self.state != ExtractState::Extracting {
            return Ok(StopReason::End);
        }
        if self.options.discard {
            source
                .discard_before(self.claimed.archive)
                .map_err(|source| ExtractError::Discard { source })?;
        }
        let start = (self.frames.at(), self.written);
        loop {
            if self.input_at < self.input.len() || self.frames.holds_back() {
                self.decode()?;
                if self.frames.between_frames()
                    && self.tar.in_ledger()
                    && self.written - self.claimed.ledger >= self.options.checkpoint_bytes
                {
                    self.checkpoint(source)?;
                }
                continue;
            }
            let at = self.frames.at();
            if at == self.archive_len {
                return self.finish(source).map(|()| StopReason::End);
            }
            if at - start.0 >= BATCH || self.written - start.1 >= BATCH {
                return Ok(StopReason::More);
            }
            let ready = source.available().min(self.archive_len).saturating_sub(at);
            if ready == 0 {
                return Ok(StopReason::Available);
            }
            self.input.resize(ready.min(READ) as usize, 0);
            self.input_at = self.input.len();
            source
                .read_exact_at(&mut self.input, at)
                .map_err(|source| ExtractError::ReadArchive { offset: at, source })?;
            self.input_at = 0;
        }
    }

    /// Decodes some of the input and writes the content.
    fn decode(&mut self) -> Result<(), ExtractError> {
        let input = self.input.get(self.input_at..).unwrap_or_default();
        let step = self.frames.step(input)?;
        self.input_at += step.taken;
        let mut content = step.content;
        while let Some(part) = self.tar.next(&mut content)? {
            match part {
                TarPart::Begins(len) => {
                    self.ledger_len = Some(len);
                    let subject = JournalHeader {
                        archive: self.archive,
                        archive_len: self.archive_len,
                        ledger_len: len,
                        inode: self.target.inode(),
                        names: self.tar.names().clone(),
                    };
                    let file = self.target.create_journal()?;
                    let journal = Journal::begin(file, &subject)
                        .map_err(|source| self.target.failed_journal(source))?;
                    self.journal = Some(journal);
                }
                TarPart::Content(bytes) => {
                    self.target.write_at(bytes, self.written)?;
                    self.written += bytes.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Syncs the ledger, then writes a record to the journal, then discards the archive up to it if that was asked for.
    fn checkpoint(&mut self, source: &impl ArchiveSource) -> Result<(), ExtractError> {
        let claim = Checkpoint {
            archive: self.frames.at(),
            ledger: self.written,
        };
        self.target.sync()?;
        if let Some(journal) = &mut self.journal {
            journal
                .claim(claim)
                .map_err(|source| self.target.failed_journal(source))?;
        }
        self.claimed = claim;
        self.measure(source)?;
        if self.options.discard {
            source
                .discard_before(claim.archive)
                .map_err(|source| ExtractError::Discard { source })?;
        }
        Ok(())
    }

    fn measure(&mut self, source: &impl ArchiveSource) -> Result<(), ExtractError> {
        let archive = source
            .allocated()
            .map_err(|source| ExtractError::Measure { source })?;
        let (_, ledger) = self.target.partial_size()?;
        self.peak = self.peak.max(archive + ledger);
        Ok(())
    }

    /// Checks that the archive is complete. Called at its end.
    fn finish(&mut self, source: &impl ArchiveSource) -> Result<(), ExtractError> {
        if !self.frames.between_frames() {
            return Err(Refusal::Truncated {
                at: self.archive_len,
            }
            .into());
        }
        self.tar.finish(self.archive_len)?;
        self.checkpoint(source)
    }

    fn extracted(mut self, source: &impl ArchiveSource) -> Result<Extracted, ExtractError> {
        self.measure(source)?;
        Ok(Extracted {
            report: ExtractReport {
                format: LedgerFormat::TarZst,
                archive_bytes: self.archive_len,
                ledger_bytes: self.written,
                resumed_bytes: self.resumed,
                peak_disk_bytes: self.peak,
            },
            installed: self.state == ExtractState::Installed,
            target: self.target,
        })
    }
}

/// Reads a `tar.zst` up to the start of its ledger and checks the entries before it.
pub(crate) fn inspect(
    source: &impl ArchiveSource,
    options: &ExtractOptions,
) -> Result<(), ExtractError> {
    let len = source.available();
    let mut frames = FrameReader::new(0)?;
    let mut tar = TarReader::new(options.max_ledger_bytes);
    let mut input = Vec::new();
    let mut input_at = 0;
    loop {
        if input_at == input.len() && !frames.holds_back() {
            let at = frames.at();
            if at == len {
                return Ok(tar.finish(len)?);
            }
            input.resize((len - at).min(READ) as usize, 0);
            source
                .read_exact_at(&mut input, at)
                .map_err(|source| ExtractError::ReadArchive { offset: at, source })?;
            input_at = 0;
        }
        let step = frames.step(input.get(input_at..).unwrap_or_default())?;
        input_at += step.taken;
        let mut content = step.content;
        while let Some(part) = tar.next(&mut content)? {
            if let TarPart::Begins(_) = part {
                return Ok(());
            }
        }
    }
}

/// Why a call of [`Extractor::advance`] ended.
enum StopReason {
    More,
    Available,
    End,
}

/// An extracted ledger that is complete and synced but does not have its final name. The caller can verify it first.
#[derive(Debug)]
pub struct Extracted {
    pub(crate) target: Target,
    pub(crate) report: ExtractReport,
    /// An earlier process renamed it to the target already.
    pub(crate) installed: bool,
}

impl Extracted {
    /// Returns the current path of the ledger.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        if self.installed {
            self.target.path()
        } else {
            self.target.partial_path()
        }
    }

    /// Returns the report of the extraction.
    #[must_use]
    pub fn report(&self) -> &ExtractReport {
        &self.report
    }

    /// Renames the ledger to the target, durably. It replaces an earlier target.
    ///
    /// # Errors
    ///
    /// [`ExtractError`]; the ledger keeps one of its two names, and extracting again completes the rest (a 7z archive is
    /// extracted from the start).
    pub fn install(self) -> Result<ExtractReport, ExtractError> {
        if self.installed {
            self.target.abandon()?;
        } else {
            self.target.install()?;
        }
        Ok(self.report)
    }

    /// Removes the extracted ledger, such as after a failed verification. An earlier target stays.
    ///
    /// # Errors
    ///
    /// [`ExtractError::Remove`] and [`ExtractError::Sync`].
    pub fn remove(self) -> Result<(), ExtractError> {
        self.target.abandon()
    }
}
