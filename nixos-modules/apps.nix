# `nix run`, `nix run .#fetch`, `nix run .#demo`.
{
  self,
  lib,
  pkgs,
  system,
}:
let
  program = lib.getExe self.packages.${system}.default;
  app = description: program: {
    type = "app";
    inherit program;
    meta = { inherit description; };
  };
  script = name: text: lib.getExe (pkgs.writeShellApplication { inherit name text; });
in
{
  default = app "Mirror the stream and seed it" program;
  fetch = app "Fetch the newest ledger once and verify it" (
    script "nano-snapshot-fetch" ''
      if [ "$#" -eq 0 ]; then
        set -- --once --extract
      fi
      exec ${program} "$@"
    ''
  );
  demo = app "Run a demonstration on this machine alone" (
    script "nano-snapshot-demo" ''
      exec ${program} demo "$@"
    ''
  );
}
