# Passing proves: a mirror, a one-shot fetch and a second mirror run on one host beside each other, as units and by hand; none uses the ports of another, and the
# fetch downloads the snapshot from the mirror beside it when no other peer has it.

FETCH = "nano-snapshot-fetch.service"
# A configuration of its own, without ports.
BY_HAND = "--config /dev/null --dht-bootstrap dht:7000 --authority 0cfae097db7f533f0f1326fe6966ef1f278fc68c7d9551c44e27f4239dc9724b"

ALONE = "NANO_SNAPSHOT_MIRROR_PEER__LOCAL_DISCOVERY=false"


def has_port(port, unit, kind):
    """Waits until a process of `unit` has the port; TCP ports that systemd listens on belong to the mirror as well."""
    both.wait_until_succeeds(
        f"ss --no-header --listening --{kind} --numeric --processes 'sport = :{port}' | grep pid=$(systemctl show -P MainPID {unit}),"
    )


start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
both.wait_for_unit(UNIT)

with subtest("a fetch that waits for its first snapshot leaves the mirror its ports"):
    both.succeed("systemctl start nano-node.service")
    both.wait_until_succeeds(f"systemctl show -P MainPID {FETCH} | grep -vx 0")
    both.succeed(f"systemctl restart {UNIT}", "nano-snapshot-mirror status --alive")
    has_port(6881, UNIT, "tcp")
    has_port(6882, UNIT, "udp")

with subtest("the mirror has the snapshot, and no other host has"):
    newest = publish(producer)
    both.wait_until_succeeds(f"readlink {DATA}/current/daily | grep {newest}")
    published = digest(producer)
    both.wait_until_succeeds("systemctl is-active nano-node.service")
    both.succeed(f"systemctl stop nano-node.service {FETCH}", f"rm {LEDGER}")
    producer.execute("systemctl poweroff --no-block")
    producer.wait_for_shutdown()

with subtest("the unit fetches it from the mirror beside it, of which no DHT node knows"):
    dht.succeed("python3 /etc/scenario/dht.py tell 7000 forget-peers")
    both.succeed("systemctl start nano-node.service")
    both.wait_until_succeeds("systemctl is-active nano-node.service")
    t.assertEqual(digest(both, LEDGER), published)

with subtest("so does a command by hand, with the host's configuration and with its own"):
    for number, own in enumerate(["", BY_HAND]):
        both.succeed(f"{ALONE} nano-snapshot-mirror --once --extract --data-dir /srv/ledger{number} {own}")
        t.assertEqual(digest(both, f"/srv/ledger{number}/data.ldb"), published)

with subtest("a second mirror with default ports takes others"):
    both.succeed(f"systemd-run --unit=second --property=Type=notify $(command -v nano-snapshot-mirror) --data-dir /srv/second --seed-peer 127.0.0.1:6881 {BY_HAND}")
    both.succeed("nano-snapshot-mirror status --alive --data-dir /srv/second --config /dev/null")
    both.wait_until_succeeds("readlink /srv/second/current/daily | grep " + newest)
    for protocol in ["TCP", "UDP"]:
        both.succeed(f"journalctl -u second -o json | grep 'in use' | grep {protocol}")

with subtest("the first one was never disturbed"):
    has_port(6881, UNIT, "tcp")
    has_port(6882, UNIT, "udp")
    t.assertEqual(both.succeed(f"systemctl show -P NRestarts {UNIT}").strip(), "0")
