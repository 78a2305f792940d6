"""The real program between namespaces: a snapshot of noise, a seeder that has it and a mirror that fetches it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
sys.path.append(str(ROOT / "checks/scenarios"))

from dht import decode, encode  # noqa: E402

PORT = 6881
# Seconds after which anything here counts as stuck.
PATIENCE = 40.0
# Prefix of a command that runs it in namespaces of its own, which end with it.
NAMESPACES = ["unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Failure(Exception):
    """An expectation that was not met."""


def missing(**packages: str) -> str | None:
    """What keeps a check from running here, and how to get it: tools by name, with their Debian packages."""
    for tool, package in {"ip": "iproute2", "unshare": "util-linux", **packages}.items():
        if not shutil.which(tool):
            return f"{tool} is missing: apt-get install {package}"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        return "this kernel gives no namespaces here: run as root, or allow unprivileged user namespaces"
    return None


@dataclasses.dataclass(frozen=True)
class Programs:
    mirror: pathlib.Path
    transfer: pathlib.Path

    @staticmethod
    def build(release: bool) -> None:
        subprocess.run([ROOT / "checks/build", *(["--release"] if release else [])], check=True)

    @staticmethod
    def built(release: bool) -> Programs:
        folder = TARGET / ("release" if release else "debug")
        return Programs(folder / "nano-snapshot-mirror", folder / "examples/transfer")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A whole snapshot in a data directory of its own."""

    hash: str
    root: str
    # Bytes of its info dictionary.
    metadata: int
    data: pathlib.Path

    @staticmethod
    def make(data: pathlib.Path, programs: Programs, length: int, piece_length: int) -> Snapshot:
        folder = data / "snapshots"
        folder.mkdir(parents=True)
        command = [programs.transfer, "make", "--dir", folder / "new", "--bytes", str(length), "--piece-length", str(piece_length)]
        made = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)["made"]
        (folder / "new").rename(folder / made)
        info = decode((folder / made / "snapshot.torrent").read_bytes())[b"info"]
        (file,) = info[b"file tree"].values()
        return Snapshot(made, file[b""][b"pieces root"].hex(), len(encode(info)), data)


def configuration(file: pathlib.Path, hash: str, address: str, data: pathlib.Path, peers: list[str], upload: int | None = None) -> pathlib.Path:
    """Writes a configuration with which the program seeds or fetches the snapshot with this hash."""
    limits = f'[limits]\nupload = "{upload} B/s"\n' if upload else ""
    file.write_text(
        f"""
data-dir = "{data}"
seed-peers = {json.dumps(peers)}
http.listen = "{address}:9109"
[peer]
listen = ["{address}:{PORT}"]
[dht]
bootstrap = ["127.0.0.1:1"]
port = 0
{limits}
[stream.daily]
pinned = "{hash}"
pinned-after = "0s"
"""
    )
    return file


@contextlib.contextmanager
def process(command: list[object], log: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended afterwards; its output is in `log`."""
    with log.open("w") as out:
        running = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=out, stderr=out, text=True)
    try:
        yield running
    finally:
        assert running.stdin
        with contextlib.suppress(BrokenPipeError):
            running.stdin.close()
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def until(what: str, holds: Callable[[], bool], log: pathlib.Path, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not after {patience:.0f} s\n{log.read_text()[-3000:]}")
        time.sleep(0.01)


def is_whole(data: pathlib.Path) -> bool:
    """Whether the snapshot is here, verified."""
    return (data / "current/daily").exists()
