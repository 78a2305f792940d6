"""The time from the start of a process with a complete large store until a peer that connects gets its handshake."""

import socket
import subprocess
import sys
import tempfile
import time

from .lab import OURS, Stored, Lab
from .pages import drop
from .processes import PATIENCE, Argument, Row, Watched
from .report import Found, form, median, table, where

RESERVED = bytes(8)


def greets(address: str, store: Stored) -> bool:
    """Whether the listener answers a handshake for this torrent."""
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1) as peer:
            peer.sendall(b"\x13BitTorrent protocol" + RESERVED + bytes.fromhex(store.hash)[:20] + b"-LP0001-start-bench-")
            answer = b""
            while len(answer) < 68:
                more = peer.recv(68 - len(answer))
                if not more:
                    return False
                answer += more
        return answer[28:48] == bytes.fromhex(store.hash)[:20]
    except OSError:
        return False


def until_greeted(address: str, store: Stored, begin: float) -> float:
    while not greets(address, store):
        if time.monotonic() - begin > PATIENCE:
            raise RuntimeError("never seeds")
        time.sleep(0.001)
    return time.monotonic() - begin


def session(lab: Lab, store: Stored) -> float:
    begin = time.monotonic()
    with Watched(lab.seed(OURS, store)) as seeder:
        took = until_greeted(str(seeder.hear("listening")["listening"]), store, begin)
        seeder.stop("user")
    return took


def program(lab: Lab, store: Stored) -> float:
    # The program does not report a port of its own choice, so this one was free a moment ago.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
    data = store.directory.parent.parent
    command: list[Argument] = [lab.mirror, "--data-dir", data, "--listen", address, "--dht-port", "0", "--dht-bootstrap", "127.0.0.1:1"]
    with tempfile.TemporaryFile() as log:
        begin = time.monotonic()
        running = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            took = until_greeted(address, store, begin)
        finally:
            running.terminate()
            running.wait(PATIENCE)
    return took


def measure(lab: Lab) -> Found:
    store = lab.hole()
    notes = [store.torrent, store.directory / "progress", *(store.directory / "leaves").iterdir()]
    rows: list[Row] = []
    ways = {"library: open the store, seed": session, "nano-snapshot-mirror, from its data directory": program}
    for _ in range(lab.size.repeat):
        for name, way in ways.items():
            for cache in ("warm", "cold"):
                for note in notes:
                    if cache == "cold":
                        drop(note)
                    else:
                        note.read_bytes()
                rows.append({"way": name, "cache": cache, "seconds": way(lab, store)})
    lines = []
    for name in ways:
        warm, cold = (median(where(rows, way=name, cache=cache), "seconds") for cache in ("warm", "cold"))
        lines.append([name, form(".3f")(warm), form(".3f")(cold)])
        print(f"  {name}: {warm:.3f} s", file=sys.stderr)
    text = f"{lab.size.held_bytes / 1e9:.0f} GB stored, complete; medians of {lab.size.repeat}; seconds from the start of the process to the first handshake.\n\n"
    return Found("Start", text + table(["what starts", "its metadata in the page cache", "its metadata on disk only"], lines), rows)
