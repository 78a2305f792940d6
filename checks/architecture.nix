# docs/architecture.md draws the graph that the manifests say.
{ self, pkgs, ... }:
pkgs.runCommand "architecture" { nativeBuildInputs = [ pkgs.python3 ]; } ''
  cd ${self}
  python3 checks/architecture.py
  touch "$out"
''
