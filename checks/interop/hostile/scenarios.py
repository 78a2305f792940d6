"""Attacks that do not come from a peer: on the status page, by a hostile authority, and by lying DHT nodes."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import socket
import time

from authority import Authority, HostileSeeder, Item, Nodes
from dht import encode
from lab import DHT, HEALTHY, HOSTILE_SEEDER, HTTP, MIRROR, SEEDER, Failure, Mirror, Programs, Settings, Snapshot, fresh
from rows import Bound, Row

# Seconds from SIGTERM to the end.
STOPPED = 5.0
# Limit in seconds for a health check while a program without optimisation parses metadata of several MiB.
HEALTHY_UNDER_LOAD = 5.0
# Seconds in which a mirror that polls every second looks at least twice, also where nodes are silent.
LOOK_UPS = 5.0
# Unfinished snapshots that may be on disk: those that are kept, the one that is fetched, and one that is just being removed.
UNFINISHED = 4
# Limits of growth since the start of a mirror; doubled beside info dictionaries, where removing 90 nested directories needs 90 descriptors.
MEMORY, DESCRIPTORS = 48.0, 64


class Scenarios:
    def __init__(self, work: pathlib.Path, programs: Programs, long: bool) -> None:
        self.work = work
        self.programs = programs
        self.long = long
        self.authority = Authority()
        self.nodes = Nodes([DHT], self.authority)
        self.seeder = HostileSeeder(HOSTILE_SEEDER)
        self.seeder.start()
        self.seq = 10

    def _follower(self, name: str) -> contextlib.AbstractContextManager[Mirror]:
        """A mirror of the authority that knows the hostile seeder."""
        self.nodes.publish(None)
        data = fresh(self.work / name)
        settings = Settings(MIRROR, data, [HOSTILE_SEEDER], authority=self.authority.key.public.hex(), bootstrap=self.nodes.bootstrap)
        return Mirror.running(name, settings, self.work, self.programs)

    def _name(self, info: bytes) -> None:
        """Has the authority name a snapshot with this info dictionary."""
        self.seq += 1
        self.nodes.publish(self.authority.item(self.seq, self.seeder.offer(info)))

    def many_snapshots(self) -> Row:
        """A new snapshot, of which there is nothing but 1 MB of metadata, every 1.3 s."""
        count = 60 if self.long else 15
        with self._follower("many_snapshots") as mirror:
            answers(mirror)
            begin = Taken(mirror)
            for number in range(count):
                root = hashlib.sha256(b"%d" % number).digest()
                self._name(dictionary({b"data.ldb": file(8 << 20, root)}, more={b"x-pad": b"p" * 1_000_000}))
                watch(mirror, 1.3)
            watch(mirror, 3)
            taken = Taken(mirror)
            left = len(list((mirror.settings.data / "snapshots").iterdir()))
            bounds = [
                Bound("descriptors", taken.descriptors, begin.descriptors + DESCRIPTORS, ""),
                Bound("memory", taken.memory, begin.memory + MEMORY, "MiB"),
                Bound("unfinished", left, UNFINISHED, ""),
                Bound("stopped", mirror.stop(), STOPPED),
            ]
            return self._row("many_snapshots", mirror, bounds, f"{count} pointers")

    def infos(self) -> Row:
        """Info dictionaries that no producer makes, under a good signature, and SIGTERM in the middle of the largest."""
        cases = infos()
        if not self.long:
            cases = {name: info for name, info in cases.items() if len(info) < 1_000_000}
        slowest = 0.0
        with self._follower("infos") as mirror:
            answers(mirror)
            begin = Taken(mirror)
            for info in cases.values():
                served = self.seeder.served
                self._name(info)
                end = time.monotonic() + 6
                while self.seeder.served == served and time.monotonic() < end:
                    slowest = max(slowest, watch(mirror, 0.2))
                slowest = max(slowest, watch(mirror, 0.5))
                if mirror.process.poll() is not None:
                    raise Failure(f"the mirror ended\n{mirror.log.read_text(errors='replace')[-3000:]}")
            self._name(dictionary({b"%06x" % number: file(1) for number in range(40_000)}))
            served = self.seeder.served
            end = time.monotonic() + 10
            while self.seeder.served < served + 100 and time.monotonic() < end:
                slowest = max(slowest, watch(mirror, 0.2))
            slowest = max(slowest, watch(mirror, 2))
            text = mirror.log.read_text(errors="replace")
            forged = any(line.startswith("{a=") or "\x1b[31" in line for line in text.splitlines())
            bounds = [
                Bound("health check", slowest, HEALTHY_UNDER_LOAD),
                Bound("stopped", mirror.stop(), STOPPED),
                Bound("memory", mirror.sample.memory, begin.memory + 2 * MEMORY, "MiB"),
                Bound("descriptors", mirror.sample.descriptors, begin.descriptors + 2 * DESCRIPTORS, ""),
                Bound("forged log lines", forged, 0, ""),
            ]
            return self._row("infos", mirror, bounds, f"{len(cases) + 1} info dictionaries")

    def sybils(self, snapshot: Snapshot, length: int, rate: int) -> Row:
        """One DHT node of eight is honest; the others return old items, forged ones, or none. The honest snapshot is found and fetched.

        Then all nodes lie, and the mirror must not follow another snapshot.
        """
        old, honest = self.authority.item(9, bytes(32)), self.authority.item(11, bytes.fromhex(snapshot.hash))
        rest: dict[str, Item | None] = {"old": old, "forged": self.authority.item(99, bytes(32), forged=True), "none": None}
        nodes = Nodes([f"198.18.{number}.1" for number in range(8)], self.authority)
        slowest, sample, misled = 0.0, None, 0
        seeding = Settings(SEEDER, snapshot.data, [], snapshot.hash, upload=rate)
        with Mirror.running("seeder", seeding, self.work, self.programs) as seeder:
            seeder.until_whole()
            for item in rest.values():
                nodes.items = [item] * 7 + [honest]
                key = self.authority.key.public.hex()
                settings = Settings(MIRROR, fresh(self.work / "sybils"), [SEEDER], authority=key, bootstrap=nodes.bootstrap)
                with Mirror.running("sybils", settings, self.work, self.programs) as mirror:
                    slowest = max(slowest, mirror.until_whole())
                    nodes.publish(item)
                    watch(mirror, LOOK_UPS)
                    misled += mirror.stream()["desired"] != snapshot.hash
                    sample = mirror.sample
        assert sample
        # A look-up waits 2 s for nodes that do not answer, and the poll interval is a second.
        bounds = [Bound("found and fetched", slowest, length / rate + 12), Bound("misled", misled, 0, "")]
        return Row("sybils", "download", bounds, sample.memory, sample.descriptors, f"7 of 8 nodes give {', '.join(rest)}")

    def web(self, snapshot: Snapshot) -> Row:
        """Connections to the status page that stay open with nothing sent, half a request, or an event stream that is not read."""
        slowest, refused = 0.0, 0
        openings = (b"", b"GET / HTTP/1.1\r\nX", b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        settings = Settings(MIRROR, snapshot.data, [], snapshot.hash)
        with Mirror.running("web", settings, self.work, self.programs) as mirror:
            mirror.until_whole()
            answers(mirror)
            for hosts in (1, 16):
                for opening in openings:
                    with contextlib.ExitStack() as connected:
                        connections = [hold(f"203.0.113.{50 + number % hosts}", opening, connected) for number in range(200)]
                        for beat in range(4 if self.long else 2):
                            for path in ("/healthz", "/metrics", "/"):
                                status, seconds = mirror.get(path, 3)
                                refused += status != 200
                                slowest = max(slowest, seconds)
                            mirror.sample.take(mirror.process.pid)
                            if refused:
                                break
                            trickle(connections, beat)
            bounds = [
                Bound("slowest answer", slowest, HEALTHY),
                Bound("without an answer", refused, 0, ""),
                Bound("stopped", mirror.stop(), STOPPED),
            ]
            return self._row("web", mirror, bounds, "200 open connections of one host and of 16")

    @staticmethod
    def _row(name: str, mirror: Mirror, bounds: list[Bound], what: str) -> Row:
        return Row(name, "mirror", bounds, mirror.sample.memory, mirror.sample.descriptors, what)


class Taken:
    """The memory and descriptors of a mirror now."""

    def __init__(self, mirror: Mirror) -> None:
        before = mirror.sample
        mirror.sample = type(before)()
        mirror.sample.take(mirror.process.pid)
        self.memory, self.descriptors = mirror.sample.memory, mirror.sample.descriptors
        mirror.sample = type(before)(max(before.memory, self.memory), max(before.descriptors, self.descriptors))


def answers(mirror: Mirror) -> None:
    """Waits until the mirror answers a health check."""
    end = time.monotonic() + 30
    while mirror.get("/healthz")[0] != 200:
        if time.monotonic() > end:
            raise Failure(f"no answer\n{mirror.log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def watch(mirror: Mirror, seconds: float) -> float:
    """Samples the mirror for this number of seconds. Returns the slowest health check, infinite without an answer."""
    slowest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        mirror.sample.take(mirror.process.pid)
        status, taken = mirror.get("/healthz")
        slowest = max(slowest, taken if status == 200 else float("inf"))
        time.sleep(0.1)
    return slowest


def hold(source: str, opening: bytes, connected: contextlib.ExitStack) -> socket.socket | None:
    """A connection to the status page that sends `opening`, unless it is refused."""
    try:
        connection = socket.create_connection((MIRROR, HTTP), timeout=2, source_address=(source, 0))
    except OSError:
        return None
    connected.enter_context(connection)
    with contextlib.suppress(OSError):
        connection.sendall(opening)
    return connection


def trickle(connections: list[socket.socket | None], beat: int) -> None:
    """Sends one more byte of a header on each."""
    time.sleep(1)
    for connection in connections:
        if connection:
            with contextlib.suppress(OSError):
                connection.sendall(b"%d" % beat)


def file(length: int, root: bytes = b"\x11" * 32) -> Item:
    return {b"": {b"length": length, **({b"pieces root": root} if length else {})}}


def dictionary(tree: Item, name: bytes = b"data.ldb", piece_length: int = 4 << 20, more: Item | None = None) -> bytes:
    return encode({b"file tree": tree, b"meta version": 2, b"name": name, b"piece length": piece_length, **(more or {})})


def nested(depth: int) -> bytes:
    """A file that many directories down."""
    leaf = encode({b"": {b"length": 1, b"pieces root": b"\x11" * 32}})
    return b"d9:file tree" + b"d1:a" * depth + leaf + b"e" * depth + b"12:meta versioni2e4:name1:x12:piece lengthi16384ee"


def infos() -> dict[str, bytes]:
    """Info dictionaries by their fault."""
    markup = "\x1b[31m<script>alert(1)</script>\n{a=\"b\"}".encode()

    def called(name: bytes) -> bytes:
        return dictionary({name: file(1 << 20)}, name)

    claims = b'{"original_filename": "\\u001b[31m<b>", "store_version": 4294967295, "block_count": 18446744073709551615}'
    return {
        "name that leads away": called(b"../../etc/passwd"),
        "absolute name": called(b"/etc/passwd"),
        "name with a zero": called(b"a\0b"),
        "empty name": called(b""),
        "name with markup": called(markup),
        "long name": called("\U0001f600".encode() * 255),
        "name that is not UTF-8": called(b"\xff\xfe"),
        "name of our own file": called(b"snapshot.torrent"),
        "directories that lead away": dictionary({b"..": {b"..": {b"x": file(5)}}}),
        "names that differ by case": dictionary({b"A": file(5), b"a": file(5)}),
        "90 directories": nested(90),
        "3,000 directories": nested(3_000),
        "no bytes": dictionary({b"data.ldb": file(0)}),
        "no files": dictionary({}),
        "2^63 - 1 bytes": dictionary({b"data.ldb": file((1 << 63) - 1)}, piece_length=256 << 20),
        "2^60 bytes": dictionary({b"data.ldb": file(1 << 60)}, piece_length=256 << 20),
        "negative length": dictionary({b"a": file(-1)}),
        "121 GB in pieces of 16 KiB": dictionary({b"data.ldb": file(121 * 10**9)}, piece_length=16384),
        "pieces of no bytes": dictionary({b"x": file(1 << 20)}, b"x", 0),
        "pieces of 2^40 bytes": dictionary({b"x": file(1 << 20)}, b"x", 1 << 40),
        "short root": dictionary({b"x": file(1 << 20, b"r")}, b"x"),
        "a list": b"le",
        "no bencoding": b"\xff" * 1000,
        "bytes after the end": called(b"x") + b"rest",
        "hostile claims": dictionary({b"data.ldb": file(1 << 20)}, more={b"x-snapshot": claims}),
        "nested claims": dictionary({b"data.ldb": file(1 << 20)}, more={b"x-snapshot": b"[" * 500_000}),
        "a million integers": b"d1:al" + b"i1e" * 1_000_000 + b"ee",
        "400,000 nested lists": b"d1:a" + b"l" * 400_000 + b"e" * 400_000 + b"e",
        "40,000 empty files": dictionary({b"%06x" % number: file(0) for number in range(40_000)}),
        "4 MiB in one string": b"d4:junk4194200:" + b"j" * 4_194_200 + b"e",
    }
