# Passing proves: systemd owns the sockets, so that a connection starts the mirror and no connection is refused while it restarts; a mirror that
# hangs is killed by the watchdog and restarts; only the producer can read the signing key, and it is never logged; and what the
# units forbid is forbidden.

KEY = "/etc/nano-snapshot-mirror/producer.key"
CONFIG = "/etc/nano-snapshot-mirror/config.toml"

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)


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

with subtest("a mirror holds a snapshot and is in the middle of the next"):
    first = publish(producer)
    mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {first}")
    producer.succeed("tc qdisc add dev eth1 root tbf rate 4mbit burst 32k latency 400ms")
    producer.succeed(f"cp --no-preserve=all /etc/scenario/after.ldb {LEDGER}")
    newest = publish(producer)
    mirror.wait_for_file(f"{DATA}/snapshots/{newest}/content/data.ldb")

with subtest("no connection is refused while it restarts"):
    client.succeed(
        "systemd-run --unit=knocking --property=RemainAfterExit=yes "
        f"$(command -v python3) /etc/scenario/knock.py mirror 6881 {first} /tmp/enough"
    )
    for restarts in [1, 2, 3]:
        before = mirror.succeed(f"systemctl show -P MainPID {UNIT}")
        mirror.succeed(f"systemctl restart {UNIT}")
        t.assertNotEqual(before, mirror.succeed(f"systemctl show -P MainPID {UNIT}"))
        retry(lambda _: logged(mirror, "resuming", newest) >= restarts, 30)
        t.assertEqual(current(mirror), first)
    mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {newest}")
    t.assertEqual(digest(mirror), digest(producer))
    client.succeed("touch /tmp/enough")
    client.wait_until_succeeds("systemctl show -P SubState knocking.service | grep exited")
    said = client.succeed("journalctl -u knocking.service -o cat | grep ^in=")
    log.info(said.strip())
    client.succeed("systemctl show -P Result knocking.service | grep -x success")
    entered, answered, _ = [int(count) for count in re.findall("=([0-9]+)", said)]
    t.assertGreater(answered, 100)
    # Four connect in parallel; a restart may cut off those that it is serving.
    t.assertGreaterEqual(answered, entered - 3 * 4)

with subtest("a reload takes over what has changed, and refuses mistakes, without a restart"):
    before = mirror.succeed(f"systemctl show -P MainPID {UNIT}")
    mirror.succeed(f"sed -i 's/^poll-interval.*/poll-interval = \"3s\"/' {CONFIG}", f"systemctl reload {UNIT}")
    retry(lambda _: logged(mirror, "now in effect: poll-interval"), 30)
    mirror.succeed(f"sed -i 's/^poll-interval.*/poll-interval = \"never\"/' {CONFIG}", f"systemctl reload {UNIT}")
    retry(lambda _: logged(mirror, "keeping the one in effect"), 30)
    t.assertEqual(before, mirror.succeed(f"systemctl show -P MainPID {UNIT}"))
    mirror.succeed(f"sed -i 's/^poll-interval.*/poll-interval = \"2s\"/' {CONFIG}")

with subtest("status and metrics are served, and only to this machine"):
    producer.succeed("curl --fail --silent http://127.0.0.1:9109/healthz")
    producer.succeed("curl --fail --silent http://127.0.0.1:9109/metrics | grep ^nano_snapshot")
    client.fail("timeout 2 bash -c 'exec 3<>/dev/tcp/producer/9109'")

with subtest("commands are accepted from root alone"):
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
