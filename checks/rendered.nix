# checks/scenarios/rendered/ is what the module renders: with the stand-in for NixOS to the last byte, and with NixOS itself but for versions.
{
  self,
  lib,
  pkgs,
  system,
  ...
}:
let
  hosts = import ./nix/hosts.nix;
  evaluations = lib.mapAttrs (
    _: configuration:
    let
      evaluation = import ./nix/evaluate.nix { inherit lib configuration; };
    in
    {
      inherit (evaluation) rendered settings firewall;
    }
  ) hosts;
  units =
    host: module:
    let
      system' = lib.nixosSystem {
        modules = [
          self.nixosModules.default
          module
          {
            nixpkgs.hostPlatform = system;
            boot.isContainer = true;
            system.stateVersion = lib.trivial.release;
          }
        ];
      };
      ours = lib.filterAttrs (name: _: lib.hasPrefix "nano-" name) system'.config.systemd.units;
    in
    {
      name = host;
      path = pkgs.linkFarm "units-of-${host}" (
        lib.mapAttrs (name: unit: pkgs.writeText name unit.text) ours
      );
    };
  rendered = pkgs.linkFarm "rendered-units" (lib.mapAttrsToList units hosts);
  trees = pkgs.writeText "evaluations.json" (builtins.toJSON evaluations);
in
pkgs.runCommand "rendered" { nativeBuildInputs = [ pkgs.python3 ]; } ''
  python3 ${self}/checks/nix/rendering.py --units ${rendered} --trees ${trees}
  touch "$out"
''
