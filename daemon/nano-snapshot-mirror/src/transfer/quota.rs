//! The limit on uploads in a calendar month (`limits.monthly-upload`), counted over all runs of a mirror.
//!
//! Only content counts, as in the session. `monthly-upload.json` in the data directory has the count: it is written once a minute while the
//! count grows, and at the end. A crash loses at most a minute. Months are those of UTC.
//!
//! The clock may be wrong for a while. So the file has a few months, each with its own count: when the clock jumps to another month and back, no
//! month is counted twice, and the mirror continues to upload. A month in the future has no effect on the present one.
//!
//! Uploads continue between two counts. So that they do not exceed the limit meanwhile, the rate falls with the rest of the limit: see
//! [`Allowance`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use snapshot_store::{DataDir, layout};
use tracing::{info, warn};

use crate::text::Bytes;
use file_kit::fs::write_atomically;

/// The upload count of this month and its limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MonthReport {
    /// The month in UTC, such as `2026-11`.
    pub(crate) month: String,
    /// Uploaded content, in bytes.
    pub(crate) uploaded: u64,
    /// The limit for a month, in bytes; `null` without a limit.
    pub(crate) limit: Option<u64>,
    /// Whether the limit is reached, so that uploads are paused until the month ends.
    pub(crate) paused: bool,
    /// When the next month begins.
    pub(crate) ends: u64,
}

/// The name of the file.
const FILE: &str = layout::MONTHLY_UPLOAD;

/// The former name of the file, which is read if there is no other and removed after the next write.
const FORMER_FILE: &str = layout::OLD_MONTHLY_UPLOAD;

/// The shortest time between two writes, in seconds.
const SAVE_INTERVAL: u64 = 60;

/// Months in the file, at most.
const MOST_MONTHS: usize = 6;

/// A clock before this time, 2024-01-01, is not set. Uploads then count for the last month in the file.
const CLOCK_IS_SET: u64 = 1_704_067_200;

/// The rate is limited so that the rest of the month's limit lasts at least this many seconds, because counts are a few seconds old.
const LEAST_SECONDS: u64 = 10;

/// The lowest rate near the limit, in bytes a second. Without it the limit would never be reached.
const LEAST_RATE: u64 = 64 << 10;

/// From this rate on, in bytes a second, the rate is not limited.
const NO_LIMIT: u64 = 1 << 32;

/// How fast content may be uploaded until the next count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// As fast as other limits allow.
    Unlimited,
    /// At most this many bytes a second, because the month's limit is near.
    AtMost(u64),
    /// No uploads before the next month.
    Nothing,
}

impl Allowance {
    /// Returns the allowance for `left` bytes of the month's limit. The rate is a power of two, so that it changes rarely.
    fn of(left: u64) -> Self {
        match left / LEAST_SECONDS {
            _ if left == 0 => Self::Nothing,
            rate if rate >= NO_LIMIT => Self::Unlimited,
            rate => Self::AtMost((1 << rate.checked_ilog2().unwrap_or(0)).max(LEAST_RATE)),
        }
    }

    /// Returns the lower of this and another limit on the rate; `None` means no limit.
    pub(crate) fn bound(self, rate: Option<u64>) -> Option<u64> {
        match self {
            Self::Unlimited => rate,
            Self::AtMost(most) => Some(rate.map_or(most, |rate| rate.min(most))),
            Self::Nothing => Some(0),
        }
    }
}

/// A calendar month in UTC: 12 times the year, plus the month from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CalendarMonth(u64);

impl CalendarMonth {
    /// Returns the month of a time in seconds since 1970.
    fn of(unix: u64) -> Self {
        let time = i64::try_from(unix)
            .ok()
            .and_then(|unix| Timestamp::from_second(unix).ok())
            .unwrap_or(Timestamp::MAX);
        let date = time.to_zoned(TimeZone::UTC).date();
        // From 1970 on both are positive.
        Self(
            u64::from(date.year().unsigned_abs()) * 12 + u64::from(date.month().unsigned_abs()) - 1,
        )
    }

    /// Returns when the month begins, in seconds since 1970; 0 for months before 1970.
    fn begins(self) -> u64 {
        let first = i16::try_from(self.0 / 12)
            .ok()
            .zip(i8::try_from(self.0 % 12 + 1).ok())
            .and_then(|(year, month)| Date::new(year, month, 1).ok())
            .and_then(|date| date.to_zoned(TimeZone::UTC).ok());
        first.map_or(0, |first| {
            u64::try_from(first.timestamp().as_second()).unwrap_or(0)
        })
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Formats the month as `2026-11`.
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
        let (year, month) = parts.ok_or_else(|| anyhow!("{text:?} is not a month"))?;
        Ok(Self(year * 12 + month - 1))
    }
}

/// The content of the file. The field `others` is left out when it is empty: earlier versions of the program did not know it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    month: String,
    given: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<String, u64>,
}

/// Bytes uploaded in each of a few months, and the month that uploads count for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    present: CalendarMonth,
    months: BTreeMap<CalendarMonth, u64>,
}

impl Counts {
    fn load(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: File = serde_json::from_slice(&text)?;
        let present = file.month.parse()?;
        let mut months = BTreeMap::from([(present, file.given)]);
        for (month, given) in file.others {
            months.entry(month.parse()?).or_insert(given);
        }
        Ok(Some(Self { present, months }))
    }

    fn save(&self, path: &Path) -> Result<()> {
        let others = self
            .months
            .iter()
            .filter(|(month, _)| **month != self.present);
        let file = File {
            month: self.present.to_string(),
            given: self.given(),
            others: others
                .map(|(month, given)| (month.to_string(), *given))
                .collect(),
        };
        let text = serde_json::to_vec(&file).context("cannot write JSON")?;
        Ok(write_atomically(path, &text)?)
    }

    /// Returns the bytes uploaded in the present month.
    fn given(&self) -> u64 {
        self.months.get(&self.present).copied().unwrap_or(0)
    }

    fn add(&mut self, bytes: u64) {
        let given = self.months.entry(self.present).or_default();
        *given = given.saturating_add(bytes);
    }

    /// Changes to the month of `now`, in seconds since 1970. A month that has a count continues it.
    fn turn_to(&mut self, now: u64) {
        if now < CLOCK_IS_SET {
            return;
        }
        let month = CalendarMonth::of(now);
        if month == self.present {
            return;
        }
        if month < self.present {
            warn!(
                counted = %self.present, now = %month,
                "the clock was ahead; uploads count for {month} again"
            );
        }
        self.present = month;
        self.months.entry(month).or_default();
        while self.months.len() > MOST_MONTHS {
            // The month farthest from now is the least likely to be needed again.
            let farthest = self.months.keys().max_by_key(|one| one.0.abs_diff(month.0));
            let Some(farthest) = farthest.copied() else {
                break;
            };
            self.months.remove(&farthest);
        }
    }
}

/// Counts uploads and compares them with the limit.
pub(crate) struct Quota {
    path: PathBuf,
    former: PathBuf,
    counts: Counts,
    /// The content of the file, and when it was last known to be current.
    saved: Option<(Counts, u64)>,
    /// Bytes that this process had uploaded at the last count.
    total: u64,
    limit: Option<u64>,
    paused: bool,
    /// Whether it was logged that the count cannot be saved.
    failure_logged: bool,
}

impl Quota {
    /// Continues the counts of earlier runs in a data directory, at `now` in seconds since 1970.
    pub(crate) fn open(data: &DataDir, now: u64) -> Self {
        let (path, former) = (data.root().join(FILE), data.root().join(FORMER_FILE));
        let load = |path: &Path| {
            Counts::load(path).unwrap_or_else(|error| {
                warn!(
                    "cannot read the monthly upload count, starting from 0: {}: {error:#}",
                    path.display()
                );
                None
            })
        };
        let loaded = load(&path);
        let in_place = loaded.is_some();
        let loaded = loaded.or_else(|| load(&former));
        let present = CalendarMonth::of(now);
        let mut counts = loaded.clone().unwrap_or(Counts {
            present,
            months: BTreeMap::new(),
        });
        counts.turn_to(now);
        Self {
            path,
            former,
            counts,
            saved: loaded.filter(|_| in_place).map(|counts| (counts, now)),
            total: 0,
            limit: None,
            paused: false,
            failure_logged: false,
        }
    }

    /// Counts the `total` bytes that this process has uploaded so far, at `now` in seconds since 1970, and returns how fast it may continue. Saves
    /// the count from time to time.
    pub(crate) fn take(&mut self, total: u64, limit: Option<u64>, now: u64) -> Allowance {
        self.counts.turn_to(now);
        let more = total.saturating_sub(self.total);
        self.total = total;
        self.counts.add(more);
        self.limit = limit;
        let left = limit.map(|limit| limit.saturating_sub(self.counts.given()));
        let paused = left == Some(0);
        let turned = std::mem::replace(&mut self.paused, paused) != paused;
        if turned {
            self.log();
        }
        let is_old = |at: u64| now.abs_diff(at) >= SAVE_INTERVAL;
        if turned || self.saved.as_ref().is_none_or(|(_, at)| is_old(*at)) {
            self.save(now);
        }
        left.map_or(Allowance::Unlimited, Allowance::of)
    }

    fn log(&self) {
        let (given, month) = (self.counts.given(), self.counts.present);
        if self.paused {
            info!(
                %month, given,
                "limits.monthly-upload is reached, uploaded {}: paused uploads until {}-01, or until the limit is raised", Bytes(given), month.next()
            );
        } else {
            info!(%month, "resumed uploads, limits.monthly-upload allows more");
        }
    }

    /// Saves the count, if it changed.
    pub(crate) fn save(&mut self, now: u64) {
        if let Some((saved, at)) = &mut self.saved
            && *saved == self.counts
        {
            *at = now;
            return;
        }
        match self.counts.save(&self.path) {
            Ok(()) => {
                self.saved = Some((self.counts.clone(), now));
                self.failure_logged = false;
                // Its content is in the new file now.
                let _ = std::fs::remove_file(&self.former);
            }
            Err(error) if !self.failure_logged => {
                warn!("cannot save the monthly upload count: {error:#}");
                self.failure_logged = true;
            }
            Err(_) => {}
        }
    }

    /// Returns the count as the report shows it.
    pub(crate) fn report(&self) -> MonthReport {
        MonthReport {
            month: self.counts.present.to_string(),
            uploaded: self.counts.given(),
            limit: self.limit,
            paused: self.paused,
            ends: self.counts.present.next().begins(),
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
        // Each month ends where the next begins, for two hundred years.
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
        assert!(gives(quota.take(999, limit, NOVEMBER)));
        assert!(!gives(quota.take(1_000, limit, NOVEMBER + 1)));
        assert!(!gives(quota.take(1_000, limit, NOVEMBER + 9 * DAY)));
        let report = quota.report();
        assert_eq!((report.uploaded, report.paused), (1_000, true));
        assert_eq!(report.ends, NOVEMBER + 10 * DAY - 20 * 3_600);
        // A higher limit resumes uploads, until it is reached as well.
        assert!(gives(quota.take(1_000, Some(2_000), NOVEMBER + 2)));
        assert!(gives(quota.take(1_000, None, NOVEMBER + 2)));
        assert!(!gives(quota.take(1_000, Some(0), NOVEMBER + 2)));
        // The 1st of December.
        assert!(gives(quota.take(1_000, limit, report.ends)));
        assert_eq!(quota.report().uploaded, 0);
        assert!(gives(quota.take(1_500, limit, report.ends)));
        assert_eq!(quota.report().uploaded, 500);
    }

    #[test]
    fn runs_add_up_and_a_clock_that_is_not_set_gives_nothing_more() {
        let (_dir, data) = data();
        let mut first = Quota::open(&data, NOVEMBER);
        first.take(600, Some(1_000), NOVEMBER);
        first.take(700, Some(1_000), NOVEMBER + 1);
        // After a kill at most the uploads of the last minute are lost.
        let killed = Quota::open(&data, NOVEMBER + 2);
        assert_eq!(killed.report().uploaded, 600);
        first.save(NOVEMBER + 2);
        let mut second = Quota::open(&data, NOVEMBER + 3);
        assert!(gives(second.take(299, Some(1_000), NOVEMBER + 3)));
        assert!(!gives(second.take(300, Some(1_000), NOVEMBER + 3)));
        // The count was saved at once, because the limit is reached. The clock of the machine is not set yet.
        let mut third = Quota::open(&data, 0);
        assert!(!gives(third.take(0, Some(1_000), 0)));
        assert_eq!(third.report().month, "2026-11");
    }

    #[test]
    fn a_month_in_the_future_says_nothing_about_the_present_one() {
        let (dir, data) = data();
        let file = dir.path().join(FILE);
        std::fs::write(&file, "{\"month\":\"2107-01\",\"given\":2000000}").unwrap();
        let mut quota = Quota::open(&data, NOVEMBER);
        let limit = Some(1 << 20);
        assert!(gives(quota.take(0, limit, NOVEMBER)));
        assert_eq!(quota.report().month, "2026-11");
        assert!(!gives(quota.take(1 << 20, limit, NOVEMBER + 1)));
        let mut again = Quota::open(&data, NOVEMBER + 2);
        assert!(!gives(again.take(0, limit, NOVEMBER + 2)));
    }

    #[test]
    fn a_clock_that_jumps_and_comes_back_gives_no_month_twice() {
        let (_dir, data) = data();
        let mut quota = Quota::open(&data, NOVEMBER);
        let limit = Some(1_000);
        assert!(!gives(quota.take(1_000, limit, NOVEMBER)));
        for away in [NOVEMBER + 40 * DAY, NOVEMBER - 40 * DAY] {
            assert!(gives(quota.take(1_000, limit, away)));
            assert!(!gives(quota.take(1_000, limit, NOVEMBER + 1)));
            // A restart in between changes nothing.
            quota.take(1_000, limit, away);
            quota.save(away);
            let mut restarted = Quota::open(&data, NOVEMBER + 2);
            assert!(!gives(restarted.take(0, limit, NOVEMBER + 2)));
        }
        // The number of stored months is bounded.
        for month in 0..50 {
            quota.take(1_000, limit, NOVEMBER + month * 31 * DAY);
        }
        assert_eq!(quota.counts.months.len(), MOST_MONTHS);
    }

    #[test]
    fn the_limit_is_approached_and_not_exceeded() {
        assert_eq!(Allowance::of(0), Allowance::Nothing);
        assert_eq!(Allowance::of(1), Allowance::AtMost(LEAST_RATE));
        assert_eq!(Allowance::of(10 << 20), Allowance::AtMost(1 << 20));
        assert_eq!(Allowance::of(19 << 20), Allowance::AtMost(1 << 20));
        assert_eq!(Allowance::of(u64::MAX), Allowance::Unlimited);
        assert_eq!(Allowance::AtMost(5).bound(None), Some(5));
        assert_eq!(Allowance::AtMost(5).bound(Some(3)), Some(3));
        assert_eq!(Allowance::Unlimited.bound(None), None);
        assert_eq!(Allowance::Nothing.bound(None), Some(0));
        // Peers download at the allowed rate, and each count is 3 s old.
        let (_dir, data) = data();
        let mut quota = Quota::open(&data, NOVEMBER);
        let limit = 100 << 20;
        let (mut uploaded, mut second) = ([0_u64; 4], 0);
        loop {
            let seen = uploaded[0];
            uploaded.rotate_left(1);
            let rate = match quota.take(seen, Some(limit), NOVEMBER + second) {
                Allowance::Nothing => break,
                allowance => allowance.bound(Some(1 << 30)).unwrap(),
            };
            uploaded[3] = uploaded[2] + rate;
            second += 1;
            assert!(second < 1_000, "the limit is never reached");
        }
        assert!(uploaded[2] <= limit + 4 * LEAST_RATE, "{uploaded:?}");
    }

    #[test]
    fn the_file_of_the_former_name_is_continued_and_replaced() {
        let (dir, data) = data();
        let former = dir.path().join(FORMER_FILE);
        std::fs::write(&former, "{\"month\":\"2026-11\",\"given\":600}").unwrap();
        let mut quota = Quota::open(&data, NOVEMBER);
        assert_eq!(quota.report().uploaded, 600);
        assert!(!gives(quota.take(400, Some(1_000), NOVEMBER)));
        assert!(!former.exists() && dir.path().join(FILE).exists());
        assert_eq!(Quota::open(&data, NOVEMBER).report().uploaded, 1_000);
        // If a file with the present name exists, the former one is ignored.
        std::fs::write(&former, "{\"month\":\"2026-11\",\"given\":5}").unwrap();
        assert_eq!(Quota::open(&data, NOVEMBER).report().uploaded, 1_000);
    }

    #[test]
    fn what_cannot_be_read_counts_from_nothing() {
        let (dir, data) = data();
        let file = dir.path().join(FILE);
        for text in [
            "",
            "{",
            "{\"month\":\"2026-13\",\"given\":5}",
            "{\"given\":5}",
        ] {
            std::fs::write(&file, text).unwrap();
            let mut quota = Quota::open(&data, NOVEMBER);
            assert!(gives(quota.take(0, Some(1), NOVEMBER)), "{text}");
        }
    }

    fn gives(allowance: Allowance) -> bool {
        allowance != Allowance::Nothing
    }
}
