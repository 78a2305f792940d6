# Passing proves: a data directory that an older version left is taken over as it is: the mirror seeds its snapshot, puts its pointer into a DHT that
# knows nothing of it, and a client gets the ledger from there.

import json
import re

DATA = "/var/lib/nano-snapshot-mirror"
OLD = "/etc/scenario/store-0.1"

def entries(machine):
    """What the mirror told the journal: an entry a line, text and fields together."""
    lines = machine.succeed("journalctl -u nano-snapshot-mirror.service -o json").splitlines()
    return [" ".join(f"{key}={value}" for key, value in json.loads(line).items() if key[0] != "_") for line in lines]


start_all()
dht.wait_for_unit("scenario-dht.service")
mirror.wait_for_unit("nano-snapshot-mirror.service")

with subtest("the data directory of an older version is put in place"):
    mirror.succeed("systemctl stop nano-snapshot-mirror.service nano-snapshot-mirror-peer.socket")
    mirror.succeed(
        f"rm -rf {DATA}/*",
        f"cp --recursive --dereference {OLD}/snapshots {OLD}/streams {DATA}/",
        f"cp --recursive --no-dereference {OLD}/current {DATA}/",
        f"chmod -R u+w {DATA}/",
        f"for one in {DATA}/snapshots/*; do mkdir $one/content; cp /etc/scenario/before.ldb $one/content/data.ldb; done",
        f"chmod 444 {DATA}/snapshots/*/content/data.ldb",
        f"chown -R --no-dereference --reference={DATA}/ {DATA}/",
    )
    mirror.succeed("systemctl start nano-snapshot-mirror-peer.socket nano-snapshot-mirror.service")

with subtest("what is there is read again, and found to be whole"):
    mirror.wait_until_succeeds("journalctl -u nano-snapshot-mirror -o cat | grep 'complete, durable and sealed'")
    fetched = [int(found) for entry in entries(mirror) for found in re.findall(r"(?i)\bfetched=([0-9]+)", entry)]
    t.assertEqual(sum(fetched), 0)

with subtest("a client finds the pointer that the mirror keeps alive, and gets the ledger"):
    client.wait_until_succeeds("nano-snapshot-mirror --once --extract --data-dir /srv/ledger")
    client.succeed("cmp /srv/ledger/data.ldb /etc/scenario/before.ldb")
