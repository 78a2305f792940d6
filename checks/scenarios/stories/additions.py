# Passing proves: what a user adds to lists of the service is effective beside what is there already: a further directory and the group that may write to it, further system calls
# beside ours, and a greater limit instead of ours.

def filtered():
    return mirror.succeed(f"systemctl show -P SystemCallFilter {UNIT}").split()


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)

with subtest("the mirror works, and its hook writes to the added directory by the added group"):
    snapshot = publish(producer)
    mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {snapshot}")
    mirror.wait_until_succeeds("grep -x ready /srv/hooks/events")
    t.assertEqual(mirror.succeed("stat --format=%G /srv/hooks").strip(), "ledgers")

with subtest("system calls of both lists are let through, and what we forbid stays forbidden"):
    calls = filtered()
    for call in ["keyctl", "openat", "epoll_wait", "sched_setscheduler"]:
        t.assertIn(call, calls)
    for call in ["chroot", "mount", "init_module"]:
        t.assertNotIn(call, calls)

with subtest("a limit replaces ours, and the rest of the sandbox stays"):
    t.assertEqual(mirror.succeed(f"systemctl show -P MemoryMax {UNIT}").strip(), str(3 << 30))
    t.assertEqual(mirror.succeed(f"systemctl show -P ProtectSystem {UNIT}").strip(), "strict")
    mirror.fail(f"nsenter --target=$(systemctl show -P MainPID {UNIT}) --mount -- touch /srv/forbidden")
