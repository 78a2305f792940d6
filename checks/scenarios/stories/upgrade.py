# Passing proves: a data directory of an older version is used without changes: the mirror seeds its snapshot, puts its pointer into a DHT that
# knows nothing of it, and a client gets the ledger from there.

OLD = "/etc/scenario/store-0.1"

start_all()
dht.wait_for_unit("scenario-dht.service")
mirror.wait_for_unit(UNIT)

with subtest("the data directory of an older version is installed"):
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
    t.assertEqual(sum(numbers(mirror, "fetched")), 0)

with subtest("a client finds the pointer that the mirror keeps alive, and gets the ledger"):
    client.wait_until_succeeds("nano-snapshot-mirror --once --extract --data-dir /srv/ledger")
    client.succeed("cmp /srv/ledger/data.ldb /etc/scenario/before.ldb")
