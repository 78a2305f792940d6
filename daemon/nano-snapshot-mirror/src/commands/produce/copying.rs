//! The process that copies a node's ledger.
//!
//! The copy holds a reader slot in the node's lock file. If the process with the slot dies in mid-copy
//! (SIGKILL, SIGABRT, out of memory), the slot stays, and the node's file grows without end until the slot
//! is cleared. So the copy runs in a child process. The parent clears after it however it ended. If the
//! parent dies, the pipe breaks, and the child ends its copy and gives the slot back. If both die, the next
//! `produce` clears, or `clear-readers` does.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use nano_ledger::{CopyError, LiveLedger};
use rustix::pipe::fcntl_setpipe_size;
use service_kit::output::errln;
use service_kit::signals;
use tracing::{debug, info, warn};

use crate::cli::CopyLedgerArgs;
use crate::commands::outcome::Outcome;

/// The command by which this program starts itself as the copying process.
pub(crate) const COMMAND: &str = "copy-ledger";

/// This program, also after its file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Bytes on the way from the copy to its reader; the most an ordinary user may ask for.
pub(super) const PIPE: usize = 1 << 20;

/// What the child writes before the copy, once it has its reader slot.
const READY: u8 = b'R';

/// The child's exit code when its process number is taken: `EX_TEMPFAIL` of sysexits.h.
const NUMBER_TAKEN: u8 = 75;

/// How many processes to try in turn. Each has another number.
const ATTEMPTS: usize = 4;

/// Most bytes that are read of the child's error.
const MOST_OF_ERROR: u64 = 16 << 10;

/// From where a copy that was interrupted is continued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    /// The state of the ledger that the copy was begun of.
    pub(super) state: &'a str,
    /// Bytes that are there already.
    pub(super) from: u64,
}

/// The copying process was killed. What it copied until then is right.
#[derive(Debug)]
pub(super) struct Killed {
    ledger: PathBuf,
    signal: i32,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the process that copies the ledger {} was killed by signal {}; run produce again to continue",
            self.ledger.display(),
            self.signal
        )
    }
}

impl std::error::Error for Killed {}

/// A running copy. When dropped, the process has ended and its reader slot is cleared.
pub(super) struct Copying<'a> {
    ledger: &'a LiveLedger,
    child: Child,
    bytes: Option<File>,
    error: Option<ChildStderr>,
}

impl<'a> Copying<'a> {
    /// Starts a process that copies `ledger`, and waits until it has its reader slot.
    pub(super) fn start(ledger: &'a LiveLedger, rest: Option<Rest<'_>>) -> Result<Self> {
        for attempt in 1.. {
            let mut copying = Self::spawn(ledger, rest)
                .context("cannot start the process that copies the ledger")?;
            if copying.is_ready() {
                return Ok(copying);
            }
            let (status, error) = copying.wait()?;
            if status.code() == Some(NUMBER_TAKEN.into()) && attempt < ATTEMPTS {
                debug!(
                    attempt,
                    "the number of the copying process is taken: {error}"
                );
                continue;
            }
            return Err(failure(ledger.path(), status, &error));
        }
        unreachable!("the last attempt returns")
    }

    fn spawn(ledger: &'a LiveLedger, rest: Option<Rest<'_>>) -> io::Result<Self> {
        let mut command = Command::new(THIS_PROGRAM);
        // One argument, as a path may begin with a dash.
        let mut path = OsString::from("--ledger=");
        path.push(ledger.path());
        command.arg(COMMAND).arg(path);
        if let Some(Rest { state, from }) = rest {
            command.args(["--state", state, "--from", &from.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Signals from a terminal are for the parent, which ends the copy properly.
            .process_group(0)
            .spawn()?;
        let bytes = child
            .stdout
            .take()
            .map(|out| File::from(OwnedFd::from(out)));
        if let Some(bytes) = &bytes {
            // A smaller pipe only costs more changes between processes.
            let _ = fcntl_setpipe_size(bytes, PIPE);
        }
        let error = child.stderr.take();
        Ok(Self {
            ledger,
            child,
            bytes,
            error,
        })
    }

    fn is_ready(&mut self) -> bool {
        let mut first = [0];
        let read = self
            .bytes
            .as_mut()
            .map(|bytes| bytes.read_exact(&mut first));
        matches!(read, Some(Ok(()))) && first == [READY]
    }

    /// The bytes of the copy.
    pub(super) fn bytes(&mut self) -> Result<&mut File> {
        self.bytes.as_mut().context("the copy has been read")
    }

    /// Stops reading and waits for the end of the process. Fails unless the copy is whole.
    pub(super) fn finish(mut self) -> Result<()> {
        let (status, error) = self.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(failure(self.ledger.path(), status, &error))
    }

    /// Closes the pipe, which ends a copy that is not whole, and waits. Gives the child's error.
    fn wait(&mut self) -> Result<(ExitStatus, String)> {
        drop(self.bytes.take());
        let mut error = Vec::new();
        if let Some(stderr) = self.error.take() {
            // Without it there is less to say.
            let _ = stderr.take(MOST_OF_ERROR).read_to_end(&mut error);
        }
        let status = self
            .child
            .wait()
            .context("cannot wait for the process that copies the ledger")?;
        Ok((status, String::from_utf8_lossy(&error).trim().to_owned()))
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            warn!("{error:#}");
        }
        clear(self.ledger);
    }
}

fn failure(ledger: &Path, status: ExitStatus, error: &str) -> anyhow::Error {
    if let Some(signal) = status.signal() {
        let ledger = ledger.to_owned();
        return Killed { ledger, signal }.into();
    }
    match error.strip_prefix("error: ").unwrap_or(error) {
        "" => anyhow::anyhow!("the process that copies the ledger ended with {status}"),
        error => anyhow::anyhow!("{error}"),
    }
}

/// Clears readers of dead processes from the lock file of a ledger, and logs it.
pub(super) fn clear(ledger: &LiveLedger) {
    match ledger.clear_dead_readers() {
        Ok(0) => {}
        Ok(readers) => info!(
            readers,
            "cleared readers of dead processes from the lock file of {}",
            ledger.path().display()
        ),
        Err(error) => warn!(
            "cannot clear readers of dead processes, which make the node's ledger grow ({:#}): run \
             `nano-snapshot-mirror clear-readers --ledger {}`",
            anyhow::Error::from(error),
            ledger.path().display()
        ),
    }
}

/// Clears readers of dead processes when dropped. No [`LiveLedger`] of the same file may exist then.
pub(super) struct ClearAtEnd(pub(super) PathBuf);

impl Drop for ClearAtEnd {
    fn drop(&mut self) {
        match LiveLedger::open(&self.0) {
            Ok(ledger) => clear(&ledger),
            // It was opened before: it was moved away or replaced meanwhile.
            Err(error) => debug!("not looking for readers of dead processes: {error}"),
        }
    }
}

/// The child: copies the ledger to stdout.
pub(crate) fn run(args: &CopyLedgerArgs) -> Result<Outcome> {
    // The parent says when to stop, by closing the pipe. A service manager signals both.
    let _ignored = signals::ignore()?;
    let ledger = LiveLedger::open(&args.ledger)?;
    // The parent leaves out readers with its own number, this process those with its own.
    ledger.clear_dead_readers()?;
    match ledger.register() {
        Ok(()) => {}
        Err(error @ CopyError::ProcessNumberTaken { .. }) => {
            errln!("error: {:#}", anyhow::Error::from(error));
            return Ok(Outcome::Code(NUMBER_TAKEN));
        }
        Err(error) => return Err(error.into()),
    }
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(stdout.context("cannot write to stdout")?);
    if std::io::IsTerminal::is_terminal(&out) {
        bail!("{COMMAND} writes a ledger to stdout, which is a terminal: use produce");
    }
    out.write_all(&[READY]).context("cannot write to stdout")?;
    match (&args.state, args.from) {
        (Some(state), Some(from)) => ledger.copy_rest_to(state, from, &mut out)?,
        _ => ledger.copy_to(&mut out)?,
    }
    Ok(Outcome::Done)
}
