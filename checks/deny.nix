# Checks licences, sources and bans. Advisories need the network and are checked in CI.
{
  self,
  pkgs,
  system,
  ...
}:
self.packages.${system}.default.overrideAttrs (previous: {
  name = "nano-snapshot-mirror-deny";
  nativeBuildInputs = previous.nativeBuildInputs ++ [ pkgs.cargo-deny ];
  buildPhase = ''
    cargo deny --offline --locked check bans licenses sources
  '';
  doCheck = false;
  installPhase = "touch $out";
})
