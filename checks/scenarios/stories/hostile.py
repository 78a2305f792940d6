# Passing proves: a mirror refuses a pointer with a wrong signature and one with a lower number than the last one, and logs the reason; it bans a peer
# that sends false data, and ends with the true snapshot all the same.

def tell(words):
    dht.succeed(f"python3 /etc/scenario/dht.py tell 7000 {words}")


def hears(*words):
    """Waits for an entry of the mirror's journal with all these words."""
    retry(lambda _: logged(mirror, *words), 60)


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)

with subtest("a peer has the snapshot, and turns false"):
    mirror.block()
    snapshot = publish(producer)
    download_with_libtorrent(poisoner, snapshot, producer)
    poisoner.succeed("dd if=/dev/urandom of=/srv/data.ldb bs=64k count=40 conv=notrunc")
    producer.succeed("tc qdisc add dev eth1 root tbf rate 8mbit burst 32k latency 200ms")

with subtest("false data are not kept, their sender is banned, and the snapshot arrives from the honest peer"):
    mirror.unblock()
    mirror.wait_for_file(CONTENT)
    t.assertEqual(digest(mirror), digest(producer))
    hears("peer banned", ":6891")
    mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")

with subtest("a second snapshot is followed"):
    producer.succeed(f"cp --no-preserve=all /etc/scenario/after.ldb {LEDGER}")
    newest = publish(producer)
    t.assertNotEqual(newest, snapshot)
    mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {newest}")

with subtest("a pointer with a lower number is refused"):
    producer.succeed(f"systemctl stop nano-snapshot-mirror-peer.socket {UNIT}")
    tell("rewind 1")
    hears("a pointer is refused", "seq 1 is below 2")
    t.assertEqual(current(mirror), newest)

with subtest("a pointer with a wrong signature is refused"):
    tell("forge")
    hears("look-up failed", "8 answered badly")
    t.assertEqual(current(mirror), newest)
