//! The log: lines on stderr for people or programs, or the journal with its fields.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use indicatif::MultiProgress;
use tracing::field::Field;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Log, LogFormat, LogLevel};

/// Changes the filter while the program runs.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Events by which operators find what they alert on have this field; it says nothing to a reader.
const MESSAGE_ID: &str = "message_id";

/// Starts logging.
pub(crate) fn start(config: &Log, bars: &MultiProgress) {
    let (filter, handle) = reload::Layer::new(filter(config.level));
    let subscriber = Registry::default().with(filter).with(lines(config, bars));
    // Both fail only when it was started before, and then logging works.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let _ = FILTER.set(handle);
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn lines(config: &Log, bars: &MultiProgress) -> Box<dyn Layer<Filtered> + Send + Sync> {
    let target = config.level >= LogLevel::Debug;
    let wanted = match config.format {
        LogFormat::Auto => stderr_is_the_journal(),
        LogFormat::Journal => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    if wanted {
        match tracing_journald::layer() {
            // Names of fields as docs/operating.md gives them: SNAPSHOT_SEQ, MESSAGE_ID and so on.
            Ok(journal) => return journal.with_field_prefix(None).boxed(),
            Err(error) => eprintln!("no journal, logging to stderr: {error}"),
        }
    }
    if config.format == LogFormat::Json {
        return fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(AroundBars(bars.clone()))
            .boxed();
    }
    fmt::layer()
        .with_target(target)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .fmt_fields(debug_fn(|writer, field: &Field, value| {
            match field.name() {
                MESSAGE_ID => Ok(()),
                "message" => write!(writer, "{value:?}"),
                name => write!(writer, " {name}={value:?}"),
            }
        }))
        .with_writer(AroundBars(bars.clone()))
        .boxed()
}

/// Whether stderr goes to the journal, as systemd says in `$JOURNAL_STREAM` (systemd.exec(5)): a
/// redirection by somebody in between shows in the device and inode.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Logs at another level from now on.
pub(crate) fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        // Fails only when the subscriber is gone, and then nothing is logged.
        let _ = handle.reload(filter(level));
    }
}

/// The DHT library's own lines come one level later: at its `info` it talks about single packets.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn,mainline=error",
        LogLevel::Info => "info,mainline=error",
        LogLevel::Debug => "debug,mainline=info",
        LogLevel::Trace => "trace",
    })
}

/// Stderr, with progress bars taken away while a line is written.
#[derive(Clone)]
struct AroundBars(MultiProgress);

impl Write for AroundBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AroundBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
