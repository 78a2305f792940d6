# Shared by the scripts of scenarios; placed before each of them.

import json
import re

DATA = "/var/lib/nano-snapshot-mirror"
CONTENT = f"{DATA}/current/daily/content/data.ldb"
UNIT = "nano-snapshot-mirror.service"
LEDGER = "/var/lib/nano/Nano/data.ldb"


def digest(machine, path=CONTENT):
    return machine.succeed(f"sha256sum < {path}").split()[0]


def current(machine):
    """The snapshot that is current."""
    return machine.succeed(f"basename $(readlink {DATA}/current/daily)").strip()


def publish(machine):
    """Makes a snapshot of the node's ledger, independent of the timer. Returns its id."""
    machine.succeed("systemctl start nano-snapshot-mirror-producer.service")
    return current(machine)


def received(machine):
    """Bytes received over the network since the last boot."""
    return int(machine.succeed("awk '/eth1:/ { print $2 }' /proc/net/dev"))


def entries(machine):
    """The journal of the mirror: an entry a line, text and fields together."""
    lines = machine.succeed(f"journalctl -u {UNIT} -o json").splitlines()
    return [" ".join(f"{key}={value}" for key, value in json.loads(line).items() if key[0] != "_") for line in lines]


def logged(machine, *words):
    """How many entries of the mirror's journal have all these words."""
    return sum(all(word in entry for word in words) for entry in entries(machine))


def numbers(machine, name):
    """The values of a field in the mirror's journal, in turn."""
    return [int(found) for entry in entries(machine) for found in re.findall(rf"(?i)\b{name}=([0-9]+)", entry)]


def download_with_libtorrent(machine, snapshot, seed):
    """A libtorrent client downloads a snapshot from a mirror to /srv/data.ldb, and seeds it at port 6891 until the unit `libtorrent` is stopped."""
    address = seed.succeed(f"getent ahostsv4 {seed.name} | awk '$1 !~ /^127/ {{ print $1; exit }}'").strip()
    commands = [
        {"do": "start", "listen": "0.0.0.0:6891"},
        {"do": "add", "save_path": "/srv", "magnet": f"magnet:?xt=urn:btmh:1220{snapshot}"},
        {"do": "connect", "id": 0, "ip": address, "port": 6881},
        {"do": "wait", "id": 0, "timeout": 60},
    ]
    lines = "".join(json.dumps(command) + "\n" for command in commands)
    machine.succeed(
        f"mkdir -p /srv && cat > /srv/commands <<'END'\n{lines}END",
        "systemd-run --unit=libtorrent --setenv=PATH=\"$PATH\" --property=WorkingDirectory=/srv $(command -v bash) -c "
        "'(cat /srv/commands; sleep infinity) | $(command -v python3) /etc/scenario/libtorrent_peer.py > /srv/answers'",
    )
    machine.wait_until_succeeds("grep '\"reached\": true' /srv/answers")
