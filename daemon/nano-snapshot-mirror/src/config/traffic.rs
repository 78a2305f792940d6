//! Limits on rates, and URLs of trackers, web seeds and webhooks.

use bittorrent_session::{TrackerUrl, WebSeedUrl};
use figment::value::Value;

use super::section::KeyType;
use super::sizes::Limit;
use super::values::{from_text, quoted, whole, write};
use super::webhook::Webhook;
use super::written::size;

/// A rate. 0 stops the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BytesPerSecond(u64);

/// A limit on a rate.
pub(crate) type Rate = Limit<BytesPerSecond>;

impl Rate {
    /// Returns the bytes a second; `None` without a limit.
    pub(crate) fn get(self) -> Option<u64> {
        self.value().map(|rate| rate.0)
    }
}

impl KeyType for BytesPerSecond {
    fn form() -> String {
        "bytes a second, such as 500KiB/s or 10MiB/s, where 0 allows nothing".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let bytes = match value {
            Value::String(_, text) => size(text.strip_suffix("/s").unwrap_or(text)).ok(),
            value => whole(value),
        };
        bytes.map(Self).ok_or_else(write::<Self>)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&written(self.0)))
    }
}

/// Formats a rate in the largest unit that yields a whole number.
fn written(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}/s", bytes >> shift);
        }
    }
    format!("{bytes}/s")
}

/// Also accepts the words `true` and `false` as text, as variables and flags have them.
impl KeyType for bool {
    fn form() -> String {
        "true or false".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(_, value) => Ok(*value),
            Value::String(_, text) => text.parse().map_err(|_| write::<Self>()),
            _ => Err(write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// URLs. A part of a URL may be a secret: a passkey, a token, a password.
macro_rules! url_types {
    ($($Type:ty: $form:literal;)+) => { $(
        impl KeyType for $Type {
            const SECRET: bool = true;

            fn form() -> String {
                $form.to_owned()
            }

            fn parse(value: &Value) -> Result<Self, String> {
                from_text(value)
            }

            fn show(&self) -> Option<String> {
                Some(quoted(&self.reveal()))
            }

            fn show_publicly(&self) -> Option<String> {
                Some(quoted(&self.to_string()))
            }
        }
    )+ };
}

url_types! {
    TrackerUrl: "a tracker, http://…, https://… or udp://HOST:PORT";
    WebSeedUrl: "a file server, http://… or https://…";
    Webhook: "http://HOST[:PORT]/PATH";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        for (said, rate, shown) in [
            (Value::from("unlimited"), Some(None), "\"unlimited\""),
            (Value::from("10MiB/s"), Some(Some(10 << 20)), "\"10MiB/s\""),
            (Value::from("1.5M"), Some(Some(3 << 19)), "\"1536KiB/s\""),
            (Value::from("1000/s"), Some(Some(1000)), "\"1000/s\""),
            (Value::from(2048_i64), Some(Some(2048)), "\"2KiB/s\""),
            (Value::from("0"), Some(Some(0)), "\"0/s\""),
            (Value::from("10Mbit"), None, ""),
            (Value::from("fast"), None, ""),
            (Value::from(-1_i64), None, ""),
        ] {
            let parsed = Rate::parse(&said);
            assert_eq!(parsed.as_ref().ok().map(|r| r.get()), rate, "{said:?}");
            if let Ok(parsed) = parsed {
                assert_eq!(parsed.show().unwrap(), shown);
                let again = Rate::parse(&Value::from(parsed.show().unwrap().trim_matches('"')));
                assert_eq!(again, Ok(parsed));
            }
        }
    }
}
