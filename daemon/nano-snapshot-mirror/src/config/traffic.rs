//! Values about traffic: rates, and URLs of trackers, web seeds and webhooks.

use bittorrent_session::{TrackerUrl, WebSeedUrl};
use figment::value::Value;

use super::section::KeyType;
use super::values::{from_text, quoted, whole, write};
use crate::cli::values::size;
use crate::kit::hooks::Webhook;

/// Bytes a second, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rate(Option<u64>);

impl Rate {
    /// `None` without a limit.
    pub(crate) const fn get(self) -> Option<u64> {
        self.0
    }
}

impl KeyType for Rate {
    fn form() -> String {
        "bytes a second, such as 500KiB/s or 10MiB/s, 0 for none, or unlimited".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(_, text) if text == "unlimited" => Ok(Self(None)),
            Value::String(_, text) => {
                let bytes = size(text.strip_suffix("/s").unwrap_or(text));
                bytes
                    .map(|bytes| Self(Some(bytes)))
                    .map_err(|_| write::<Self>())
            }
            value => whole(value)
                .map(|bytes| Self(Some(bytes)))
                .ok_or_else(write::<Self>),
        }
    }

    fn show(&self) -> Option<String> {
        Some(match self.0 {
            None => quoted("unlimited"),
            Some(bytes) => quoted(&written(bytes)),
        })
    }
}

/// A rate in the greatest unit that leaves a whole number.
fn written(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}/s", bytes >> shift);
        }
    }
    format!("{bytes}/s")
}

/// In a variable or a flag too.
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

/// URLs, of which parts are often a secret: a passkey, a token, a password.
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
