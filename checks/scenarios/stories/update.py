# Passing proves: when the node's ledger has grown and the producer publishes again, a mirror takes what is unchanged from the snapshot it
# holds and only the rest from its peer, switches `current`, keeps the older snapshot, and still seeds both.

import json
import re

DATA = "/var/lib/nano-snapshot-mirror"
CONTENT = f"{DATA}/current/daily/content/data.ldb"


def digest(machine, path):
    return machine.succeed(f"sha256sum {path}").split()[0]


def blocks(path):
    """The digests of all blocks of 16 KiB."""
    return mirror.succeed(f"split --bytes=16384 --filter=sha256sum {path}").split()[::2]


def entries(machine):
    """What the mirror told the journal: an entry a line, text and fields together."""
    lines = machine.succeed("journalctl -u nano-snapshot-mirror.service -o json").splitlines()
    return [" ".join(f"{key}={value}" for key, value in json.loads(line).items() if key[0] != "_") for line in lines]


def publish():
    producer.succeed("systemctl start nano-snapshot-mirror-producer.service")
    published = digest(producer, CONTENT)
    mirror.wait_until_succeeds(f"sha256sum {CONTENT} | grep {published}")
    return published


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit("nano-snapshot-mirror.service")
mirror.wait_for_unit("nano-snapshot-mirror.service")

with subtest("the first snapshot arrives whole"):
    first = publish()
    older = mirror.succeed(f"readlink {DATA}/current/daily").strip()

with subtest("after a day of the node the second one arrives, and current switches"):
    producer.succeed("cp --no-preserve=all /etc/scenario/after.ldb /var/lib/nano/Nano/data.ldb")
    second = publish()
    t.assertNotEqual(first, second)
    newer = mirror.succeed(f"readlink {DATA}/current/daily").strip()
    t.assertNotEqual(older, newer)

with subtest("only what changed travelled"):
    old, new = (blocks(f"{DATA}/current/{snapshot}/content/data.ldb") for snapshot in [older, newer])
    shared = sum(block in set(old) for block in new)
    reused = [int(found) for entry in entries(mirror) for found in re.findall(r"(?i)\breused=([0-9]+)", entry)]
    log.info(f"{shared} of {len(new)} blocks were held; bytes reused by each download: {reused}")
    t.assertGreater(shared, 0)
    t.assertEqual(reused, [0, shared * 16384])

with subtest("both are kept, whole and seeded"):
    for snapshot in [older, newer]:
        mirror.succeed(f"test -e {DATA}/current/{snapshot}/content/data.ldb")
    t.assertEqual(mirror.succeed(f"ls {DATA}/snapshots | wc -l").strip(), "2")
    mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")
