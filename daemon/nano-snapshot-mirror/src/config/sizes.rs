//! Sizes and rates, and words such as `off` that may be written instead of a value.

use figment::value::Value;

use super::section::KeyType;
use super::values::{quoted, write};
use super::written::size;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    /// Returns the bytes.
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

/// A rate of at least one byte a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speed(u64);

impl Speed {
    pub(crate) const fn new(bytes_a_second: u64) -> Self {
        assert!(bytes_a_second > 0);
        Self(bytes_a_second)
    }

    /// Returns the bytes a second.
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

/// A value, or a word such as `off` in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrWord<T, W> {
    /// The word.
    Word(W),
    /// The value.
    Value(T),
}

/// A word that is accepted in place of a value.
pub(crate) trait Word: Copy + Default + 'static {
    /// The word.
    const TEXT: &str;
}

/// `off`: the value does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Off;

impl Word for Off {
    const TEXT: &str = "off";
}

/// `unlimited`: there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unlimited;

impl Word for Unlimited {
    const TEXT: &str = "unlimited";
}

/// A value that `off` turns off.
pub(crate) type OrOff<T> = OrWord<T, Off>;

/// A limit, or `unlimited`.
pub(crate) type Limit<T> = OrWord<T, Unlimited>;

impl<T, W: Word> OrWord<T, W> {
    /// The word.
    pub(crate) fn word() -> Self {
        Self::Word(W::default())
    }

    /// Returns the value; `None` for the word.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Word(_) => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl<T: KeyType, W: Word> KeyType for OrWord<T, W> {
    fn form() -> String {
        format!("{}, or {}", T::form(), quoted(W::TEXT))
    }

    fn parse(value: &Value) -> Result<Self, String> {
        if value.as_str() == Some(W::TEXT) {
            return Ok(Self::word());
        }
        T::parse(value)
            .map(Self::Value)
            .map_err(|_| write::<Self>())
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Word(_) => Some(quoted(W::TEXT)),
            Self::Value(value) => value.show(),
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

/// Formats bytes in the largest unit that yields a whole number.
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
            (Limit::word(), quoted("unlimited"))
        );
        let off = OrOff::<Size>::parse(&text("off")).unwrap();
        assert_eq!((off, off.show().unwrap()), (OrOff::word(), quoted("off")));
    }

    #[test]
    fn a_mistake_says_what_to_write() {
        for wrong in ["", "x", "-1", "1/h", "0", "0/s"] {
            let error = Speed::parse(&text(wrong)).unwrap_err();
            assert!(error.contains("20MiB/s"), "{wrong}: {error}");
        }
        assert_eq!(Speed::parse(&text("1/s")).unwrap().get(), 1);
        let error = Limit::<Size>::parse(&text("many")).unwrap_err();
        assert!(
            error.contains("512MiB") && error.contains("unlimited"),
            "{error}"
        );
        let error = OrOff::<Speed>::parse(&Value::from(false)).unwrap_err();
        assert!(error.contains("off"), "{error}");
    }
}
