//! The child process that copies a node's ledger.
//!
//! The copy holds a reader slot in the node's lock file. If the process with the slot dies during the copy (SIGKILL,
//! SIGABRT, out of memory), the slot stays allocated, and the node's file grows until the slot is cleared. Therefore
//! the copy runs in a child process, and the parent clears its slot however the child ends. If the parent dies, the
//! pipe breaks, and the child ends the copy and releases the slot. If both die, the next `produce` or `clear-readers`
//! clears the slot.

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
use crate::commands::demo::child::END_WITH_PARENT;
use crate::commands::outcome::Outcome;

/// The hidden command that starts this program as the copying process.
pub(crate) const COMMAND: &str = "copy-ledger";

/// The executable of this process. It also works after the file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The capacity of the pipe to the parent: the maximum for an unprivileged process.
pub(super) const PIPE: usize = 1 << 20;

/// The byte that the child writes before the copy, once it has its reader slot.
const READY: u8 = b'R';

/// The child's exit code if another process has its process ID in the reader table: `EX_TEMPFAIL` of sysexits.h.
const NUMBER_TAKEN: u8 = 75;

/// How many child processes to try. Each has another process ID.
const ATTEMPTS: usize = 4;

/// The maximum number of bytes that are read of the child's error output.
const MOST_OF_ERROR: u64 = 16 << 10;

/// Where to resume an interrupted copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    /// The state of the ledger when the copy began.
    pub(super) state: &'a str,
    /// Bytes that the copy already has.
    pub(super) from: u64,
}

/// The copying process was killed. The bytes it had copied are valid.
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

/// A running copy. Dropping it ends the process and clears its reader slot.
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
                debug!(attempt, "the ID of the copying process is taken: {error}");
                continue;
            }
            return Err(failure(ledger.path(), status, &error));
        }
        unreachable!("the last attempt returns")
    }

    fn spawn(ledger: &'a LiveLedger, rest: Option<Rest<'_>>) -> io::Result<Self> {
        let mut command = Command::new(THIS_PROGRAM);
        // Flag and value form one argument, as a path may begin with a dash.
        let mut path = OsString::from("--ledger=");
        path.push(ledger.path());
        command.arg(COMMAND).arg(path);
        if let Some(Rest { state, from }) = rest {
            command.args(["--state", state, "--from", &from.to_string()]);
        }
        let mut child = command
            // The copy ends with this process, whose end breaks the pipe.
            .env_remove(END_WITH_PARENT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Signals from a terminal must only reach the parent, which then ends the copy properly.
            .process_group(0)
            .spawn()?;
        let bytes = child
            .stdout
            .take()
            .map(|out| File::from(OwnedFd::from(out)));
        if let Some(bytes) = &bytes {
            // A smaller pipe only means more context switches.
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

    /// Returns the reader of the copied bytes.
    pub(super) fn bytes(&mut self) -> Result<&mut File> {
        self.bytes.as_mut().context("the copy was already read")
    }

    /// Stops reading and waits for the process to end. Fails unless the copy is complete.
    pub(super) fn finish(mut self) -> Result<()> {
        let (status, error) = self.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(failure(self.ledger.path(), status, &error))
    }

    /// Closes the pipe, which ends an incomplete copy, and waits. Returns the child's error.
    fn wait(&mut self) -> Result<(ExitStatus, String)> {
        drop(self.bytes.take());
        let mut error = Vec::new();
        if let Some(stderr) = self.error.take() {
            // If the child's output cannot be read, the error only has fewer details.
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

/// Clears the readers of dead processes from the lock file of a ledger, and logs the number.
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

/// Clears the readers of dead processes when dropped. No [`LiveLedger`] of the same file may exist at that time.
pub(super) struct ClearAtEnd(pub(super) PathBuf);

impl Drop for ClearAtEnd {
    fn drop(&mut self) {
        match LiveLedger::open(&self.0) {
            Ok(ledger) => clear(&ledger),
            // The ledger could be opened before, so it was moved or replaced meanwhile.
            Err(error) => debug!("not looking for readers of dead processes: {error}"),
        }
    }
}

/// Runs the child process: copies the ledger to stdout.
pub(crate) fn run(args: &CopyLedgerArgs) -> Result<Outcome> {
    // The parent stops the child by closing the pipe. A service manager sends its signals to both.
    let _ignored = signals::ignore()?;
    let ledger = LiveLedger::open(&args.ledger)?;
    // The parent does not clear readers with its own process ID, and this process does not clear its own.
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
