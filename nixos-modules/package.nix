{
  lib,
  rustPlatform,
  python3,
  zstd,
}:
let
  manifest = (lib.importTOML ../Cargo.toml).workspace.package;
  root = ../.;
in
rustPlatform.buildRustPackage {
  pname = "nano-snapshot-mirror";
  inherit (manifest) version;

  # Only the files that cargo reads, so that a change of pages or machine tests does not rebuild the program.
  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../clippy.toml
      ../rustfmt.toml
      ../deny.toml
      ../daemon
      ../checks/interop/harness
      ../checks/interop/libtorrent_peer.py
      # Tests compare these with the program.
      ../docs/configuration.md
      ../docs/data-directory.md
      ../docs/grafana-dashboard.json
      ../docs/openapi-http.json
      ../docs/openapi.json
      ../docs/operating.md
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  cargoBuildFlags = [
    "--package"
    "nano-snapshot-mirror"
  ];
  # The interop harness needs libtorrent from PyPI.
  cargoTestFlags = [
    "--workspace"
    "--exclude"
    "interop-harness"
  ];
  nativeCheckInputs = [
    python3
    zstd
  ];

  meta = {
    description = "Mirrors Nano ledger snapshots over BitTorrent v2";
    longDescription = ''
      Finds each new snapshot of the Nano ledger by a signed pointer in the Mainline DHT, downloads what changed from other mirrors,
      verifies it and seeds it. Producers publish snapshots of a running node's ledger; nodes fetch one before their first start.
    '';
    homepage = manifest.repository;
    changelog = "${manifest.repository}/blob/v${manifest.version}/CHANGELOG.md";
    downloadPage = "${manifest.repository}/releases";
    sourceProvenance = [ lib.sourceTypes.fromSource ];
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "nano-snapshot-mirror";
    platforms = lib.platforms.linux;
  };
}
