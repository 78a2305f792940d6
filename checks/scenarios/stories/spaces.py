# Passing proves: where every path of the module has spaces and other special characters, the mirror gets its secrets, the producer publishes the
# ledger, and the fetch puts it where the node looks for it.

SECRETS = "/etc/my secrets"
PUBLISHED = "/srv/my node/$ledger 100%/data.ldb"
STORE = "/srv/nano snapshots (100%)"
FETCHED = "/srv/my node/new ledger: 100%/data.ldb"
NO_FETCH = "/srv/my node/no fetch 100%"

start_all()
dht.wait_for_unit("scenario-dht.service")

with subtest("the mirror starts with the secrets of both files"):
    host.succeed(
        f"mkdir -p '{SECRETS}'",
        f"echo 'log.level = \"debug\"' > '{SECRETS}/mirror 100%.toml'",
        f"echo NANO_SNAPSHOT_MIRROR_POLL_INTERVAL=3s > '{SECRETS}/mirror 100%.env'",
        f"install -m 600 /etc/nano-snapshot-mirror/producer.key '{SECRETS}/producer 100%.key'",
        f"systemctl restart {UNIT}",
    )
    host.succeed(f"grep debug /run/credentials/{UNIT}/config.toml")
    host.succeed(f"grep --null-data NANO_SNAPSHOT_MIRROR_POLL_INTERVAL=3s /proc/$(systemctl show -P MainPID {UNIT})/environ")
    host.succeed(f"test -d '{STORE}'")

with subtest("the producer publishes the ledger at its path"):
    host.succeed(
        f"install -d -o nano -g nano '{PUBLISHED.removesuffix('/data.ldb')}'",
        f"install -o nano -g nano -m 644 /etc/scenario/before.ldb '{PUBLISHED}'",
        "systemctl start nano-snapshot-mirror-producer.service",
    )
    host.wait_for_file(f"{STORE}/current/daily/content/data.ldb")

with subtest("a fetch waits while the path of `unless` exists"):
    host.succeed(f"touch '{NO_FETCH}'", "systemctl start nano-snapshot-fetch.service")
    t.assertEqual(host.succeed("systemctl show -P ConditionResult nano-snapshot-fetch.service").strip(), "no")
    host.succeed(f"rm '{NO_FETCH}'")

with subtest("the fetch puts the ledger where the node looks for it"):
    host.succeed("systemctl start nano-node.service")
    host.wait_until_succeeds("systemctl is-active nano-node.service")
    published = host.succeed(f"sha256sum < '{STORE}/current/daily/content/data.ldb'")
    t.assertEqual(host.succeed(f"sha256sum < '{FETCHED}'"), published)
    t.assertEqual(host.succeed(f"stat --format=%U '{FETCHED}'").strip(), "nano")
