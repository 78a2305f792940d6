"""Attackers beside a download and beside a seed, against the same transfer without them.

An attacker beside a download is there before the download begins, or arrives in the middle of it ("midway"): what only closes or stalls a connection
that transfers is seen only then.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import statistics
import time
from collections.abc import Iterator

from lab import MIRROR, NEWCOMER, SEEDER, Failure, Mirror, Programs, Settings, Snapshot, attacking, did, fresh
from rows import Bound, Row

CONTENT = 12 << 20
PIECE = 256 << 10
# Bytes a second that honest peers send, so that the line limits a transfer and not the shared processor.
RATE = 4_000_000
# The limit for a transfer beside an attacker, as a multiple of one without.
SLOWER = 1.3
# Limits of growth beside an attacker: MiB beyond page cache, and descriptors.
MEMORY, DESCRIPTORS = 48.0, 320
# Seconds that an attacker has before the honest peer arrives.
HEAD_START = 4.0
# Bytes that a download has when an attacker arrives in the middle of it.
MIDWAY = CONTENT // 4
# Pairs of transfers, without and with the attacker, when one was slow.
PAIRS = 3

# In the order of the table. The late seeder arrives when everything that the mirror knows is from the attacker.
BESIDE_A_DOWNLOAD = ("bad_messages", "choke_flap", "handshake_crowd", "idle_handshakes", "reject_all", "reject_storm", "twin_id")
MIDWAY_IN_A_DOWNLOAD = ("reject_all", "twin_id")
BESIDE_A_LATE_SEEDER = ("metadata_sizes", "crowd_interested", "hash_liar")
BESIDE_A_SEED = ("bad_messages", "choke_flap", "crowd_interested", "handshake_crowd", "idle_handshakes", "reject_all", "reject_storm", "twin_id")


# What an attacker must have done beside a download, or the row proves nothing.
ATTACKS = {"hash_liar": "false hashes", "reject_all": "requests rejected", "twin_id": "times as the seeder"}
# The most that an attacker may have done. 16 connections get 32 requests in a row, then none for 1, 2, 4 s: three rounds in a download of 5 s, two in the rest of
# one, and requests in flight. Without the pauses there are 6,000 and 2,000. Each of 8 hosts is banned after its first false hashes.
MOST = {
    ("reject_all", "download"): ("requests rejected", 2048),
    ("reject_all", "midway"): ("requests rejected", 1536),
    ("hash_liar", "late seeder"): ("false hashes", 16),
}


class Transfers:
    """Repeats transfers and compares their medians."""

    def __init__(self, work: pathlib.Path, programs: Programs, repetitions: int) -> None:
        self.work = work
        self.programs = programs
        self.repetitions = repetitions
        self.snapshot = Snapshot.make(work / "origin", programs, CONTENT, PIECE)
        # Two mirrors cannot have one data directory.
        self.copy = work / "copy"
        shutil.copytree(self.snapshot.data, self.copy)
        self._undisturbed: dict[str, Row] = {}

    def beside_download(self, name: str) -> Row:
        return self._row(name, "download")

    def midway(self, name: str) -> Row:
        return self._row(name, "midway")

    def beside_late_seeder(self, name: str) -> Row:
        return self._row(name, "late seeder")

    def beside_seed(self, name: str) -> Row:
        return self._row(name, "seed")

    def _row(self, name: str, beside: str) -> Row:
        if beside not in self._undisturbed:
            # The base of all comparisons is measured more often.
            self._undisturbed[beside] = self._measured("", beside, max(2, self.repetitions))
            print(self._undisturbed[beside], flush=True)
        plain = self._undisturbed[beside]
        row = self._measured(name, beside, self.repetitions)
        taken = plain.bounds[0].measured
        most = taken * SLOWER
        if row.bounds[0].measured > most:
            # What else this machine does may have slowed it down since the first transfer. Transfers in turn meet the same machine.
            pairs = [(self._measured("", beside, 1), self._measured(name, beside, 1)) for _ in range(PAIRS)]
            most = statistics.median(one.bounds[0].measured for one, _ in pairs) * SLOWER
            row = sorted((one for _, one in pairs), key=lambda one: one.bounds[0].measured)[PAIRS // 2]
        row.bounds = [
            Bound("transfer", row.bounds[0].measured, most),
            Bound("memory", row.memory, plain.memory + MEMORY, "MiB"),
            Bound("descriptors", row.descriptors, plain.descriptors + DESCRIPTORS, ""),
            *row.bounds[1:],
        ]
        return row

    def _measured(self, name: str, beside: str, repetitions: int) -> Row:
        if beside == "seed":
            times, mirror = self._seed(name, repetitions)
            memory, descriptors = mirror.sample.memory, mirror.sample.descriptors
        else:
            downloads = [self._download(name, beside) for _ in range(repetitions)]
            times = [seconds for seconds, _ in downloads]
            memory = max(one.sample.memory for _, one in downloads)
            descriptors = max(one.sample.descriptors for _, one in downloads)
        counts = did(name, self.work) if name else {}
        if name in ATTACKS and beside != "seed" and ATTACKS[name] not in counts:
            raise Failure(f"{name} did no harm ({ATTACKS[name]}: 0), which proves nothing; it did {counts}")
        what = ", ".join(f"{count:,} {action}" for action, count in counts.items())
        median = statistics.median(times)
        bounds = [Bound("transfer", median, median)]
        if (name, beside) in MOST:
            action, most = MOST[name, beside]
            bounds.append(Bound(action, counts.get(action, 0), most, ""))
        return Row(name or "undisturbed", beside, bounds, memory, descriptors, what)

    def _attack(self, name: str) -> contextlib.AbstractContextManager[None]:
        if not name:
            return contextlib.nullcontext()
        return attacking(name, self.snapshot, CONTENT // PIECE, PIECE, self.work)

    @contextlib.contextmanager
    def _seeder(self, peers: list[str]) -> Iterator[Mirror]:
        settings = Settings(SEEDER, self.snapshot.data, peers, self.snapshot.hash, upload=RATE)
        with Mirror.running("seeder", settings, self.work, self.programs) as seeder:
            seeder.until_whole()
            yield seeder

    def _download(self, name: str, beside: str) -> tuple[float, Mirror]:
        """A download by the mirror from the seeder."""
        late = beside == "late seeder"
        settings = Settings(MIRROR, fresh(self.work / "mirror"), [] if late else [SEEDER], self.snapshot.hash)
        running = contextlib.ExitStack()
        try:
            if not late:
                running.enter_context(self._seeder([]))
            if beside != "midway":
                running.enter_context(self._attack(name))
            mirror = running.enter_context(Mirror.running("mirror", settings, self.work, self.programs))
            if late:
                self._meanwhile(mirror, HEAD_START)
                running.enter_context(self._seeder([MIRROR]))
            begin = time.monotonic()
            if beside == "midway":
                mirror.until_fetched(MIDWAY)
                running.enter_context(self._attack(name))
            mirror.until_whole()
            return time.monotonic() - begin, mirror
        finally:
            running.close()

    def _seed(self, name: str, repetitions: int) -> tuple[list[float], Mirror]:
        """Downloads by newcomers, one after the other, from the mirror, which is attacked all the time."""
        settings = Settings(MIRROR, self.copy, [], self.snapshot.hash, upload=RATE)
        running = contextlib.ExitStack()
        try:
            mirror = running.enter_context(Mirror.running("mirror", settings, self.work, self.programs))
            mirror.until_whole()
            if name == "twin_id":
                # It learns the id of the seeder, which is not the mirror here.
                running.enter_context(self._seeder([MIRROR]))
            running.enter_context(self._attack(name))
            self._meanwhile(mirror, HEAD_START if name else 0.0)
            return [self._newcomer(mirror) for _ in range(repetitions)], mirror
        finally:
            running.close()

    def _newcomer(self, mirror: Mirror) -> float:
        settings = Settings(NEWCOMER, fresh(self.work / "newcomer"), [MIRROR], self.snapshot.hash)
        with Mirror.running("newcomer", settings, self.work, self.programs) as newcomer:
            seconds = newcomer.until_whole()
            mirror.sample.take(mirror.process.pid)
            return seconds

    @staticmethod
    def _meanwhile(mirror: Mirror, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            mirror.sample.take(mirror.process.pid)
            time.sleep(0.05)
