# Passing proves: a host whose ports change in its settings listens on the new ports, and on those alone, without a reboot; its sockets still start
# the mirror afterwards, no connection is lost at a restart, and a peer downloads from the new port.

PORTS = {"peer": (6881, 6991), "http": (9109, 9119)}
CHANGE = "/etc/scenario/switch other-ports"


def machine_with(command):
    return mirror.execute(command)[0] == 0


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
mirror.wait_for_unit(UNIT)
snapshot = publish(producer)
mirror.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {snapshot}")
client.succeed("exec 3<>/dev/tcp/mirror/6881")

with subtest("the settings name other ports"):
    log.info(mirror.succeed(CHANGE))
    mirror.wait_for_unit(UNIT)

with subtest("sockets and service have the new ports, and nothing has the old ones"):
    mirror.succeed("curl --fail --silent http://127.0.0.1:9119/healthz")
    for old, new in PORTS.values():
        t.assertTrue(machine_with(f"ss --listening --tcp --numeric | grep ':{new} '"), new)
        t.assertFalse(machine_with(f"ss --listening --tcp --numeric | grep ':{old} '"), old)
    t.assertTrue(machine_with("ss --listening --udp --numeric | grep ':6992 '"))
    t.assertFalse(machine_with("ss --listening --udp --numeric | grep ':6882 '"))

with subtest("systemd holds the new sockets, and a connection starts the mirror"):
    for name in PORTS:
        mirror.require_unit_state(f"nano-snapshot-mirror-{name}.socket")
    # From the machine itself: the firewall is not what this is about.
    mirror.succeed(f"systemctl stop {UNIT}")
    mirror.require_unit_state(UNIT, "inactive")
    mirror.succeed("exec 3<>/dev/tcp/localhost/6991")
    mirror.wait_for_unit(UNIT)
    mirror.succeed("nano-snapshot-mirror status --alive", f"systemctl restart {UNIT}", "nano-snapshot-mirror status --alive")

with subtest("a peer gets the snapshot from the new port"):
    mirror.succeed("nft flush ruleset")
    producer.execute("systemctl poweroff --no-block")
    producer.wait_for_shutdown()
    client.succeed("nano-snapshot-mirror --once --extract --data-dir /srv/ledger --seed-peer mirror:6991")
    t.assertEqual(digest(client, "/srv/ledger/data.ldb"), digest(mirror))
