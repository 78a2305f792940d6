# Passing proves: a mirror whose power is cut in the middle of a download goes on where it was after the reboot, fetches not everything again,
# and never calls a false byte good.

DATA = "/var/lib/nano-snapshot-mirror"
CONTENT = f"{DATA}/current/daily/content/data.ldb"
RECEIVED = "awk '/eth1:/ { print $2 }' /proc/net/dev"


def received():
    """Bytes that came in through the network since the last boot."""
    return int(mirror.succeed(RECEIVED))


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit("nano-snapshot-mirror.service")
mirror.wait_for_unit("nano-snapshot-mirror.service")

with subtest("a slow download begins"):
    producer.succeed("tc qdisc add dev eth1 root tbf rate 700kbit burst 32k latency 400ms")
    producer.succeed("systemctl start nano-snapshot-mirror-producer.service")
    whole = int(producer.succeed(f"stat --format=%s {CONTENT}"))
    # Half a minute in, what was received by then is claimed durably.
    mirror.wait_until_succeeds(f"test $({RECEIVED}) -gt {whole * 4 // 5}")
    mirror.fail(f"test -e {CONTENT}")

with subtest("the power is cut, and comes back"):
    mirror.crash()
    mirror.start()
    # Still slow, so that little came before this is read.
    before = received()
    mirror.wait_for_unit("nano-snapshot-mirror.service")
    producer.succeed("tc qdisc del dev eth1 root")

with subtest("the download goes on, and ends with what the producer published"):
    mirror.wait_for_file(CONTENT)
    t.assertEqual(mirror.succeed(f"sha256sum < {CONTENT}"), producer.succeed(f"sha256sum < {CONTENT}"))
    mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")
    again = received() - before
    log.info(f"{again} bytes of {whole} came after the power cut")
    t.assertLess(again, whole * 2 // 3)
