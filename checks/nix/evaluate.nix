# Evaluates the module with nixpkgs' lib alone, and nixos.nix in the place of NixOS.
#
#   nix-instantiate --eval --strict --json checks/nix/evaluate.nix --arg lib 'import NIXPKGS/lib' --arg configuration FILE
#
# Gives what is left after merging: assertions that fail, warnings, firewall, the settings as TOML would have them, the rendering.
{
  lib,
  configuration ? { },
}:
let
  inherit (lib) types;
  inherit (import ./store.nix) package hashed;
  nixos = import ./nixos.nix { inherit lib; };
  # As much of nixpkgs as the module asks for. Files are named, not made.
  pkgs = {
    coreutils = package "coreutils";
    nano-snapshot-mirror = package "nano-snapshot-mirror";
    stdenv.buildPlatform.canExecute = _: true;
    stdenv.hostPlatform = { };
    runCommand =
      name: _: script:
      hashed script name;
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
  };
  evaluated = lib.evalModules {
    modules = [
      ../../nixos-modules
      { inherit (nixos) options; }
      configuration
    ];
    specialArgs = {
      inherit pkgs;
      utils.escapeSystemdExecArgs = lib.concatMapStringsSep " " (one: "\"${one}\"");
    };
  };
  inherit (evaluated) config;
in
{
  failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
  inherit (config) warnings;
  # What is written to config.toml.
  settings =
    (import ../../nixos-modules/settings.nix {
      inherit lib;
      inherit (config.services.nano-snapshot-mirror) settings;
    }).file;
  rendered = nixos.render config;
  inherit (config.networking) firewall;
  options = map (option: builtins.removeAttrs option [ "declarations" ]) (
    lib.filter (
      option:
      lib.hasPrefix "services.nano-snapshot-mirror" option.name
      && !option.internal
      && option.visible == true
    ) (lib.optionAttrSetToDocList evaluated.options)
  );
}
