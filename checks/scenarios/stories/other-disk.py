# Passing proves: a mirror whose data directory is on a disk that is slow to appear waits for it, writes there and nowhere else, and finds it again
# after a restart; a disk that was never used becomes its own.

DISK = "/srv/nano-snapshots"
STORED = f"{DISK}/current/daily/content/data.ldb"


def moment(property_, unit):
    return int(mirror.succeed(f"systemctl show -P {property_} {unit}"))


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)

with subtest("the mirror started after its disk"):
    mount = mirror.succeed(f"systemd-escape --path --suffix=mount {DISK}").strip()
    mirror.require_unit_state(mount)
    t.assertLess(moment("ActiveEnterTimestampMonotonic", f"'{mount}'"), moment("ExecMainStartTimestampMonotonic", UNIT))

with subtest("the snapshot is on the disk, and nothing is below it"):
    snapshot = publish(producer)
    mirror.wait_until_succeeds(f"readlink {DISK}/current/daily | grep {snapshot}")
    t.assertEqual(mirror.succeed(f"findmnt --noheadings --output TARGET --target $(readlink -f {STORED})").strip(), DISK)
    t.assertEqual(digest(mirror, STORED), digest(producer))
    mirror.succeed("mkdir /mnt/below", "mount --bind /srv /mnt/below")
    t.assertEqual(mirror.succeed("ls -A /mnt/below/nano-snapshots").strip(), "")

with subtest("commands of an operator find it"):
    t.assertIn(f"{snapshot}: all ", mirror.succeed("nano-snapshot-mirror verify"))

with subtest("a restart continues from the data there"):
    mirror.succeed(f"systemctl restart {UNIT}")
    mirror.succeed("nano-snapshot-mirror status --alive")
    t.assertEqual(mirror.succeed(f"readlink {DISK}/current/daily").count(snapshot), 1)
