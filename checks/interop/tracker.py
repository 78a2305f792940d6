"""A tiny HTTP tracker (BEP 3, BEP 23) for one test: always returns one peer, for every swarm.

    tracker.py PEER_IP:PEER_PORT

Prints `http://127.0.0.1:PORT/announce` once it listens, then a JSON line for every announce. Ends with its standard input.
"""

import http.server
import ipaddress
import json
import sys
import threading
import urllib.parse


def bencode(value: int | bytes | dict[bytes, object]) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def main() -> None:
    ip, port = sys.argv[1].rsplit(":", 1)
    peer = ipaddress.IPv4Address(ip).packed + int(port).to_bytes(2, "big")

    class Announce(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # latin-1 keeps the raw bytes of the info-hash, which are not text.
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
            swarm = query.get("info_hash", [""])[0].encode("latin-1")
            print(json.dumps({"announce": swarm.hex(), "event": query.get("event", [None])[0]}), flush=True)
            body = bencode({b"interval": 60, b"peers": peer})
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Announce)
    print(f"http://127.0.0.1:{server.server_port}/announce", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
