# Passing proves: with the firewall closed nobody can connect to a mirror, which still downloads; with it open peers come in by IPv4 and IPv6; and a
# mirror whose peers are reachable by IPv6 alone downloads from them, with the pointer found in the DHT of IPv4.

DATA = "/var/lib/nano-snapshot-mirror"
CONTENT = f"{DATA}/current/daily/content/data.ldb"

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit("nano-snapshot-mirror.service")

with subtest("IPv4 between peers is cut for one mirror"):
    six.succeed(
        "nft add table inet cut",
        "nft 'add chain inet cut output { type filter hook output priority 0; }'",
        "nft 'add chain inet cut input { type filter hook input priority 0; }'",
        "nft add rule inet cut output meta nfproto ipv4 tcp flags syn oifname eth1 drop",
        "nft add rule inet cut input meta nfproto ipv4 tcp flags syn iifname eth1 drop",
    )
    t.assertIn("2001:db8:1::4/64", producer.succeed("ip -6 address show dev eth1"))

with subtest("the snapshot arrives through a closed firewall and by IPv6 alone"):
    producer.succeed("systemctl start nano-snapshot-mirror-producer.service")
    published = producer.succeed(f"sha256sum < {CONTENT}")
    for machine in [closed, six]:
        machine.wait_for_file(CONTENT)
        t.assertEqual(machine.succeed(f"sha256sum < {CONTENT}"), published)

with subtest("open ports are open, by both families"):
    outside.succeed("exec 3<>/dev/tcp/producer/6881")
    outside.succeed("exec 3<>/dev/tcp/2001:db8:1::4/6881")

with subtest("closed ports are closed"):
    for address in ["closed", "2001:db8:1::1"]:
        outside.fail(f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/6881'")
    closed.succeed("exec 3<>/dev/tcp/localhost/6881")
