//! Runs a command under ptrace(2), and kills it before the n-th system call that changes a name.
//!
//! What the file system answers to such calls can be changed, as one does that has no hard links.
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A shell that waits until it is traced and becomes the command.
const WAIT: &str = "read -r go; exec \"$@\" </dev/null";

/// A system call that changes a name: its name and number on x86-64.
const CALLS: [(&str, u64); 13] = [
    ("rename", 82),
    ("mkdir", 83),
    ("rmdir", 84),
    ("link", 86),
    ("unlink", 87),
    ("symlink", 88),
    ("mkdirat", 258),
    ("unlinkat", 263),
    ("renameat", 264),
    ("linkat", 265),
    ("symlinkat", 266),
    ("renameat2", 316),
    ("creat", 85),
];

/// What the register of the answer has before a call is made: -`ENOSYS`.
const NOT_MADE_YET: u64 = -38_i64 as u64;

/// What a file system can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// What the one of the test can.
    AsItIs,
    /// `RENAME_EXCHANGE` is refused, as by NFS.
    NoExchange,
    /// Hard links too, as by exFAT and CIFS.
    NoLinks,
}

impl FileSystem {
    /// What a call fails with; `None` where it is left alone.
    fn refuses(self, name: &str, flags: u64) -> Option<i32> {
        match name {
            "renameat2" if self != Self::AsItIs && flags != 0 => Some(22), // EINVAL
            "link" | "linkat" if self == Self::NoLinks => Some(1),         // EPERM
            _ => None,
        }
    }
}

/// How a traced command ended.
#[derive(Debug)]
pub(crate) enum Traced {
    /// Before this call.
    Killed(&'static str),
    /// By itself, with this exit code, after so many calls.
    Ended {
        code: i32,
        calls: usize,
        stderr: String,
    },
}

/// A thread at a system call.
struct InCall {
    /// What it is to answer instead of being made.
    errno: Option<i32>,
}

/// Runs `command` and kills it before the call with number `nth`, from 0, unless it ends before.
#[allow(
    clippy::zombie_processes,
    reason = "it is waited for by waitpid, with all its threads"
)]
pub(crate) fn run(command: &Command, nth: usize, on: FileSystem) -> Traced {
    let out = tempfile::tempdir().unwrap();
    let file = |name: &str| File::create(out.path().join(name)).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", WAIT, "traced"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut child = shell
        .stdin(Stdio::piped())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .unwrap();
    let main = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let all = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, all).unwrap();
    ptrace::interrupt(main).unwrap();
    // It reads to the end of the line as soon as it is let go.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    drop(stdin);

    let mut calls = 0;
    let mut killed = None;
    let mut in_call: HashMap<Pid, InCall> = HashMap::new();
    loop {
        // Only what this thread traces: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let status = waitpid(None, Some(flags)).unwrap();
        let (thread, signal) = match status {
            WaitStatus::Exited(ended, code) if ended == main => {
                let stderr = fs::read_to_string(out.path().join("stderr")).unwrap();
                return match killed {
                    Some(call) => Traced::Killed(call),
                    None => Traced::Ended {
                        code,
                        calls,
                        stderr,
                    },
                };
            }
            WaitStatus::Signaled(ended, ..) if ended == main => {
                return Traced::Killed(killed.expect("killed by another"));
            }
            WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..) => {
                in_call.remove(&ended);
                continue;
            }
            WaitStatus::PtraceSyscall(thread) => {
                if let Some(call) = in_call.remove(&thread) {
                    if let Some(errno) = call.errno {
                        let mut regs = ptrace::getregs(thread).unwrap();
                        regs.rax = i64::from(-errno).cast_unsigned();
                        ptrace::setregs(thread, regs).unwrap();
                    }
                } else {
                    // A thread that is being killed has no registers.
                    let Ok(mut regs) = ptrace::getregs(thread) else {
                        continue;
                    };
                    // A new thread stops first where it comes out of the call that made it.
                    if regs.rax != NOT_MADE_YET {
                        let _ = ptrace::syscall(thread, None);
                        continue;
                    }
                    let call = CALLS.iter().find(|(_, number)| *number == regs.orig_rax);
                    let mut errno = None;
                    if let Some((name, _)) = call {
                        if calls == nth && killed.is_none() {
                            killed = Some(*name);
                            kill(main);
                            continue;
                        }
                        calls += 1;
                        errno = on.refuses(name, regs.r8);
                        if errno.is_some() {
                            regs.orig_rax = u64::MAX;
                            ptrace::setregs(thread, regs).unwrap();
                        }
                    }
                    in_call.insert(thread, InCall { errno });
                }
                (thread, None)
            }
            // A new thread, a new program, or the first stop of a new thread.
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(thread, signal);
    }
}

fn kill(process: Pid) {
    let process = rustix::process::Pid::from_raw(process.as_raw()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}
