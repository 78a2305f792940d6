# Evaluates the module with nixpkgs' lib alone, and nixos.nix instead of NixOS.
#
#   nix-instantiate --eval --strict --json checks/nix/evaluate.nix --arg lib 'import NIXPKGS/lib' --arg configuration FILE
#
# Gives what is left after merging: assertions that fail, warnings, firewall, the settings as TOML would have them, the rendering.
{
  lib,
  configuration ? { },
}:
let
  nixos = import ./nixos.nix { inherit lib; };
  pkgs = import ./pkgs.nix { inherit lib; };
  evaluated = lib.evalModules {
    modules = [
      ../../nixos-modules
      { inherit (nixos) options; }
      configuration
    ];
    specialArgs = {
      inherit pkgs;
      utils = import ./utils.nix { inherit lib; };
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
