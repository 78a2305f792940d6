# Passing proves: a node that waits for its ledger starts once a later attempt to fetch it succeeds, though the first one failed; no start by hand is needed.

FETCH = "nano-snapshot-fetch.service"
SOON = "[Service]\\nRestartSec=1s\\n"

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)
node.succeed(f"mkdir -p /run/systemd/system/{FETCH}.d && printf '{SOON}' > /run/systemd/system/{FETCH}.d/test.conf", "systemctl daemon-reload")

with subtest("the first attempt fails: there is nothing to fetch yet"):
    node.succeed("systemctl start --no-block nano-node.service")
    node.wait_until_succeeds(f"journalctl -u {FETCH} -o cat | grep '^error: '")
    node.fail(f"test -e {LEDGER}")

with subtest("the node starts when a later attempt succeeds"):
    publish(producer)
    node.wait_for_file(LEDGER)
    node.wait_until_succeeds("systemctl is-active nano-node.service")
    t.assertEqual(digest(node, LEDGER), digest(producer))
    t.assertEqual(node.succeed(f"stat --format=%U {LEDGER}").strip(), "nano")
