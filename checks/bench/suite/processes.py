"""Processes under measurement: started, asked for the JSON lines they print, watched in /proc, and ended."""

import json
import os
import pathlib
import select
import subprocess
import threading
import time
from collections.abc import Sequence

Argument = str | pathlib.Path
Row = dict[str, object]

# A number of seconds after which anything here counts as stuck.
PATIENCE = 300

# Seconds between two readings of a process's memory. Shorter peaks are missed.
SAMPLE = 0.05

FIELDS = {"VmRSS": "rss", "RssAnon": "anon", "RssFile": "file"}


def resident(pid: int) -> dict[str, float]:
    """What is resident of a process now, in MiB: `rss`, and of it `anon`, beyond page cache, and `file`, pages of mapped files."""
    found = dict.fromkeys(FIELDS.values(), 0.0)
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in FIELDS:
                found[FIELDS[name]] = int(rest.split()[0]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


class Watched:
    """A process whose output is read line by line and whose memory is sampled all the time. Killed when left, if it is still there."""

    def __init__(self, command: Sequence[Argument], cwd: pathlib.Path | None = None) -> None:
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd)
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.said: list[Row] = []
        self._rest = b""
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._sampler.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE):
            found = resident(self.process.pid)
            if found["rss"]:
                self.samples.append((time.monotonic(), found))

    def hear(self, member: str, patience: float = PATIENCE) -> Row:
        """The next row that has a member of this name."""
        assert self.process.stdout
        deadline = time.monotonic() + patience
        while True:
            while b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                self.said.append(json.loads(line))
                if member in self.said[-1]:
                    return self.said[-1]
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not more:
                reason = f"ended with {self.process.wait(10)}" if ready else "is silent"
                raise RuntimeError(f"{' '.join(self.command)} {reason} before it said {member!r}")
            self._rest += more

    def stop(self, member: str) -> Row:
        """Closes its standard input, at which it exits. Returns its last line."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.hear(member)

    def end(self) -> None:
        """Waits for its end, which must be a good one."""
        if self.process.wait(PATIENCE) != 0:
            raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.returncode}")

    def peak(self, what: str, since: float = 0.0, until: float = float("inf")) -> float:
        """The most that was resident, in MiB, between two moments of the monotonic clock."""
        return max((found[what] for when, found in self.samples if since <= when <= until), default=0.0)
