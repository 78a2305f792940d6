#!/usr/bin/env python3
"""Tests of the scenario runner itself, without booting anything: python3 checks/scenarios/test_lab.py"""

from __future__ import annotations

import hashlib
import sys
import tomllib
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import dht  # noqa: E402
from lab import install, network, packaged, rendered, story  # noqa: E402
from lab.console import Console  # noqa: E402
from lab.machine import Failed, Machine, retry  # noqa: E402


class Scripted(Machine):
    """A machine whose commands have the results of the test, one after the other; the last one repeats."""

    def __init__(self, answers: list[tuple[int, str]]) -> None:
        super().__init__("scripted", Quiet())
        self.answers = answers
        self.asked: list[str] = []

    def start(self) -> None:
        pass

    def enter(self, command: str, timeout: float) -> tuple[int, str]:
        self.asked.append(command)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def wait_for_shutdown(self) -> None:
        pass


class Quiet(Console):
    def log(self, message: str, machine: str = "") -> None:
        pass


class Stories(unittest.TestCase):
    def test_settings_of_a_machine_go_over_those_of_all(self) -> None:
        document = tomllib.loads(
            """
            settings.dht = { port = 1, bootstrap = ["dht:7000"] }
            [machines.b]
            settings.dht.port = 2
            [machines.a]
            dht = true
            """
        )
        parsed = story.parse("x", document, "")
        self.assertEqual([(m.name, m.number, m.dht) for m in parsed.machines], [("a", 1, True), ("b", 2, False)])
        self.assertEqual(parsed.machines[1].settings, {"dht": {"port": 2, "bootstrap": ["dht:7000"]}})
        self.assertEqual(parsed.machines[0].settings["dht"]["port"], 1)

    def test_mistakes_are_named(self) -> None:
        cases: list[tuple[story.Settings, str]] = [
            ({}, "no machines"),
            ({"machine": {}}, "unknown key machine"),
            ({"machines": {"a": {"mirorr": True}}}, "unknown key mirorr"),
            ({"machines": {"a-long-name": {}}}, "at most 10 characters"),
        ]
        for document, words in cases:
            with self.assertRaisesRegex(story.BadStory, words):
                story.parse("x", document, "")

    def test_every_story_can_be_read(self) -> None:
        self.assertTrue(story.names())
        for name in story.names():
            self.assertTrue(story.load(name).script, name)
            test = install.REPOSITORY / f"checks/{name}.nix"
            self.assertIn(f'"{name}"', test.read_text(), "every scenario is a NixOS test as well")

    def test_settings_are_written_as_they_were(self) -> None:
        settings = {"a": 1, "s": 'quote " and \\', "l": ["x", "y"], "t": {"on": True, "u": {"v": 1.5}}, "e": {"deep": {"w": "z"}}}
        self.assertEqual(tomllib.loads(story.toml(settings)), settings)


class Verbs(unittest.TestCase):
    def test_succeed_and_fail_look_at_the_status(self) -> None:
        self.assertEqual(Scripted([(0, "a"), (0, "b")]).succeed("x", "y"), "ab")
        with self.assertRaisesRegex(Failed, "ended with 3"):
            Scripted([(3, "")]).succeed("x")
        self.assertEqual(Scripted([(1, "no")]).fail("x"), "no")
        with self.assertRaisesRegex(Failed, "succeeded"):
            Scripted([(0, "")]).fail("x")

    def test_waiting_asks_again_and_ends(self) -> None:
        machine = Scripted([(1, ""), (1, ""), (0, "there")])
        self.assertEqual(machine.wait_until_succeeds("x"), "there")
        self.assertEqual(len(machine.asked), 3)
        with self.assertRaisesRegex(Failed, "last it ended with 1:\nwhy"):
            Scripted([(1, "why")]).wait_until_succeeds("x", timeout=0.3)
        with self.assertRaises(Failed):
            retry(lambda last: False, 0.2)

    def test_a_unit_that_failed_is_not_waited_for(self) -> None:
        with self.assertRaisesRegex(Failed, "has failed"):
            Scripted([(0, "ActiveState=failed\n")]).wait_for_unit("x")
        idle = Scripted([(0, "ActiveState=inactive\n"), (0, "No jobs running."), (0, "ActiveState=inactive\n")])
        with self.assertRaisesRegex(Failed, "nothing is about to start it"):
            idle.wait_for_unit("x")
        Scripted([(0, "ActiveState=activating\n"), (0, "ActiveState=active\n")]).wait_for_unit("x")


class Files(unittest.TestCase):
    def test_machines_know_each_other(self) -> None:
        text = network.hosts({"a": 1, "b": 2}, "b")
        self.assertIn("192.168.1.1 a\n2001:db8:1::1 a\n", text)
        self.assertIn("127.0.1.1 b\n", text)

    def test_only_named_ports_are_open(self) -> None:
        text = network.firewall([6881], ["6882", "7000-7007"])
        self.assertIn("policy drop", text)
        self.assertIn("tcp dport { 6881 } accept", text)
        self.assertIn("udp dport { 6882, 7000-7007 } accept", text)
        self.assertNotIn("dport", network.firewall([], []))

    def test_the_packaged_units_that_are_named_exist(self) -> None:
        machine = story.Machine("m", 1, mirror=True, producer={})
        for name in packaged.units_of(machine):
            self.assertTrue((packaged.PACKAGING / "systemd" / name).exists(), name)

    def test_every_machine_with_a_service_has_a_rendering_and_a_packaged_form(self) -> None:
        for name in story.names():
            for machine in story.load(name).machines:
                for host in (rendered.host(machine), *machine.switches):
                    self.assertTrue((rendered.RENDERED / host / "etc").is_dir() or not host, f"{name}: {host}")
                if story.load(name).units == "rendered":
                    continue
                for host in (machine.host, *machine.switches):
                    self.assertIn(host, ("", *packaged.HOSTS), name)

    def test_what_a_node_needs_is_in_the_comment_of_the_fetch_unit(self) -> None:
        texts = packaged.node_drop_ins()
        self.assertIn("Wants=nano-snapshot-fetch.service\n", texts["nano-node.service"])
        self.assertEqual(texts["nano-snapshot-fetch.service"], "[Unit]\nOnSuccess=nano-node.service\n")


class Dht(unittest.TestCase):
    """The DHT of the tests, without a socket."""

    def setUp(self) -> None:
        self.network = dht.Network(range(7000, 7002))
        self.node = self.network.nodes[0]

    def ask(self, query: bytes, **arguments: Any) -> Any:
        sent = {name.encode(): value for name, value in arguments.items()}
        data = dht.encode({b"t": b"xy", b"y": b"q", b"q": query, b"a": {b"id": b"i" * 20, **sent}})
        answer = self.network.reply(self.node, data, ("127.0.0.1", 999))
        assert answer is not None
        return dht.decode(answer)

    def put(self, seq: int, value: bytes) -> Any:
        token = self.ask(b"get", target=b"t" * 20)[b"r"][b"token"]
        return self.ask(b"put", token=token, k=b"k" * 32, sig=b"s" * 64, seq=seq, v=value, salt=b"daily")

    def get(self) -> Any:
        target = hashlib.sha1(b"k" * 32 + b"daily").digest()
        return self.ask(b"get", target=target)[b"r"]

    def test_an_item_comes_back_and_a_lower_number_is_refused(self) -> None:
        self.put(2, b"new")
        self.assertEqual((self.get()[b"seq"], self.get()[b"v"]), (2, b"new"))
        self.assertEqual(self.put(1, b"old")[b"e"][0], 302)
        self.assertEqual(self.get()[b"v"], b"new")

    def test_it_lies_when_told(self) -> None:
        self.put(1, b"one")
        self.put(2, b"two")
        self.network.command([b"rewind", b"1"])
        self.assertEqual(self.get()[b"v"], b"one")
        self.network.command([b"forge"])
        self.assertEqual((self.get()[b"seq"], self.get()[b"sig"]), (2, b"s" * 64))
        self.assertNotEqual(self.get()[b"v"], b"one")
        self.network.command([b"forget"])
        self.assertNotIn(b"v", self.get())

    def test_without_a_token_nothing_is_kept(self) -> None:
        self.assertEqual(self.ask(b"put", token=b"no", k=b"k" * 32, sig=b"", seq=1, v=b"x")[b"e"][0], 203)

    def test_peers_are_found_where_they_announced(self) -> None:
        token = self.ask(b"get_peers", info_hash=b"h" * 20)[b"r"][b"token"]
        self.ask(b"announce_peer", info_hash=b"h" * 20, port=6881, token=token)
        self.assertEqual(self.ask(b"get_peers", info_hash=b"h" * 20)[b"r"][b"values"], [b"\x7f\0\0\x01\x1a\xe1"])
        self.network.command([b"forget-peers"])
        self.assertNotIn(b"values", self.ask(b"get_peers", info_hash=b"h" * 20)[b"r"])

    def test_what_is_no_query_is_not_answered(self) -> None:
        for data in (b"", b"i1e", b"d1:t2:xye", b"d1:y1:r1:t1:ae", b"l", b"d1:t99:x"):
            self.assertIsNone(self.network.reply(self.node, data, ("127.0.0.1", 999)))


if __name__ == "__main__":
    unittest.main()
