//! Displays untrusted text safely.
//!
//! Peers, trackers, web servers, publishers and magnet links send text that appears in logs, on
//! terminals and on pages. All such text is printed through [`Printable`].

use std::fmt::{self, Write as _};

/// Displays text with each control character, line break and bidirectional mark replaced by U+FFFD.
/// So untrusted text can neither control a terminal nor start a new line.
///
/// ```
/// use bittorrent_protocol::Printable;
///
/// let name = Printable("a\x1b[31m\nv2 info-hash: fake");
/// assert_eq!(name.to_string(), "a\u{fffd}[31m\u{fffd}v2 info-hash: fake");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Filter(f), "{}", self.0)
    }
}

/// A writer that replaces the other characters.
struct Filter<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Filter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(|c| !is_printable(c)) {
            let (good, bad) = rest.split_at(at);
            self.0.write_str(good)?;
            self.0.write_char(char::REPLACEMENT_CHARACTER)?;
            let mut after = bad.chars();
            after.next();
            rest = after.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Returns whether [`Printable`] keeps a character.
#[must_use]
pub fn is_printable(c: char) -> bool {
    // Line and paragraph separators; marks, embeddings, overrides and isolates.
    !c.is_control()
        && !matches!(
            c,
            '\u{200e}'
                | '\u{200f}'
                | '\u{061c}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_has_no_effect_beyond_its_place() {
        for (text, shown) in [
            ("plain ä 日本 🦀", "plain ä 日本 🦀"),
            ("\x1b]0;title\x07", "\u{fffd}]0;title\u{fffd}"),
            ("a\r\nb\tc", "a\u{fffd}\u{fffd}b\u{fffd}c"),
            // C1 controls: U+009B begins a control sequence like ESC [.
            ("\u{9b}31m\u{7f}", "\u{fffd}31m\u{fffd}"),
            (
                "ldb.\u{202e}exe\u{2066}\u{2028}",
                "ldb.\u{fffd}exe\u{fffd}\u{fffd}",
            ),
            ("", ""),
        ] {
            assert_eq!(Printable(text).to_string(), shown, "{text:?}");
        }
    }
}
