#!/usr/bin/env python3
"""Measures making a torrent of a file, by us and by libtorrent, side by side, and prints a Markdown table.

    checks/bench/creation.py [--gib 2] [--piece-length 4194304] [--repeat 5] [--libtorrent 2.0.15] [--work DIR]

One file of noise in the page cache, a v2 torrent and a hybrid of it. Each maker takes its turn, over and over, so that noise of the machine meets all of
them; medians are shown. Rows for machines go to WORK/creation.json. Ours is the whole process of the example `hash` of bittorrent-store. libtorrent's is
from `create_torrent` to the encoded torrent, without the start of Python; its Python has no setting for threads, and hashes with one. libtorrent comes
from PyPI into target/interop, as in the tests.

With `--hash FILE PIECE-LENGTH v2|hybrid` it is the libtorrent side of itself.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

from suite.lab import ROOT, TARGET, python_with_libtorrent

KINDS = ("v2", "hybrid")
MAKERS = ("ours", "libtorrent")
# Of libtorrent's time and CPU.
GOALS = {"v2": 0.5, "hybrid": 0.6}


def hash_by_libtorrent(path: str, piece_length: str, kind: str) -> None:
    import libtorrent as lt

    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    files = lt.file_storage()
    lt.add_files(files, path)
    torrent = lt.create_torrent(files, int(piece_length), lt.create_torrent.v2_only if kind == "v2" else 0)
    lt.set_piece_hashes(torrent, os.path.dirname(path))
    encoded = lt.bencode(torrent.generate())
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files_root = lt.bdecode(encoded)[b"info"][b"file tree"]
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "pieces_root": next(iter(files_root.values()))[b""][b"pieces root"].hex()}))


class Creation:
    def __init__(self, options: argparse.Namespace) -> None:
        self.piece_length = options.piece_length
        self.bytes = int(options.gib * (1 << 30))
        self.work = pathlib.Path(options.work).resolve()
        self.content = self.work / "creation/noise"
        self.python = python_with_libtorrent(options.libtorrent)
        subprocess.run([ROOT / "checks/build", "--release"], check=True)
        self.content.parent.mkdir(parents=True, exist_ok=True)
        with open(self.content, "wb") as content:
            for begin in range(0, self.bytes, 1 << 22):
                content.write(os.urandom(min(1 << 22, self.bytes - begin)))

    def warm(self) -> None:
        with open(self.content, "rb") as content:
            while content.read(1 << 22):
                pass

    def make(self, maker: str, kind: str) -> dict[str, float | str]:
        self.warm()
        if maker == "libtorrent":
            command = [self.python, __file__, "--hash", self.content, str(self.piece_length), kind]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        command = [str(TARGET / "release/examples/hash"), str(self.content), str(self.piece_length >> 10)]
        begin = time.monotonic()
        child = subprocess.Popen(command + ["hybrid"] * (kind == "hybrid"), stdout=subprocess.PIPE, text=True)
        assert child.stdout
        line = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{command}: {child.returncode}")
        return {"wall_s": time.monotonic() - begin, "cpu_s": used.ru_utime + used.ru_stime, "pieces_root": line.split()[1]}


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    creation = Creation(options)
    rows: list[dict[str, object]] = []
    for turn in range(options.repeat):
        for kind in KINDS:
            for maker in MAKERS:
                rows.append({"turn": turn, "maker": maker, "kind": kind, **creation.make(maker, kind)})
                print(f"{turn + 1}/{options.repeat} {kind} by {maker}", file=sys.stderr)
    creation.content.unlink()
    # Both must have done the same work.
    if len(roots := {row["pieces_root"] for row in rows}) != 1:
        raise SystemExit(f"the makers disagree about the content: {roots}")
    (creation.work / "creation.json").write_text(json.dumps(rows, indent=1))
    return rows


def table(rows: list[dict[str, object]]) -> str:
    def median(maker: str, kind: str, column: str) -> float:
        return statistics.median(row[column] for row in rows if (row["maker"], row["kind"]) == (maker, kind))

    wall_lines = ["| torrent | ours: s | libtorrent: s | ours / libtorrent | goal |", "|---|---|---|---|---|"]
    cpu_lines = ["| torrent | ours: CPU s | libtorrent: CPU s | ours / libtorrent |", "|---|---|---|---|"]
    for kind in KINDS:
        wall, cpu = ([median(maker, kind, column) for maker in MAKERS] for column in ("wall_s", "cpu_s"))
        wall_lines.append(f"| {kind} | {wall[0]:.2f} | {wall[1]:.2f} | {wall[0] / wall[1]:.2f} | ≤ {GOALS[kind]} |")
        cpu_lines.append(f"| {kind} | {cpu[0]:.2f} | {cpu[1]:.2f} | {cpu[0] / cpu[1]:.2f} |")
    return "\n".join([*wall_lines, "", *cpu_lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--piece-length", type=int, default=4 << 20)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--libtorrent", default="2.0.15")
    parser.add_argument("--work", default=str(ROOT / "target/bench"))
    parser.add_argument("--hash", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hash:
        hash_by_libtorrent(*options.hash)
        return 0
    rows = measure(options)
    print(f"{options.gib} GiB, pieces of {options.piece_length} bytes, medians of {options.repeat}, libtorrent {options.libtorrent}, {os.cpu_count()} cores\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
