# Passing proves: a node that has no ledger waits until one was fetched, verified and moved to its path; and once there is one, nothing is
# fetched over it.

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
publish(producer)
published = digest(producer)

with subtest("the node starts with the ledger that was fetched for it"):
    node.fail(f"test -e {LEDGER}")
    node.succeed("systemctl start nano-node.service")
    node.wait_until_succeeds("journalctl -u nano-node.service | grep skipped")
    node.wait_until_succeeds("systemctl is-active nano-node.service")
    t.assertEqual(digest(node, LEDGER), published)
    t.assertEqual(node.succeed(f"stat --format=%U {LEDGER}").strip(), "nano")
    t.assertEqual(node.succeed("ls -A /var/lib/nano/Nano").split(), ["data.ldb"])

with subtest("what the node has is never fetched over"):
    node.succeed(f"echo written by the node >> {LEDGER}", "systemctl stop nano-node.service")
    before = digest(node, LEDGER)
    node.succeed("systemctl start nano-node.service")
    t.assertEqual(node.succeed("systemctl show -P ConditionResult nano-snapshot-fetch.service").strip(), "no")
    t.assertEqual(digest(node, LEDGER), before)
