"""What configurations of the module must do: be refused, not evaluate, or lead to certain lines in units."""

from __future__ import annotations

import json
import re
from typing import Any

import units as packaged
from evaluation import ROOT, Fault, evaluate, run

MIRROR = "services.nano-snapshot-mirror"
NANO = 'users.users.nano.group = "nano";'


def mirror(settings: str, others: str = "") -> str:
    return f"{{ {MIRROR} = {{ enable = true; {settings} }}; {others} }}"


# What must be refused, and words of the refusal.
REFUSED = {
    mirror('settings.data-dir = "/home/anna/snapshots";'): "outside\n/home",
    mirror('settings.peer.listen = [ "[::]:9109" ];'): "another port",
    mirror('settings.http.listen = "127.0.0.1:6881";'): "another port",
    mirror('settings.peer.listen = [ "[::]:0" ];'): "must name a port",
    mirror('settings.peer.listen = [ ];'): "must name a port",
    mirror('openFirewall = true; settings.peer.listen = [ "127.0.0.1:6881" ];'): "this machine only",
    mirror("openFirewall = true; settings.dht.port = 0;"): "chosen\nat random",
    mirror('http.openFirewall = true;'): "others cannot reach",
    mirror('http.openFirewall = true; settings.http.listen = "off";'): "others cannot reach",
    f'{{ {MIRROR}.producer = {{ enable = true; signingKeyFile = "/k"; }}; }}': "mirror.enable = true as well",
    mirror("producer.enable = true;"): "keygen",
    mirror('producer = { enable = true; signingKeyFile = "/k"; signingKeyEncryptedFile = "/c"; };', NANO): "both set",
    mirror('producer = { enable = true; signingKeyFile = "/k"; }; settings.control.socket = "off";', NANO): "reaches the mirror\nover",
    mirror('producer = { enable = true; user = "nano-snapshot-mirror"; };'): "mirror's own user",
    mirror('producer = { enable = true; user = "bob"; };'): "is bob, whom",
    f'{{ {MIRROR}.fetch = {{ enable = true; before = [ "x.service" ]; }}; }}': "is nano, whom",
    f'{{ {MIRROR}.fetch = {{ enable = true; before = [ "x.target" ]; }}; {NANO} }}': "only services",
}

# What does not even evaluate, and words of the error.
WRONG = {
    mirror('producer = { enable = true; signingKeyFile = "/nix/store/a3f1yw4vrmwnpqy1lf7fcmzyhhq4iqh7-key"; };', NANO): "not in the Nix store",
    mirror('environmentFile = "/nix/store/a3f1yw4vrmwnpqy1lf7fcmzyhhq4iqh7-env";'): "not in the Nix store",
    mirror("settings.dht.port = 70000;"): "16 bit unsigned integer",
    mirror('settings.peer.listen = [ "6881" ];'): "address with a port",
    f'{{ {MIRROR}.maxUpload = "1MiB/s"; }}': "does not exist",
    f'{{ {MIRROR}.fetch = {{ enable = true; before = [ "two words" ]; }}; {NANO} }}': "name of a unit",
}

FETCH = f'{{ {MIRROR} = {{ fetch = {{ enable = true; before = [ "nano-node" ]; unless = [ "/l/rocksdb" ]; }}; }}; {NANO} }}'
SERVICE = "nano-snapshot-mirror.service"


def fetch_before(name: str, node: str) -> str:
    return f'{{ {MIRROR}.fetch = {{ enable = true; before = [ "{name}" ]; }}; {NANO} systemd.services.nano-node = {{ {node} }}; }}'


RUNS_NODE = 'serviceConfig.ExecStart = "/bin/nano_node --daemon";'

# What must be warned of, and words of the warning; without words there must be no warning.
WARNINGS = {
    mirror('settings.trackers.urls = [ "https://anna:secret@tracker.example.org/announce" ];'): "secretSettingsFile",
    f"{{ {MIRROR}.fetch.enable = true; {NANO} }}": "before is empty",
    fetch_before("nano-nod", RUNS_NODE): "correct\nthe name",
    fetch_before("nano-node", RUNS_NODE): "",
    # The unit of a package, whose command is in the package.
    fetch_before("nano-node", ""): "overrideStrategy",
    fetch_before("nano-node", 'overrideStrategy = "asDropin";'): "",
}

PRODUCER = 'producer = { enable = true; signingKeyFile = "/k"; };'


def override(unit: str, section: str, settings: str) -> str:
    return mirror(PRODUCER, f"{NANO} systemd.{unit}.{section} = {{ {settings} }};")


# A configuration, a unit, a key of it, and the values that it must have, in turn.
EXPECTED = [
    # The user's lists are added to ours; the user's scalars replace ours.
    (override("services.nano-snapshot-mirror", "serviceConfig", 'SystemCallFilter = [ "@keyring" ];'), SERVICE,
     "SystemCallFilter", ["@system-service", "~@privileged", "@keyring"]),
    (mirror('settings.data-dir = "/srv/a";', 'systemd.services.nano-snapshot-mirror.serviceConfig.ReadWritePaths = [ "/srv/b" ];'), SERVICE,
     "ReadWritePaths", ["/srv/a", "/srv/b"]),
    (override("services.nano-snapshot-mirror-producer", "serviceConfig", 'SupplementaryGroups = [ "ledgers" ];'),
     "nano-snapshot-mirror-producer.service", "SupplementaryGroups", ["nano-snapshot-mirror", "ledgers"]),
    (override("services.nano-snapshot-mirror", "serviceConfig", 'MemoryMax = "8G";'), SERVICE, "MemoryMax", ["8G"]),
    (override("timers.nano-snapshot-mirror-producer", "timerConfig", 'OnCalendar = [ "06:00" "18:00" ];'),
     "nano-snapshot-mirror-producer.timer", "OnCalendar", ["06:00", "18:00"]),
    # Sockets follow the settings.
    (mirror('settings.peer.listen = [ "[::]:7001" ];'), "nano-snapshot-mirror-peer.socket", "ListenStream", ["7001"]),
    (mirror('settings.peer.listen = [ "0.0.0.0:7001" "[::]:7001" ];'), "nano-snapshot-mirror-peer.socket",
     "ListenStream", ["0.0.0.0:7001", "[::]:7001"]),
    (mirror('settings.peer.listen = [ "0.0.0.0:7001" "[::]:7001" ];'), "nano-snapshot-mirror-peer.socket", "BindIPv6Only", ["ipv6-only"]),
    (mirror('settings.peer.listen = [ "192.0.2.1:7001" ];'), "nano-snapshot-mirror-peer.socket", "FreeBind", ["true"]),
    (mirror('settings.http.listen = "off"; settings.control.socket = "off";'), SERVICE, "Sockets", ["nano-snapshot-mirror-peer.socket"]),
    # Secrets.
    (mirror('secretSettingsFile = "/run/secrets/mirror.toml";'), SERVICE, "LoadCredential", ["config.toml:/run/secrets/mirror.toml"]),
    (mirror('environmentFile = "/run/secrets/mirror.env";'), SERVICE, "EnvironmentFile", ["/run/secrets/mirror.env"]),
    (mirror('producer = { enable = true; signingKeyEncryptedFile = "/c"; };', NANO), "nano-snapshot-mirror-producer.service",
     "LoadCredentialEncrypted", ["signing-key:/c"]),
    # The node waits by a condition, and the fetch starts it.
    (FETCH, "nano-node.service", "ConditionPathExists", ["|/var/lib/nano/Nano/data.ldb", "|/l/rocksdb"]),
    (FETCH, "nano-node.service", "Wants", ["nano-snapshot-fetch.service"]),
    (FETCH, "nano-node.service", "After", []),
    (FETCH, "nano-node.service", "Requires", []),
    (FETCH, "nano-snapshot-fetch.service", "OnSuccess", ["nano-node.service"]),
    (FETCH, "nano-snapshot-fetch.service", "RestartMode", ["direct"]),
    # Without a node to start, no switch waits for the fetch either.
    (f"{{ {MIRROR}.fetch.enable = true; {NANO} }}", "nano-snapshot-fetch.service", "After", ["multi-user.target", "network-online.target"]),
    # Options of earlier versions.
    (mirror("peerPort = 7001;"), "nano-snapshot-mirror-peer.socket", "ListenStream", ["7001"]),
    (mirror('http.address = "0.0.0.0"; http.port = 8080;'), "nano-snapshot-mirror-http.socket", "ListenStream", ["0.0.0.0:8080"]),
    (mirror("http.port = 8080;"), "nano-snapshot-mirror-http.socket", "ListenStream", ["127.0.0.1:8080"]),
    (mirror(f'{PRODUCER} producer.schedule = "weekly"; producer.randomizedDelay = "5m";', NANO),
     "nano-snapshot-mirror-producer.timer", "OnCalendar", ["weekly"]),
]  # fmt: skip

BACKLOG = "systemd.sockets.nano-snapshot-mirror-peer.socketConfig.Backlog = 10;"

# Two configurations, and whether a switch from one to the other restarts the mirror or reloads it.
SWITCHES = [
    ("", "poll-interval = \"5m\";", "reload"),
    ("", "limits.upload = \"1MiB/s\"; peer.max-connections = 10; scrub.interval = \"off\"; log.level = \"debug\";", "reload"),
    ("", "stream.weekly = { };", "reload"),
    ("", "verify.level = \"l2\";", "restart"),
    ("", "peer.pex = false;", "restart"),
    ("", "peer.listen = [ \"[::]:7001\" ];", "restart"),
    ("", "dht.port = 7002;", "restart"),
    ("verify.level = \"l2\";", "verify.level = \"l2\"; retention.generations = 3;", "reload"),
    ("", BACKLOG, "restart"),
]  # fmt: skip


def switched(to: str) -> str:
    """A mirror with these settings, or this of a unit."""
    return mirror("", to) if to.startswith("systemd.") else mirror(f"settings = {{ {to} }};")


def refusals(lib: str) -> int:
    for configuration, words in REFUSED.items():
        said = "\n".join(evaluate(lib, configuration)["failed"])
        if words not in said:
            raise Fault(f"{configuration}\nis not refused with {words!r} but with {said!r}")
    return len(REFUSED)


def errors(lib: str) -> int:
    for configuration, words in WRONG.items():
        try:
            evaluate(lib, configuration)
        except Fault as fault:
            if words not in str(fault):
                raise Fault(f"{configuration}\nfails without {words!r}: {fault}") from None
        else:
            raise Fault(f"{configuration}\nis accepted")
    return len(WRONG)


def unit(lib: str, configuration: str, name: str) -> packaged.Unit:
    evaluated = evaluate(lib, configuration)
    if evaluated["failed"]:
        raise Fault(f"{configuration}\nis refused: {evaluated['failed']}")
    return packaged.parse(evaluated["rendered"]["units"][name])


def expectations(lib: str) -> int:
    for configuration, name, key, expected in EXPECTED:
        sections = unit(lib, configuration, name)
        found: list[str] = next((section[key] for section in sections.values() if key in section), [])
        if found != expected:
            raise Fault(f"{configuration}\nrenders {key}={found} in {name} instead of {expected}")
    for before, after, means in SWITCHES:
        old, new = (unit(lib, switched(one), SERVICE)["Unit"] for one in (before, after))
        changed = {key for key in old if old[key] != new[key]}
        if changed - {"X-Reload-Triggers"} and means == "reload" or "X-Restart-Triggers" not in changed and means == "restart":
            raise Fault(f"from {{ {before} }} to {{ {after} }} changes {changed}, which is no {means}")
    for configuration, words in WARNINGS.items():
        warnings = "\n".join(evaluate(lib, configuration)["warnings"])
        if words not in warnings or (not words and warnings):
            raise Fault(f"{configuration}\nhas the warnings {warnings!r} instead of one with {words!r}")
    return len(EXPECTED) + len(SWITCHES) + len(WARNINGS)


def documented() -> dict[str, tuple[str, bool]]:
    """The keys of docs/configuration.md with their default and whether a reload suffices; `stream.NAME` is `stream`."""
    found: dict[str, tuple[str, bool]] = {}
    section = ""
    default = re.compile(r"Default: (not set|`.*`)\. Changes (take effect with a reload|need a restart)")
    for line in (ROOT / "docs/configuration.md").read_text().splitlines():
        if line.startswith("### "):
            title = re.match(r"### `\[([a-z-]+)", line)
            section = f"{title[1]}." if title else ""
        key = re.match(r"\*\*`([a-z-]+)`\*\*", line)
        if key:
            name = section + key[1]
        about = default.search(line)
        if about:
            found[name] = (about[1].strip("`"), about[2].startswith("take"))
    return found


def settings_agree() -> str:
    """reloadable.nix and the defaults in settings.nix are those of docs/configuration.md, which a test of the program compares."""
    expression = """{
      reloadable = import ./nixos-modules/reloadable.nix;
      defaults = (import ./nixos-modules/settings.nix { lib = { }; settings = { }; }).defaults;
    }"""
    done = run("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)
    if done.returncode:
        raise Fault(done.stderr)
    ours = json.loads(done.stdout)
    keys = documented()
    for key, (_, live) in keys.items():
        if live != is_reloadable(ours["reloadable"], key.split(".")):
            raise Fault(f"nixos-modules/reloadable.nix and docs/configuration.md disagree about {key}")
    for section, values in ours["defaults"].items():
        for key, value in values.items():
            if keys[f"{section}.{key}"][0] != json.dumps(value):
                raise Fault(f"nixos-modules/settings.nix and docs/configuration.md disagree about {section}.{key}")
    return f"{len(keys)} keys"


def is_reloadable(mask: Any, path: list[str]) -> bool:
    for part in path:
        if isinstance(mask, bool):
            break
        mask = mask.get(part, False)
    return mask is True
