# Rust and Nix are formatted, and no Nix is dead.
{ self, pkgs, ... }:
pkgs.runCommand "format"
  {
    nativeBuildInputs = [
      pkgs.cargo
      pkgs.deadnix
      pkgs.nixfmt
      pkgs.rustfmt
    ];
  }
  ''
    cp --recursive --no-preserve=mode ${self} source
    cd source
    export HOME=$TMPDIR
    cargo fmt --all --check
    find . -name '*.nix' -exec nixfmt --check {} +
    deadnix --fail .
    touch "$out"
  ''
