# docs/nixos-options.md equals the descriptions of the options.
{ self, pkgs, ... }:
let
  evaluated = import ./nix/evaluate.nix { inherit (pkgs) lib; };
  options = pkgs.writeText "options.json" (builtins.toJSON evaluated.options);
in
pkgs.runCommand "options" { nativeBuildInputs = [ pkgs.python3 ]; } ''
  python3 ${self}/checks/nix/options.py ${options} | diff ${self}/docs/nixos-options.md -
  touch "$out"
''
