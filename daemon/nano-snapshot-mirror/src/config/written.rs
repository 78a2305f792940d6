//! Parses values as users write them in a file, a variable or a flag: durations, sizes, addresses with host names.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Parses a duration: `90s`, `10m`, `2h`, `1d`, `500ms`, or seconds without a unit (`600`).
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match split_unit(text) {
        Some((number, "")) => seconds(number, 1.0),
        Some((number, unit)) => match duration_unit(unit) {
            Some(scale) => seconds(number, scale),
            None => Err(format!("`{unit}` is not a unit of time; {DURATION_FORMS}")),
        },
        None => Err(DURATION_FORMS.to_owned()),
    }
}

const DURATION_FORMS: &str = "write a number and a unit: 90s, 10m, 2h or 1d";

/// The longest duration that is accepted, ten years: adding it to a clock does not overflow.
const MAX_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

fn seconds(number: f64, scale: f64) -> Result<Duration, String> {
    let seconds = number * scale;
    if seconds > MAX_SECONDS {
        return Err("that is more than ten years".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn duration_unit(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}

/// Splits text into a number without sign or exponent and the unit after it.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// Parses one store version (`24`) or a range (`21-24`).
pub(crate) fn versions(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err("write a store version or a range of them: 24, 21-24".to_owned()),
    }
}

/// Parses a number of bytes: `256M`, `1GiB`, `4096`. `K`, `M`, `G` and `T` are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let forms = "write a number of bytes with or without a unit: 16KiB, 256M, 2G";
    let (number, unit) = split_unit(text).ok_or(forms)?;
    let shift = match unit
        .to_ascii_lowercase()
        .trim_end_matches("ib")
        .trim_end_matches('b')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(forms.to_owned()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if bytes > (1u64 << 60) as f64 {
        return Err("that is more than an exbibyte".to_owned());
    }
    Ok(bytes as u64)
}

/// How long `--once` seeds after the download.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SeedFor {
    /// For this time.
    Duration(Duration),
    /// Until this many times the size of the snapshot was uploaded.
    Ratio(f64),
}

impl FromStr for SeedFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let forms = "write a duration with its unit (30m, 2h) or a ratio without one (1.5)";
        match split_unit(text).ok_or(forms)? {
            (ratio, "") => Ok(Self::Ratio(ratio)),
            _ => duration(text).map(Self::Duration),
        }
    }
}

/// A host and a port. A host name is resolved at each use, because its addresses change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// Resolves the host name to its present addresses.
    pub(crate) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port))
            .await?
            .collect())
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let forms = "write HOST:PORT, for example seed.example.org:6881 or [2001:db8::1]:6881";
        let (host, port) = text.rsplit_once(':').ok_or(forms)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        // A second colon outside brackets: the end of an IPv6 address would be taken for the port.
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(forms.to_owned());
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(format!("`{port}` is not a port from 1 to 65535; {forms}")),
            Ok(port) => Ok(Self {
                host: host.to_owned(),
                port,
            }),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("600", 600_000),
            ("90s", 90_000),
            ("10m", 600_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("250ms", 250),
            ("2 h", 7_200_000),
        ];
        for (text, millis) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "h", "-1s", "1w", "1e9", "..s", "99999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            ("4096", 4096),
            ("16KiB", 16 << 10),
            ("256M", 256 << 20),
            ("1.5g", 3 << 29),
            ("2TB", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1X", "99999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_is_a_ratio_and_a_number_with_a_unit_a_duration() {
        assert_eq!("1.5".parse(), Ok(SeedFor::Ratio(1.5)));
        assert_eq!(
            "2h".parse(),
            Ok(SeedFor::Duration(Duration::from_secs(7200)))
        );
        assert!("for ever".parse::<SeedFor>().is_err());
    }

    #[test]
    fn hosts_and_ports() {
        for text in ["seed.example.org:6881", "[2001:db8::1]:6881", "127.0.0.1:1"] {
            assert_eq!(
                text.parse::<HostPort>().map(|peer| peer.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "::1:80",
            "host:x",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_one_or_a_range() {
        assert_eq!(versions("24"), Ok(24..=24));
        assert_eq!(versions("21-24"), Ok(21..=24));
        for wrong in ["", "-", "24-21", "21-", "v24", "-24", "21-24-25"] {
            assert!(versions(wrong).is_err(), "{wrong}");
        }
    }
}
