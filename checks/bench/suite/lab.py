"""Shared by all parts: the programs under test, the content that they move, and its directory."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

from .pages import Pages
from .processes import Argument

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LIBTORRENT = HERE / "libtorrent_transfer.py"

OURS = "ours"
THEIRS = "libtorrent"
CLIENTS = (OURS, THEIRS)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is moved and how often."""

    quick: bool
    repeat: int
    transfer_bytes: int
    piece_length: int
    leechers: int
    swarm_bytes: int
    held_bytes: int
    held_piece_length: int
    peers: int
    seconds: float
    cold_bytes: int


FULL = Size(
    quick=False,
    repeat=5,
    transfer_bytes=2 << 30,
    piece_length=1 << 20,
    leechers=20,
    swarm_bytes=128 << 20,
    held_bytes=100_000_000_000,
    held_piece_length=4 << 20,
    peers=50,
    seconds=10,
    cold_bytes=1 << 30,
)
QUICK = Size(
    quick=True,
    repeat=1,
    transfer_bytes=32 << 20,
    piece_length=1 << 20,
    leechers=4,
    swarm_bytes=8 << 20,
    held_bytes=1_000_000_000,
    held_piece_length=4 << 20,
    peers=6,
    seconds=1,
    cold_bytes=16 << 20,
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A store, with the file of its content."""

    directory: pathlib.Path
    hash: str

    @property
    def torrent(self) -> pathlib.Path:
        return self.directory / "snapshot.torrent"

    @property
    def content(self) -> pathlib.Path:
        return self.directory / "content"

    @property
    def file(self) -> pathlib.Path:
        return next(self.content.iterdir())


class Lab:
    def __init__(self, work: pathlib.Path, size: Size, libtorrent: str, fill: int, build: bool) -> None:
        if build:
            subprocess.run([ROOT / "checks/build", "--release"], check=True)
        self.transfer = TARGET / "release/examples/transfer"
        self.floor = TARGET / "release/examples/floor"
        self.lookup = TARGET / "release/examples/lookup"
        self.mirror = TARGET / "release/nano-snapshot-mirror"
        self.size = size
        self.libtorrent = libtorrent
        self.python = python_with_libtorrent(libtorrent)
        self.work = work
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.pages = Pages(work, fill)
        self._stored: dict[str, Stored] = {}

    def close(self) -> None:
        self.pages.close()
        for name in ("data", "fetched"):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def noise(self, size: int, name: str = "noise") -> Stored:
        """A store of incompressible bytes, made once for each name and size."""
        return self._store(f"{name}-{size}", ["--bytes", str(size), "--piece-length", str(self.size.piece_length)])

    def hole(self) -> Stored:
        """The large store, whose content is a hole."""
        arguments = ["--sparse", "--bytes", str(self.size.held_bytes), "--piece-length", str(self.size.held_piece_length)]
        return self._store("hole", arguments)

    def _store(self, name: str, arguments: list[str]) -> Stored:
        if name not in self._stored:
            # A data directory of the program for each, so that it can use any of them.
            folder = self.work / "data" / name / "snapshots"
            folder.mkdir(parents=True)
            made = subprocess.run([self.transfer, "make", "--dir", folder / "new", *arguments], check=True, capture_output=True, text=True)
            identity = json.loads(made.stdout)["made"]
            (folder / "new").rename(folder / identity)
            self._stored[name] = Stored(folder / identity, identity)
        return self._stored[name]

    def fresh(self, name: str = "fetched") -> pathlib.Path:
        """An empty directory for a fetch. Earlier content is removed, also from the write queue of the disk."""
        folder = self.work / "fetched" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.sync()
        return folder

    def seed(self, who: str, *stores: Stored, address: str = "127.0.0.1") -> list[Argument]:
        if who == OURS:
            folders = [word for store in stores for word in ("--dir", store.directory)]
            return [self.transfer, "seed", *folders, "--listen", f"{address}:0"]
        return [self.python, LIBTORRENT, "seed", stores[0].torrent, stores[0].content, "--address", address]

    def fetch(
        self, who: str, store: Stored, folder: pathlib.Path, *peers: object, address: str = "127.0.0.1", seconds: float | None = None
    ) -> list[Argument]:
        limit = [] if seconds is None else ["--seconds", str(seconds)]
        if who == OURS:
            named = [word for peer in peers for word in ("--peer", str(peer))]
            # The hash suffices if the peers have the metadata.
            what: list[Argument] = ["--hash", store.hash] if seconds is None else ["--torrent", store.torrent]
            return [self.transfer, "fetch", "--dir", folder, *what, "--listen", f"{address}:0", *named, *limit]
        return [self.python, LIBTORRENT, "fetch", store.torrent, folder, *map(str, peers), "--address", address, *limit]


def python_with_libtorrent(version: str) -> pathlib.Path:
    given = os.environ.get(f"INTEROP_PYTHON_LIBTORRENT_{version.replace('.', '_')}")
    if given:
        return pathlib.Path(given)
    venv = ROOT / "target/interop" / f"libtorrent-{version}"
    python = venv / "bin/python"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"libtorrent=={version}"], check=True)
        (venv / "ready").touch()
    return python
