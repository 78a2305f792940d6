"""Shared by all rows of the check: addresses, the real program in several roles, and measurements of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parents[1] / "bench")]

from programs import PATIENCE, PORT, Failure, Programs, Snapshot, is_whole, process, until  # noqa: E402
from suite.processes import resident  # noqa: E402

__all__ = ["PATIENCE", "PORT", "Failure", "Programs", "Snapshot", "is_whole", "process", "until"]

# Strangers' addresses (TEST-NET-2, RFC 5737); attackers with many hosts have TEST-NET-3.
MIRROR, SEEDER, NEWCOMER, DHT, ATTACKER = "198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.9", "198.51.100.66"
HOSTILE_SEEDER = "198.51.100.67"
HTTP = 9109
# The metric of the bytes of content that a mirror received.
CONTENT_RECEIVED = 'nano_snapshot_mirror_content_bytes_total{source="peers"}'
# Limit in seconds for a health check.
HEALTHY = 1.0


def network() -> None:
    """Gives the loopback interface of this namespace all addresses."""
    addresses = [f"{address}/32" for address in (MIRROR, SEEDER, NEWCOMER, DHT, ATTACKER, HOSTILE_SEEDER)]
    # A network on the loopback interface is local as a whole.
    addresses += [f"{address}/32" for address in ("169.254.169.254", "10.0.0.1", "192.168.0.1", "100.64.0.1")]
    addresses += ["203.0.113.1/24"] + [f"198.{second}.{number}.1/32" for second in (18, 19) for number in range(8)]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in addresses:
        subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)


@dataclasses.dataclass
class Settings:
    """A configuration of the program, with a pinned snapshot or an authority."""

    address: str
    data: pathlib.Path
    peers: list[str] = dataclasses.field(default_factory=list)
    pinned: str = ""
    authority: str = ""
    bootstrap: list[str] = dataclasses.field(default_factory=lambda: ["127.0.0.1:1"])
    # Bytes a second.
    upload: int = 0

    def write(self, file: pathlib.Path) -> pathlib.Path:
        peers = [f"{peer}:{PORT}" for peer in self.peers]
        stream = f'pinned = "{self.pinned}"\npinned-after = "0s"' if self.pinned else f'authorities = ["{self.authority}"]'
        limits = f'[limits]\nupload = "{self.upload} B/s"' if self.upload else ""
        file.write_text(
            f"""
data-dir = "{self.data}"
poll-interval = "1s"
seed-peers = {json.dumps(peers)}
http.listen = "{self.address}:{HTTP}"
[peer]
listen = ["{self.address}:{PORT}"]
local-discovery = false
[dht]
bootstrap = {json.dumps(self.bootstrap)}
port = 0
{limits}
[stream.daily]
{stream}
"""
        )
        return file


@dataclasses.dataclass
class Sample:
    """The maximum that a process used: MiB beyond page cache, and descriptors."""

    memory: float = 0.0
    descriptors: int = 0

    def take(self, pid: int) -> None:
        self.memory = max(self.memory, resident(pid)["anon"])
        with contextlib.suppress(OSError):
            self.descriptors = max(self.descriptors, len(os.listdir(f"/proc/{pid}/fd")))


@dataclasses.dataclass
class Mirror:
    """A running mirror."""

    process: subprocess.Popen[str]
    settings: Settings
    log: pathlib.Path
    sample: Sample = dataclasses.field(default_factory=Sample)

    @staticmethod
    @contextlib.contextmanager
    def running(name: str, settings: Settings, work: pathlib.Path, programs: Programs) -> Iterator[Mirror]:
        log = work / f"{name}.log"
        config = settings.write(work / f"{name}.toml")
        with process([programs.mirror, "--config", config], log) as started:
            yield Mirror(started, settings, log)
        if "panicked" in log.read_text(errors="replace"):
            raise Failure(f"{name}: a panic\n{log.read_text(errors='replace')[-3000:]}")

    def until_whole(self, patience: float = PATIENCE) -> float:
        """Seconds from now until the snapshot is whole."""
        begin = time.monotonic()
        while not is_whole(self.settings.data):
            taken = time.monotonic() - begin
            if taken > patience or self.process.poll() is not None:
                raise Failure(f"not whole after {taken:.0f} s\n{self.log.read_text(errors='replace')[-2000:]}")
            self.sample.take(self.process.pid)
            time.sleep(0.01)
        return time.monotonic() - begin

    def until_fetched(self, length: int, patience: float = PATIENCE) -> None:
        """Waits until this number of bytes of content was received."""
        end = time.monotonic() + patience
        while self._fetched() < length:
            if time.monotonic() > end or self.process.poll() is not None:
                raise Failure(f"fewer than {length} bytes received\n{self.log.read_text(errors='replace')[-2000:]}")
            self.sample.take(self.process.pid)
            time.sleep(0.05)

    def _fetched(self) -> float:
        """Bytes of content received, or 0 while the mirror does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.settings.address}:{HTTP}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return 0
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(CONTENT_RECEIVED))

    def stream(self) -> dict[str, object]:
        """The only stream of the report."""
        with urllib.request.urlopen(f"http://{self.settings.address}:{HTTP}/status.json", timeout=10) as answer:
            (stream,) = json.load(answer)["streams"]
        assert isinstance(stream, dict)
        return stream

    def get(self, path: str, patience: float = 10.0) -> tuple[int, float]:
        """The status of an answer over HTTP, 0 without one, and the seconds that it took."""
        begin = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://{self.settings.address}:{HTTP}{path}", timeout=patience) as answer:
                answer.read()
                status = int(answer.status)
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError:
            status = 0
        return status, time.monotonic() - begin

    def stop(self, patience: float = 60.0) -> float:
        """Sends SIGTERM. Returns the seconds until the end."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"still running {patience:.0f} s after SIGTERM\n{self.log.read_text(errors='replace')[-2000:]}") from error
        return time.monotonic() - begin


@contextlib.contextmanager
def attacking(name: str, snapshot: Snapshot, pieces: int, piece_length: int, work: pathlib.Path) -> Iterator[None]:
    """An attacker that attacks the mirror; `did` in its log has its counters."""
    log = work / f"{name}.log"
    command: list[object] = [sys.executable, HERE / "attackers" / f"{name}.py", "--hash", snapshot.hash, "--root", snapshot.root]
    command += ["--pieces", pieces, "--piece-length", piece_length, "--metadata", snapshot.metadata]
    command += ["--own", ATTACKER, "--target", f"{MIRROR}:{PORT}"]
    with process(command, log) as attacker:
        until(f"{name} is ready", lambda: "ready" in log.read_text(), log)
        yield
        assert attacker.stdin
        attacker.stdin.close()
        until(f"{name} reports what it did", lambda: '"did"' in log.read_text(), log)


def did(name: str, work: pathlib.Path) -> dict[str, int]:
    """What an attacker counted of its actions."""
    for line in (work / f"{name}.log").read_text().splitlines():
        if line.startswith('{"did"'):
            counted: dict[str, int] = json.loads(line)["did"]
            return counted
    return {}


def fresh(data: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(data, ignore_errors=True)
    return data
