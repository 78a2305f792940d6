//! Child processes of the demonstration: this program, started as a person would start it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// This variable is set for children, to the process number of the demonstration. They end with it, even if it is killed.
pub(crate) const END_WITH_PARENT: &str = "SNAPSHOT_MIRROR_DEMO_ENDS_WITH_PARENT";

/// The time that a child has to end after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(10);

/// The interval of polling for results.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The number of lines shown of a failed child's log.
const TAIL_LINES: usize = 15;

/// In a child of the demonstration, asks the kernel to end this process with its parent. Ends it at once if the parent ended before that.
pub(crate) fn end_with_parent_if_asked() {
    let Some(parent) = std::env::var_os(END_WITH_PARENT) else {
        return;
    };
    // This works on every supported system. Otherwise the user has to end the child.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    let actual = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
    if parent.to_str() != Some(&actual.to_string()) {
        std::process::exit(1);
    }
}

/// A running child, which is stopped when dropped.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    log: PathBuf,
    started: Instant,
}

impl Child {
    /// Starts this program with `args`. Its log is written to `<logs>/<name>.log`.
    pub(crate) fn start(logs: &Path, name: &str, args: &[OsString]) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let failed = || format!("cannot start {name}");
        // The log is appended to, because a mirror is stopped and started again.
        let stderr = File::options()
            .append(true)
            .create(true)
            .open(&log)
            .with_context(failed)?;
        let program = std::env::current_exe().with_context(failed)?;
        let process = Command::new(program)
            .args(args)
            .env(END_WITH_PARENT, std::process::id().to_string())
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(failed)?;
        Ok(Self {
            name: name.to_owned(),
            process,
            log,
            started: Instant::now(),
        })
    }

    /// Waits for a child that ends by itself. Returns its output and the time it took. Fails if the child fails or
    /// takes longer than `within`.
    pub(crate) async fn output(mut self, within: Duration) -> Result<(String, Duration)> {
        let deadline = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.process.try_wait().context("cannot wait for a child")? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} did not finish within {within:?}\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            sleep(LOOK_EVERY).await;
        };
        self.expect_success(status)?;
        let took = self.started.elapsed();
        let mut printed = String::new();
        if let Some(mut stdout) = self.process.stdout.take() {
            // The child has ended and its output fits a pipe, so this does not block.
            stdout
                .read_to_string(&mut printed)
                .context("cannot read what a child printed")?;
        }
        Ok((printed, took))
    }

    /// Waits until `there` returns a value. Fails if the child ends first, or after `within`.
    pub(crate) async fn until<T>(
        &mut self,
        within: Duration,
        mut there: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = there()? {
                return Ok(found);
            }
            if let Some(status) = self.process.try_wait().context("cannot wait for a child")? {
                bail!(
                    "{} ended too early, with {status}\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} was not ready within {within:?}\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Stops the child with SIGTERM, as a service manager does, and checks that it exits successfully.
    pub(crate) async fn stop(mut self) -> Result<Duration> {
        let started = Instant::now();
        self.signal(Signal::TERM);
        loop {
            if let Some(status) = self.process.try_wait().context("cannot wait for a child")? {
                self.expect_success(status)?;
                return Ok(started.elapsed());
            }
            if started.elapsed() >= END_WITHIN {
                bail!("{} did not exit on SIGTERM\n{}", self.name, self.log_tail());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // The child may have ended by itself. Then there is no process to signal.
            let _ = kill_process(pid, signal);
        }
    }

    fn expect_success(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("{} failed, with {status}\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!(
            "the last lines of {}:\n{}",
            self.log.display(),
            tail.join("\n")
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // A child that was not stopped properly has no state worth saving.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
