# Passing proves: a timer makes a snapshot of a node's ledger and publishes it; two mirrors find it by its pointer alone, fetch, verify and
# seed it; and with the producer switched off, a client with one command ends with a ledger that is the producer's, byte for byte.

start_all()
dht.wait_for_unit("scenario-dht.service")

with subtest("the timer publishes the node's ledger"):
    producer.wait_for_unit(UNIT)
    producer.wait_for_unit("nano-snapshot-mirror-producer.timer")
    producer.wait_for_file(CONTENT)
    published = digest(producer)

with subtest("two mirrors find it, fetch it and make it current"):
    for mirror in [first, second]:
        mirror.wait_for_unit(UNIT)
        mirror.wait_for_file(CONTENT)
        t.assertEqual(digest(mirror), published)

with subtest("the same ledger is not published twice"):
    producer.wait_until_succeeds("journalctl -u nano-snapshot-mirror-producer.service | grep unchanged")
    t.assertEqual(producer.succeed(f"ls {DATA}/snapshots | wc -l").strip(), "1")

with subtest("the producer is switched off"):
    producer.execute("systemctl poweroff --no-block")
    producer.wait_for_shutdown()

with subtest("a client gets the ledger from the mirrors"):
    client.succeed("nano-snapshot-mirror --once --extract --data-dir /srv/ledger")
    t.assertEqual(digest(client, "/srv/ledger/data.ldb"), published)
    client.succeed("nano-snapshot-mirror verify /srv/ledger/data.ldb")
