//! Log lines on stderr.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogLevel;

/// Starts logging at `level`. The DHT library's own lines come one level later: at its `info` it
/// talks about single packets.
pub(crate) fn start(level: LogLevel, bars: &MultiProgress) {
    let filter = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn,mainline=error",
        LogLevel::Info => "info,mainline=error",
        LogLevel::Debug => "debug,mainline=info",
        LogLevel::Trace => "trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_target(level >= LogLevel::Debug)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(AroundBars(bars.clone()))
        .finish();
    // Fails only when it was started before, and then logging works.
    let _ = tracing::subscriber::set_global_default(subscriber);
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
