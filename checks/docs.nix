# The documentation of the crates builds without a warning.
{ self, system, ... }:
self.packages.${system}.default.overrideAttrs {
  name = "nano-snapshot-mirror-docs";
  RUSTDOCFLAGS = "-D warnings";
  buildPhase = ''
    cargo doc --offline --workspace --no-deps
  '';
  doCheck = false;
  installPhase = "touch $out";
}
