//! The types of values, and their written forms.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bittorrent_protocol::InfoHashV2;
use bittorrent_session::EncryptionPolicy;
use figment::value::Value;
use nano_ledger::Level;
use snapshot_pointer::{Authority, Salt};

use super::section::KeyType;
use super::written::HostPort;
use super::written::{duration, versions};
use crate::kit::logging::{LogFormat, LogLevel};
use service_kit::http_server::HostName;

/// A value with its origin, which decides whether an address that is in use may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    /// The value.
    pub(crate) value: T,
    /// The origin of the value.
    pub(crate) origin: Origin,
}

/// The origin of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The default of the program.
    Default,
    /// A file or the environment, which several commands on a machine share.
    Configured,
    /// A flag of this command.
    Flag,
}

impl<T> Chosen<T> {
    pub(crate) fn by_default(value: T) -> Self {
        Self {
            value,
            origin: Origin::Default,
        }
    }

    /// Returns whether a user set the value.
    pub(crate) fn by_user(&self) -> bool {
        self.origin != Origin::Default
    }
}

impl<T: KeyType> KeyType for Chosen<T> {
    fn form() -> String {
        T::form()
    }

    /// Parses the value with the origin [`Origin::Configured`]. Loading the sources changes that for flags.
    fn parse(value: &Value) -> Result<Self, String> {
        T::parse(value).map(|value| Self {
            value,
            origin: Origin::Configured,
        })
    }

    fn show(&self) -> Option<String> {
        self.value.show()
    }
}

/// A key that is not set by default. A source cannot unset it.
impl<T: KeyType> KeyType for Option<T> {
    const SECRET: bool = T::SECRET;

    fn form() -> String {
        T::form()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        T::parse(value).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref()?.show()
    }

    fn show_publicly(&self) -> Option<String> {
        self.as_ref()?.show_publicly()
    }
}

/// In a variable or a flag, commas or spaces separate the values.
impl<T: KeyType> KeyType for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn form() -> String {
        format!("a list, each {}", T::form())
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(_, values) => values.iter().map(T::parse).collect(),
            Value::String(_, text) => text
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter(|part| !part.is_empty())
                .map(|part| T::parse(&Value::from(part)))
                .collect(),
            _ => Err(write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        let shown: Vec<String> = self.iter().filter_map(T::show).collect();
        Some(format!("[{}]", shown.join(", ")))
    }

    fn show_publicly(&self) -> Option<String> {
        let shown: Vec<String> = self.iter().filter_map(T::show_publicly).collect();
        Some(format!("[{}]", shown.join(", ")))
    }
}

/// A duration between `MIN` and `MAX` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> Seconds<MIN, MAX> {
    /// A default. Meant for `const { … }`: one that is out of range does not compile.
    pub(crate) const fn new(seconds: u64) -> Self {
        assert!(MIN <= seconds && seconds <= MAX);
        Self(Duration::from_secs(seconds))
    }

    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> KeyType for Seconds<MIN, MAX> {
    fn form() -> String {
        format!(
            "a duration from {} to {}, such as 90s, 10m, 2h or 1d",
            Written(Duration::from_secs(MIN)),
            Written(Duration::from_secs(MAX)),
        )
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let time = match value {
            Value::String(_, text) => duration(text)?,
            value => {
                let seconds = whole(value).ok_or_else(write::<Self>)?;
                duration(&seconds.to_string())?
            }
        };
        let range = Duration::from_secs(MIN)..=Duration::from_secs(MAX);
        if range.contains(&time) {
            Ok(Self(time))
        } else {
            Err(write::<Self>())
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&Written(self.0).to_string()))
    }
}

/// Formats a duration in the largest unit that yields a whole number.
struct Written(Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        for (unit, length) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
        ] {
            if millis > 0 && millis.is_multiple_of(length) {
                return write!(f, "{}{unit}", millis / length);
            }
        }
        write!(f, "{millis}ms")
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Number<MIN, MAX> {
    /// A default. Meant for `const { … }`: one that is out of range does not compile.
    pub(crate) const fn new(number: u32) -> Self {
        assert!(MIN <= number && number <= MAX);
        Self(number)
    }

    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> KeyType for Number<MIN, MAX> {
    fn form() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let number = whole(value).and_then(|number| u32::try_from(number).ok());
        match number {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// A port; 0 takes any free one.
impl KeyType for u16 {
    fn form() -> String {
        "a port from 0 to 65535, where 0 takes any free one".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let port = whole(value).and_then(|number| Self::try_from(number).ok());
        port.ok_or_else(write::<Self>)
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl KeyType for PathBuf {
    fn form() -> String {
        "a path".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(_, text) if !text.is_empty() => {
                at_home(text, std::env::var_os("HOME").map(PathBuf::from))
            }
            _ => Err(write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

/// Replaces `~/` at the beginning of a path by the home directory.
fn at_home(text: &str, home: Option<PathBuf>) -> Result<PathBuf, String> {
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(text.into());
    };
    let home = home.filter(|home| home.is_absolute());
    match (rest.strip_prefix('/'), home) {
        (Some(rest), Some(home)) => Ok(home.join(rest.trim_start_matches('/'))),
        (None, Some(home)) if rest.is_empty() => Ok(home),
        (_, None) => Err("HOME is not set, so `~` has no meaning; write an absolute path".to_owned()),
        (None, Some(_)) => Err(
            "only `~/` is understood, for the home directory of this user; write an absolute path, or \
             begin with `./` for a name that begins with `~`"
                .to_owned(),
        ),
    }
}

impl KeyType for SocketAddr {
    fn form() -> String {
        "an address with a port, such as [::]:6881 or 192.0.2.1:6881".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let address = value.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(write::<Self>)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// Parses a value that is written as text.
pub(super) fn from_text<T>(value: &Value) -> Result<T, String>
where
    T: KeyType + FromStr<Err: fmt::Display>,
{
    let text = value.as_str().ok_or_else(write::<T>)?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Types that are written as text.
macro_rules! text_types {
    ($($Type:ty: $form:literal;)+) => { $(
        impl KeyType for $Type {
            fn form() -> String {
                $form.to_owned()
            }

            fn parse(value: &Value) -> Result<Self, String> {
                from_text(value)
            }

            fn show(&self) -> Option<String> {
                Some(quoted(&self.to_string()))
            }
        }
    )+ };
}

text_types! {
    HostName: "a host name without a port, such as mirror.example.org";
    HostPort: "HOST:PORT, such as seed.example.org:6881 or [2001:db8::1]:6881";
    InfoHashV2: "a v2 info-hash, 64 hexadecimal digits";
    Authority: "an Ed25519 public key, 64 hexadecimal digits";
}

/// BEP 44 allows any bytes as salt; the configuration accepts text only.
impl KeyType for Salt {
    fn form() -> String {
        "text of at most 64 bytes".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        from_text(value)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&String::from_utf8_lossy(self.as_bytes())))
    }
}

/// Returns the value with the name `word`.
fn named<T: KeyType + Copy>(all: &[(&str, T)], word: &str) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(write::<T>)
}

/// Returns the name of `value`, quoted.
fn name_of<T: PartialEq>(all: &[(&str, T)], value: &T) -> Option<String> {
    let (name, _) = all.iter().find(|(_, one)| one == value)?;
    Some(quoted(name))
}

const LEVELS: [(&str, Level); 4] = [
    ("l0", Level::L0),
    ("l1", Level::L1),
    ("l2", Level::L2),
    ("l3", Level::L3),
];

impl KeyType for Level {
    fn form() -> String {
        "l0, l1, l2 or l3".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let word = value.as_str().unwrap_or_default().to_ascii_lowercase();
        named(&LEVELS, &word)
    }

    fn show(&self) -> Option<String> {
        name_of(&LEVELS, self)
    }
}

/// Store versions.
impl KeyType for RangeInclusive<u32> {
    fn form() -> String {
        "a store version or a range of them, such as 24 or 21-24".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let found = match value {
            Value::String(_, text) => versions(text).ok(),
            value => whole(value)
                .and_then(|version| u32::try_from(version).ok())
                .map(|version| version..=version),
        };
        found.ok_or_else(write::<Self>)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&format!("{}-{}", self.start(), self.end())))
    }
}

const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// Accepts names in any case, as other programs use capitals, and also `WARNING` as in Python.
impl KeyType for LogLevel {
    fn form() -> String {
        "error, warn, info, debug or trace".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default().to_ascii_lowercase();
        named(&LOG_LEVELS, if text == "warning" { "warn" } else { &text })
    }

    fn show(&self) -> Option<String> {
        name_of(&LOG_LEVELS, self)
    }
}

const LOG_FORMATS: [(&str, LogFormat); 4] = [
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
    ("journal", LogFormat::Journal),
];

impl KeyType for LogFormat {
    fn form() -> String {
        "auto, text, json or journal".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        named(&LOG_FORMATS, value.as_str().unwrap_or_default())
    }

    fn show(&self) -> Option<String> {
        name_of(&LOG_FORMATS, self)
    }
}

const ENCRYPTION: [(&str, EncryptionPolicy); 3] = [
    ("prefer-plain", EncryptionPolicy::PreferPlain),
    ("require", EncryptionPolicy::Require),
    ("off", EncryptionPolicy::Off),
];

impl KeyType for EncryptionPolicy {
    fn form() -> String {
        "prefer-plain, require or off".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        named(&ENCRYPTION, value.as_str().unwrap_or_default())
    }

    fn show(&self) -> Option<String> {
        name_of(&ENCRYPTION, self)
    }
}

/// Returns the remedy for a message: "write" and the accepted values.
pub(crate) fn write<T: KeyType>() -> String {
    format!("write {}", T::form())
}

/// Parses a whole number that is not negative, written as a number or as text.
pub(super) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::String(_, text) => text.trim().parse().ok(),
        value => {
            let number = value.to_num()?;
            let signed = number.to_i128().and_then(|n| u64::try_from(n).ok());
            signed.or_else(|| number.to_u128().and_then(|n| u64::try_from(n).ok()))
        }
    }
}

/// Formats text as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Formats a value as TOML, for messages.
pub(crate) fn as_toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => quoted(text),
        Value::Char(_, c) => quoted(&c.to_string()),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(number), _, _) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (_, _, number) => number.unwrap_or(f64::NAN).to_string(),
        },
        Value::Empty(..) => "nothing".to_owned(),
        Value::Array(_, values) => {
            let values: Vec<String> = values.iter().map(as_toml).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Dict(_, dict) => {
            let entries = dict
                .iter()
                .map(|(key, value)| format!("{key} = {}", as_toml(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}
