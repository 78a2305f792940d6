"""Memory of a seed and of a fetch of a torrent as large as a ledger, with many peers in other processes.

The content is a hole of the file system and its hashes are those of zeros, so that neither making nor serving it takes a disk of that size.
"""

import contextlib
import sys
import time

from .lab import CLIENTS, HERE, Stored, Lab
from .processes import Argument, Row, Watched, resident
from .report import Found, form, table

LIGHT = HERE / "suite/light_peer.py"

# Processes that the light peers are spread over.
PROCESSES = 2

# Requests that each asking peer keeps open.
WINDOW = 16

# Bytes a second from each serving peer.
RATE = 4e6

# Seconds from the last connection to the look at the idle process.
REST = 1.0


def light(lab: Lab, store: Stored, role: str, *more: Argument) -> list[list[Argument]]:
    shares = [(lab.size.peers + n) // PROCESSES for n in range(PROCESSES)]
    return [[sys.executable, LIGHT, role, "--hash", store.hash, "--connections", str(share), *more] for share in shares]


def seed(lab: Lab, who: str) -> Row:
    store = lab.hole()
    pieces = store.file.stat().st_size // lab.size.held_piece_length
    lab.pages.settle()
    with contextlib.ExitStack() as running:
        seeder = running.enter_context(Watched(lab.seed(who, store)))
        peer = str(seeder.hear("listening")["listening"])
        time.sleep(REST)
        alone = resident(seeder.process.pid)
        sizes = ["--pieces", str(pieces), "--piece-length", str(lab.size.held_piece_length), "--window", str(WINDOW), "--address", peer]
        askers = [running.enter_context(Watched(command)) for command in light(lab, store, "ask", *sizes)]
        for asker in askers:
            asker.hear("connected")
        begin = time.monotonic()
        time.sleep(lab.size.seconds)
        end = time.monotonic()
        moved = sum(int(str(asker.stop("bytes")["bytes"])) for asker in askers)
        for asker in askers:
            asker.end()
        time.sleep(REST)
        after = resident(seeder.process.pid)
        seeder.stop("user")
    return result("seed", who, alone, seeder, begin, end, after, moved)


def fetch(lab: Lab, who: str) -> Row:
    store = lab.hole()
    folder = lab.fresh()
    lab.pages.settle()
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(Watched(command)) for command in light(lab, store, "serve", "--rate", str(RATE))]
        peers: list[str] = []
        for server in servers:
            listening = server.hear("listening")["listening"]
            assert isinstance(listening, list)
            peers += listening
        fetcher = running.enter_context(Watched(lab.fetch(who, store, folder, *peers, seconds=lab.size.seconds)))
        begin = time.monotonic()
        time.sleep(REST)
        early = resident(fetcher.process.pid)
        fetched = fetcher.hear("user")
        end = time.monotonic()
        after = resident(fetcher.process.pid)
    lab.fresh()
    return result("fetch", who, early, fetcher, begin, end, after, int(str(fetched["bytes"])))


def result(
    role: str, who: str, first: dict[str, float], watched: Watched, begin: float, end: float, after: dict[str, float], moved: int
) -> Row:
    return {
        "role": role,
        "client": who,
        "first_anon_mib": first["anon"],
        "load_anon_mib": watched.peak("anon", begin, end),
        "end_anon_mib": after["anon"],
        "load_file_mib": watched.peak("file", begin, end),
        "load_rss_mib": watched.peak("rss", begin, end),
        "mb_per_s": moved / 1e6 / (end - begin),
    }


COLUMNS = {
    "first_anon_mib": ("MiB beyond page cache: at first", ".1f"),
    "load_anon_mib": ("peak under load", ".1f"),
    "end_anon_mib": ("at the end", ".1f"),
    "load_file_mib": ("of mapped files, peak", ".0f"),
    "load_rss_mib": ("resident in all, peak", ".0f"),
    "mb_per_s": ("MB/s meanwhile", ".0f"),
}


def measure(lab: Lab) -> Found:
    rows = []
    for role in (seed, fetch):
        for who in CLIENTS:
            rows.append(role(lab, who))
            print(f"  {rows[-1]['role']} by {who}: {rows[-1]['load_anon_mib']:.0f} MiB", file=sys.stderr)
    lines = [[f"{row['role']}, {row['client']}", *(form(spec)(row[column]) for column, (_, spec) in COLUMNS.items())] for row in rows]
    size = f"{lab.size.held_bytes / 1e9:.0f} GB in pieces of {lab.size.held_piece_length >> 20} MiB"
    text = f"{size}, {lab.size.peers} peers, {lab.size.seconds:.0f} s of load.\n\n"
    return Found("Memory", text + table(["what", *(title for title, _ in COLUMNS.values())], lines), rows)
