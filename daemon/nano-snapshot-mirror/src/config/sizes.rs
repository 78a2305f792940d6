//! Values of sizes and rates, and words that stand for none.

use figment::value::Value;

use super::section::KeyType;
use super::values::{quoted, write};
use crate::cli::values::size;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    /// Bytes.
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl KeyType for Size {
    fn form() -> String {
        "a size, such as 512MiB, 20GiB or 1TiB".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = text_of(value).ok_or_else(write::<Self>)?;
        size(&text).map(Self).map_err(|_| write::<Self>())
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&written(self.0)))
    }
}

/// Bytes a second, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speed(u64);

impl Speed {
    pub(crate) const fn new(bytes_a_second: u64) -> Self {
        assert!(bytes_a_second > 0);
        Self(bytes_a_second)
    }

    /// Bytes a second.
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl KeyType for Speed {
    fn form() -> String {
        "a rate, such as 500KiB/s or 20MiB/s".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = text_of(value).ok_or_else(write::<Self>)?;
        let bytes = text.strip_suffix("/s").unwrap_or(&text);
        match size(bytes) {
            Ok(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&format!("{}/s", written(self.0))))
    }
}

/// At most so much, or as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    Unlimited,
    AtMost(T),
}

impl<T: KeyType> KeyType for Limit<T> {
    fn form() -> String {
        format!("{}, or \"unlimited\"", T::form())
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("unlimited") => Ok(Self::Unlimited),
            _ => T::parse(value)
                .map(Self::AtMost)
                .map_err(|_| write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Unlimited => Some(quoted("unlimited")),
            Self::AtMost(limit) => limit.show(),
        }
    }
}

/// Once in such a time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Every<T> {
    Off,
    Every(T),
}

impl<T: KeyType> KeyType for Every<T> {
    fn form() -> String {
        format!("{}, or \"off\"", T::form())
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("off") => Ok(Self::Off),
            _ => T::parse(value)
                .map(Self::Every)
                .map_err(|_| write::<Self>()),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Off => Some(quoted("off")),
            Self::Every(time) => time.show(),
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128()) {
            (Some(number), _) => Some(number.to_string()),
            (None, Some(number)) => Some(number.to_string()),
            (None, None) => None,
        },
        _ => None,
    }
}

/// In the greatest unit that leaves a whole number.
fn written(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::from(text)
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for (said, shown) in [("512M", "512MiB"), ("1536KiB", "1536KiB"), ("7", "7")] {
            let size = Size::parse(&text(said)).unwrap();
            assert_eq!(size.show().unwrap(), quoted(shown));
            assert_eq!(Size::parse(&text(shown)).unwrap(), size);
        }
        let rate = Speed::parse(&text("20MiB/s")).unwrap();
        assert_eq!(
            (rate.get(), rate.show().unwrap()),
            (20 << 20, quoted("20MiB/s"))
        );
        assert_eq!(Speed::parse(&text("20M")).unwrap(), rate);
        assert_eq!(Size::parse(&Value::from(4096_u64)).unwrap().get(), 4096);
        let limit = Limit::<Size>::parse(&text("unlimited")).unwrap();
        assert_eq!(
            (limit, limit.show().unwrap()),
            (Limit::Unlimited, quoted("unlimited"))
        );
        let off = Every::<Size>::parse(&text("off")).unwrap();
        assert_eq!((off, off.show().unwrap()), (Every::Off, quoted("off")));
    }

    #[test]
    fn a_mistake_says_what_to_write() {
        for wrong in ["", "x", "-1", "1/s", "0"] {
            let error = Speed::parse(&text(wrong));
            assert!(
                wrong == "1/s" || error.unwrap_err().contains("20MiB/s"),
                "{wrong}"
            );
        }
        let error = Limit::<Size>::parse(&text("many")).unwrap_err();
        assert!(
            error.contains("512MiB") && error.contains("unlimited"),
            "{error}"
        );
        let error = Every::<Speed>::parse(&Value::from(false)).unwrap_err();
        assert!(error.contains("off"), "{error}");
    }
}
