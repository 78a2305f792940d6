//! What the program prints: stdout and stderr, for every command.
//!
//! `outln!`, `out!` and `errln!` replace `println!` and its relatives, which panic when nothing can be written
//! (clippy forbids them here). A reader that closed the pipe is no failure: a command finishes its work and
//! keeps its exit code, or has 141 when that code was the answer. Any other failure of stdout, such as a full disk, ends the program with one line on
//! stderr and exit code 1, see [`finish`]. Failures of stderr are ignored: there is no place to report them.
//!
//! Lines are filtered by [`is_printable`], so that a missed [`Printable`](bittorrent_protocol::Printable)
//! cannot send commands to a terminal.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bittorrent_protocol::is_printable;
use serde::Serialize;

/// The first failure of stdout; nothing is written after it.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line on stdout.
macro_rules! outln {
    ($($arg:tt)*) => {
        $crate::output::to_stdout(format_args!("{}\n", format_args!($($arg)*)))
    };
}

/// Prints on stdout text that ends its own lines.
macro_rules! out {
    ($($arg:tt)*) => {
        $crate::output::to_stdout(format_args!($($arg)*))
    };
}

/// Prints a line on stderr.
macro_rules! errln {
    ($($arg:tt)*) => {
        $crate::output::to_stderr(format_args!("{}\n", format_args!($($arg)*)))
    };
}

pub(crate) use {errln, out, outln};

/// Prints on stdout, see the macros. A failure is kept for [`finish`].
pub(crate) fn to_stdout(text: fmt::Arguments<'_>) {
    raw_to_stdout(&printable_lines(text));
}

/// Prints on stdout as it is: for what contains control sequences of our own.
pub(crate) fn raw_to_stdout(text: &str) {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes());
        *failed = written.and_then(|()| stdout.flush()).err();
    }
}

/// Prints on stderr, see [`errln`].
pub(crate) fn to_stderr(text: fmt::Arguments<'_>) {
    // There is no place to report a failure.
    let _ = io::stderr()
        .lock()
        .write_all(printable_lines(text).as_bytes());
}

/// Whether stdout takes nothing more.
pub(crate) fn stdout_is_gone() -> bool {
    FAILED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some()
}

/// Whether the reader of stdout closed it while there was more to write.
pub(crate) fn stdout_is_closed() -> bool {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    let kind = failed.as_ref().map(io::Error::kind);
    kind == Some(ErrorKind::BrokenPipe)
}

/// Reports at the end of the program whether all of stdout was written.
///
/// # Errors
///
/// The first failure of stdout, unless its reader closed it.
pub(crate) fn finish() -> Result<()> {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// JSON for a person or a program, indented, in which characters that are not printable are escaped: JSON
/// itself allows some of them.
///
/// # Errors
///
/// When a value cannot be written as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    Ok(escape_json(&json))
}

/// The same JSON, in which characters that are not printable are escaped. They occur in strings only.
pub(crate) fn escape_json(json: &str) -> String {
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

/// Text of several lines in which all else is printable.
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
