"""One side of a measured transfer by libtorrent; prints JSON lines.

    libtorrent_transfer.py seed  TORRENT PARENT           prints {"listening": "ADDRESS:PORT"}, ends with standard input
    libtorrent_transfer.py fetch TORRENT PARENT PEER...   downloads, prints the result, ends; after --seconds, whole or not. What stands in
                                                          PARENT already is checked first, and kept as far as it is right

The last line of both is the result: seconds from the call that adds the torrent to the first and last payload byte, CPU seconds of this
process from the same call on, and its greatest resident set, which counts files that it maps. `--set name=value` changes one setting.
"""

import argparse
import json
import resource
import sys
import time

import libtorrent as lt

# The fixed settings of the comparison. Everything else is libtorrent's default; docs/performance.md lists what was tried.
SETTINGS: dict[str, object] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": 0,
}

# Seconds between two looks at the progress; what the times are exact to.
LOOK = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=["seed", "fetch"])
    parser.add_argument("torrent")
    parser.add_argument("parent")
    parser.add_argument("peers", nargs="*")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seed-mode", action="store_true", help="believe the content piece by piece, hashing each before it is sent first")
    parser.add_argument("--check", action="store_true", help="hash all of the content before seeding it")
    options = parser.parse_args()
    changed = {name: int(value) for name, _, value in (one.partition("=") for one in options.set)}
    session = lt.session(SETTINGS | {"listen_interfaces": f"{options.address}:0"} | changed)
    while not session.listen_port():
        time.sleep(LOOK)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(options.torrent)
    params.save_path = options.parent
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if options.role == "seed" and options.seed_mode:
        params.flags |= lt.torrent_flags.seed_mode
    elif options.role == "seed" and not options.check:
        params.have_pieces = [True] * params.ti.num_pieces()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began, begin = time.time(), time.monotonic()
    handle = session.add_torrent(params)
    first = None
    status = handle.status()
    if options.role == "seed":
        while options.check and not handle.status().is_seeding:
            time.sleep(LOOK)
        print(json.dumps({"listening": f"{options.address}:{session.listen_port()}"}), flush=True)
        sys.stdin.read()
    else:
        for peer in options.peers:
            ip, port = peer.rsplit(":", 1)
            handle.connect_peer((ip, int(port)), 0, 0)
        while time.monotonic() - begin < options.seconds:
            status = handle.status()
            if first is None and status.total_payload_download > 0:
                first = time.monotonic() - begin
            if status.is_seeding:
                break
            time.sleep(LOOK)
    last = time.monotonic() - begin
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "began": began,
                "first_byte": first,
                "last_byte": last,
                "bytes": status.total_done,
                "downloaded": status.total_payload_download,
                "wasted": status.total_redundant_bytes + status.total_failed_bytes,
                "user": usage.ru_utime - before.ru_utime,
                "system": usage.ru_stime - before.ru_stime,
                "peak_rss_kib": usage.ru_maxrss,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
