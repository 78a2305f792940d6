# Passing proves: a libtorrent client downloads a snapshot from a mirror with nothing but its info-hash and its address, and a mirror gets the whole
# snapshot from that client when nobody else has it.

import json

DATA = "/var/lib/nano-snapshot-mirror"
CONTENT = f"{DATA}/current/daily/content/data.ldb"
PEER = "/etc/scenario/libtorrent_peer.py"

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit("nano-snapshot-mirror.service")

with subtest("libtorrent leeches from a mirror"):
    late.wait_for_unit("nano-snapshot-mirror.service")
    late.succeed("systemctl stop nano-snapshot-mirror.service nano-snapshot-mirror-{peer,http,control}.socket")
    producer.succeed("systemctl start nano-snapshot-mirror-producer.service")
    published = producer.succeed(f"sha256sum < {CONTENT}")
    snapshot = producer.succeed(f"basename $(readlink {DATA}/current/daily)").strip()
    address = producer.succeed("getent ahostsv4 producer | awk '$1 !~ /^127/ { print $1; exit }'").strip()
    commands = [
        {"do": "start", "listen": "0.0.0.0:6891"},
        {"do": "add", "save_path": "/srv", "magnet": f"magnet:?xt=urn:btmh:1220{snapshot}"},
        {"do": "connect", "id": 0, "ip": address, "port": 6881},
        {"do": "wait", "id": 0, "timeout": 60},
    ]
    lines = "".join(json.dumps(command) + "\n" for command in commands)
    foreign.succeed(
        "mkdir -p /srv",
        f"cat > /srv/commands <<'END'\n{lines}END",
        "systemd-run --unit=foreign --property=WorkingDirectory=/srv "
        f"$(command -v bash) -c '(cat /srv/commands; sleep infinity) | $(command -v python3) {PEER} > /srv/answers'",
    )
    foreign.wait_until_succeeds("grep '\"reached\": true' /srv/answers")
    t.assertEqual(foreign.succeed("sha256sum < /srv/data.ldb"), published)

with subtest("the producer is switched off"):
    producer.execute("systemctl poweroff --no-block")
    producer.wait_for_shutdown()

with subtest("libtorrent seeds to a mirror"):
    late.succeed("systemctl start nano-snapshot-mirror-{peer,http,control}.socket nano-snapshot-mirror.service")
    late.wait_for_file(CONTENT)
    t.assertEqual(late.succeed(f"sha256sum < {CONTENT}"), published)
