{
  description = "Mirrors Nano ledger snapshots over BitTorrent v2, found through a signed pointer in the Mainline DHT";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEachSystem =
        f:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system:
          f {
            inherit self lib system;
            pkgs = nixpkgs.legacyPackages.${system};
          }
        );
    in
    {
      packages = forEachSystem (
        { pkgs, system, ... }:
        rec {
          default = (pkgs.callPackage ./nixos-modules/package.nix { }).overrideAttrs (previous: {
            passthru = (previous.passthru or { }) // {
              # All checks but the build itself, which is the package.
              tests = removeAttrs self.checks.${system} [ "package" ];
            };
          });
          image = pkgs.callPackage ./nixos-modules/image.nix { nano-snapshot-mirror = default; };
        }
      );

      overlays.default = final: _previous: {
        nano-snapshot-mirror = final.callPackage ./nixos-modules/package.nix { };
      };

      nixosModules.default =
        { pkgs, lib, ... }:
        {
          # Errors name this file, and a module that is imported several times counts once.
          _file = "${self}/flake.nix";
          key = "${self}/flake.nix#nixosModules.default";
          imports = [ ./nixos-modules ];
          services.nano-snapshot-mirror.package =
            lib.mkDefault
              self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };

      apps = forEachSystem (import ./nixos-modules/apps.nix);

      # Every .nix file in checks/ is one check.
      checks = forEachSystem (
        arguments:
        lib.mapAttrs'
          (file: _: {
            name = lib.removeSuffix ".nix" file;
            value = import (./checks + "/${file}") arguments;
          })
          (
            lib.filterAttrs (file: kind: kind == "regular" && lib.hasSuffix ".nix" file) (
              builtins.readDir ./checks
            )
          )
      );

      devShells = forEachSystem (
        { pkgs, system, ... }:
        {
          default = pkgs.mkShell {
            inputsFrom = [ self.packages.${system}.default ];
            packages = [
              pkgs.cargo-deny
              pkgs.clippy
              pkgs.mypy
              pkgs.rust-analyzer
              pkgs.rustfmt
            ];
          };
        }
      );

      formatter = forEachSystem ({ pkgs, ... }: pkgs.nixfmt-tree);
    };
}
