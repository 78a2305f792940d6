# The units that NixOS renders from the module equal those of packaging/systemd.
{
  self,
  lib,
  pkgs,
  system,
  ...
}:
let
  host = lib.nixosSystem {
    modules = [
      self.nixosModules.default
      {
        nixpkgs.hostPlatform = system;
        boot.isContainer = true;
        system.stateVersion = lib.trivial.release;
        users.users.nano = {
          isSystemUser = true;
          group = "nano";
        };
        users.groups.nano = { };
        services.nano-snapshot-mirror = {
          enable = true;
          fetch = {
            enable = true;
            before = [ "nano-node.service" ];
          };
          producer = {
            enable = true;
            signingKeyFile = "/etc/nano-snapshot-mirror/producer.key";
          };
        };
      }
    ];
  };
  ours = lib.filterAttrs (name: _: lib.hasPrefix "nano-snapshot-" name) host.config.systemd.units;
  rendered = pkgs.linkFarm "rendered-units" (
    lib.mapAttrs (name: unit: pkgs.writeText name unit.text) ours
  );
in
pkgs.runCommand "units" { nativeBuildInputs = [ pkgs.python3 ]; } ''
  python3 ${self}/checks/nix/units.py --rendered ${rendered}
  touch "$out"
''
