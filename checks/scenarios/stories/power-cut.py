# Passing proves: a mirror whose power is cut during a download continues after the reboot, does not fetch everything again,
# and does not count content as verified that the disk lost.

# What a power cut does to a file: some of the blocks that were written last are as if they never were. Prints how many these are.
LOSE = """
import glob, sys
lost = 0
[path] = glob.glob("/var/lib/nano-snapshot-mirror/snapshots/*/content/data.ldb")
with open(path, "r+b") as file:
    size = file.seek(0, 2)
    for at in range(0, size, 8 * 16384):
        file.seek(at)
        if any(file.read(16384)):
            file.seek(at)
            file.write(bytes(16384))
            lost += 1
print(lost)
"""

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)

with subtest("a slow download begins"):
    producer.succeed("tc qdisc add dev eth1 root tbf rate 4mbit burst 32k latency 400ms")
    publish(producer)
    whole = int(producer.succeed(f"stat --format=%s {CONTENT}"))
    retry(lambda _: received(mirror) > whole * 3 // 4, 60)
    mirror.fail(f"test -e {CONTENT}")

with subtest("the power is cut, and comes back"):
    # What it wrote last does not reach the disk.
    mirror.succeed(f"systemctl kill --signal=STOP {UNIT}", "sync")
    lost = int(mirror.succeed(f"python3 - <<'END'\n{LOSE}END"))
    t.assertGreater(lost, 8)
    mirror.succeed("sync")
    mirror.crash()
    mirror.start()
    before = received(mirror)
    mirror.wait_for_unit(UNIT)
    producer.succeed("tc qdisc del dev eth1 root")

with subtest("the download goes on, and ends with what the producer published"):
    mirror.wait_for_file(CONTENT)
    # A journal that were believed without reading what it names would leave the lost blocks in it.
    t.assertEqual(digest(mirror), digest(producer))
    mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")
    again = received(mirror) - before
    log.info(f"{again} bytes of {whole} came after the power cut, {lost * 16384} were lost")
    t.assertLess(again, whole * 2 // 3)
    t.assertGreater(again, lost * 16384)
