"""Many leechers on one seeder, each in a process of its own, that know only the seeder.

Twice: over 127.0.0.1, where clients take their peers for machines of the same network and do not choke them, and over an address of the
documentation network, on the loopback interface of a network namespace, where upload slots are given out as among strangers.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator

from .lab import CLIENTS, THEIRS, Stored, Lab
from .processes import Argument, Row, Watched
from .report import Found, form, median, number, tables, where
from .transfer import cpu, times

# Seconds after which a leecher of libtorrent leaves, whole or not: with the default of 8 slots, strangers beyond the eighth wait for rounds.
LIBTORRENT_PATIENCE = 30

# TEST-NET-2 (RFC 5737): neither loopback nor private, and unassigned.
STRANGERS = "198.51.100.1"
LOCAL = "127.0.0.1"


@contextlib.contextmanager
def namespace() -> Iterator[list[str] | None]:
    """Words before a command that run it in a network namespace with the address of strangers; `None` where the kernel forbids it."""
    script = f"ip link set lo up && ip addr add {STRANGERS}/32 dev lo && echo ready && exec cat"
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", script]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        yield None
        return
    with holder:
        assert holder.stdin and holder.stdout
        ready = holder.stdout.readline() == "ready\n"
        yield ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(holder.pid)] if ready else None
        holder.stdin.close()


def jain(values: list[float]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def swarm(lab: Lab, who: str, store: Stored, leechers: int, address: str, prefix: list[str]) -> Row:
    """One swarm from start to end."""
    swarm_place = lab.fresh()
    folders = [swarm_place / str(at) for at in range(leechers)]
    for folder in folders:
        folder.mkdir()
    lab.pages.settle(store.file)

    limit = LIBTORRENT_PATIENCE if who == THEIRS else None

    def inside(command: list[Argument]) -> list[Argument]:
        return [*prefix, *command]

    with contextlib.ExitStack() as running:
        seeder = running.enter_context(Watched(inside(lab.seed(who, store, address=address))))
        peer = seeder.hear("listening")["listening"]
        fetchers = [running.enter_context(Watched(inside(lab.fetch(who, store, folder, peer, address=address, seconds=limit)))) for folder in folders]
        fetched: list[Row] = [{} for _ in fetchers]

        def hear(at: int) -> None:
            fetched[at] = fetchers[at].hear("user")
            fetchers[at].end()

        waiting = [threading.Thread(target=hear, args=(at,)) for at in range(leechers)]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()
        seeded = seeder.stop("user")
    if not all(fetched):
        raise RuntimeError("a leecher failed")
    began = [number(row["began"]) for row in fetched]
    firsts = [at + times(row)[0] for at, row in zip(began, fetched)]
    lasts = [at + times(row)[1] for at, row in zip(began, fetched)]
    start = min(firsts)
    # From the first byte of the first leecher, so that waiting counts.
    took = [max(last - start, 1e-3) for last in lasts]
    size = store.file.stat().st_size
    moved = sum(number(row["bytes"]) for row in fetched)
    anon = [found["anon"] for _, found in seeder.samples]
    return {
        "client": who,
        "address": address,
        "leechers": leechers,
        "whole": sum(row["bytes"] == size for row in fetched),
        "aggregate_mb_per_s": moved / 1e6 / (max(lasts) - start),
        "first_byte_spread_s": max(firsts) - start,
        "fastest_s": min(took),
        "slowest_s": max(took),
        "slowest_by_fastest": max(took) / min(took),
        "jain": jain([number(row["bytes"]) / one for row, one in zip(fetched, took)]),
        "seed_cpu": cpu(seeded) / (moved / (1 << 30)),
        "fetch_cpu": sum(map(cpu, fetched)) / (moved / (1 << 30)),
        "seed_anon_half_mib": anon[len(anon) // 2] if anon else 0.0,
        "seed_anon_mib": seeder.peak("anon"),
        "seed_file_mib": seeder.peak("file"),
        "completions_s": [round(one, 3) for one in sorted(took)],
    }


COLUMNS = {
    "whole": ("complete at the end", ".0f"),
    "aggregate_mb_per_s": ("MB/s, all together", ".0f"),
    "fastest_s": ("first done, s", ".2f"),
    "slowest_s": ("last done, s", ".2f"),
    "slowest_by_fastest": ("last/first", ".2f"),
    "jain": ("Jain's index of the rates", ".3f"),
    "seed_cpu": ("seeder: CPU s/GiB", ".2f"),
    "seed_anon_half_mib": ("seeder: MiB beyond page cache at half time", ".1f"),
    "seed_anon_mib": ("seeder: peak MiB beyond page cache", ".1f"),
    "seed_file_mib": ("seeder: MiB of mapped files", ".0f"),
}

# The tables of the page, as columns of COLUMNS and the ratio behind them: speed, fairness, the seeder.
PARTS = ((0, 1, 10), (2, 3, 4, 5), (6, 7, 8, 9))


def measure(lab: Lab) -> Found:
    store = lab.noise(lab.size.swarm_bytes)
    rows: list[Row] = []
    lines = []
    with namespace() as prefix:
        folders = [(LOCAL, "one network", [])] + ([(STRANGERS, "strangers", prefix)] if prefix is not None else [])
        for address, kind, words in folders:
            for who in CLIENTS:
                for leechers in (1, lab.size.leechers):
                    repeat = min(3, lab.size.repeat) if leechers == 1 else 1
                    for turn in range(repeat):
                        rows.append({"turn": turn, "peers": kind, **swarm(lab, who, store, leechers, address, words)})
                    mine = where(rows, client=who, peers=kind, leechers=leechers)
                    print(f"  {who}, {kind}, {leechers}: {median(mine, 'aggregate_mb_per_s'):.0f} MB/s", file=sys.stderr)
                    base = median(where(rows, client=who, peers=kind, leechers=1), "aggregate_mb_per_s")
                    values = [form(spec)(median(mine, column)) for column, (_, spec) in COLUMNS.items()]
                    lines.append([f"{who}, {kind}", str(leechers), *values, f"{median(mine, 'aggregate_mb_per_s') / base:.2f}"])
    titles = ["client, peers", "leechers", *(title for title, _ in COLUMNS.values()), "speed / speed of one leecher"]
    text = f"{lab.size.swarm_bytes >> 20} MiB for each leecher from one seeder; leechers do not know each other.\n\n"
    missing = "" if prefix is not None else "\nStrangers: not measured, this kernel gives no network namespace.\n"
    return Found("Swarm", text + tables(2, titles, lines, *PARTS) + missing, rows)
