#!/usr/bin/env python3
"""Tests of checks/pages.py: each kind of fault is found, and a good page has none."""

from __future__ import annotations

import unittest

import pages

PAGE = pages.ROOT / "docs/architecture.md"


def faults(text: str) -> list[str]:
    return pages.faults_of(PAGE, text)


class Faults(unittest.TestCase):
    def test_a_good_page_has_none(self) -> None:
        text = "# Title\n\nA paragraph\nof two lines.\n\n- an item\n- another one\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[a link](operating.md#keys)\n"
        self.assertEqual(faults(text), [])

    def test_a_wide_table_is_found(self) -> None:
        self.assertIn("8 columns", faults("| 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |\n")[0])
        self.assertEqual(faults("| 1 | 2 | 3 | 4 | 5 | 6 | a \\| b |\n"), [])

    def test_a_long_paragraph_is_found(self) -> None:
        self.assertIn("7 lines", faults("line\n" * 7)[0])
        self.assertIn("7 lines", faults("x" * 1000)[0])
        self.assertIn("7 lines", faults("- item\n" + "  more\n" * 6)[0])
        self.assertEqual(faults("- item\n" * 7), [])

    def test_code_is_not_judged(self) -> None:
        self.assertEqual(faults("```text\n" + "told\n" * 9 + "```\n"), [])

    def test_words_are_found(self) -> None:
        self.assertIn("'Nobody'", faults("Nobody knows.\n")[0])

    def test_dead_links_are_found(self) -> None:
        self.assertIn("does not exist", faults("[x](missing.md)\n")[0])
        self.assertIn("no such heading", faults("[x](operating.md#missing)\n")[0])


if __name__ == "__main__":
    unittest.main()
