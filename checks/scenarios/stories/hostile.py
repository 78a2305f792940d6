# Passing proves: a mirror refuses a pointer with a wrong signature and one with a lower number than it has seen, and says why; it bans a peer
# that sends false data, and ends with the true snapshot all the same.

import json

DATA = "/var/lib/nano-snapshot-mirror"
CONTENT = f"{DATA}/current/daily/content/data.ldb"
PEER = "/etc/scenario/libtorrent_peer.py"


def tell(words):
    dht.succeed(f"python3 /etc/scenario/dht.py tell 7000 {words}")


def current(machine):
    return machine.succeed(f"basename $(readlink {DATA}/current/daily)").strip()


def entries(machine):
    """What the mirror told the journal: an entry a line, text and fields together."""
    lines = machine.succeed("journalctl -u nano-snapshot-mirror.service -o json").splitlines()
    return [" ".join(f"{key}={value}" for key, value in json.loads(line).items() if key[0] != "_") for line in lines]


def hears(*words):
    """Waits for an entry of the mirror's journal with all these words."""
    retry(lambda _: any(all(word in entry for word in words) for entry in entries(mirror)), 60)


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit("nano-snapshot-mirror.service")
mirror.wait_for_unit("nano-snapshot-mirror.service")

with subtest("a peer has the snapshot, and turns false"):
    mirror.block()
    producer.succeed("systemctl start nano-snapshot-mirror-producer.service")
    snapshot = current(producer)
    address = producer.succeed("getent ahostsv4 producer | awk '$1 !~ /^127/ { print $1; exit }'").strip()
    commands = [
        {"do": "start", "listen": "0.0.0.0:6891"},
        {"do": "add", "save_path": "/srv", "magnet": f"magnet:?xt=urn:btmh:1220{snapshot}"},
        {"do": "connect", "id": 0, "ip": address, "port": 6881},
        {"do": "wait", "id": 0, "timeout": 60},
    ]
    lines = "".join(json.dumps(command) + "\n" for command in commands)
    poisoner.succeed(
        f"mkdir -p /srv && cat > /srv/commands <<'END'\n{lines}END",
        "systemd-run --unit=poison --property=WorkingDirectory=/srv "
        f"$(command -v bash) -c '(cat /srv/commands; sleep infinity) | $(command -v python3) {PEER} > /srv/answers'",
    )
    poisoner.wait_until_succeeds("grep '\"reached\": true' /srv/answers")
    poisoner.succeed("dd if=/dev/urandom of=/srv/data.ldb bs=64k count=40 conv=notrunc")
    producer.succeed("tc qdisc add dev eth1 root tbf rate 8mbit burst 32k latency 200ms")

with subtest("false data are not kept, their sender is banned, and the snapshot arrives from the honest peer"):
    mirror.unblock()
    mirror.wait_for_file(CONTENT)
    t.assertEqual(mirror.succeed(f"sha256sum < {CONTENT}"), producer.succeed(f"sha256sum < {CONTENT}"))
    hears("peer banned", ":6891")
    mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")

with subtest("a second snapshot is followed"):
    producer.succeed("cp --no-preserve=all /etc/scenario/after.ldb /var/lib/nano/Nano/data.ldb")
    producer.succeed("systemctl start nano-snapshot-mirror-producer.service")
    newest = current(producer)
    t.assertNotEqual(newest, snapshot)
    mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {newest}")

with subtest("a pointer with a lower number is refused"):
    producer.succeed("systemctl stop nano-snapshot-mirror-peer.socket nano-snapshot-mirror.service")
    tell("rewind 1")
    hears("item refused", "seq 1 is below 2")
    t.assertEqual(current(mirror), newest)

with subtest("a pointer with a wrong signature is refused"):
    tell("forge")
    hears("look-up failed", "8 answered badly")
    t.assertEqual(current(mirror), newest)
