//! Runs the operator's command for an event. The command receives the facts as JSON on stdin and as environment variables; the only other variable
//! is PATH. It inherits no descriptor but stderr. Its resources and its run time are limited.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The PATH of commands.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// The prefix of the variables.
const PREFIX: &str = "NANO_SNAPSHOT_";

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The limit on open files of a command.
const OPEN_FILES: u64 = 1024;

/// The time between two checks whether the command has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the command and waits for its end.
///
/// # Errors
///
/// When the command cannot be started, runs longer than `limit`, or exits with a code other than 0.
pub(super) async fn run(
    words: &[String],
    facts: &Map<String, Value>,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<()> {
    let (words, facts, stop) = (words.to_vec(), facts.clone(), stop.clone());
    tokio::task::spawn_blocking(move || run_here(&words, &facts, limit, &stop)).await?
}

/// Runs the command in this thread. No other thread waits for the child, so its process id cannot be reused before it is signalled.
fn run_here(
    words: &[String],
    facts: &Map<String, Value>,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<()> {
    let [program, arguments @ ..] = words else {
        return Ok(());
    };
    let input = serde_json::to_vec(facts).context("cannot write JSON")?;
    let stderr = std::io::stderr();
    let stderr = stderr.as_fd().try_clone_to_owned().context("no stderr")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(facts.iter().filter_map(variable))
        .current_dir("/")
        .stdin(Stdio::piped())
        // The output of the command belongs in the log, so it goes to stderr.
        .stdout(Stdio::from(stderr))
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    confine(group);
    if let Some(mut stdin) = child.stdin.take() {
        // The input fits into the pipe buffer. A command that does not read it is no error.
        let _ = stdin.write_all(&input);
    }
    let waited =
        wait(&mut child, limit, stop).with_context(|| format!("cannot wait for {program}"))?;
    let Some(status) = waited else {
        end(&mut child, group);
        bail!("{program} did not end within {limit:?}");
    };
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

/// Waits for the end of the child. Returns `None` at the time limit, or when the mirror stops.
fn wait(
    child: &mut Child,
    limit: Duration,
    stop: &CancellationToken,
) -> std::io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= limit || stop.is_cancelled() {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Ends the child and its process group.
fn end(child: &mut Child, group: Option<Pid>) {
    let never = CancellationToken::new();
    for signal in [Signal::TERM, Signal::KILL] {
        if let Some(group) = group {
            // Other processes of the group may outlive the child.
            let _ = kill_process_group(group, signal);
        }
        let _ = wait(child, GRACE, &never);
    }
}

/// Sets resource limits for the child. A failure is only logged: a service manager that forbids this sets limits itself.
fn confine(process: Option<Pid>) {
    for (resource, limit) in [(Resource::Core, 0), (Resource::Nofile, OPEN_FILES)] {
        let limits = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        if let Err(error) = prlimit(process, resource, limits) {
            debug!(?resource, %error, "no limit for a hook");
        }
    }
}

/// Converts a fact to an environment variable: `seq` becomes `NANO_SNAPSHOT_SEQ`.
fn variable((name, value): (&String, &Value)) -> Option<(String, String)> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => return None,
        other => other.to_string(),
    };
    // A variable cannot contain NUL.
    let text = text.replace('\0', "");
    Some((format!("{PREFIX}{}", name.to_ascii_uppercase()), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Map<String, Value> {
        let Value::Object(facts) =
            serde_json::json!({"event": "ready", "seq": 7, "stream": "a b", "none": null})
        else {
            unreachable!("an object")
        };
        facts
    }

    async fn shell(script: &str, limit: Duration) -> Result<()> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&words, &facts(), limit, &CancellationToken::new()).await
    }

    const LONG: Duration = Duration::from_secs(60);

    /// The scripts use only builtins of a POSIX shell, because `/bin/sh` may be the only program in a build sandbox.
    #[tokio::test]
    async fn it_gets_the_event_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let script = format!(
            "exec > {}; export -p; while read -r line || [ -n \"$line\" ]; do echo \"$line\"; done; \
             for entry in /proc/self/fd/*; do echo \"${{entry##*/}}\"; done; \
             echo limits $(ulimit -c) $(ulimit -n)",
            said.display()
        );
        shell(&script, LONG).await.unwrap();
        // Shells quote exported values differently.
        let said = std::fs::read_to_string(&said).unwrap();
        let said = said.replace(['\'', '"'], "");
        for part in [
            "NANO_SNAPSHOT_EVENT=ready\n",
            "NANO_SNAPSHOT_SEQ=7\n",
            "NANO_SNAPSHOT_STREAM=a b\n",
            "event:ready",
            // The limits are set before stdin is written, so they apply by the time the script has read it.
            "limits 0 1024\n",
        ] {
            assert!(said.contains(part), "{said}");
        }
        for other in ["CARGO", "HOME=", "NANO_SNAPSHOT_NONE"] {
            assert!(!said.contains(other), "{said}");
        }
        // Besides stdin, stdout, stderr and the directory that the shell lists, only descriptors may be
        // open that this test inherited from its parent; none that this process opened.
        let ours = |number: &u32| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            let flags = info.unwrap_or_default();
            let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            flags.is_none_or(|flags| flags & 0o2_000_000 != 0)
        };
        let numbers = said.lines().filter_map(|line| line.parse::<u32>().ok());
        let leaked: Vec<u32> = numbers.filter(|number| *number > 3).filter(ours).collect();
        assert!(leaked.is_empty(), "{leaked:?}: {said}");
    }

    #[tokio::test]
    async fn a_failure_names_the_command_and_its_exit_status() {
        let error = shell("exit 7", LONG).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 7"), "{error}");
        let words = ["/nowhere/hook".to_owned()];
        let stop = CancellationToken::new();
        let error = run(&words, &facts(), LONG, &stop)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot run /nowhere/hook"), "{error}");
    }

    #[tokio::test]
    async fn a_command_over_its_time_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Opening a FIFO waits for the other end, so neither the shell nor its child ends by itself.
        let script = format!("{{ read line < {0}; }} & read line < {0}", fifo.display());
        let error = shell(&script, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
