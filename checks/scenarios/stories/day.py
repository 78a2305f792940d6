# Passing proves: a mirror with a small disk handles twelve snapshots in a row, while it is restarted, killed, reloaded and starved of disk and its
# only peer is killed: the last one is current, and what it keeps is whole.

TROUBLES = ["nothing", "restarted", "killed", "starved", "reloaded", "alone"]
DAYS = 2 * len(TROUBLES)
FILLER = f"{DATA}/filler"

# Killed more often than systemd's limit of restarts, and started again at once.
OFTEN = "[Unit]\\nStartLimitIntervalSec=0\\n[Service]\\nRestartSec=100ms\\n"

start_all()
dht.wait_for_unit("scenario-dht.service")

with subtest("the mirror has a disk for three snapshots"):
    for machine in [producer, mirror]:
        machine.wait_for_unit(UNIT)
        for unit in [UNIT, "nano-snapshot-mirror-producer.service"]:
            machine.succeed(f"mkdir -p /run/systemd/system/{unit}.d && printf '{OFTEN}' > /run/systemd/system/{unit}.d/test.conf")
        machine.succeed("systemctl daemon-reload")
    mirror.succeed(
        f"systemctl stop nano-snapshot-mirror-{{peer,http,control}}.socket {UNIT}",
        f"owner=$(stat --format=%u:%g {DATA}/) mode=$(stat --format=%a {DATA}/); mount -t tmpfs -o size=18m tmpfs $(readlink -f {DATA}); "
        f"chown $owner {DATA}/; chmod $mode {DATA}/",
        f"systemctl start nano-snapshot-mirror-{{peer,http,control}}.socket {UNIT}",
    )

snapshots: list[str] = []
for day in range(DAYS):
    trouble = TROUBLES[day % len(TROUBLES)]
    with subtest(f"day {day}: {trouble}"):
        if trouble == "starved":
            mirror.succeed(f"fallocate -l $(($(df --output=avail -B1 {DATA}/ | tail -1) - 1000000)) {FILLER}")
        producer.succeed(f"runuser -u nano -- $(command -v python3) /etc/scenario/node.py {LEDGER} {day}")
        paused = logged(mirror, "paused until there is")
        newest = publish(producer)
        t.assertNotIn(newest, snapshots)
        snapshots.append(newest)
        if trouble == "starved":
            retry(lambda _: logged(mirror, "paused until there is") > paused, 60)
            mirror.succeed(f"rm {FILLER}")
        if trouble in ["restarted", "killed", "reloaded"]:
            # The download has begun.
            mirror.wait_for_file(f"{DATA}/snapshots/{newest}")
        if trouble == "restarted":
            mirror.succeed(f"systemctl restart {UNIT}")
        if trouble == "killed":
            mirror.succeed(f"systemctl kill --signal=KILL {UNIT}")
            mirror.wait_for_unit(UNIT)
        if trouble == "reloaded":
            mirror.succeed(f"systemctl reload {UNIT}")
        if trouble == "alone":
            producer.succeed(f"systemctl kill --signal=KILL {UNIT}")
        mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {newest}", timeout=60)
        if day == 0:
            # From now on slow enough to be caught in the middle.
            producer.succeed("tc qdisc add dev eth1 root tbf rate 2mbit burst 32k latency 400ms")

with subtest("the last one is current, and what is kept is whole"):
    kept = snapshots[-2:]
    t.assertEqual(current(mirror), snapshots[-1])
    retry(lambda _: mirror.succeed(f"ls {DATA}/snapshots").split() == sorted(kept), 30)
    mirror.succeed(f"systemctl stop {UNIT}")
    said = mirror.succeed(f"nano-snapshot-mirror verify --data-dir {DATA}")
    for snapshot in kept:
        t.assertIn(f"{snapshot}: all ", said)
        content = f"{DATA}/snapshots/{snapshot}/content/data.ldb"
        t.assertEqual(digest(mirror, content), digest(producer, content))
    t.assertEqual(logged(mirror, "panicked"), 0)
