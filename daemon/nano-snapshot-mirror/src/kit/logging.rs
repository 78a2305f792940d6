//! The log: lines on stderr, for people or as JSON, or entries of the journal with fields.

mod repeats;

use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::time::Duration;

use bittorrent_protocol::Printable;
use indicatif::MultiProgress;
use service_kit::output::{errln, escape_json};
use tracing::field::Field;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use repeats::Repeats;

use crate::text::{Bytes, Time};

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    /// Errors that end the work.
    Error,
    /// Also problems that do not end the work.
    Warn,
    /// Also events.
    Info,
    /// Also their reasons.
    Debug,
    /// Everything.
    Trace,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Journal entries when stderr is connected to the journal, lines of text otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
    /// Journal entries with fields.
    Journal,
}

/// Changes the filter while the program runs.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// The field that identifies an event for alerts. Lines for people do not show it.
const MESSAGE_ID: &str = "message_id";

/// Starts logging. Progress bars are hidden while a line is written.
pub(crate) fn start(level: LogLevel, format: LogFormat, bars: &MultiProgress) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let subscriber = Registry::default()
        .with(filter)
        .with(lines(level, format, bars))
        .with(Repeats::default());
    // Both fail only if logging was started before.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let _ = FILTER.set(handle);
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn lines(
    level: LogLevel,
    format: LogFormat,
    bars: &MultiProgress,
) -> Box<dyn Layer<Filtered> + Send + Sync> {
    let target = level >= LogLevel::Debug;
    let wanted = match format {
        LogFormat::Auto => stderr_is_the_journal(),
        LogFormat::Journal => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    if wanted {
        match tracing_journald::layer() {
            // The names of fields are those of docs/operating.md: SNAPSHOT_SEQ, MESSAGE_ID and so on.
            Ok(journal) => return journal.with_field_prefix(None).boxed(),
            Err(error) => errln!("cannot reach the journal ({error}): logging to stderr instead"),
        }
    }
    if format == LogFormat::Json {
        return fmt::layer()
            .json()
            .flatten_event(true)
            .log_internal_errors(false)
            .with_writer(Lines::new(bars, Format::Json))
            .boxed();
    }
    fmt::layer()
        .with_target(target)
        .with_ansi(colours_wanted())
        // Internal errors are printed with a macro that panics when stderr is closed.
        .log_internal_errors(false)
        .fmt_fields(debug_fn(|writer, field: &Field, value| {
            // One event is one line, also if the value contains line ends from elsewhere.
            let value = Printable(format_args!("{value:?}")).to_string();
            match field.name() {
                MESSAGE_ID => Ok(()),
                "message" => write!(writer, "{value}"),
                name => match readable(name, &value) {
                    Some((name, value)) => write!(writer, " {name}={value}"),
                    None => write!(writer, " {name}={value}"),
                },
            }
        }))
        .with_writer(Lines::new(bars, Format::Text))
        .boxed()
}

/// Formats a size (`NAME_bytes`) or a time (`NAME_ms`) with its unit, for lines for people. Programs get the numbers.
fn readable<'a>(name: &'a str, value: &str) -> Option<(&'a str, String)> {
    let number: u64 = value.parse().ok()?;
    if let Some(name) = name.strip_suffix("_bytes") {
        return Some((name, Bytes(number).to_string()));
    }
    let name = name.strip_suffix("_ms")?;
    Some((name, Time(Duration::from_millis(number)).to_string()))
}

/// Returns whether log lines have colours: on a terminal, unless `NO_COLOR` is set and not empty (no-color.org).
fn colours_wanted() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !forbidden && io::stderr().is_terminal()
}

/// Returns whether stderr leads to the journal: `$JOURNAL_STREAM` (systemd.exec(5)) has the device and inode of the journal's socket, which differ
/// from those of a redirected stderr.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Changes the level.
pub(crate) fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        // Fails only if the subscriber was dropped, and then nothing is logged.
        let _ = handle.reload(filter(level));
    }
}

/// Returns the filter of a level. Lines of the DHT library appear one level later, because at `info` it logs single packets.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn,mainline=error",
        LogLevel::Info => "info,mainline=error",
        LogLevel::Debug => "debug,mainline=info",
        LogLevel::Trace => "trace",
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Stderr. Progress bars are hidden while a line is written. A failed write is ignored: it cannot be reported, and the service must continue.
#[derive(Clone)]
struct Lines {
    bars: MultiProgress,
    format: Format,
}

impl Lines {
    fn new(bars: &MultiProgress, format: Format) -> Self {
        Self {
            bars: bars.clone(),
            format,
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped;
        let shown = match self.format {
            // Fields are printable, and the rest is colours.
            Format::Text => line,
            Format::Json => {
                escaped = escape_json(&String::from_utf8_lossy(line));
                escaped.as_bytes()
            }
        };
        self.bars.suspend(|| {
            // Ignored, see above.
            let _ = io::stderr().write_all(shown);
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Stderr has no buffer.
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_readable_in_text() {
        for (name, value, shown) in [
            ("held_bytes", "4194304", Some(("held", "4.00 MiB"))),
            ("took_ms", "12340", Some(("took", "12.3 s"))),
            ("seq", "12", None),
            ("held_bytes", "many", None),
        ] {
            let found = readable(name, value);
            let found = found.as_ref().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(found, shown, "{name}={value}");
        }
    }
}
