"""Transfers between two processes on loopback, every pair of clients side by side."""

import sys
import time

from .lab import CLIENTS, THEIRS, Lab
from .processes import Row, Watched
from .report import Found, form, median, number, tables, where

COLUMNS = {
    "payload_mb_per_s": ("MB/s, first to last payload byte", ".0f"),
    "from_start_mb_per_s": ("MB/s from start", ".0f"),
    "fetch_cpu": ("fetch: CPU s/GiB", ".2f"),
    "seed_cpu": ("seed: CPU s/GiB", ".2f"),
    "fetch_anon_mib": ("fetch: peak MiB beyond page cache", ".0f"),
    "fetch_file_mib": ("fetch: peak MiB of mapped files", ".0f"),
    "seed_anon_mib": ("seed: peak MiB beyond page cache", ".0f"),
    "seed_file_mib": ("seed: peak MiB of mapped files", ".0f"),
}

# Not a client: the least work that moves, hashes and writes the same bytes.
FLOOR = "floor"

PAIRS = [(FLOOR, FLOOR), *((seed, fetch) for seed in CLIENTS for fetch in CLIENTS)]

# Divided by the values of libtorrent with libtorrent.
RATIOS = {"payload_mb_per_s": "speed", "fetch_cpu": "fetch CPU", "seed_cpu": "seed CPU"}

# The tables of the page, as columns of COLUMNS and RATIOS: speed, processor time, memory.
PARTS = ((0, 1, 8), (2, 9, 3, 10), (4, 5, 6, 7))


def times(row: Row) -> tuple[float, float]:
    """When the first and the last payload byte arrived, in seconds. For ours, pieces that are written and proven count."""
    first = row.get("first_byte", row.get("first_piece")) or 0
    last = row.get("last_byte", row.get("last_piece"))
    return number(first), number(last)


def cpu(row: Row) -> float:
    return number(row["user"]) + number(row["system"])


def transfer(lab: Lab, seed: str, fetch: str) -> Row:
    store = lab.noise(lab.size.transfer_bytes)
    folder = lab.fresh()
    lab.pages.settle(store.file)
    with Watched([lab.floor, "seed", store.file] if seed == FLOOR else lab.seed(seed, store)) as seeder:
        peer = seeder.hear("listening")["listening"]
        begin = time.monotonic()
        fetching = [lab.floor, "fetch", folder / "floor", "--peer", str(peer)] if fetch == FLOOR else lab.fetch(fetch, store, folder, peer)
        with Watched(fetching) as fetcher:
            fetched = fetcher.hear("user")
            fetcher.end()
        whole = time.monotonic() - begin
        seeded = seeder.stop("user")
    gib = lab.size.transfer_bytes / (1 << 30)
    first, last = times(fetched)
    return {
        "seed": seed,
        "fetch": fetch,
        "payload_mb_per_s": lab.size.transfer_bytes / 1e6 / (last - first),
        "from_start_mb_per_s": lab.size.transfer_bytes / 1e6 / last,
        "process_s": whole,
        "fetch_cpu": cpu(fetched) / gib,
        "seed_cpu": cpu(seeded) / gib,
        "fetch_user": number(fetched["user"]) / gib,
        "fetch_system": number(fetched["system"]) / gib,
        "seed_user": number(seeded["user"]) / gib,
        "seed_system": number(seeded["system"]) / gib,
        "fetch_peak_rss_mib": number(fetched["peak_rss_kib"]) / 1024,
        "seed_peak_rss_mib": number(seeded["peak_rss_kib"]) / 1024,
        **{f"{role}_{what}_mib": one.peak(what) for role, one in (("fetch", fetcher), ("seed", seeder)) for what in ("anon", "file")},
    }


def measure(lab: Lab) -> Found:
    rows: list[Row] = []
    for turn in range(lab.size.repeat):
        for seed, fetch in PAIRS:
            rows.append({"turn": turn, **transfer(lab, seed, fetch)})
            print(f"  {turn + 1}/{lab.size.repeat} {seed} -> {fetch}: {rows[-1]['payload_mb_per_s']:.0f} MB/s", file=sys.stderr)
    base = where(rows, seed=THEIRS, fetch=THEIRS)
    lines = []
    for seed, fetch in PAIRS:
        mine = where(rows, seed=seed, fetch=fetch)
        values = [form(spec)(median(mine, column)) for column, (_, spec) in COLUMNS.items()]
        ratios = [f"{median(mine, column) / (median(base, column) or 1):.2f}" for column in RATIOS]
        lines.append(["floor" if seed == FLOOR else f"{seed} → {fetch}", *values, *ratios])
    titles = ["seed → fetch", *(title for title, _ in COLUMNS.values()), *(f"{title}, of libtorrent → libtorrent's" for title in RATIOS.values())]
    text = f"{lab.size.transfer_bytes >> 20} MiB in pieces of {lab.size.piece_length >> 10} KiB, medians of {lab.size.repeat}.\n\n"
    return Found("Transfer", text + tables(1, titles, lines, *PARTS), rows)
