# services.nano-snapshot-mirror
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  program = lib.getExe cfg.package;
  user = "nano-snapshot-mirror";
  dataDirectory = cfg.settings.data-dir;
  ownDirectory = "/var/lib/nano-snapshot-mirror";
  derived = import ./settings.nix {
    inherit lib;
    inherit (cfg) settings;
  };
  escape = import ./escape.nix;

  units = import ./units.nix {
    inherit program dataDirectory;
    kill = "${pkgs.coreutils}/bin/kill";
    mv = "${pkgs.coreutils}/bin/mv";
    rm = "${pkgs.coreutils}/bin/rm";
    inherit (derived) peerSocket httpSocket controlSocket;
    ledger = cfg.producer.ledgerPath;
    ledgerDirectory = builtins.dirOf cfg.producer.ledgerPath;
    signingKey =
      if cfg.producer.signingKeyEncryptedFile != null then
        {
          LoadCredentialEncrypted = [
            "signing-key:${escape.path cfg.producer.signingKeyEncryptedFile}"
          ];
        }
      else
        { LoadCredential = [ "signing-key:${escape.path (toString cfg.producer.signingKeyFile)}" ]; };
    fetchTo = cfg.fetch.installTo;
    fetchDirectory = builtins.dirOf cfg.fetch.installTo;
  };
  shared = {
    inherit units derived;
    # The user's scalar replaces ours. The user's list is added to ours; `lib.mkForce` replaces it.
    asDefaults = lib.mapAttrs (
      _: value: if lib.isList value then lib.mkBefore value else lib.mkDefault value
    );
    unit = part: settings: settings // { ${part} = shared.asDefaults settings.${part}; };
    # Creates the directories of `systemd.tmpfiles.settings.NAME`, which may be on a file system that is mounted only after systemd-tmpfiles
    # ran at boot. Only of that file: an error in another one would keep the unit from starting.
    makeDirectories = name: "+${config.systemd.package}/bin/systemd-tmpfiles --create ${name}.conf";
    # How the mirror and the fetch get secrets.
    secrets =
      lib.optionalAttrs (cfg.environmentFile != null) {
        EnvironmentFile = [ (escape.path cfg.environmentFile) ];
      }
      // lib.optionalAttrs (cfg.secretSettingsFile != null) {
        LoadCredential = [ "config.toml:${escape.path cfg.secretSettingsFile}" ];
      };
  };
  inherit (shared) asDefaults unit;

  format = pkgs.formats.toml { };
  written = format.generate "nano-snapshot-mirror.toml" derived.file;
  # A mistake in the settings fails the build, with the error of the program.
  checked = pkgs.runCommand "nano-snapshot-mirror-config.toml" { } ''
    cp ${written} "$out"
    ${lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
      HOME=$PWD ${program} check-config --elsewhere --config "$out"
    ''}
  '';
  socketUnits = lib.attrNames units.sockets;
in
{
  imports = [
    ./options.nix
    ./renamed.nix
    ./assertions.nix
    ./producer.nix
    ./fetch.nix
  ];

  config = lib.mkMerge [
    { _module.args.nanoSnapshotMirror = shared; }

    (lib.mkIf (cfg.enable || cfg.producer.enable || cfg.fetch.enable) {
      # The program's default path, so that an operator's commands use the same settings.
      environment.etc."nano-snapshot-mirror/config.toml".source = checked;
      environment.systemPackages = [ cfg.package ];
    })

    (lib.mkIf cfg.enable {
      # Static, so that a node's user can join the group to read the ledger.
      users.users.${user} = {
        isSystemUser = true;
        group = user;
        description = "Mirror of Nano ledger snapshots";
      };
      users.groups.${user} = { };

      systemd.sockets = lib.mkMerge [
        (lib.mapAttrs (_: unit "socketConfig") units.sockets)
        (lib.mkIf (derived.controlSocket != null) {
          nano-snapshot-mirror-control.socketConfig.SocketGroup = lib.mkDefault user;
        })
      ];

      systemd.services.nano-snapshot-mirror = lib.mkMerge [
        (unit "serviceConfig" units.services.nano-snapshot-mirror)
        {
          # A new port must reach the sockets: a service that changes is stopped with them, and both are started again. Settings
          # that the mirror can apply at run time only reload it.
          restartTriggers = [
            (builtins.toJSON derived.needRestart)
            (builtins.toJSON (map (name: config.systemd.sockets.${name}.socketConfig) socketUnits))
          ];
          reloadTriggers = [ checked ];
          serviceConfig =
            asDefaults {
              User = user;
              Group = user;
              # New files and directories belong to the group, and the group may write: a producer shares them.
              StateDirectoryMode = "2770";
              UMask = "0007";
            }
            // asDefaults (
              shared.secrets
              // lib.optionalAttrs (dataDirectory != ownDirectory) {
                ReadWritePaths = [ (escape.word dataDirectory) ];
                ExecStartPre = [ (shared.makeDirectories "nano-snapshot-mirror") ];
              }
            );
        }
      ];

      systemd.tmpfiles.settings.nano-snapshot-mirror = lib.mkIf (dataDirectory != ownDirectory) {
        ${escape.path dataDirectory}.d = {
          inherit user;
          group = user;
          mode = "2770";
        };
      };

      networking.firewall = {
        allowedTCPPorts =
          lib.optionals cfg.openFirewall derived.peerPorts
          ++ lib.optionals cfg.http.openFirewall derived.httpPorts;
        allowedUDPPorts = lib.optionals cfg.openFirewall (derived.dhtPorts ++ derived.discoveryPorts);
      };
    })
  ];

  meta.maintainers = [ ];
}
