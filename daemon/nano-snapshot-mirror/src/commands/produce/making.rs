//! Records of unfinished snapshots, from which the next run resumes after an interruption.
//!
//! `produced/<stream>.making.json` names the directory of `incoming/` that has the copy, and how many bytes of it are
//! durable. The record is written only after those bytes were synced.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use file_kit::fs::sync_dir;
use file_kit::json_file;
use file_kit::recorded_time::unix_seconds;
use nano_ledger::LiveLedger;
use serde::{Deserialize, Serialize};
use snapshot_store::{BuildRecord, DataDir, DirLock, Stage, StreamName};
use tracing::{info, warn};

use super::memory::{Origin, Recipe};
use crate::text::Bytes;

/// The maximum age of a complete copy that is still published after the ledger changed. The interrupted run would
/// have published the same content.
pub(super) const FRESH: Duration = Duration::from_secs(6 * 3600);

/// What is recorded about how a snapshot is built.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ingredients {
    recipe: Recipe,
    /// The source of the copy; `None` until the copy is complete.
    origin: Option<Origin>,
}

type Record = BuildRecord<Ingredients>;

/// An unfinished snapshot.
pub(super) struct Making {
    place: PathBuf,
    noted: Record,
}

/// An unfinished snapshot of an interrupted run, with its locked directory.
pub(super) struct Found {
    pub(super) making: Making,
    pub(super) dir: PathBuf,
    pub(super) lock: DirLock,
}

impl Making {
    /// Returns the record of a new snapshot in the directory `build`, with a copy at `copy`. Writes nothing yet.
    pub(super) fn begin(
        data: &DataDir,
        stream: &StreamName,
        recipe: &Recipe,
        build: &Path,
        copy: &Path,
    ) -> Self {
        let name = build.file_name().unwrap_or_default();
        Self {
            place: data.build_record(stream),
            noted: Record {
                build: name.to_string_lossy().into_owned(),
                copy: copy.strip_prefix(build).unwrap_or(copy).to_owned(),
                begun: unix_seconds(SystemTime::now()),
                stage: Stage::Changing,
                making: Ingredients {
                    recipe: recipe.clone(),
                    origin: None,
                },
            },
        }
    }

    /// Deletes the record of a snapshot that was moved into the store just before the interruption.
    pub(super) fn tidy(data: &DataDir, stream: &StreamName) {
        let place = data.build_record(stream);
        let noted: Option<Record> = json_file::read_or_default(&place);
        if noted.is_some_and(|noted| !data.incoming().join(noted.build).is_dir()) {
            // A record that cannot be removed does not block other runs.
            let _ = fs::remove_file(&place);
        }
    }

    /// Returns the unfinished snapshot of the ledger at `path` if it can be resumed. Otherwise deletes the record and
    /// leaves the directory to [`DataDir::clean_incoming`]. Logs the reason if a copy is lost.
    pub(super) fn find(
        data: &DataDir,
        stream: &StreamName,
        recipe: &Recipe,
        path: &Path,
        ledger: &LiveLedger,
    ) -> Result<Option<Found>> {
        let place = data.build_record(stream);
        let noted: Option<Record> = json_file::read_or_default(&place);
        let Some(noted) = noted else {
            // An unreadable record would only keep a directory from being cleaned up.
            let _ = fs::remove_file(&place);
            return Ok(None);
        };
        let making = Self { place, noted };
        let Some((dir, lock)) = data.take_build(&making.noted.build)? else {
            making.forget();
            return Ok(None);
        };
        let found = Found { making, dir, lock };
        match found.obstacle(recipe, path, ledger)? {
            None => {
                found.say();
                found.keep_only_the_copy()?;
                Ok(Some(found))
            }
            Some(why) => {
                info!("cannot resume the interrupted snapshot ({why}); starting over");
                found.making.forget();
                Ok(None)
            }
        }
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.noted.stage
    }

    pub(super) fn origin(&self) -> Option<&Origin> {
        self.noted.making.origin.as_ref()
    }

    /// Returns the time at which the copy began, in seconds since 1970.
    pub(super) fn begun(&self) -> u64 {
        self.noted.begun
    }

    /// Saves the stage. The data of the stage must already be synced.
    pub(super) fn reach(&mut self, stage: Stage) -> Result<()> {
        self.noted.stage = stage;
        if let Some(dir) = self.place.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(json_file::write(&self.place, &self.noted)?)
    }

    /// Syncs the complete copy at `copied` and saves its source.
    pub(super) fn copied(&mut self, copied: &Path, origin: Origin) -> Result<()> {
        File::open(copied)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("cannot sync {}", copied.display()))?;
        if let Some(dir) = copied.parent() {
            sync_dir(dir)?;
        }
        self.noted.making.origin = Some(origin);
        self.reach(Stage::Copied)
    }

    /// Returns whether the next run can resume from the saved stage.
    pub(super) fn can_go_on(&self) -> bool {
        self.noted.stage != Stage::Changing
    }

    /// Deletes the record.
    pub(super) fn forget(&self) {
        // A record that cannot be removed names a missing directory. The next run detects that.
        let _ = fs::remove_file(&self.place);
    }
}

impl Found {
    pub(super) fn copy(&self) -> PathBuf {
        self.dir.join(&self.making.noted.copy)
    }

    fn len(&self) -> u64 {
        self.copy().metadata().map_or(0, |metadata| metadata.len())
    }

    /// Returns the reason why the snapshot cannot be resumed, if there is one.
    fn obstacle(
        &self,
        recipe: &Recipe,
        path: &Path,
        ledger: &LiveLedger,
    ) -> Result<Option<&'static str>> {
        let noted = &self.making.noted;
        if noted.making.recipe != *recipe {
            return Ok(Some("it was made with other options"));
        }
        Ok(match &noted.stage {
            Stage::Changing => Some("it was interrupted while its copy was being modified"),
            Stage::Copying { durable, state } => {
                if self.len() < *durable {
                    Some("its copy has changed")
                } else if ledger.state()?.to_string() != *state {
                    Some("the ledger changed since, and its copy is incomplete")
                } else {
                    None
                }
            }
            // The run was interrupted after deleting the copy and before moving its archive.
            Stage::Copied | Stage::Changed if self.len() == 0 => Some("its copy is missing"),
            Stage::Copied | Stage::Changed => {
                let now = Origin::of_ledger(path, path)?;
                let age = unix_seconds(SystemTime::now()).checked_sub(noted.begun);
                let fresh = age.is_some_and(|age| age < FRESH.as_secs());
                match &noted.making.origin {
                    Some(origin) if *origin == now => None,
                    Some(origin) if !origin.is_same_ledger(&now) => {
                        Some("it was made from another ledger")
                    }
                    Some(_) if fresh => None,
                    _ => Some("the ledger changed since, and its copy is old"),
                }
            }
        })
    }

    fn say(&self) {
        match &self.making.noted.stage {
            Stage::Copying { durable, .. } => info!(
                here = *durable,
                again = self.len() - durable,
                "resuming an interrupted copy after {}: nothing was committed to the ledger since; the part \
                 after the last sync, {}, is copied again",
                Bytes(*durable),
                Bytes(self.len() - durable)
            ),
            _ => info!(
                here = self.len(),
                again = 0,
                "resuming the interrupted snapshot: the copy is complete"
            ),
        }
    }

    /// Removes the files made from the copy. They are made again, so that none is older than the copy.
    fn keep_only_the_copy(&self) -> Result<()> {
        let kept = self.making.noted.copy.components().next();
        let failed = || format!("cannot clean {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            let name = path.strip_prefix(&self.dir).unwrap_or(&path);
            if name.components().next() == kept {
                continue;
            }
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.with_context(failed)?;
        }
        Ok(())
    }
}

/// Bytes of the copy between two syncs. An interruption loses at most three times as many: those being synced, those
/// queued for the sync, and those written meanwhile.
pub(super) const SYNC_EVERY: u64 = 32 << 20;

/// Syncs a copy on another thread while it is written, and saves how many bytes are durable.
pub(super) struct Checkpoints<'a> {
    pub(super) making: &'a mut Making,
    pub(super) ledger: &'a LiveLedger,
    pub(super) copy: &'a Path,
    /// Bytes that the copy has at the start.
    pub(super) from: u64,
}

impl Checkpoints<'_> {
    /// Runs `write`, which reports the number of bytes written so far.
    pub(super) fn beside<T>(self, write: impl FnOnce(&mut (dyn FnMut(u64) + Send)) -> T) -> T {
        let Self {
            making,
            ledger,
            copy,
            from,
        } = self;
        std::thread::scope(|scope| {
            let (give, take) = std::sync::mpsc::sync_channel::<u64>(1);
            scope.spawn(move || {
                let mut state = match making.stage() {
                    Stage::Copying { state, .. } => Some(state.clone()),
                    _ => None,
                };
                for durable in take {
                    if state.is_none() {
                        state = ledger
                            .state()
                            .ok()
                            .filter(|state| state.is_of(copy))
                            .map(|state| state.to_string());
                    }
                    // A ledger that has changed since does not return to the state of the copy.
                    let Some(state) = state.clone() else { break };
                    let synced = File::open(copy)
                        .and_then(|file| file.sync_data())
                        .map_err(anyhow::Error::from)
                        .and_then(|()| making.reach(Stage::Copying { durable, state }));
                    if let Err(error) = synced {
                        warn!("cannot save the progress of this copy, and an interruption would lose it: {error:#}");
                        break;
                    }
                }
            });
            let mut next = from + SYNC_EVERY;
            write(&mut move |written| {
                if written >= next {
                    next = written + SYNC_EVERY;
                    // Fails after the syncing thread has ended.
                    let _ = give.send(written);
                }
            })
        })
    }
}
