//! Numbers as a person reads them.

use std::fmt;
use std::time::Duration;

pub(crate) use bittorrent_session::Causes;

/// Bytes in the unit that gives three digits: `17 B`, `4.00 MiB`, `121 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            // 999.5 would be printed as 1000: the next unit has it in three digits.
            if value < 999.5 || unit == "EiB" {
                let digits = match value {
                    _ if unit == "B" => 0,
                    value if value < 9.995 => 2,
                    value if value < 99.95 => 1,
                    _ => 0,
                };
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        Ok(())
    }
}

/// A time in its two greatest units: `850 ms`, `12.3 s`, `5 min 2 s`, `3 h 20 min`, `2 d 4 h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{millis} ms"),
            1..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            60..3_600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3_600..86_400 => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
        }
    }
}

/// A whole number in groups of three digits: `201,939,233`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (4 << 20, "4.00 MiB"),
            (10 * 1024 - 1, "10.0 KiB"),
            (121 << 30, "121 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn times() {
        let cases = [
            (850, "850 ms"),
            (12_340, "12.3 s"),
            (302_000, "5 min 2 s"),
            (12_000_000, "3 h 20 min"),
            (187_200_000, "2 d 4 h"),
        ];
        for (millis, text) in cases {
            assert_eq!(Time(Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn counts() {
        assert_eq!(Count(7).to_string(), "7");
        assert_eq!(Count(201_939_233).to_string(), "201,939,233");
    }
}
