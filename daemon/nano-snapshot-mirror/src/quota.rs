//! What is given in a calendar month (`limits.monthly-upload`), counted over all runs of a mirror.
//!
//! The count is content as the session counts it, kept in `given-this-month.json` in the data directory:
//! written every minute in which it grows, and at the end. A crash forgets a minute at most. Months are
//! those of UTC. A clock that is set back to an earlier month goes on with the count of the later one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::data_dir::{DataDir, write_atomically};
use crate::report;
use crate::text::Bytes;

/// How often the count is written at most, in seconds.
const KEEP_EVERY: u64 = 60;

/// A calendar month in UTC: 12 times the year, and the month from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CalendarMonth(u64);

impl CalendarMonth {
    /// The month of a time in seconds since 1970. Days are counted from the 1st of March of the year 0,
    /// so that the day of a leap year comes last (a well-known way to do it).
    fn of(unix: u64) -> Self {
        let days = unix / 86_400 + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        // March is 0 there and 2 here; January and February belong to the next year.
        Self((era * 400 + year) * 12 + month + 2)
    }

    /// When it begins, in seconds since 1970; 0 for months before.
    fn begins(self) -> u64 {
        let Some(since_march) = self.0.checked_sub(2) else {
            return 0;
        };
        let (year, month) = (since_march / 12, since_march % 12);
        let (era, year) = (year / 400, year % 400);
        let day = (153 * month + 2) / 5;
        let days = era * 146_097 + 365 * year + year / 4 - year / 100 + day;
        days.saturating_sub(719_468) * 86_400
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// As `2026-11`.
impl fmt::Display for CalendarMonth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

impl FromStr for CalendarMonth {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('-').and_then(|(year, month)| {
            let (year, month): (u64, u64) = (year.parse().ok()?, month.parse().ok()?);
            ((1..=9999).contains(&year) && (1..=12).contains(&month)).then_some((year, month))
        });
        let (year, month) = parts.ok_or_else(|| anyhow!("{text:?} is no month"))?;
        Ok(Self(year * 12 + month - 1))
    }
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    month: String,
    given: u64,
}

/// The count of the present month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    month: CalendarMonth,
    given: u64,
}

impl Count {
    fn load(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: File = serde_json::from_slice(&text)?;
        Ok(Some(Self {
            month: file.month.parse()?,
            given: file.given,
        }))
    }

    fn save(self, path: &Path) -> Result<()> {
        let file = File {
            month: self.month.to_string(),
            given: self.given,
        };
        let text = serde_json::to_vec(&file).context("cannot write JSON")?;
        write_atomically(path, &text)
    }
}

/// Counts, and says when it is enough.
pub(crate) struct Quota {
    path: PathBuf,
    count: Count,
    /// What is in the file, and since when.
    kept: Option<(Count, u64)>,
    /// What this process had given when it was last looked at.
    total: u64,
    limit: Option<u64>,
    paused: bool,
    /// It was told that the count cannot be written.
    told: bool,
}

impl Quota {
    /// Goes on with what earlier runs gave, at `now` in seconds since 1970.
    pub(crate) fn open(data: &DataDir, now: u64) -> Self {
        let path = data.root().join("given-this-month.json");
        let loaded = Count::load(&path).unwrap_or_else(|error| {
            warn!(
                "what was given this month is not known, counting from 0: {}: {error:#}",
                path.display()
            );
            None
        });
        let fresh = Count {
            month: CalendarMonth::of(now),
            given: 0,
        };
        Self {
            path,
            count: loaded.unwrap_or(fresh),
            kept: loaded.map(|count| (count, now)),
            total: 0,
            limit: None,
            paused: false,
            told: false,
        }
    }

    /// Takes what this process has given in all, and says whether to give more, at `now` in seconds
    /// since 1970. Writes the count now and then.
    pub(crate) fn take(&mut self, total: u64, limit: Option<u64>, now: u64) -> bool {
        let month = CalendarMonth::of(now);
        if month > self.count.month {
            self.count = Count { month, given: 0 };
        }
        let more = total.saturating_sub(self.total);
        self.total = total;
        self.count.given = self.count.given.saturating_add(more);
        self.limit = limit;
        let paused = limit.is_some_and(|limit| self.count.given >= limit);
        let turned = std::mem::replace(&mut self.paused, paused) != paused;
        if turned {
            self.tell();
        }
        let old = |at: u64| now >= at.saturating_add(KEEP_EVERY);
        if turned || self.kept.is_none_or(|(_, at)| old(at)) {
            self.keep(now);
        }
        !paused
    }

    fn tell(&self) {
        let (given, month) = (Bytes(self.count.given), self.count.month);
        if self.paused {
            info!(
                %month, given = self.count.given,
                "limits.monthly-upload is reached, {given} were given: nothing more before {}-01, \
                 or with a greater limit", month.next()
            );
        } else {
            info!(%month, "giving again, as limits.monthly-upload allows");
        }
    }

    /// Makes the count durable, if it changed.
    pub(crate) fn keep(&mut self, now: u64) {
        if self.kept.is_some_and(|(kept, _)| kept == self.count) {
            return;
        }
        match self.count.save(&self.path) {
            Ok(()) => {
                self.kept = Some((self.count, now));
                self.told = false;
            }
            Err(error) if !self.told => {
                warn!("what was given this month is not kept: {error:#}");
                self.told = true;
            }
            Err(_) => {}
        }
    }

    /// For the report.
    pub(crate) fn report(&self) -> report::Month {
        report::Month {
            month: self.count.month.to_string(),
            uploaded: self.count.given,
            limit: self.limit,
            paused: self.paused,
            ends: self.count.month.next().begins(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21, 20:00:00 UTC.
    const NOVEMBER: u64 = 1_795_291_200;
    const DAY: u64 = 86_400;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (unix, month, begins) in [
            (0, "1970-01", 0),
            (951_782_400, "2000-02", 949_363_200), // the 29th
            (951_868_800, "2000-03", 951_868_800),
            (4_107_542_400 - 1, "2100-02", 4_105_123_200), // no leap year
            (4_107_542_400, "2100-03", 4_107_542_400),
            (NOVEMBER, "2026-11", 1_793_491_200),
        ] {
            let found = CalendarMonth::of(unix);
            assert_eq!(found.to_string(), month, "{unix}");
            assert_eq!(found.begins(), begins, "{month}");
            assert_eq!(month.parse::<CalendarMonth>().unwrap(), found);
        }
        // Without a gap for two hundred years.
        let mut month = CalendarMonth::of(0);
        for _ in 0..2_400 {
            let next = month.next();
            assert_eq!(CalendarMonth::of(next.begins()), next);
            assert_eq!(CalendarMonth::of(next.begins() - 1), month);
            month = next;
        }
        for wrong in ["", "2026", "2026-13", "2026-00", "x-1", "99999999999-01"] {
            assert!(wrong.parse::<CalendarMonth>().is_err(), "{wrong}");
        }
    }

    fn data() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(dir.path())).unwrap();
        (dir, data)
    }

    #[test]
    fn a_month_ends_what_the_limit_began() {
        let (_dir, data) = data();
        let mut quota = Quota::open(&data, NOVEMBER);
        let limit = Some(1_000);
        assert!(quota.take(999, limit, NOVEMBER));
        assert!(!quota.take(1_000, limit, NOVEMBER + 1));
        assert!(!quota.take(1_000, limit, NOVEMBER + 9 * DAY));
        let report = quota.report();
        assert_eq!((report.uploaded, report.paused), (1_000, true));
        assert_eq!(report.ends, NOVEMBER + 10 * DAY - 20 * 3_600);
        // More may be given, and again not.
        assert!(quota.take(1_000, Some(2_000), NOVEMBER + 2));
        assert!(quota.take(1_000, None, NOVEMBER + 2));
        assert!(!quota.take(1_000, Some(0), NOVEMBER + 2));
        // The 1st of December.
        assert!(quota.take(1_000, limit, report.ends));
        assert_eq!(quota.report().uploaded, 0);
        assert!(quota.take(1_500, limit, report.ends));
        assert_eq!(quota.report().uploaded, 500);
    }

    #[test]
    fn runs_add_up_and_a_clock_set_back_gives_nothing_anew() {
        let (_dir, data) = data();
        let mut first = Quota::open(&data, NOVEMBER);
        first.take(600, Some(1_000), NOVEMBER);
        first.take(700, Some(1_000), NOVEMBER + 1);
        // Killed: what was given in the last minute is forgotten, and no more.
        let killed = Quota::open(&data, NOVEMBER + 2);
        assert_eq!(killed.report().uploaded, 600);
        first.keep(NOVEMBER + 2);
        let mut second = Quota::open(&data, NOVEMBER + 3);
        assert!(second.take(299, Some(1_000), NOVEMBER + 3));
        assert!(!second.take(300, Some(1_000), NOVEMBER + 3));
        // Kept at once, for it is reached.
        let mut third = Quota::open(&data, 0);
        assert!(!third.take(0, Some(1_000), 0));
        assert_eq!(third.report().month, "2026-11");
    }

    #[test]
    fn what_cannot_be_read_counts_from_nothing() {
        let (dir, data) = data();
        let file = dir.path().join("given-this-month.json");
        for text in [
            "",
            "{",
            "{\"month\":\"2026-13\",\"given\":5}",
            "{\"given\":5}",
        ] {
            std::fs::write(&file, text).unwrap();
            let mut quota = Quota::open(&data, NOVEMBER);
            assert!(quota.take(0, Some(1), NOVEMBER), "{text}");
        }
    }
}
