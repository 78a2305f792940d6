"""One side of a measured transfer by libtorrent; prints JSON lines.

    libtorrent_transfer.py seed TORRENT PARENT          prints {"listening": "127.0.0.1:PORT"}, ends with standard input
    libtorrent_transfer.py fetch TORRENT PARENT PEER    downloads, prints the result, ends

The last line of both is the result: seconds from the call that adds the torrent to the first and last payload byte, CPU seconds of this
process, and its greatest resident set, which counts files that it maps.
"""

import json
import resource
import sys
import time

import libtorrent as lt

# What the comparison holds fixed. Everything else is libtorrent's default.
SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": 0,
}


def main() -> None:
    role, torrent, parent = sys.argv[1:4]
    session = lt.session(SETTINGS)
    while not session.listen_port():
        time.sleep(0.005)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = parent
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if role == "seed":
        params.flags |= lt.torrent_flags.seed_mode
    begin = time.monotonic()
    handle = session.add_torrent(params)
    first = None
    if role == "seed":
        print(json.dumps({"listening": f"127.0.0.1:{session.listen_port()}"}), flush=True)
        sys.stdin.read()
    else:
        ip, port = sys.argv[4].rsplit(":", 1)
        handle.connect_peer((ip, int(port)), 0, 0)
        while True:
            status = handle.status()
            if first is None and status.total_payload_download > 0:
                first = time.monotonic() - begin
            if status.is_seeding:
                break
            time.sleep(0.005)
    last = time.monotonic() - begin
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "first_byte": first,
                "last_byte": last,
                "user": usage.ru_utime,
                "system": usage.ru_stime,
                "peak_rss_kib": usage.ru_maxrss,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
