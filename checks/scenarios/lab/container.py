"""A machine in a systemd-nspawn container.

Traps that shape this file: nspawn with --keep-unit takes the cgroup it is started in, so each container gets one of its own, in
every hierarchy; killing nspawn leaves its leader running, so the end goes through cgroup.kill; and a cgroup BPF program
(IPAddressDeny=, DevicePolicy=) is silently not loaded without the capabilities and the system call given here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from . import network
from .console import Console
from .machine import PATIENCE, Failed, Machine, retry

CGROUPS = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The cgroups that a container needs: one with cgroup v2, one for each controller with v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in sorted(CGROUPS.iterdir()) if not folder.is_symlink() and (folder / "cgroup.procs").exists()]


class Container(Machine):
    """One nspawn container over an overlay of the shared root. What it wrote survives a crash and a power-off."""

    def __init__(self, name: str, number: int, folder: Path, base: Path, program: Path, console: Console) -> None:
        super().__init__(name, console)
        self.folder = folder
        self.root = folder / "root"
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.leader = 0
        self.outer = network.join(name, number)
        for part in ("upper", "work", "root"):
            (folder / part).mkdir(parents=True)
        layers = f"lowerdir={base},upperdir={folder}/upper,workdir={folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True)
        self.cgroups = [folder / f"nsm-{os.getpid()}-{name}" for folder in hierarchies()]

    @property
    def is_on(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        if self.process is not None:
            return
        for cgroup in self.cgroups:
            cgroup.mkdir(exist_ok=True)
            if cgroup.parent.name == "cpuset":  # a new group there has no processor until it is given some
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (cgroup / name).write_text((cgroup.parent / name).read_text())
        enter = "".join(f"echo 0 > {cgroup}/cgroup.procs; " for cgroup in self.cgroups)
        nspawn = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--machine={self.name}",
            f"--directory={self.root}", f"--network-namespace-path=/run/netns/{self.name}",
            "--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON,CAP_SYS_ADMIN", "--system-call-filter=bpf",
            f"--bind-ro={self.program}:/usr/bin/nano-snapshot-mirror",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no",
        ]  # fmt: skip
        with (self.folder / "console").open("ab") as output:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *nspawn],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        self.leader = 0
        self.log("starts")

    def _wait_until_up(self) -> None:
        if self.leader:
            return
        begin = time.monotonic()
        retry(self._found_leader, 30)

        def up(_: bool) -> bool:
            return self._run("systemctl is-system-running", 20).stdout.strip() in ("running", "degraded")

        retry(up, 60)
        self.log(f"is up after {time.monotonic() - begin:.1f} s more")

    def _found_leader(self, _: bool) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise Failed(f"{self.name} did not boot:\n{self.console_tail()}")
        pid = self.process.pid
        try:
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self.leader = int(child)
        except FileNotFoundError:
            pass
        return self.leader != 0

    def console_tail(self) -> str:
        return (self.folder / "console").read_text(errors="replace")[-2000:]

    def _run(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        shell = ["/bin/bash", "-c", f"cd /; set -eo pipefail; source /etc/profile; set -u; {command}"]
        return subprocess.run(
            [*inside, *shell], env={"HOME": "/root", "TERM": "dumb"}, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip

    def enter(self, command: str, timeout: float) -> tuple[int, str]:
        self._wait_until_up()
        try:
            done = self._run(command, timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name}: `{command}` did not end in {timeout:.0f} s") from None
        return done.returncode, done.stdout

    def wait_for_shutdown(self) -> None:
        if self.process is not None:
            with self.nested("waiting for the power to be off"):
                self.process.wait(PATIENCE)
            self.process, self.leader = None, 0

    # As QEMU machines of NixOS tests have them.

    def shutdown(self) -> None:
        if self.process is not None:
            self.execute("systemctl poweroff --no-block")
            self.wait_for_shutdown()

    def crash(self) -> None:
        """The end of every process at once. What they wrote stays, synced or not: a host's power cut loses more."""
        if self.process is not None:
            self.log("crashes")
            self._wait_until_up()
            os.kill(self.leader, signal.SIGKILL)
            self.process.wait(PATIENCE)
            self.process, self.leader = None, 0

    def block(self) -> None:
        network.ip("link", "set", self.outer, "down")

    def unblock(self) -> None:
        network.ip("link", "set", self.outer, "up")

    def release(self) -> None:
        """Ends everything that is left of it."""
        for cgroup in self.cgroups:
            kill = cgroup / "cgroup.kill"
            if kill.exists():
                kill.write_text("1")
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process, self.leader = None, 0
        for cgroup in self.cgroups:
            if cgroup.exists():
                retry(lambda _, cgroup=cgroup: removed(cgroup), 5)  # type: ignore[misc]


def removed(cgroup: Path) -> bool:
    """Removes a cgroup with those below it; false while processes still leave."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            return False
    return True
