//! Stdout and stderr of a command.
//!
//! `outln!`, `out!` and `errln!` replace `println!` and its relatives, which panic when stdout or stderr cannot be written. A reader that closed the
//! pipe is no failure: the command finishes its work. [`finish`] returns any other failure of stdout, such as a full disk. Failures of stderr are
//! ignored, because they cannot be reported.
//!
//! Characters that are not [printable](is_printable) are replaced, so text that was not passed through [`Printable`](bittorrent_protocol::Printable)
//! cannot send commands to a terminal.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;

use bittorrent_protocol::is_printable;
use serde::Serialize;

use crate::sync::lock;

/// The first failure of stdout; nothing is written after it.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line on stdout.
#[macro_export]
macro_rules! outln {
    ($($arg:tt)*) => {
        $crate::output::to_stdout(format_args!("{}\n", format_args!($($arg)*)))
    };
}

/// Prints text on stdout. The text contains its line ends.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => {
        $crate::output::to_stdout(format_args!($($arg)*))
    };
}

/// Prints a line on stderr.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => {
        $crate::output::to_stderr(format_args!("{}\n", format_args!($($arg)*)))
    };
}

pub use crate::{errln, out, outln};

/// Stdout could not be written, or a value has no JSON form.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A write to stdout failed.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// A value has no JSON form.
    #[error("cannot write JSON")]
    Json(#[source] serde_json::Error),
}

/// Prints on stdout; see the macros. [`finish`] returns the first failure.
pub fn to_stdout(text: fmt::Arguments<'_>) {
    raw_to_stdout(&printable_lines(text));
}

/// Prints on stdout without replacing characters, for text that contains control sequences of this program.
pub fn raw_to_stdout(text: &str) {
    let mut failed = lock(&FAILED);
    if failed.is_none() {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes());
        *failed = written.and_then(|()| stdout.flush()).err();
    }
}

/// Prints on stderr, see [`errln`].
pub fn to_stderr(text: fmt::Arguments<'_>) {
    // A failure cannot be reported.
    let _ = io::stderr()
        .lock()
        .write_all(printable_lines(text).as_bytes());
}

/// Returns whether a write to stdout failed; nothing is written after that.
pub fn stdout_is_gone() -> bool {
    lock(&FAILED).is_some()
}

/// Returns whether the reader of stdout closed it before everything was written.
pub fn stdout_is_closed() -> bool {
    let failed = lock(&FAILED);
    let kind = failed.as_ref().map(io::Error::kind);
    kind == Some(ErrorKind::BrokenPipe)
}

/// Returns at the end of the program whether all of stdout was written.
///
/// # Errors
///
/// The first failure of stdout, unless its reader closed it.
pub fn finish() -> Result<(), OutputError> {
    match lock(&FAILED).take() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError::Stdout(error)),
        _ => Ok(()),
    }
}

/// Formats a value as indented JSON. Characters that are not printable are escaped, although JSON allows some of them.
///
/// # Errors
///
/// [`OutputError::Json`] when the value has no JSON form.
pub fn to_json(value: &impl Serialize) -> Result<String, OutputError> {
    let json = serde_json::to_string_pretty(value).map_err(OutputError::Json)?;
    Ok(escape_json(&json))
}

/// Escapes the characters of JSON that are not printable. They occur in strings only.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || is_printable(c) {
            escaped.push(c);
        } else {
            // All of them are below U+10000. Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        }
    }
    escaped
}

/// Returns the text with all characters replaced that are neither printable nor line ends or tabs.
fn printable_lines(text: fmt::Arguments<'_>) -> String {
    let keep = |c: char| matches!(c, '\n' | '\t') || is_printable(c);
    text.to_string()
        .chars()
        .map(|c| {
            if keep(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_and_means_the_same() {
        let value = serde_json::json!({"name": "a\u{9b}\u{7f}\u{202e}\n\"b"});
        let json = to_json(&value).unwrap();
        assert!(
            json.chars().all(|c| c == '\n' || is_printable(c)),
            "{json:?}"
        );
        let again: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn lines_stay_lines() {
        let lines = printable_lines(format_args!("a\n\tb\x1b[31m\r{}\n", '\u{9b}'));
        assert_eq!(lines, "a\n\tb\u{fffd}[31m\u{fffd}\u{fffd}\n");
    }
}
