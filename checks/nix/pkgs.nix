# As much of nixpkgs as this repository asks for, without building anything: derivations are attributes, files are named by their contents.
{
  lib,
  # Evaluates the modules of one machine of a NixOS test, to something that JSON can have.
  machine ? (_: null),
}:
let
  inherit (lib) types;
  inherit (import ./store.nix) package hashed;
  derivation =
    attributes:
    let
      passthru = attributes.passthru or { };
    in
    attributes
    // passthru
    // package (attributes.name or attributes.pname or "unnamed")
    // {
      nativeBuildInputs = attributes.nativeBuildInputs or [ ];
      meta = {
        mainProgram = attributes.name or attributes.pname or "unnamed";
      }
      // attributes.meta or { };
      overrideAttrs =
        change:
        let
          previous = {
            nativeBuildInputs = [ ];
          }
          // attributes;
        in
        derivation (attributes // (if lib.isFunction change then change previous else change));
    };
  programs = lib.genAttrs [
    "cacert"
    "cargo"
    "cargo-deny"
    "clippy"
    "coreutils"
    "curl"
    "deadnix"
    "mypy"
    "nano-snapshot-mirror"
    "nftables"
    "nixfmt"
    "nixfmt-tree"
    "rust-analyzer"
    "rustfmt"
    "zstd"
  ] package;
  python3 = package "python3" // {
    withPackages =
      choose:
      builtins.deepSeq (map (one: one.name) (choose {
        libtorrent-rasterbar = package "libtorrent-rasterbar";
        lmdb = package "lmdb";
      })) (package "python3");
  };
  pkgs = programs // {
    inherit lib python3;
    stdenv.hostPlatform.system = "x86_64-linux";
    stdenv.buildPlatform.canExecute = _: true;
    runtimeShell = "/bin/sh";
    callPackage =
      file: arguments:
      let
        function = import file;
      in
      function (builtins.intersectAttrs (builtins.functionArgs function) (pkgs // arguments));
    rustPlatform.buildRustPackage = derivation;
    mkShell = derivation;
    dockerTools = {
      buildLayeredImage = derivation;
      fakeNss = package "fake-nss";
    };
    writeShellApplication = derivation;
    writeText = name: text: derivation { inherit name text; };
    linkFarm = name: entries: derivation { inherit name entries; };
    runCommand =
      name: _: script:
      derivation { inherit name script; } // { outPath = hashed script name; };
    formats.toml = _: {
      type =
        let
          value =
            types.oneOf [
              types.bool
              types.int
              types.float
              types.str
              types.path
              (types.attrsOf value)
              (types.listOf value)
            ]
            // {
              description = "TOML value";
            };
        in
        value;
      generate = name: value: hashed (builtins.toJSON value) name;
    };
    testers.runNixOSTest =
      test:
      derivation {
        inherit (test) name testScript;
        machines = lib.mapAttrs (_: machine) test.nodes;
      };
  };
in
pkgs
