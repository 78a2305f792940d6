# Passing proves: with the firewall closed no peer can connect to a mirror, which still downloads; with it open peers connect by IPv4 and IPv6; a mirror
# whose peers are reachable by IPv6 alone downloads from them, with the pointer found in the DHT of IPv4; and a mirror without any IPv4, which
# no DHT reaches, does with the signed item given to it as a file.

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)

with subtest("IPv4 between peers is cut for one mirror, and all of it for another"):
    six.succeed(
        "nft add table inet cut",
        "nft 'add chain inet cut output { type filter hook output priority 0; }'",
        "nft 'add chain inet cut input { type filter hook input priority 0; }'",
        "nft add rule inet cut output meta nfproto ipv4 tcp flags syn oifname eth1 drop",
        "nft add rule inet cut input meta nfproto ipv4 tcp flags syn iifname eth1 drop",
    )
    only6.succeed("ip -4 address flush dev eth1", f"systemctl restart {UNIT}")
    t.assertIn("2001:db8:1::5/64", producer.succeed("ip -6 address show dev eth1"))

with subtest("the snapshot arrives through a closed firewall and by IPv6 alone"):
    publish(producer)
    published = digest(producer)
    for machine in [closed, six]:
        machine.wait_for_file(CONTENT)
        t.assertEqual(digest(machine), published)

with subtest("what no DHT reaches takes the signed item from a file, and only if it is signed"):
    item = producer.succeed(f"cat {DATA}/streams/*.json")
    forged = re.sub('"value": "..', '"value": "00', item)
    t.assertNotEqual(item, forged)
    only6.succeed(f"cat > /srv/pointer.json <<'END'\n{forged}END")
    retry(lambda _: logged(only6, "no pointer from a file"), 60)
    only6.fail(f"test -e {CONTENT}")
    only6.succeed(f"cat > /srv/new.json <<'END'\n{item}END", "mv /srv/new.json /srv/pointer.json")
    only6.wait_for_file(CONTENT)
    t.assertEqual(digest(only6), published)
    t.assertEqual(only6.succeed("ip -4 -brief address show dev eth1").split()[2:], [])

with subtest("open ports are open, by both families"):
    outside.succeed("exec 3<>/dev/tcp/producer/6881")
    outside.succeed("exec 3<>/dev/tcp/2001:db8:1::5/6881")

with subtest("closed ports are closed"):
    for address in ["closed", "2001:db8:1::1"]:
        outside.fail(f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/6881'")
    closed.succeed("exec 3<>/dev/tcp/localhost/6881")
