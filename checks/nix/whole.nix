# The whole flake, evaluated against the stand-ins of nixpkgs and NixOS.
#
#   nix-instantiate --eval --strict --json checks/nix/whole.nix --arg lib 'import NIXPKGS/lib'
#
# Returns the names of checks, and of each machine of each NixOS test the assertions that fail, the warnings, the units and the programs.
{ lib }:
let
  nixos = import ./nixos.nix { inherit lib; };
  pkgs = import ./pkgs.nix { inherit lib machine; };
  # What only tests and checks set.
  others = {
    options = {
      boot.isContainer = lib.mkOption { default = false; };
      nixpkgs.hostPlatform = lib.mkOption { default = ""; };
      system.stateVersion = lib.mkOption { default = ""; };
      specialisation = lib.mkOption { default = { }; };
      systemd.mounts = lib.mkOption { default = [ ]; };
      networking.firewall.allowedUDPPortRanges = lib.mkOption { default = [ ]; };
    };
  };
  units =
    { config, ... }:
    {
      options.systemd.units = lib.mkOption { };
      config.systemd.units = lib.mapAttrs (_: text: { inherit text; }) (nixos.render config).units;
    };
  nixosSystem =
    { modules }:
    lib.evalModules {
      modules = modules ++ [
        { inherit (nixos) options; }
        others
        units
      ];
      specialArgs = {
        inherit pkgs;
        utils = import ./utils.nix { inherit lib; };
      };
    };
  report =
    modules:
    let
      inherit (nixosSystem { inherit modules; }) config;
    in
    {
      failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
      inherit (config) warnings;
      units = lib.mapAttrs (_: unit: unit.text) config.systemd.units;
      programs = map (program: program.name) config.environment.systemPackages;
    };
  machine =
    module:
    report [ module ]
    // {
      # As NixOS does, without the specialisations of the specialisation.
      specialisation = lib.mapAttrs (
        _: one:
        report [
          module
          one.configuration
        ]
      ) (nixosSystem { modules = [ module ]; }).config.specialisation;
    };
  outputs = (import ../../flake.nix).outputs {
    inherit self;
    nixpkgs = {
      lib = lib // {
        inherit nixosSystem;
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (_: pkgs);
    };
  };
  self = outputs // {
    outPath = toString ../..;
  };
  system = "x86_64-linux";
  package = outputs.packages.${system}.default;
in
{
  # Everything that is evaluated but has nothing to compare.
  others = {
    packages = lib.mapAttrs (_: one: one.name) outputs.packages.${system};
    apps = lib.mapAttrs (_: one: one.program) outputs.apps.${system};
    shell = outputs.devShells.${system}.default.packages;
    formatter = outputs.formatter.${system}.name;
    overlay = (outputs.overlays.default pkgs { }).nano-snapshot-mirror.name;
    renderings = outputs.checks.${system}.rendered.script;
    inherit (package) meta version;
  };
  tests = lib.attrNames package.tests;
  checks = lib.attrNames outputs.checks.${system};
  machines = lib.mapAttrs (_: one: one.machines or { }) outputs.checks.${system};
  # Checks that build in their own way and install what the package would.
  withoutInstallPhase = lib.attrNames (
    lib.filterAttrs (_: one: one ? buildPhase && !(one ? installPhase)) outputs.checks.${system}
  );
}
