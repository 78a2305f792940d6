//! Log lines on stderr.

use std::io::{self, Write};
use std::sync::OnceLock;

use indicatif::MultiProgress;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::LogLevel;

/// Changes the filter while the program runs.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging at `level`.
pub(crate) fn start(level: LogLevel, bars: &MultiProgress) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = fmt::layer()
        .with_target(level >= LogLevel::Debug)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(AroundBars(bars.clone()));
    let subscriber = Registry::default().with(filter).with(lines);
    // Both fail only when it was started before, and then logging works.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let _ = FILTER.set(handle);
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
