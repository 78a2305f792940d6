# Passing proves: systemd holds the sockets, so that a connection starts the mirror and no connection is refused while it restarts; a mirror that
# hangs is killed by the watchdog and comes back; the signing key is readable by nobody but the producer, and never logged; and what the
# units forbid is forbidden.

UNIT = "nano-snapshot-mirror.service"
KEY = "/etc/nano-snapshot-mirror/producer.key"

# Connects again and again for so many seconds; prints how often it was let in, and fails when it was refused once.
CONNECT = """
import socket, sys, time
end, count = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    socket.create_connection(("producer", 6881), timeout=20).close()
    count += 1
    time.sleep(0.02)
print(count)
"""

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
producer.succeed("systemctl start nano-snapshot-mirror-producer.service")


def status(name):
    """A line of /proc/PID/status of the mirror."""
    line = producer.succeed(f"grep ^{name}: /proc/$(systemctl show -P MainPID {UNIT})/status")
    return line.split(":")[1].strip()


def in_its_world(command):
    """`command` as root, but seeing the file system as the mirror sees it."""
    return f"nsenter --target=$(systemctl show -P MainPID {UNIT}) --mount -- {command}"


with subtest("a connection starts the mirror"):
    producer.succeed(f"systemctl stop {UNIT}")
    producer.require_unit_state(UNIT, "inactive")
    client.succeed("exec 3<>/dev/tcp/producer/6881")
    producer.wait_for_unit(UNIT)

with subtest("no connection is refused while it restarts"):
    client.succeed(f"cat > /tmp/connect.py <<'END'\n{CONNECT}END")
    client.succeed("systemd-run --unit=connecting --property=RemainAfterExit=yes $(command -v python3) /tmp/connect.py 6")
    before = producer.succeed(f"systemctl show -P MainPID {UNIT}")
    producer.succeed(f"systemctl restart {UNIT}", f"systemctl restart {UNIT}")
    t.assertNotEqual(before, producer.succeed(f"systemctl show -P MainPID {UNIT}"))
    client.wait_until_succeeds("systemctl show -P SubState connecting.service | grep exited")
    log.info(client.succeed("journalctl -u connecting.service -o cat"))
    client.succeed("systemctl show -P Result connecting.service | grep -x success")

with subtest("a reload is taken without a restart"):
    before = producer.succeed(f"systemctl show -P MainPID {UNIT}")
    producer.succeed(f"systemctl reload {UNIT}")
    t.assertEqual(before, producer.succeed(f"systemctl show -P MainPID {UNIT}"))

with subtest("status and metrics are served, and only to this machine"):
    producer.succeed("curl --fail --silent http://127.0.0.1:9109/healthz")
    producer.succeed("curl --fail --silent http://127.0.0.1:9109/metrics | grep ^nano_snapshot")
    client.fail("timeout 2 bash -c 'exec 3<>/dev/tcp/producer/9109'")

with subtest("commands are taken from root, and from nobody else"):
    producer.succeed("nano-snapshot-mirror status --alive")
    t.assertEqual(producer.succeed("stat --format=%a:%U:%G /run/nano-snapshot-mirror/control.sock").strip(), "660:root:nano-snapshot-mirror")

with subtest("a mirror that hangs is killed and started again"):
    producer.succeed(
        f"mkdir -p /run/systemd/system/{UNIT}.d",
        f"printf '[Service]\\nWatchdogSec=4s\\nRestartSec=100ms\\n' > /run/systemd/system/{UNIT}.d/test.conf",
        f"systemctl daemon-reload && systemctl restart {UNIT}",
        f"kill -STOP $(systemctl show -P MainPID {UNIT})",
    )
    producer.wait_until_succeeds(f"systemctl show -P NRestarts {UNIT} | grep -x 1")
    producer.wait_for_unit(UNIT)
    producer.succeed("journalctl | grep 'Watchdog timeout'")

with subtest("the key is the producer's alone"):
    for user in ["nano-snapshot-mirror", "nano", "nobody"]:
        producer.fail(f"runuser -u {user} -- cat {KEY}")
    producer.fail(f"journalctl -o export | grep -ai $(head -c 64 {KEY})")
    producer.fail(f"grep -r $(head -c 64 {KEY}) /var/lib/nano-snapshot-mirror /run/credentials")
    t.assertNotEqual(
        producer.succeed("systemctl show -P User nano-snapshot-mirror-producer"), producer.succeed(f"systemctl show -P User {UNIT}")
    )

with subtest("what the units forbid is forbidden"):
    producer.fail(in_its_world("touch /etc/forbidden"))
    producer.fail(in_its_world("touch /usr/forbidden"))
    t.assertEqual(status("NoNewPrivs"), "1")
    t.assertEqual(status("Seccomp"), "2")
    t.assertEqual(int(status("CapBnd"), 16), 0)
    t.assertEqual(int(status("CapEff"), 16), 0)
    t.assertNotEqual(status("Uid").split()[0], "0")
    t.assertEqual(producer.succeed("systemctl show -P PrivateNetwork nano-snapshot-mirror-producer").strip(), "yes")
