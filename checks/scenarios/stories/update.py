# Passing proves: when the node's ledger has grown and the producer publishes again, a mirror reuses what is unchanged from the snapshot that it
# has, downloads only the rest from its peer, switches `current`, keeps the older snapshot, and still seeds both.


def blocks(snapshot):
    """The digests of all blocks of 16 KiB, as they were published."""
    return producer.succeed(f"split --bytes=16384 --filter=sha256sum {DATA}/snapshots/{snapshot}/content/data.ldb").split()[::2]


def arrives(snapshot):
    mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {snapshot}")
    t.assertEqual(digest(mirror), digest(producer))


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)

with subtest("the first snapshot arrives whole"):
    older = publish(producer)
    arrives(older)
    before = received(mirror)

with subtest("after a day of the node the second one arrives, and current switches"):
    producer.succeed(f"cp --no-preserve=all /etc/scenario/after.ldb {LEDGER}")
    newer = publish(producer)
    t.assertNotEqual(older, newer)
    arrives(newer)

with subtest("only what changed travelled"):
    old, wanted = set(blocks(older)), blocks(newer)
    shared = sum(block in old for block in wanted)
    reused = numbers(mirror, "reused")
    changed = (len(wanted) - shared) * 16384
    came = received(mirror) - before
    log.info(f"{shared} of {len(wanted)} blocks were stored; bytes reused by each download: {reused}; {changed} had changed, {came} came")
    t.assertGreater(shared, 0)
    t.assertEqual(reused, [0, shared * 16384])
    # With the packets' headers, leaf hashes and the DHT.
    t.assertLess(came, changed * 5 // 4)

with subtest("both are kept, whole and seeded"):
    t.assertEqual(mirror.succeed(f"ls {DATA}/snapshots").split(), sorted([older, newer]))
    said = mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")
    for snapshot in [older, newer]:
        t.assertIn(f"{snapshot}: all ", said)
        producer.succeed(f"python3 /etc/scenario/knock.py mirror 6881 {snapshot}")
    producer.fail(f"python3 /etc/scenario/knock.py mirror 6881 {'00' * 32}")
