//! What was begun and is not in the store yet: so that the next run goes on where one was interrupted.
//!
//! `produced/<stream>.making.json` says which directory of `incoming/` holds the copy, and how far it may
//! be believed: only what was synced to disk before that was written here.

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

/// How old a whole copy of a ledger that changed since may be and still be published: what comes of it is
/// what the interrupted run would have published.
pub(super) const FRESH: Duration = Duration::from_secs(6 * 3600);

/// What is recorded about how a snapshot is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ingredients {
    recipe: Recipe,
    /// What the copy is of, once it is whole.
    origin: Option<Origin>,
}

type Record = BuildRecord<Ingredients>;

/// A snapshot in the making.
pub(super) struct Making {
    place: PathBuf,
    noted: Record,
}

/// What an interrupted run left.
pub(super) struct Found {
    pub(super) making: Making,
    pub(super) dir: PathBuf,
    pub(super) lock: DirLock,
}

impl Making {
    /// A snapshot that is begun now in the directory `build` with a copy in `copy`. Nothing is written
    /// yet.
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

    /// Forgets what got into the store in the moment before it was forgotten.
    pub(super) fn tidy(data: &DataDir, stream: &StreamName) {
        let place = data.build_record(stream);
        let noted: Option<Record> = json_file::read_or_default(&place);
        if noted.is_some_and(|noted| !data.incoming().join(noted.build).is_dir()) {
            // It blocks no other run.
            let _ = fs::remove_file(&place);
        }
    }

    /// What can be gone on with of a snapshot of the ledger at `path`. What cannot is forgotten, and its
    /// directory is for [`DataDir::clean_incoming`]; where that costs a copy, the log says why.
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
            // Unreadable it would only keep a directory from being cleaned.
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

    /// When the copy was begun, in seconds since 1970.
    pub(super) fn begun(&self) -> u64 {
        self.noted.begun
    }

    /// Notes how far it is. What the stage says must be on disk.
    pub(super) fn reach(&mut self, stage: Stage) -> Result<()> {
        self.noted.stage = stage;
        if let Some(dir) = self.place.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(json_file::write(&self.place, &self.noted)?)
    }

    /// Makes the whole copy at `copied` durable and notes what it is of.
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

    /// Whether the next run can go on from what is noted.
    pub(super) fn can_go_on(&self) -> bool {
        self.noted.stage != Stage::Changing
    }

    /// There is nothing to go on with any longer.
    pub(super) fn forget(&self) {
        // What cannot be removed names a directory that is not there, which the next run notices.
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

    /// Why it cannot be gone on with.
    fn obstacle(
        &self,
        recipe: &Recipe,
        path: &Path,
        ledger: &LiveLedger,
    ) -> Result<Option<&'static str>> {
        let noted = &self.making.noted;
        if noted.making.recipe != *recipe {
            return Ok(Some("it was to be made in another way"));
        }
        Ok(match &noted.stage {
            Stage::Changing => Some("its copy was being changed, and is neither old nor new"),
            Stage::Copying { durable, state } => {
                if self.len() < *durable {
                    Some("its copy is not what it was")
                } else if ledger.state()?.to_string() != *state {
                    Some("the ledger changed since, and its copy was not whole")
                } else {
                    None
                }
            }
            // Ended in the moment between giving up the copy and moving what was packed of it.
            Stage::Copied | Stage::Changed if self.len() == 0 => Some("its copy is not there"),
            Stage::Copied | Stage::Changed => {
                let now = Origin::of_ledger(path, path)?;
                let age = unix_seconds(SystemTime::now()).checked_sub(noted.begun);
                let fresh = age.is_some_and(|age| age < FRESH.as_secs());
                match &noted.making.origin {
                    Some(origin) if *origin == now => None,
                    Some(origin) if !origin.is_same_ledger(&now) => {
                        Some("it was of another ledger")
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
                "going on with an interrupted copy after {}: nothing was committed to the ledger since; \
                 what came after the last sync, {}, is copied again",
                Bytes(*durable),
                Bytes(self.len() - durable)
            ),
            _ => info!(
                here = self.len(),
                again = 0,
                "going on with what was interrupted: the copy is whole"
            ),
        }
    }

    /// Removes what was made of the copy: it is made again, and nothing of it is older than the copy.
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

/// Bytes of the copy from one sync to the next. Three of these at most are copied again after an
/// interruption: what is synced, what waits for it, and what is written meanwhile.
pub(super) const SYNC_EVERY: u64 = 32 << 20;

/// Syncs a copy beside the one who writes it, and notes how far it is on disk.
pub(super) struct Checkpoints<'a> {
    pub(super) making: &'a mut Making,
    pub(super) ledger: &'a LiveLedger,
    pub(super) copy: &'a Path,
    /// Bytes it has already.
    pub(super) from: u64,
}

impl Checkpoints<'_> {
    /// Runs `write`, which says how many bytes of the copy are written.
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
                    // A ledger that was written to already does not come back to that state.
                    let Some(state) = state.clone() else { break };
                    let synced = File::open(copy)
                        .and_then(|file| file.sync_data())
                        .map_err(anyhow::Error::from)
                        .and_then(|()| making.reach(Stage::Copying { durable, state }));
                    if let Err(error) = synced {
                        warn!("an interruption of this copy would lose it: {error:#}");
                        break;
                    }
                }
            });
            let mut next = from + SYNC_EVERY;
            write(&mut move |written| {
                if written >= next {
                    next = written + SYNC_EVERY;
                    // Fails when there is nothing to note any more.
                    let _ = give.send(written);
                }
            })
        })
    }
}
