# docs/architecture.md draws the crates and rooms that the sources have.
{ self, pkgs, ... }:
pkgs.runCommand "architecture" { nativeBuildInputs = [ pkgs.python3 ]; } ''
  cd ${self}
  python3 checks/test_rooms.py
  python3 checks/architecture.py
  touch "$out"
''
