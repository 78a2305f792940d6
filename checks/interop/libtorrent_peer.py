"""A libtorrent session driven over standard input: one JSON command a line in, one JSON answer a line out.

Run by the interop harness and the benches with a Python that has PyPI's `libtorrent`. Every answer holds either
`"ok": true` and the command's results or `"error"`. The process ends with its standard input.
Alerts are only ever popped, never waited for: some releases hand out dangling ones.
"""

import hashlib
import json
import os
import resource
import sys
import time
from typing import Any

import libtorrent as lt

ALERTS = (
    lt.alert.category_t.error_notification
    | lt.alert.category_t.peer_notification
    | lt.alert.category_t.status_notification
    | lt.alert.category_t.connect_notification
    | lt.alert.category_t.dht_notification
    | lt.alert.category_t.storage_notification
)

# TCP only and nothing that leaves the machine; several peers may share one loopback address.
SETTINGS = {
    "alert_mask": int(ALERTS),
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "connections_limit": 400,
    "active_limit": -1,
    "active_downloads": -1,
    "active_seeds": -1,
    "dht_bootstrap_nodes": "",
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "min_reconnect_time": 1,
    # One loopback address asks more often than libtorrent lets a stranger ask.
    "dht_block_ratelimit": 10_000,
    "dht_upload_rate_limit": 100_000_000,
}



def poll(until: Any, timeout: float, every: float = 0.02) -> Any:
    """Asks `until` again and again until its answer is true or the time is over; returns the last answer."""
    end = time.monotonic() + timeout
    while True:
        answer = until()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(every)


class Peer:
    def __init__(self) -> None:
        self.session: lt.session | None = None
        self.ring: list[lt.session] = []
        self.handles: list[lt.torrent_handle] = []
        self.log: list[str] = []
        self.flushed: list[lt.torrent_handle] = []
        self.items: list[dict[str, Any]] = []
        self.puts: list[Any] = []

    def pop(self) -> None:
        """Moves what libtorrent's messages into the log, and keeps only the newest part."""
        assert self.session is not None
        for alert in self.session.pop_alerts():
            kind = type(alert).__name__
            if kind == "dht_mutable_item_alert":
                self.items.append(self.read_item(alert))
            elif kind == "cache_flushed_alert":
                self.flushed.append(alert.handle)
            elif kind == "dht_put_alert":
                self.puts.append({"success": alert.num_success, "seq": alert.seq})
            self.log.append(f"{kind}: {alert.message()}")
        del self.log[:-400]

    @staticmethod
    def read_item(alert: Any) -> dict[str, Any]:
        try:
            item = alert.item
            value = item["value"] if isinstance(item, dict) else item
            return {
                "value": bytes(value).hex(),
                "seq": item["seq"],
                "signature": bytes(item["signature"]).hex(),
                "authoritative": bool(item["authoritative"]),
            }
        except Exception as error:  # nothing was found: reading the item of the alert raises
            return {"value": None, "reason": str(error)}

    def start(self, listen: str = "127.0.0.1:0", settings: dict[str, Any] | None = None) -> dict[str, Any]:
        self.session = lt.session({**SETTINGS, "listen_interfaces": listen, **(settings or {})})
        port = poll(self.session.listen_port, 10)
        return {"port": port, "version": lt.__version__}

    def make(self, path: str, out: str, piece_length: int, kind: str, name: str | None = None) -> dict[str, Any]:
        storage = lt.file_storage()
        lt.add_files(storage, path)
        flags = {"hybrid": 0, "v1": 64, "v2": 32}[kind]
        torrent = lt.create_torrent(storage, piece_length, flags)
        lt.set_piece_hashes(torrent, os.path.dirname(path))
        with open(out, "wb") as file:
            file.write(lt.bencode(torrent.generate()))
        info = lt.torrent_info(out)
        hashes = info.info_hashes()
        return {
            "v1": str(hashes.v1) if hashes.has_v1() else None,
            "v2": str(hashes.v2) if hashes.has_v2() else None,
        }

    def add(
        self, save_path: str, torrent: str | None = None, magnet: str | None = None, seed_mode: bool = False
    ) -> dict[str, Any]:
        assert self.session is not None
        if torrent is not None:
            params = lt.add_torrent_params()
            params.ti = lt.torrent_info(torrent)
        else:
            params = lt.parse_magnet_uri(magnet)
        params.save_path = save_path
        params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
        if seed_mode:
            params.flags |= lt.torrent_flags.seed_mode
        self.handles.append(self.session.add_torrent(params))
        return {"id": len(self.handles) - 1}

    def connect(self, id: int, ip: str, port: int) -> dict[str, Any]:
        # 0 as source flags: no hint that the other side supports encryption, so the dial starts in plaintext.
        self.handles[id].connect_peer((ip, port), 0, 0)
        return {}

    def announce(self, id: int, tracker: str) -> dict[str, Any]:
        self.handles[id].add_tracker({"url": tracker, "tier": 0})
        self.handles[id].force_reannounce()
        return {}

    def status(self, id: int) -> dict[str, Any]:
        self.pop()
        status = self.handles[id].status()
        return {
            "state": str(status.state),
            "seeding": status.is_seeding,
            "progress": status.progress,
            "peers": status.num_peers,
            "downloaded": status.total_payload_download,
            "uploaded": status.total_payload_upload,
            "failed": status.total_failed_bytes,
            "redundant": status.total_redundant_bytes,
            "error": status.errc.message() if status.errc.value() else None,
        }

    def wait(self, id: int, timeout: float) -> dict[str, Any]:
        """Waits until the torrent is whole, checked and written: libtorrent calls it whole before its last writes are done."""

        def done() -> bool:
            self.pop()
            return bool(self.handles[id].status().is_seeding)

        reached = poll(done, timeout)
        if reached:
            handle = self.handles[id]
            # Requested for this torrent now; each is also flushed when it completes.
            self.flushed = []
            handle.flush_cache()

            def flushed() -> bool:
                self.pop()
                return handle in self.flushed

            reached = poll(flushed, timeout)
        answer = self.status(id)
        if not reached:
            answer["log"] = self.log[-40:]
        return {"reached": reached, **answer}

    def recheck(self, id: int) -> dict[str, Any]:
        self.handles[id].force_recheck()
        return {}

    def alerts(self) -> dict[str, Any]:
        self.pop()
        taken, self.log = self.log, []
        return {"log": taken}

    def usage(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {"user": usage.ru_utime, "system": usage.ru_stime, "max_rss_kib": usage.ru_maxrss}

    def dht_ring(self, count: int, timeout: float = 20) -> dict[str, Any]:
        """Starts `count` DHT nodes on loopback addresses of their own, which know only each other.

        The node of this peer's own session is the one that the later commands put and get through.
        """
        nodes: list[tuple[str, int]] = []
        for number in range(count):
            ip = f"127.0.0.{10 + number}"
            settings = {**SETTINGS, "listen_interfaces": f"{ip}:0", "enable_dht": True}
            if nodes:
                settings["dht_bootstrap_nodes"] = "{}:{}".format(*nodes[0])
            session = lt.session(settings)
            nodes.append((ip, poll(session.listen_port, 10)))
            self.ring.append(session)
        self.session = self.ring[-1]
        waiting = list(self.ring[1:])

        def joined() -> bool:
            for session in list(waiting):
                if any(type(alert).__name__ == "dht_bootstrap_alert" for alert in session.pop_alerts()):
                    waiting.remove(session)
            return not waiting

        poll(joined, timeout)
        return {"nodes": [f"{ip}:{port}" for ip, port in nodes], "waiting": len(waiting)}

    def dht_put(self, seed: str, public: str, salt: str, value: str, timeout: float = 30) -> dict[str, Any]:
        """Puts `value` as a byte string under one more than the highest sequence number libtorrent finds."""
        assert self.session is not None
        self.puts.clear()
        # libtorrent wants the expanded form of an Ed25519 key (RFC 8032, 5.1.5), not the seed.
        expanded = bytearray(hashlib.sha512(bytes.fromhex(seed)).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 63 | 64
        self.session.dht_put_mutable_item(
            bytes(expanded), bytes.fromhex(public), bytes.fromhex(value), bytes.fromhex(salt)
        )

        def stored() -> bool:
            self.pop()
            return bool(self.puts)

        poll(stored, timeout)
        return self.puts[-1] if self.puts else {"error": "no dht_put_alert in time"}

    def dht_get(self, public: str, salt: str, timeout: float = 30) -> dict[str, Any]:
        assert self.session is not None
        self.items.clear()
        self.session.dht_get_mutable_item(bytes.fromhex(public), bytes.fromhex(salt))

        def settled() -> bool:
            self.pop()
            return bool(self.items)

        poll(settled, timeout)
        found = [item for item in self.items if item.get("value") is not None]
        return {"item": max(found, key=lambda item: item["seq"]) if found else None}


def main() -> None:
    peer = Peer()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peer, command.pop("do"))(**command)
            answer.setdefault("ok", "error" not in answer or answer["error"] is None)
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
