# Form of the pages: tables, paragraphs, links and words.
{ self, pkgs, ... }:
pkgs.runCommand "pages" { nativeBuildInputs = [ pkgs.python3 ]; } ''
  python3 ${self}/checks/test_pages.py
  python3 ${self}/checks/pages.py
  touch "$out"
''
