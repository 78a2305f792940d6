#!/usr/bin/env python3
"""Tests of checks/rooms.py: what counts as an arrow between rooms, and that a planted upward arrow is found."""

import pathlib
import tempfile
import unittest

import rooms


def crate(files: dict[str, str]) -> rooms.Rooms:
    """The rooms of a crate with these source files."""
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return rooms.read(root)


HOUSE = {
    "main.rs": "mod low; mod high; pub use low::{Stone, inner::Brick as Block};",
    "low.rs": "mod inner; struct Stone;",
    "low/inner.rs": "use super::Stone; struct Brick;",
    "high.rs": "use crate::low::Stone;",
}


class Arrows(unittest.TestCase):
    def arrows(self, **changed: str) -> list[tuple[str, str]]:
        return crate(HOUSE | {name.replace("__", "/") + ".rs": text for name, text in changed.items()}).arrows()

    def test_a_house_in_order_has_no_fault(self) -> None:
        house = crate(HOUSE)
        self.assertEqual(house.arrows(), [("high", "low")])
        self.assertEqual(rooms.faults(house, ["low", "high"], 15), [])
        self.assertEqual(rooms.order_of(house), ["low", "high"])

    def test_a_planted_upward_arrow_is_a_fault(self) -> None:
        planted = [
            "fn f() { crate::high::g(); }",
            "use crate::{high::g};",
            "use super::super::high;",
            "fn f() { super::super::high::g(); }",
            "mod deep { use super::super::super::high; }",
        ]
        for text in planted:
            house = crate(HOUSE | {"low/inner.rs": text})
            found = rooms.faults(house, ["low", "high"], 15)
            self.assertEqual(found, ["room low uses high, which is above it: low/inner.rs"], text)
            self.assertIsNone(rooms.order_of(house), text)

    def test_names_of_the_crate_root_are_those_of_their_rooms(self) -> None:
        for text in ["use crate::Stone;", "use crate::Block;", "use super::{Block};"]:
            self.assertEqual(self.arrows(high=text), [("high", "low")], text)

    def test_paths_within_a_room_comments_and_tests_are_no_arrows(self) -> None:
        for text in [
            "use super::Stone; mod deep { use super::super::Stone; }",
            '// crate::high\n/* crate::high */ const S: &str = "crate::high \\" crate::high";',
            'const R: &str = r#"crate::high"#; const C: char = \'"\'; // crate::high',
            "#[cfg(test)]\nmod tests { use crate::high::g; fn f() { { } } }\nfn after() {}",
            "#[cfg(test)]\nuse crate::high::{g, h};",
        ]:
            self.assertEqual(self.arrows(low__inner=text), [("high", "low")], text)
        with_tests = self.arrows(low="mod inner;\n#[cfg(test)]\nmod tests;", low__tests="use crate::high;")
        self.assertEqual(with_tests, [("high", "low")])

    def test_modules_side_by_side_are_counted(self) -> None:
        many = {f"low/room{number}.rs": "" for number in range(15)}
        found = rooms.faults(crate(HOUSE | many), ["low", "high"], 15)
        self.assertEqual(found, ["low has 16 modules side by side, more than 15"])

    def test_rooms_that_are_not_listed_are_faults(self) -> None:
        self.assertEqual(rooms.faults(crate(HOUSE), ["low"], 15), ["room high is not in the list of rooms"])
        self.assertEqual(rooms.faults(crate(HOUSE), ["low", "high", "roof"], 15), ["room roof is listed and not there"])


if __name__ == "__main__":
    unittest.main()
