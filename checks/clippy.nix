# No lint finds anything.
{
  self,
  pkgs,
  system,
  ...
}:
self.packages.${system}.default.overrideAttrs (previous: {
  name = "nano-snapshot-mirror-clippy";
  nativeBuildInputs = previous.nativeBuildInputs ++ [ pkgs.clippy ];
  buildPhase = ''
    cargo clippy --offline --workspace --all-targets -- -D warnings
  '';
  doCheck = false;
  installPhase = "touch $out";
})
