//! Weekly time windows with other limits.

use figment::value::{Dict, Value};

use super::section::KeyType;
use super::traffic::Rate;
use super::values::{quoted, write};

const MINUTES_PER_DAY: u32 = 24 * 60;

/// The names of the days. 1970 began on a Thursday.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const FIRST_DAY_OF_1970: u64 = 3;

/// Days of the week and a time of day, in UTC, with limits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// In the order of [`DAYS`].
    days: [bool; 7],
    /// Minutes from midnight.
    from: u32,
    /// Minutes from midnight. A value not greater than `from` means the next day.
    to: u32,
    /// The upload limit; `None` keeps the usual one.
    pub(crate) upload: Option<Rate>,
    /// The download limit; `None` keeps the usual one.
    pub(crate) download: Option<Rate>,
}

impl Window {
    /// Returns whether the window is open at a time in seconds since 1970.
    pub(crate) fn is_open(&self, unix_seconds: u64) -> bool {
        let minutes = unix_seconds / 60;
        let today = (minutes / u64::from(MINUTES_PER_DAY) + FIRST_DAY_OF_1970) % 7;
        let minute = (minutes % u64::from(MINUTES_PER_DAY)) as u32;
        let on = |day: u64| self.days.get((day % 7) as usize) == Some(&true);
        if self.from < self.to {
            on(today) && (self.from..self.to).contains(&minute)
        } else {
            (on(today) && minute >= self.from) || (on(today + 6) && minute < self.to)
        }
    }
}

impl KeyType for Window {
    fn form() -> String {
        r#"a window such as { days = ["mon", "tue"], from = "08:00", to = "18:00", upload = "1MiB/s" }"#
            .to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let said = value.as_dict().ok_or_else(write::<Self>)?;
        let known = ["days", "from", "to", "upload", "download"];
        if let Some(strange) = said.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("a window has no `{strange}`; {}", write::<Self>()));
        }
        let rate = |key| said.get(key).map(Rate::parse).transpose();
        let window = Self {
            days: days(said)?,
            from: time(said, "from", 0)?,
            to: time(said, "to", MINUTES_PER_DAY)?,
            upload: rate("upload")?,
            download: rate("download")?,
        };
        if window.upload.is_none() && window.download.is_none() {
            return Err("a window without upload and download changes nothing".to_owned());
        }
        Ok(window)
    }

    fn show(&self) -> Option<String> {
        let named = DAYS.iter().zip(self.days).filter(|(_, on)| *on);
        let days: Vec<String> = named.map(|(day, _)| quoted(day)).collect();
        let time = |minutes: u32| quoted(&format!("{:02}:{:02}", minutes / 60, minutes % 60));
        let mut shown = format!(
            "{{ days = [{}], from = {}, to = {}",
            days.join(", "),
            time(self.from),
            time(self.to),
        );
        for (key, rate) in [("upload", self.upload), ("download", self.download)] {
            if let Some(rate) = rate.and_then(|rate| rate.show()) {
                shown.push_str(&format!(", {key} = {rate}"));
            }
        }
        Some(shown + " }")
    }
}

/// Parses the days. The default is all days.
fn days(said: &Dict) -> Result<[bool; 7], String> {
    let Some(named) = said.get("days") else {
        return Ok([true; 7]);
    };
    let wrong = || format!("write days as a list of {}", DAYS.join(", "));
    let mut days = [false; 7];
    for day in named.as_array().ok_or_else(wrong)? {
        let name = day.as_str().unwrap_or_default().to_ascii_lowercase();
        let slot = DAYS.iter().zip(&mut days).find(|(day, _)| **day == name);
        *slot.ok_or_else(wrong)?.1 = true;
    }
    Ok(days)
}

/// Parses `HH:MM`, at most `24:00`, to minutes.
fn time(said: &Dict, key: &str, default: u32) -> Result<u32, String> {
    let Some(value) = said.get(key) else {
        return Ok(default);
    };
    let parsed = value.as_str().and_then(|text| {
        let (hours, minutes) = text.split_once(':')?;
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours <= 24 && minutes < 60).then_some(hours * 60 + minutes)
    });
    parsed
        .filter(|minutes| *minutes <= MINUTES_PER_DAY)
        .ok_or_else(|| format!("write `{key}` as a time of day in UTC, such as \"08:00\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(toml: &str) -> Result<Window, String> {
        let list = super::super::sources::of_variable(&format!("[{toml}]"));
        Window::parse(list.as_array().unwrap().first().unwrap())
    }

    /// 2026-11-21, a Saturday.
    const SATURDAY: u64 = 20_778 * 86_400;

    #[test]
    fn windows_open_on_their_days_and_may_pass_midnight() {
        for (toml, hours, open) in [
            (
                r#"{ from = "08:00", to = "18:00", upload = "1M" }"#,
                8.0,
                true,
            ),
            (
                r#"{ from = "08:00", to = "18:00", upload = "1M" }"#,
                7.99,
                false,
            ),
            (
                r#"{ from = "08:00", to = "18:00", upload = "1M" }"#,
                18.0,
                false,
            ),
            (r#"{ days = ["sat"], upload = "1M" }"#, 0.0, true),
            (r#"{ days = ["sat"], upload = "1M" }"#, 23.99, true),
            (r#"{ days = ["sat"], upload = "1M" }"#, 24.0, false),
            (r#"{ days = ["fri", "Sun"], upload = "1M" }"#, 12.0, false),
            (
                r#"{ days = ["sat"], from = "22:00", to = "06:00", upload = "1M" }"#,
                5.0,
                false,
            ),
            (
                r#"{ days = ["sat"], from = "22:00", to = "06:00", upload = "1M" }"#,
                23.0,
                true,
            ),
            (
                r#"{ days = ["sat"], from = "22:00", to = "06:00", upload = "1M" }"#,
                29.0,
                true,
            ),
            (
                r#"{ days = ["sat"], from = "22:00", to = "06:00", upload = "1M" }"#,
                30.0,
                false,
            ),
        ] {
            let window = window(toml).unwrap();
            let at = SATURDAY + (hours * 3600.0) as u64;
            assert_eq!(window.is_open(at), open, "{toml} at {hours}");
        }
    }

    #[test]
    fn what_is_no_window_is_told_and_what_is_one_is_shown() {
        for (toml, mistake) in [
            (r#"{ from = "08:00", to = "18:00" }"#, "changes nothing"),
            (r#"{ day = ["mon"], upload = "0" }"#, "no `day`"),
            (r#"{ days = ["monday"], upload = "0" }"#, "mon, tue"),
            (r#"{ days = "mon", upload = "0" }"#, "mon, tue"),
            (r#"{ from = "24:01", upload = "0" }"#, "time of day"),
            (r#"{ to = "8", upload = "0" }"#, "time of day"),
            (r#"{ upload = "slow" }"#, "bytes a second"),
            ("3", "write a window"),
        ] {
            let error = window(toml).unwrap_err();
            assert!(error.contains(mistake), "{toml}: {error}");
        }
        let shown = window(r#"{ days = ["sun", "mon"], from = "8:00", download = "unlimited" }"#)
            .unwrap()
            .show()
            .unwrap();
        assert_eq!(
            shown,
            r#"{ days = ["mon", "sun"], from = "08:00", to = "24:00", download = "unlimited" }"#
        );
        assert_eq!(window(&shown).unwrap().show().unwrap(), shown);
    }
}
